"""OpenVINO as an engine for graphs, on the CPU (floor 3)."""

from __future__ import annotations

import functools
import io
import sys
import threading
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geoseg.models.graphs import EXACT
from geoseg.models.narrowing import UPSAMPLING, narrow
from geoseg.models.runtime_graph import Engine
from geoseg.models.slots import Slots
from geoseg.models.strips import Strips, find_strips, free_rows
from geoseg.settings import Arithmetic

__all__ = ["compile_graph"]

_TELEMETRY = "openvino_telemetry"
_CHANNELS_LAST, _CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
_ROWS, _ROWS_BETWEEN = -2, 1  # axes, of tiles and results, and of what parts hand over
_STRIP = 128  # rows of a tile in a strip, about: quickest of 64 to 512 with two megabytes of cache for a core
_DEEP = 4  # how much smaller images are where layers are no longer computed in strips
_FURTHER = 3  # convolutions, of which one may hand over less than the first that gives so small an image


def compile_graph(graph: bytes, shape: tuple[int, int, int, int], *, precision: Arithmetic, at_once: int) -> Engine:
    """An engine on one thread of the CPU for each call.

    Args:
        graph: ONNX, with one input.
        shape: of that input.
        precision: of the arithmetic; int8 is what the graph itself rounds to, with fp32 around it, and bf16 that of all
            but the first convolutions, see ``geoseg.models.rounding``.
        at_once: calls that run at the same time; others wait.

    Raises:
        RuntimeError: a graph that OpenVINO cannot read, or that does not take such inputs.
    """
    openvino, core = _openvino(), _core()
    model = core.read_model(io.BytesIO(graph))
    model.reshape(list(shape))
    _fold(model)
    narrow(openvino, model)
    parts = _parts(openvino, model, precision)
    settings = {
        "INFERENCE_NUM_THREADS": at_once,
        "NUM_STREAMS": at_once,  # of one thread each, whose arithmetic does not depend on how many there are
        "ENABLE_CPU_PINNING": False,  # else all workers of a machine would share its first core
    }
    compiled = [
        (core.compile_model(part.model, "CPU", settings | {"INFERENCE_PRECISION_HINT": part.hint}), part.strips)
        for part in parts
    ]
    requests = Slots(lambda: _Request(openvino, compiled), at_once)

    def run(inputs: NDArray[Any]) -> Sequence[NDArray[Any]]:
        with requests.borrow() as request:
            return request(inputs)

    return run


@functools.cache
def _core() -> Any:
    """OpenVINO, loaded once and kept for as long as the process lives.

    Its CPU plugin gives the thread that loads it a stack for signal handlers. It frees that memory when the last
    network is gone, and where another thread saw to that, the next signal (a child that ended, Ctrl-C) writes to memory
    that is not there.
    """
    return _openvino().Core()


class _Part(NamedTuple):
    """Some layers of a network.

    Attributes:
        model: of them; of a strip, where they are computed in strips.
        hint: OpenVINO's name of their arithmetic.
        strips: where they lie.
    """

    model: Any
    hint: str
    strips: Strips | None = None


class _Request:
    """What one call uses: a request to each part of a network, each of which reads what the one before it gives."""

    def __init__(self, openvino: Any, compiled: Sequence[tuple[Any, Strips | None]]) -> None:
        self._tensor = openvino.Tensor
        self._requests = [part.create_infer_request() for part, _ in compiled]
        self._strips = [strips for _, strips in compiled]
        self._given: list[list[NDArray[Any]]] = []  # by a request for each part: of a strip, or of all
        self._whole: list[list[NDArray[Any]]] = []  # the same of all
        for request, strips in zip(self._requests, self._strips, strict=True):
            given = []
            for index, tensor in enumerate(request.output_tensors):
                kind = tensor.element_type
                given.append(np.empty(list(tensor.shape), np.uint16 if kind == openvino.Type.bf16 else kind.to_dtype()))
                request.set_output_tensor(index, self._share(given[-1], kind))
            self._given.append(given)
            last = len(self._given) == len(compiled)
            self._whole.append(given if strips is None or last else _of_all(given, strips, _ROWS_BETWEEN))

    def __call__(self, inputs: NDArray[Any]) -> list[NDArray[Any]]:
        taken, axis = [inputs], _ROWS
        for request, strips, given, whole in zip(self._requests, self._strips, self._given, self._whole, strict=True):
            last = request is self._requests[-1]
            if strips is None:
                self._infer(request, taken)
            else:
                whole = _of_all(given, strips, _ROWS) if last else whole  # noqa: PLW2901
                for place in strips.places:
                    self._infer(request, [strips.take(place, array, axis) for array in taken])
                    for index, (part, into) in enumerate(zip(given, whole, strict=True)):
                        strips.put(place, index, part, into, _ROWS if last else _ROWS_BETWEEN)
            taken, axis = whole, _ROWS_BETWEEN
        return [array.copy() for array in taken] if self._strips[-1] is None else taken

    def _infer(self, request: Any, taken: Sequence[NDArray[Any]]) -> None:
        held = [np.ascontiguousarray(array) for array in taken]  # a tensor does not hold the memory that it shares
        for index, (array, port) in enumerate(zip(held, request.model_inputs, strict=True)):
            request.set_input_tensor(index, self._share(array, port.get_element_type()))
        request.infer()

    def _share(self, array: NDArray[Any], kind: Any) -> Any:
        """An array as a tensor, in the same memory; numpy has no type for bfloat16."""
        return self._tensor(array, list(array.shape), kind)


