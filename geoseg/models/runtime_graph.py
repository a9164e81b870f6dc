"""Runs networks as ONNX graphs, which several engines take (floor 3).

A network of geoseg's own becomes a graph together with its scaling and its decision, or with what makes bytes of its
scores: bytes in, bytes out, and no torch where the graph is at hand. Where scores are refined by the image or averaged
over views, and where the network is somebody's own ONNX file, the engine has the network alone, and what comes before
and after it is torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from geoseg.errors import ModelError
from geoseg.models.card import Card
from geoseg.models.graphs import Form, labels_graph, logits_graph, scores_graph
from geoseg.settings import Refinement, Tta

if TYPE_CHECKING:
    from torch import Tensor

    from geoseg.models.runtime_torch import Labeller

__all__ = ["Compile", "Engine", "GraphRuntime"]

Engine: TypeAlias = Callable[[NDArray[Any]], Sequence[NDArray[Any]]]
"""inputs of the shape that it was compiled for -> outputs of the graph, arrays of their own"""

Compile: TypeAlias = Callable[[bytes, tuple[int, int, int, int]], Engine]
"""graph with one input, that input's shape -> engine; raises RuntimeError for what it cannot take"""

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
        form: of the network that the engine is quick with.
        scores: whether to give scores in place of labels.

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
        form: Form = "plain",
        scores: bool = False,
    ) -> None:
        self._card = card
        self.batch = batch
        self._kind: Any = np.float32
        self._label: Labeller | None = None
        if card.is_onnx:
            graph, self.batch, self._kind = _read(card, batch)
        elif refine == "none" and tta == "none":
            make = scores_graph if scores else labels_graph
            graph = make(card, halo=halo, form=form)
        else:
            graph = logits_graph(card, form=form)
        if card.is_onnx or refine != "none" or tta != "none":
            self._label = _labeller(card, self._run_network, halo=halo, refine=refine, tta=tta, scores=scores)
        with self._told():
            self._engine = compile_graph(graph, (self.batch, card.channels, card.tile, card.tile))

    def __call__(self, tiles: NDArray[Any]) -> tuple[NDArray[np.uint8], ...]:
        """Labels a batch of tiles, see :class:`geoseg.models.runtimes.Runtime`."""
        if self._label is None:
            with self._told():
                return tuple(self._engine(tiles))
        import torch

        from geoseg.models.runtime_torch import settle

        settle("cpu")  # torch counts the threads of each thread by itself, and this one may be any
        with torch.inference_mode():
            return tuple(plane.numpy() for plane in self._label(torch.from_numpy(tiles)))

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

    def _run_network(self, inputs: Tensor) -> Tensor:
        import torch

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


def _labeller(
    card: Card, network: Callable[[Tensor], Tensor], *, halo: int, refine: Refinement, tta: Tta, scores: bool
) -> Labeller:
    """What is around a network that the engine runs alone; whatever device that has, this is done on the CPU."""
    import torch

    from geoseg.models.runtime_torch import Labeller, Scorer, settle

    settle("cpu")
    cpu = torch.device("cpu")
    kind = Scorer if scores else Labeller
    return kind(card, network, device=cpu, halo=halo, refine=refine, tta=tta)


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
