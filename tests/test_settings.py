from __future__ import annotations

import pytest

from geoseg.errors import SettingsError
from geoseg.settings import Execution, RunSettings, VectorSettings


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VectorSettings(min_area_m2=-1), "--min-area"),
        (lambda: VectorSettings(min_area_m2=float("nan")), "--min-area"),
        (lambda: VectorSettings(simplify_m=-0.5), "--simplify"),
        (lambda: VectorSettings(formats=()), "--formats"),
        (lambda: VectorSettings(formats=("shp",)), "shp.*geojson"),
        (lambda: RunSettings(scale=(5, 5)), "--scale"),
        (lambda: RunSettings(bounds=(10, 1, 15, 0)), "--bbox"),
        (lambda: RunSettings(halo=-32), "--halo"),
        (lambda: RunSettings(models=()), "--model"),
        (lambda: RunSettings(models=("town", "town")), "--model is town, town.*none twice"),
        (lambda: RunSettings(refine="well"), "--refine.*none, crf, guided"),
        (lambda: RunSettings(stitch="sew"), "--stitch.*crop, gaussian, cosine"),
        (lambda: RunSettings(stitch="cosine", halo=0), "--stitch is cosine, and tiles with --halo 0 share nothing"),
        (lambda: RunSettings(device="tpu"), "--device.*auto, cpu, cuda"),
        (lambda: RunSettings(precision="fp8"), "--precision"),
        (lambda: RunSettings(classes=()), "layer names"),
        (lambda: RunSettings(classes=("../evil",)), "layer names"),
        (lambda: RunSettings(classes=("Lake", "lake")), "no two alike"),
        (lambda: Execution(chunk=0), "--chunk"),
        (lambda: Execution(workers=0), "--workers"),
        (lambda: Execution(threads=1, workers=2), "exclude each other"),
        (lambda: Execution(workers=2, scheduler="tcp://host:8786"), "exclude each other"),
    ],
)
def test_values_out_of_range_are_refused_in_one_line(make, message):
    with pytest.raises(SettingsError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_settings_are_values():
    assert RunSettings() == RunSettings()
    assert hash(RunSettings()) == hash(RunSettings())
    assert RunSettings(classes=("water",)) != RunSettings()
