"""Weights of bfloat16: sums of kernels are kept, and so are labels."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from geoseg.models.architectures import build  # noqa: E402
from geoseg.models.folding import fold_normalizations  # noqa: E402
from geoseg.models.rounding import round_weights  # noqa: E402
from geoseg.models.upsampling import merge_upsampling  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tests run beside each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def example():
    torch.manual_seed(2)
    return torch.nn.functional.interpolate(torch.randn(1, 3, 16, 16), scale_factor=8, mode="bilinear")


@pytest.fixture(scope="module")
def network(example):
    torch.manual_seed(0)
    network = build("unet-tf_efficientnet_lite0", classes=2).eval()
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(part.running_mean, std=0.3)
            torch.nn.init.uniform_(part.running_var, 0.5, 2)
    return network


def convolutions(network):
    kinds = torch.nn.Conv2d, torch.nn.ConvTranspose2d
    return {name: part for name, part in network.named_modules() if isinstance(part, kinds)}


def test_bfloat16_holds_every_weight_and_none_is_far_from_what_it_was(network, example):
    exact = convolutions(fold_normalizations(merge_upsampling(network, example)))
    rounded = convolutions(round_weights(merge_upsampling(network, example), example))
    assert exact.keys() == rounded.keys()
    assert any(isinstance(part, torch.nn.ConvTranspose2d) for part in rounded.values())
    for name, part in rounded.items():
        weight, before = part.weight.data, exact[name].weight.data
        assert torch.equal(weight, weight.bfloat16().float())
        assert ((weight - before).abs() <= before.abs() / 128 + 1e-30).all()  # one of the two neighbours
        assert torch.equal(part.bias.data, exact[name].bias.data) if part.bias is not None else True


def test_sums_of_kernels_are_kept(network, example):
    exact = fold_normalizations(network)
    rounded = convolutions(round_weights(network, example))
    for name, part in convolutions(exact).items():
        if part.kernel_size == (3, 3):
            kept = (rounded[name].weight - part.weight).sum((2, 3)).abs()
            nearest = (part.weight.bfloat16().float() - part.weight).sum((2, 3)).abs()
            assert (kept <= nearest + 1e-7).all()
            assert kept.mean() < 0.3 * nearest.mean()


def test_the_network_is_left_as_it_is(network, example):
    before = {key: value.clone() for key, value in network.state_dict().items()}
    round_weights(network, example)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_networks_with_an_order_of_their_own_stay(example):
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 3, 1)
            self.norm = torch.nn.BatchNorm2d(3)
            torch.nn.init.uniform_(self.norm.running_mean, 1, 2)

        def forward(self, image):
            return self.conv(self.norm(image))

    odd = Odd().eval()
    assert round_weights(odd, example) is odd


def test_a_kernel_of_equal_inputs_gives_what_it_gave():
    """What rounding to the nearest does worst."""
    torch.manual_seed(3)
    conv = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, groups=8, bias=False)).eval()
    flat = torch.full((1, 8, 3, 3), 5.0)
    with torch.no_grad():
        expected = conv(flat)
        kept = round_weights(conv, flat[:, :, :3, :3])(flat)
        nearest = torch.nn.functional.conv2d(flat, conv[0].weight.bfloat16().float(), groups=8)
    np.testing.assert_allclose(kept, expected, atol=5e-3)
    assert (nearest - expected).abs().max() > 3 * (kept - expected).abs().max()
