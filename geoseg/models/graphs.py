"""Networks as ONNX graphs, made once and kept (floor 3).

To make a graph takes torch and some seven seconds, for every worker of every run. So it is kept under all that decides
it, see :mod:`geoseg.models.kept`: the model, what is around the network, the versions of the packages.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from geoseg.errors import ModelError
from geoseg.models.card import Card
from geoseg.models.kept import find_kept, keep
from geoseg.settings import OF_BF16, OF_INTEGERS

if TYPE_CHECKING:
    from torch import nn

__all__ = ["EXACT", "Form", "labels_graph", "load_merged", "logits_graph", "scores_graph"]

EXACT = 3
"""first convolutions of a network in bf16 that stay fp32, see :mod:`geoseg.models.rounding`"""

Form: TypeAlias = Literal["plain", "merged", "bf16", "int8", "int8-bf16"]
"""of a network: as it is; with :func:`geoseg.models.upsampling.merge_upsampling`; that with weights of bfloat16, see
:func:`geoseg.models.rounding.round_weights`; the merged one with convolutions of integers, see
:func:`geoseg.models.quantization.quantized`; with weights of bfloat16 where these are not. What is around all but the
first takes the pixels of a square at once, if the network can give them, see :func:`geoseg.models.heads.split_head`."""

_OPSET = 17
_PACKAGES = ("torch", "segmentation-models-pytorch", "timm", "onnx")

_Made: TypeAlias = tuple[bytes, int | None]
"""a graph, side of the tiles that it takes: None for any"""


def labels_graph(card: Card, *, halo: int, form: Form) -> bytes:
    """ONNX of all that happens to tiles: from (N, bands, T, T), uint8 or float32, to mask and confidence of cores.

    Args:
        card: of a network with weights of torch's.
        halo: pixels cropped from each side of a tile's result.
        form: of the network.

    Raises:
        ModelError: a network that does not fit its card, or an operation that ONNX lacks.
    """
    return _kept(card, ["labels", halo, form], lambda: _surround(card, halo, form, scores=False))


def scores_graph(card: Card, *, halo: int, form: Form) -> bytes:
    """ONNX of what gives a tile's scores: to (N, planes, core, core) uint8. See :func:`labels_graph`."""
    return _kept(card, ["scores", halo, form], lambda: _surround(card, halo, form, scores=True))


def logits_graph(card: Card, *, form: Form) -> bytes:
    """ONNX of the network alone: from inputs (N, bands, T, T) float32 to logits. See :func:`labels_graph`."""

    def make() -> _Made:
        network = _with_integers(_load(card, form), card, form)
        return _export(network, network, card)

    return _kept(card, ["logits", form], make)


_making = threading.Lock()  # torch exports one network at a time, and all threads want the same one


def _kept(card: Card, what: list[Any], make: Callable[[], _Made]) -> bytes:
    """A graph that is kept, or made and then kept.

    Args:
        card: of the model.
        what: is around the network.
        make: the graph, and the side of the tiles that it takes: ``None`` for any.
    """
    card.check_weights()
    facts = [card.digest, *what, _OPSET, [version(package) for package in _PACKAGES]]
    with _making:
        for side in (None, card.tile):
            if (found := find_kept("graphs", [*facts, side])) is not None:
                return found
        graph, side = make()
        keep("graphs", [*facts, side], graph)
        return graph


def _surround(card: Card, halo: int, form: Form, *, scores: bool) -> _Made:
    """The graph of a network with what is around it, up to labels or to scores."""
    import torch

    from geoseg.models.heads import SQUARE, split_head
    from geoseg.models.runtime_torch import Labeller, Scorer, example_inputs

    network, square = _load(card, form), 1
    whole_squares = card.stride % SQUARE == halo % SQUARE == 0
    split = None
    if form != "plain" and card.output == "logits" and whole_squares:
        split = split_head(network, example_inputs(card, 4 * card.stride))
    if split is not None:
        network, square = split, SQUARE
    network = _with_integers(network, card, form)
    kind, cpu = Scorer if scores else Labeller, torch.device("cpu")
    whole = kind(card, network, device=cpu, halo=halo, refine="none", tta="none", square=square)
    return _export(whole, network, card, halo)


def load_merged(card: Card) -> nn.Module:
    """The network of a card, its upsampling merged: the one whose convolutions a card's integers are of."""
    from geoseg.models.runtime_torch import example_inputs, load_network
    from geoseg.models.upsampling import merge_upsampling

    return merge_upsampling(load_network(card).eval(), example_inputs(card, 4 * card.stride))


def _load(card: Card, form: Form) -> nn.Module:
    from geoseg.models.runtime_torch import example_inputs, load_network, settle

    settle("cpu")
    if form == "plain":
        return load_network(card).eval()
    network = load_merged(card)
    if form in OF_BF16:
        from geoseg.models.rounding import round_weights

        network = round_weights(network, example_inputs(card, 4 * card.stride))
    return network


def _with_integers(network: nn.Module, card: Card, form: Form) -> nn.Module:
    """The network with the card's convolutions of integers, in forms that have some; its head may have been split."""
    if form not in OF_INTEGERS:
        return network
    from geoseg.models.heads import split_layers
    from geoseg.models.quantization import load_layers, quantized

    return quantized(network, split_layers(load_layers(card.int8_path), network))


def _export(module: nn.Module, network: nn.Module, card: Card, halo: int = 0) -> _Made:
    """The ONNX graph of a module, for tiles of any size if that is possible.

    Args:
        module: takes tiles, or inputs of the network.
        network: what is in the module.
        card: of the model.
        halo: pixels that the module crops.

    Raises:
        ModelError: an operation that ONNX lacks.
    """
    import torch

    takes_tiles = module is not network and card.dtype == "uint8"
    side = _example_side(network, card, halo)
    example = torch.zeros((1, card.channels, side, side), dtype=torch.uint8 if takes_tiles else torch.float32)
    moving = {0: "batch"} if side == card.tile else {0: "batch", 2: "rows", 3: "cols"}
    graph = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        # the exporter by TorchScript is deprecated; the one by torch.export takes ten times as long, for every worker
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                module.eval(),
                (example,),
                graph,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=_OPSET,
                input_names=["tiles"],
                dynamic_axes={"tiles": moving},
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise ModelError(
                f"model {card.name} cannot be converted to ONNX: {' '.join(str(error).split())[:160]}; "
                "use --runtime torch"
            ) from None
    return graph.getvalue(), side if side == card.tile else None


def _example_side(network: nn.Module, card: Card, halo: int) -> int:
    """Side of the tile by which a network is traced: a small one, if its trace then does for any size.

    Something must be left of it without the halo: of images of no pixels the exporter divides by zero.
    """
    import torch

    from geoseg.models.runtime_torch import example_inputs

    least = max(4, 2 * halo // card.stride + 1)
    sides = least * card.stride, (least + 1) * card.stride
    if sides[1] >= card.tile:
        return card.tile
    small, other = (example_inputs(card, side) for side in sides)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, small, check_trace=False)  # type: ignore[no-untyped-call]
        pools = any(node.kind().startswith("aten::adaptive") for node in traced.inlined_graph.nodes())
        try:  # pools to a number of cells are exported for one size
            alike = not pools and torch.allclose(traced(other), network(other), rtol=1e-3, atol=1e-3)
        except RuntimeError:
            alike = False
    return sides[0] if alike else card.tile
