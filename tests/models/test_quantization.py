"""Convolutions of integers: nearly the same labels, kept with their model, and never another model's."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from geoseg.errors import ModelError  # noqa: E402
from geoseg.models import zoo  # noqa: E402
from geoseg.models.architectures import build  # noqa: E402
from geoseg.models.card import Card, write_int8, write_model, write_parity  # noqa: E402
from geoseg.models.quantization import Calibration, _back, _rows, load_layers, quantized, save_layers  # noqa: E402
from geoseg.models.runtime_torch import settle  # noqa: E402
from geoseg.models.upsampling import merge_upsampling  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tests run beside each other."""
    settle("cpu")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = build("unet-resnet18", classes=2).eval()
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(part.running_mean, std=0.3)
            torch.nn.init.uniform_(part.running_var, 0.5, 2)
            torch.nn.init.normal_(part.bias, std=0.3)
    return network


@pytest.fixture(scope="module")
def examples():
    torch.manual_seed(1)
    coarse = torch.randn(7, 3, 16, 16)
    return torch.nn.functional.interpolate(coarse, scale_factor=8, mode="bilinear") + 0.1 * torch.randn(7, 3, 128, 128)


@pytest.fixture(scope="module")
def calibration(network, examples):
    return Calibration(network, examples[:4])


def error(network, other, inputs) -> float:
    """Of the logits, against their spread."""
    with torch.no_grad():
        expected = network(inputs)
        return float((other(inputs) - expected).std() / expected.std())


def test_logits_are_nearly_the_same(network, examples, calibration):
    layers = calibration.quantize()
    assert tuple(layers) == calibration.layers
    assert error(network, quantized(network, layers), examples[4:]) < 0.03


def test_means_of_channels_are_kept(network, examples, calibration):
    rounded = quantized(network, calibration.quantize())
    with torch.no_grad():
        expected, found = (net(examples[:4]) for net in (network, rounded))
    shift = (found - expected).mean((0, 2, 3)).abs()
    assert (shift < 2e-3 * expected.std((0, 2, 3))).all()


def test_first_convolutions_can_stay(network, calibration):
    layers = calibration.quantize(3)
    assert tuple(layers) == calibration.layers[3:]
    kept = dict(quantized(network, layers).named_modules())[calibration.layers[0]]
    assert not hasattr(kept, "parametrizations")


def test_weights_are_integers_and_smoothing_is_undone(network, calibration):
    name = calibration.layers[-2]
    layer = calibration.quantize()[name]
    assert layer.weight.dtype == torch.int8
    assert layer.weight.abs().max() <= 127
    conv = calibration._network.get_submodule(name)
    back = layer.weight * layer.weight_scale.view(-1, 1, 1, 1) / layer.smoothing.view(1, -1, 1, 1)
    step = layer.weight_scale.view(-1, 1, 1, 1) / layer.smoothing.view(1, -1, 1, 1)
    assert ((back - conv.weight).abs() / step).median() < 0.5


def test_upsampling_in_one_with_a_convolution_is_rounded_as_well(network, examples):
    merged = merge_upsampling(network, examples[:1])
    layers = Calibration(merged, examples[:4]).quantize()
    assert sum(name.endswith(".up") for name in layers) == 5
    assert error(network, quantized(merged, layers), examples[4:]) < 0.03


@pytest.mark.parametrize(("size", "stride"), [(4, 2), (2, 2), ((6, 4), (3, 2)), (3, 1)])
def test_a_place_of_a_transposed_convolution_is_a_convolution(size, stride):
    """Whose weights are a row each, in the order of what they meet."""
    torch.manual_seed(0)
    conv = torch.nn.ConvTranspose2d(3, 5, size, stride, bias=False)
    rows = _rows(conv.weight, conv)
    assert torch.equal(_back(rows, conv), conv.weight)
    image = torch.randn(1, 3, 8, 9)
    sides = tuple(side // step for side, step in zip(conv.kernel_size, conv.stride, strict=True))
    patches = torch.nn.functional.unfold(image, sides)
    lost = [side - step for side, step in zip(conv.kernel_size, conv.stride, strict=True)]  # at each edge
    whole = conv(image)[0, :, lost[0] : whole_end(conv, image, 0), lost[1] : whole_end(conv, image, 1)]
    step_rows, step_cols = conv.stride
    for place, weights in enumerate(rows):
        row, col = divmod(place, step_cols)
        found = (weights @ patches[0]).view(5, 8 - sides[0] + 1, 9 - sides[1] + 1)
        torch.testing.assert_close(found, whole[:, row::step_rows, col::step_cols], rtol=1e-4, atol=1e-5)


def whole_end(conv, image, axis) -> int:
    """Of what sees nothing but the image."""
    return image.shape[2 + axis] * conv.stride[axis]


def test_a_transposed_convolution_of_signed_inputs_has_its_zero_in_the_middle():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.ConvTranspose2d(4, 2, 4, 2, 1))
    examples = torch.randn(4, 3, 32, 32)
    layers = Calibration(network, examples).quantize()
    assert int(layers["1"].zero) == 128
    assert error(network, quantized(network, layers), examples) < 0.03
    rectified = torch.nn.Sequential(network[0], torch.nn.ReLU(), network[1])
    assert int(Calibration(rectified, examples).quantize()["2"].zero) == 0


