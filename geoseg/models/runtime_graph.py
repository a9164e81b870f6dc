"""Runs networks as ONNX graphs, which several engines take (floor 3).

A network of geoseg's own becomes a graph in memory, together with its scaling and its decision: bytes in, bytes out.
Where scores are refined by the image or averaged over views, and where the network is somebody's own ONNX file, the
engine has the network alone, and what comes before and after it is torch's.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from geoseg.errors import ModelError
from geoseg.models.card import Card
from geoseg.models.runtime_torch import Labeller, load_network, settle
from geoseg.models.upsampling import merge_upsampling
from geoseg.settings import Refinement, Tta

__all__ = ["Compile", "Engine", "GraphRuntime"]

Engine: TypeAlias = Callable[[NDArray[Any]], Sequence[NDArray[Any]]]
"""inputs of the shape that it was compiled for -> outputs of the graph, arrays of their own"""

Compile: TypeAlias = Callable[[bytes, tuple[int, int, int, int]], Engine]
"""graph with one input, that input's shape -> engine; raises RuntimeError for what it cannot take"""

_OPSET = 17
_KINDS = {1: np.float32, 10: np.float16, 2: np.uint8}  # of inputs, by ONNX's numbers for types


class GraphRuntime:
    """A network that an engine runs.

    Args:
        card: of the model.
        compile_graph: makes the engine.
        batch: tiles per call, unless an ONNX file says otherwise.
        halo: pixels cropped from each side of a tile's result.
        refine: how scores are refined by the image before the decision.
        tta: views of a tile whose scores are averaged.
        merges_upsampling: whether the engine is quicker with transposed convolutions, see :func:`merge_upsampling`.

    Raises:
        ModelError: a network that does not fit its card, or that the engine cannot run.
    """

    def __init__(
        self,
        card: Card,
        compile_graph: Compile,
        *,
        batch: int,
        halo: int,
        refine: Refinement = "none",
        tta: Tta = "none",
        merges_upsampling: bool = False,
    ) -> None:
        settle("cpu")  # whatever device the engine has, what is left of the work is done here
        self._card = card
        self.batch = batch
        self._kind: Any = np.float32
        cpu = torch.device("cpu")
        labeller = partial(Labeller, card, device=cpu, dtype=torch.float32, halo=halo, refine=refine, tta=tta)
        self._label: Labeller | None = labeller(self._run_network)
        if card.is_onnx:
            graph, self.batch, self._kind = _read(card, batch)
        else:
            network = load_network(card).eval()
            if merges_upsampling:
                network = merge_upsampling(network, _example(card, 4 * card.stride))
            if refine == "none" and tta == "none":
                self._label = None
            graph = _export(labeller(network) if self._label is None else network, network, card)
        with self._told():
            self._engine = compile_graph(graph, (self.batch, card.channels, card.tile, card.tile))

    def __call__(self, tiles: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Labels a batch of tiles, see :class:`geoseg.models.runtimes.Runtime`."""
        if self._label is None:
            with self._told():
                mask, confidence = self._engine(tiles)
            return mask, confidence
        with torch.inference_mode():
            codes, sure = self._label(torch.from_numpy(tiles))
            return codes.numpy(), sure.numpy()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Makes an engine's errors the model's."""
        try:
            yield
        except RuntimeError as error:
            raise ModelError(
                f"model {self._card.name} does not run here: {' '.join(str(error).split())[:200]}; choose another "
                "--runtime"
            ) from None

    def _run_network(self, inputs: torch.Tensor) -> torch.Tensor:
        with self._told():
            logits = self._engine(inputs.numpy().astype(self._kind, copy=False))[0]
        card = self._card
        expected = (self.batch, card.planes, card.tile, card.tile)
        if logits.shape != expected:
            raise ModelError(
                f"the network {card.weights} of model {card.name} gives {_sides(logits.shape)}; "
                f"by its card it should give {_sides(expected)} {card.output}"
            )
        return torch.from_numpy(logits)


def _export(module: nn.Module, network: nn.Module, card: Card) -> bytes:
    """The ONNX graph of a module.

    Args:
        module: takes tiles, or inputs of the network.
        network: what is in the module.
        card: of the model.

    Raises:
        ModelError: an operation that ONNX lacks.
    """
    takes_tiles = module is not network and card.dtype == "uint8"
    side = _example_side(network, card)
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
    return graph.getvalue()


def _example_side(network: nn.Module, card: Card) -> int:
    """Side of the tile by which a network is traced: a small one, if its trace then does for any size."""
    sides = 4 * card.stride, 5 * card.stride
    if sides[1] >= card.tile:
        return card.tile
    small, other = (_example(card, side) for side in sides)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, small, check_trace=False)  # type: ignore[no-untyped-call]
        pools = any(node.kind().startswith("aten::adaptive") for node in traced.inlined_graph.nodes())
        try:  # pools to a number of cells are exported for one size
            alike = not pools and torch.allclose(traced(other), network(other), rtol=1e-3, atol=1e-3)
        except RuntimeError:
            alike = False
    return sides[0] if alike else card.tile


def _example(card: Card, side: int) -> torch.Tensor:
    """Inputs of a network, (1, bands, side, side) float32."""
    return torch.linspace(-2, 2, card.channels * side**2).view(1, -1, side, side)


def _read(card: Card, batch: int) -> tuple[bytes, int, Any]:
    """A card's own ONNX graph, how many tiles it takes at once, and of which type.

    Raises:
        ModelError: not the file that the card describes, no ONNX file, or one that takes other tiles.
    """
    import onnx
    from google.protobuf.message import DecodeError

    card.check_weights()
    graph = card.weights_path.read_bytes()
    try:
        model = onnx.load_model_from_string(graph)
    except DecodeError:
        raise ModelError(f"{card.weights_path} cannot be read as an ONNX file; fetch or export it again") from None
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise ModelError(f"{card.weights_path} keeps its weights in another file; export it with them inside")
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [entry.type.tensor_type for entry in model.graph.input if entry.name not in constants]
    sides = [[dim.dim_value for dim in entry.shape.dim] for entry in inputs]  # 0 is any
    kind = _KINDS.get(inputs[0].elem_type) if inputs else None
    takes = sides[0] if len(sides) == 1 else []
    batch = (takes[0] if takes else 0) or batch
    shape = (batch, card.channels, card.tile, card.tile)
    fits = len(takes) == len(shape) and all(side in {0, own} for side, own in zip(takes, shape, strict=True))
    if not fits or kind is None:
        found = " and ".join(_sides(side) for side in sides) or "nothing"
        raise ModelError(
            f"the network {card.weights} of model {card.name} takes {found}; by its card it should take one input of "
            f"{_sides(shape)} float32, float16 or uint8: correct tile and bands in the card"
        )
    plain = set(card.mean) == {0} and set(card.std) == {1} and card.dtype == "uint8"
    if kind is np.uint8 and not plain:
        raise ModelError(
            f"the network {card.weights} of model {card.name} takes bytes as they are; its card should say uint8, mean "
            "0 and deviation 1 for every band"
        )
    return graph, batch, kind


def _sides(shape: Sequence[int]) -> str:
    return " x ".join(str(side) if side else "any" for side in shape)