def _of_all(given: Sequence[NDArray[Any]], strips: Strips, axis: int) -> list[NDArray[Any]]:
    """Room for the results of all strips of a part, of those of one."""
    found = []
    for array, (begin, end) in zip(given, strips.kept, strict=True):
        shape = list(array.shape)
        shape[axis] = end - begin
        found.append(np.empty(shape, array.dtype))
    return found


def _fold(model: Any) -> None:
    """Computes what does not depend on the inputs, such as all that is made of shapes."""
    from openvino.passes import ConstantFolding, Manager

    passes = Manager()
    passes.register_pass(ConstantFolding())
    passes.run_passes(model)


def _parts(openvino: Any, model: Any, precision: Arithmetic) -> list[_Part]:
    """A network in the parts in which it is computed, one after the other.

    Of a network in bf16 the first convolutions stay fp32. The layers near the image, at the beginning and at the end,
    are computed in strips where that can be.

    Args:
        openvino: the package.
        model: of a fixed shape, see :func:`_fold`, whose convolutions see images; it is changed.
        precision: of its arithmetic.
    """
    hint = "bf16" if precision == "bf16" else "f32"
    batch, _, height, _ = model.input(0).get_shape()
    parts = []
    if precision == "bf16" and (names := _first_convolutions(model, EXACT)):
        first, model = _split(openvino, model, names, hint)
        parts = [_Part(first, "f32")] if first is not None else []
    if batch > 1 or precision == "int8":  # rows of several tiles do not lie together; and integers are not handed over
        return [*parts, _Part(model, hint)]
    parts = [_in_strips(openvino, part, height, first=True) for part in parts]
    begin, rest = _split(openvino, model, _shallow(model, height), hint)
    if begin is not None:
        part = _in_strips(openvino, _Part(begin, hint), height, first=not parts)
        if part.strips is not None:
            parts, model = [*parts, part], rest
    begin, rest = _split(openvino, model, _before_last_upsampling(model), hint)
    if begin is not None:
        last = _in_strips(openvino, _Part(rest, hint), height, first=False)
        if last.strips is not None:
            return [*parts, _Part(begin, hint), last]
    return [*parts, _Part(model, hint)]


