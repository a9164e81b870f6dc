from __future__ import annotations

import pytest

from geoseg.errors import ModelError
from geoseg.models import reach


def test_network_without_global_layers_is_exact(monkeypatch):
    monkeypatch.setattr(reach, "_LENGTH", 2048)
    monkeypatch.setattr(reach, "_BREADTH", 32)
    found = reach.measure("unet-tf_efficientnet_lite0")
    assert found.stride == 32
    assert found.parameters == 3_362_353
    assert found.why == ""
    assert found.halo_px == 512


@pytest.mark.parametrize("architecture", ["unet-mobilenetv3_small_050", "pspnet-mobilenet_v2"])
def test_squeeze_excite_and_global_pooling_are_never_exact(monkeypatch, architecture):
    monkeypatch.setattr(reach, "_LENGTH", 1024)
    found = reach.measure(architecture)
    assert found.halo_px is None
    assert "every pixel depends on all of the tile" in found.why


def test_unknown_architectures_are_refused():
    with pytest.raises(ModelError, match="unknown encoder"):
        reach.measure("unet-nonesuch")