@pytest.mark.parametrize("how", [{"groups": 2}, {"dilation": 2}, {"kernel_size": 3}])
def test_other_transposed_convolutions_stay(how):
    conv = torch.nn.ConvTranspose2d(**{"in_channels": 4, "out_channels": 4, "kernel_size": 4, "stride": 2} | how)
    assert Calibration(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), conv), torch.randn(2, 3, 16, 16)).layers == ("0",)


def test_the_network_is_left_as_it_is(network, examples):
    before = {key: value.clone() for key, value in network.state_dict().items()}
    quantized(network, Calibration(network, examples[:1]).quantize(18))
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("architecture", ["fpn-mobilenet_v2", "unetplusplus-tf_efficientnet_lite0", "linknet-resnet18"])
def test_other_architectures(architecture, examples):
    torch.manual_seed(0)
    network = build(architecture, classes=1).eval()
    layers = Calibration(network, examples[:2]).quantize()
    assert error(network, quantized(network, layers), examples[4:]) < 0.2


def test_layers_are_kept_as_they_are(network, examples, calibration, tmp_path):
    layers = calibration.quantize(10)
    save_layers(tmp_path / "layers.safetensors", layers)
    again = load_layers(tmp_path / "layers.safetensors")
    with torch.no_grad():
        expected, found = (quantized(network, those)(examples[:1]) for those in (layers, again))
    assert torch.equal(expected, found)


def test_what_is_no_layers_is_refused(tmp_path):
    (tmp_path / "other.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="holds no convolutions of integers"):
        load_layers(tmp_path / "other.safetensors")


def test_layers_of_another_network_are_refused(calibration):
    with pytest.raises(ModelError, match="anew with geoseg quantize"):
        quantized(
            build("unet-resnet34", classes=2).eval(), {"decoder.other": calibration.quantize()[calibration.layers[0]]}
        )


@pytest.fixture(scope="module")
def card(tmp_path_factory, network):
    """A model of geoseg's own, without integers."""
    made = replace(zoo.load("vehicle"), name="own", architecture="unet-resnet18", tile=128, halo=32, int8=None)
    made = replace(made, classes=zoo.load("town").classes[:2], precisions=("fp32",), int8_measured=())
    return write_model(tmp_path_factory.mktemp("own"), made, network.state_dict())


def test_a_card_tells_of_its_integers(card, calibration):
    layers = calibration.quantize()
    digest = card.digest
    made = write_int8(card, lambda path: save_layers(path, layers), {"differing": 0.001})
    assert made == Card.read(card.path)
    assert (made.int8, made.precisions) == ("own.int8.safetensors", ("fp32", "int8"))
    assert dict(made.int8_measured) == {"differing": 0.001}
    assert made.digest != digest
    rows = [{"runtime": "openvino", "precision": one, "differing": 0.001} for one in ("bf16", "int8", "int8-bf16")]
    made = write_parity(made, ("fp32", "bf16", "int8", "int8-bf16"), rows)
    made = write_int8(made, lambda path: save_layers(path, layers), {"differing": 0.001})
    assert made.precisions == ("fp32", "bf16", "int8")  # nobody measured these with bf16 around them
    assert [dict(row)["precision"] for row in made.parity] == ["bf16"]
    assert load_layers(made.int8_path).keys() == layers.keys()
    assert sorted(path.name for path in card.path.parent.iterdir()) == [
        "own.card.json",
        "own.int8.safetensors",
        "own.safetensors",
    ]
    made.int8_path.write_bytes(b"another")
    with pytest.raises(ModelError, match="is not the file that the card"):
        _ = made.int8_path
    (card.path.parent / "own.int8.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        _ = made.int8_path


def test_a_model_without_integers_says_so(card):
    with pytest.raises(ModelError, match="make them with geoseg quantize"):
        _ = replace(card, int8=None).int8_path
