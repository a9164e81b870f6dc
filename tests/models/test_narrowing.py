"""Networks that leave out what is cropped: the same values, of fewer."""

from __future__ import annotations

import io
import warnings
from importlib.util import find_spec

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
if find_spec("openvino") is None:
    pytest.skip("needs the extra openvino", allow_module_level=True)

from geoseg.models.architectures import build  # noqa: E402
from geoseg.models.heads import split_head  # noqa: E402
from geoseg.models.narrowing import narrow  # noqa: E402
from geoseg.models.runtime_openvino import _core, _fold, _openvino  # noqa: E402
from geoseg.models.upsampling import merge_upsampling  # noqa: E402

CONVOLUTIONS = {"Convolution", "GroupConvolution", "ConvolutionBackpropData"}


class Cropped(torch.nn.Module):
    def __init__(self, network, halo):
        super().__init__()
        self.network, self.halo = network, halo

    def forward(self, inputs):
        stop = inputs.shape[-1] - self.halo
        return self.network(inputs)[..., self.halo : stop, self.halo : stop]


def read(network, side):
    """A model of a network."""
    graph = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = torch.zeros(1, 3, side, side)
        torch.onnx.export(network.eval(), (example,), graph, dynamo=False, opset_version=17)
    model = _core().read_model(io.BytesIO(graph.getvalue()))
    model.reshape([1, 3, side, side])
    _fold(model)
    return model


def work(model) -> int:
    """Pixels that convolutions give."""
    return sum(
        int(np.prod(node.output(0).get_shape()))
        for node in model.get_ordered_ops()
        if node.get_type_name() in CONVOLUTIONS
    )


def run(model, inputs):
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    return _core().compile_model(model, "CPU", settings)([inputs])[0]


def both(network, side=256, seed=0):
    """Results without and with, and what is left of the work."""
    inputs = np.random.default_rng(seed).normal(size=(1, 3, side, side)).astype(np.float32)
    model = read(network, side)
    before, expected = work(model), run(model.clone(), inputs)
    narrow(_openvino(), model)
    return expected, run(model, inputs), work(model) / before


def assert_alike(found, expected):
    """But for rounding: how sums are cut depends on the sides of images."""
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return build("unet-tf_efficientnet_lite0", classes=3).eval()


@pytest.fixture(scope="module")
def merged(unet):
    return merge_upsampling(unet, torch.randn(1, 3, 128, 128))


@pytest.mark.parametrize("halo", [1, 2, 3, 17, 32, 64, 96, 127])
def test_values_are_the_same(merged, halo):
    expected, found, left = both(Cropped(merged, halo))
    assert expected.shape == found.shape == (1, 3, 256 - 2 * halo, 256 - 2 * halo)
    assert_alike(found, expected)
    assert left == 1 if halo < 4 else left < 1


def test_the_decoder_gives_little_more_than_the_core(merged):
    """A core of half the side is a quarter of the tile; encoders go on to see all of it."""
    *_, left = both(Cropped(merged, 64))
    assert left < 0.8


@pytest.mark.parametrize(
    ("architecture", "narrower"),
    [
        ("unet-tf_efficientnet_lite0", True),  # repeats pixels
        ("unet-resnet18", True),
        ("linknet-resnet18", True),
        ("unetplusplus-tf_efficientnet_lite0", True),
        ("fpn-mobilenet_v2", False),  # the last it does is to interpolate linearly
        ("unet-efficientnet-b0", True),  # squeezes all of an image to one pixel; its decoder does not
        ("tiramisu-56", True),
    ],
)
def test_other_networks(architecture, narrower):
    torch.manual_seed(0)
    expected, found, left = both(Cropped(build(architecture, classes=2), 48), side=160)
    assert_alike(found, expected)
    assert (left < 1) == narrower


@pytest.mark.parametrize("halo", [1, 2, 3, 17, 32, 48])
def test_a_head_that_gives_squares_of_pixels(merged, halo):
    class Squares(Cropped):
        def forward(self, inputs):
            stop = inputs.shape[-1] // 2 - halo
            return self.network(inputs)[..., halo:stop, halo:stop]

    expected, found, left = both(Squares(split_head(merged, torch.randn(1, 3, 128, 128)), halo))
    assert found.shape == (1, 12, 128 - 2 * halo, 128 - 2 * halo)
    assert_alike(found, expected)
    assert (left < 1) == (halo > 3)


@pytest.mark.parametrize("halo", [20, 21, 22, 23])
def test_steps_that_do_not_divide_what_is_lost(halo):
    """Images lose three times as much where they become three times as large; the next layer takes steps of two."""

    class Steps(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.up = torch.nn.ConvTranspose2d(3, 4, 3, stride=3)
            self.down = torch.nn.Conv2d(4, 2, 5, stride=2, padding=2)

        def forward(self, inputs):
            return self.down(self.up(inputs).relu())[..., halo : 384 - halo, halo : 384 - halo]

    torch.manual_seed(0)
    expected, found, left = both(Steps())
    assert_alike(found, expected)
    assert left < 1


@pytest.mark.parametrize("halo", [5, 17, 32, 64, 100])
@pytest.mark.parametrize("skips", [False, True])
def test_steps_before_upsampling(halo, skips):
    """Of a convolution without a bias, which nothing stands after."""

    class Steps(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.down = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
            self.deep = torch.nn.Conv2d(4, 4, 3, stride=2, padding=1, bias=False)
            self.up = torch.nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1)
            self.last = torch.nn.Conv2d(8 if skips else 4, 2, 3, padding=1)

        def forward(self, inputs):
            shallow = self.down(inputs)
            image = self.up(self.deep(shallow))
            image = torch.cat([image, shallow], dim=1) if skips else image
            image = torch.nn.functional.interpolate(image, scale_factor=2)
            return self.last(image)[..., halo : 256 - halo, halo : 256 - halo]

    torch.manual_seed(0)
    expected, found, _ = both(Steps())
    assert_alike(found, expected)


def test_a_crop_that_differs_between_sides():
    """Of rows and columns, and of the beginning and the end."""

    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Conv2d(3, 4, 3, padding=1)
            self.up = torch.nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1)
            self.last = torch.nn.Conv2d(4, 2, 5, padding=2)

        def forward(self, inputs):
            return self.last(self.up(self.first(inputs)).relu())[..., 40:400, 30:420]

    torch.manual_seed(0)
    expected, found, left = both(Odd())
    assert found.shape == (1, 2, 360, 390)
    assert_alike(found, expected)
    assert left < 1
