"""Weights of bfloat16: sums of kernels are kept, and so are labels."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from geoseg.models.architectures import build  # noqa: E402
from geoseg.models.folding import fold_normalizations  # noqa: E402
from geoseg.models.graphs import EXACT  # noqa: E402
from geoseg.models.rounding import _round_kernels, round_weights, to_bfloat16  # noqa: E402
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


def test_bfloat16_holds_every_weight_but_the_first_and_none_is_far_from_what_it_was(network, example):
    exact = convolutions(fold_normalizations(merge_upsampling(network, example)))
    rounded = convolutions(round_weights(merge_upsampling(network, example), example))
    assert exact.keys() == rounded.keys()
    assert any(isinstance(part, torch.nn.ConvTranspose2d) for part in rounded.values())
    for number, (name, part) in enumerate(rounded.items()):
        weight, before = part.weight.data, exact[name].weight.data
        if number < EXACT:
            assert torch.equal(weight, before)
            continue
        assert torch.equal(weight, weight.bfloat16().float())
        assert ((weight - before).abs() <= before.abs() / 128 + 1e-30).all()  # one of the two neighbours


def test_sums_of_kernels_are_kept(network, example):
    exact = fold_normalizations(network)
    rounded = convolutions(round_weights(network, example))
    for name, part in list(convolutions(exact).items())[EXACT:]:
        if part.kernel_size == (3, 3):
            kept = (rounded[name].weight - part.weight).sum((2, 3)).abs()
            nearest = (part.weight.bfloat16().float() - part.weight).sum((2, 3)).abs()
            assert (kept <= nearest + 1e-7).all()
            assert kept.mean() < 0.3 * nearest.mean()


def test_a_bias_makes_up_for_what_the_mean_of_inputs_loses():
    """Inputs of the second convolution have the means that the normalization before it learned."""
    torch.manual_seed(5)
    first = torch.nn.Sequential(*(torch.nn.Conv2d(4, 4, 1) for _ in range(EXACT)), torch.nn.BatchNorm2d(4))
    torch.nn.init.uniform_(first[-1].bias, 20, 30)
    network = torch.nn.Sequential(*first, torch.nn.ReLU(), torch.nn.Conv2d(4, 3, 1)).eval()
    rounded = round_weights(network, torch.randn(1, 4, 64, 64))
    inputs = first[-1].bias.detach() + torch.randn(4000, 4)
    last = -1
    exact, found = (net[last].weight[:, :, 0, 0] @ inputs.T + net[last].bias[:, None] for net in (network, rounded))
    nearest = network[last].weight.bfloat16().float()[:, :, 0, 0] @ inputs.T + network[last].bias[:, None]
    shift, uncorrected = ((values - exact).mean(1).abs().max() for values in (found, nearest))
    assert shift < 0.1 * uncorrected


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
    weight = torch.randn(8, 1, 3, 3)
    sums = weight.sum((2, 3))
    kept, nearest = _round_kernels(weight).sum((2, 3)), weight.bfloat16().float().sum((2, 3))
    assert (kept - sums).abs().max() < 2e-3
    assert (nearest - sums).abs().max() > 3 * (kept - sums).abs().max()


@pytest.mark.parametrize(
    "architecture", ["unet-resnet18", "fpn-mobilenet_v2", "unet-convnext_atto", "segformer-mit_b0"]
)
def test_networks_of_all_kinds_run_in_bfloat16(architecture, example):
    torch.manual_seed(0)
    network = build(architecture, classes=2)
    with torch.no_grad():
        for _ in range(40):  # normalizations learn what they meet, as in training
            network(example.expand(2, -1, -1, -1))
    network.eval()
    narrow = to_bfloat16(network, example)
    assert not any(parameter.dtype == torch.bfloat16 for parameter in network.parameters())
    kinds = [part.weight.dtype for part in narrow.modules() if isinstance(part, torch.nn.Conv2d)]
    assert kinds.count(torch.float32) == EXACT
    assert kinds.count(torch.bfloat16) == len(kinds) - EXACT
    with torch.no_grad():
        expected, found = network(example), narrow(example).float()
    assert ((found - expected).std() / expected.std()) < 0.05