def _in_strips(openvino: Any, part: _Part, height: int, *, first: bool) -> _Part:
    """The same part in strips, if that can be.

    Args:
        openvino: the package.
        part: of a network.
        height: of the network's input.
        first: whether that is the part's.
    """
    model = part.model.clone()
    axis = _ROWS if first else _ROWS_BETWEEN
    shapes = {entry: list(entry.get_shape()) for entry in model.inputs}
    heights = {shape[axis] for shape in shapes.values()}
    if len(heights) != 1:
        return part
    [own] = heights
    strips = find_strips(model, own, _STRIP * own // height, free_rows(openvino, model))
    if strips is None:
        return part
    for shape in shapes.values():
        shape[axis] = strips.rows
    model.reshape(shapes)
    return _Part(model, part.hint, strips)


def _first_convolutions(model: Any, count: int) -> set[str]:
    """Names of a model's nodes up to so many convolutions; of none where there are no others."""
    ordered, numbers = _numbered(model)
    if not numbers or numbers[-1] <= count:
        return set()
    return {_name(node) for node, number in zip(ordered, numbers, strict=True) if number <= count}


def _shallow(model: Any, height: int) -> set[str]:
    """Names of the nodes near the image: up to where images are a quarter of its height, and little is handed over."""
    ordered, numbers = _numbered(model)
    sides = [_height(node) for node in ordered]
    reached = [number for number, side in zip(numbers, sides, strict=True) if number and 0 < _DEEP * side <= height]
    crops = _after(ordered, {_name(node) for node in ordered if node.get_type_name() == "Slice"})
    best: tuple[int, set[str]] | None = None
    for count in range(reached[0], min(reached[0] + _FURTHER, numbers[-1])) if reached else ():
        names = {_name(node) for node, number in zip(ordered, numbers, strict=True) if number <= count} - crops
        size = sum(int(np.prod(output.get_shape())) for output, _ in _handed_over(ordered, names))
        best = min(best, (size, names), key=lambda one: one[0]) if best else (size, names)
    return best[1] if best else set()


def _before_last_upsampling(model: Any) -> set[str]:
    """Names of all nodes but the last that enlarges images and what comes of it."""
    ordered, _ = _numbered(model)
    last = [_name(node) for node in ordered if node.get_type_name() in UPSAMPLING][-1:]
    return {_name(node) for node in ordered} - _after(ordered, set(last)) if last else set()


def _numbered(model: Any) -> tuple[list[Any], list[int]]:
    """A model's nodes but constants, each with the number of convolutions up to it."""
    ordered = [node for node in model.get_ordered_ops() if node.get_type_name() != "Constant"]
    return ordered, list(accumulate(node.get_type_name().endswith("Convolution") for node in ordered))


def _after(ordered: Sequence[Any], names: set[str]) -> set[str]:
    """These nodes and all that depend on them."""
    found = set(names)
    for node in ordered:
        if any(_name(entry.get_source_output().get_node()) in found for entry in node.inputs()):
            found.add(_name(node))
    return found


def _handed_over(ordered: Sequence[Any], first: set[str]) -> list[tuple[Any, list[Any]]]:
    """What other nodes read of the first ones', and where they do."""
    found = []
    for output in (output for node in ordered if _name(node) in first for output in node.outputs()):
        readers = [entry for entry in output.get_target_inputs() if _name(entry.get_node()) not in first]
        if readers:
            found.append((output, readers))
    return found


def _height(node: Any) -> int:
    """Rows of the image that a node gives; 0 if it is none."""
    shape = list(node.output(0).get_shape()) if node.get_output_size() else []
    return shape[_ROWS] if len(shape) == len(_CHANNELS_LAST) else 0


def _name(node: Any) -> str:
    return str(node.get_friendly_name())


def _split(openvino: Any, model: Any, first: set[str], kind: str) -> tuple[Any, Any]:
    """Cuts a model in two, of which the second takes what of the first's results it uses.

    Args:
        openvino: the package.
        model: of a fixed shape, see :func:`_fold`; it is left as it is.
        first: names of the nodes of the first, with all that they read.
        kind: OpenVINO's name of the numbers that are handed over.

    Returns:
        the two; ``None`` and the model itself where there is nothing to hand over, or something that is no image.
    """
    second = model.clone()
    operations, narrow_kind = openvino.opset13, getattr(openvino.Type, kind)
    handed = _handed_over(_numbered(second)[0], first)
    if not handed or any(len(output.get_shape()) != len(_CHANNELS_LAST) for output, _ in handed):
        return None, model
    results, taken = [], []
    for output, readers in handed:
        # channels last and narrow, as convolutions keep them: to hand them over otherwise takes as long as to make them
        given = operations.convert(operations.transpose(output, np.array(_CHANNELS_LAST)), kind)
        results.append(operations.result(given))
        taken.append(operations.parameter(list(given.output(0).shape), narrow_kind))
        found = operations.transpose(operations.convert(taken[-1], "f32"), np.array(_CHANNELS_FIRST))
        for reader in readers:
            reader.replace_source_output(found.output(0))
    parameters = second.get_parameters()
    second.add_parameters(taken)
    for parameter in parameters:
        second.remove_parameter(parameter)
    return openvino.Model(results, parameters, "first"), second


_importing = threading.Lock()


def _openvino() -> Any:
    """Imports the package, which would tell its makers over the network that it was; a run calls nobody."""
    with _importing:
        if "openvino" in sys.modules:
            return sys.modules["openvino"]
        silenced = _TELEMETRY not in sys.modules
        if silenced:
            sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
        try:
            import openvino
        finally:
            if silenced:
                del sys.modules[_TELEMETRY]
        # fills a table on its first call, during which threads that ask for it as well would wait for each other
        openvino.Type.u8.to_dtype()
        return openvino
