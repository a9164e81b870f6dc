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
_READING = {"Convert", "Transpose"}  # kinds of nodes that make an image of what was handed over
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
        core.compile_model(part.model, "CPU", settings | {"INFERENCE_PRECISION_HINT": part.hint}) for part in parts
    ]
    requests = Slots(lambda: _Request(openvino, parts, compiled), at_once)

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
    """Some layers of a network. What they take and give of others is known by its name.

    Attributes:
        model: of them; of a strip, where they are computed in strips.
        hint: OpenVINO's name of their arithmetic.
        strips: where they lie.
    """

    model: Any
    hint: str
    strips: Strips | None = None


class _Step:
    """A part of a network, and a request to it.

    Attributes:
        request: of OpenVINO.
        strips: of the part.
        takes: names of its inputs.
        gives: names of its results.
    """

    def __init__(self, part: _Part, request: Any) -> None:
        self.request = request
        self.strips = part.strips
        self.takes = [_name(parameter) for parameter in part.model.get_parameters()]
        self.gives = [_name(result) for result in part.model.get_results()]


class _Request:
    """What one call uses: a request to each part of a network, and what these hand over to each other."""

    def __init__(self, openvino: Any, parts: Sequence[_Part], compiled: Sequence[Any]) -> None:
        self._openvino = openvino
        requests = [one.create_infer_request() for one in compiled]
        self._steps = [_Step(part, request) for part, request in zip(parts, requests, strict=True)]
        self._handed = {name: array for step in self._steps[:-1] for name, array in self._room(step).items()}

    def __call__(self, inputs: NDArray[Any]) -> list[NDArray[Any]]:
        last = self._steps[-1]
        results = self._room(last)
        arrays = {self._steps[0].takes[0]: inputs, **self._handed, **results}
        for step in self._steps:
            taken, given = ([arrays[name] for name in names] for names in (step.takes, step.gives))
            if step.strips is None:
                self._infer(step, taken, given)
            else:
                self._infer_strips(step, step.strips, taken, given)
        if last.strips is None:
            return list(results.values())
        return [last.strips.keep(index, array, _ROWS) for index, array in enumerate(results.values())]

    def _room(self, step: _Step) -> dict[str, NDArray[Any]]:
        """For the results of a step, of all its strips."""
        found = {}
        for index, (name, port) in enumerate(zip(step.gives, step.request.model_outputs, strict=True)):
            shape, kind = list(port.get_shape()), port.get_element_type()
            if step.strips is not None:
                shape[_ROWS if step is self._steps[-1] else _ROWS_BETWEEN] = step.strips.length(index)
            found[name] = np.empty(shape, np.uint16 if kind == self._openvino.Type.bf16 else kind.to_dtype())
        return found

    def _infer_strips(
        self, step: _Step, strips: Strips, taken: Sequence[NDArray[Any]], given: Sequence[NDArray[Any]]
    ) -> None:
        """Results go where they belong; what the strip before had right, and the next one has not, is put back."""
        of_taken = _ROWS if step is self._steps[0] else _ROWS_BETWEEN
        of_given = _ROWS if step is self._steps[-1] else _ROWS_BETWEEN
        for place in strips.places:
            own = [strips.give(place, index, array, of_given) for index, array in enumerate(given)]
            right = [strips.right(place, index, array, of_given) for index, array in enumerate(own)]
            before = [array.copy() for array in right]
            self._infer(step, [strips.take(place, array, of_taken) for array in taken], own)
            for array, copy in zip(right, before, strict=True):
                array[:] = copy

    def _infer(self, step: _Step, taken: Sequence[NDArray[Any]], given: Sequence[NDArray[Any]]) -> None:
        """One call of a request; planes of a strip of scores do not lie together."""
        request = step.request
        inputs = [np.ascontiguousarray(array) for array in taken]  # tensors do not hold the memory that they share
        outputs = [array if array.flags.c_contiguous else np.empty_like(array, order="C") for array in given]
        for index, (array, port) in enumerate(zip(inputs, request.model_inputs, strict=True)):
            request.set_input_tensor(index, self._share(array, port))
        for index, (array, port) in enumerate(zip(outputs, request.model_outputs, strict=True)):
            request.set_output_tensor(index, self._share(array, port))
        request.infer()
        for array, output in zip(given, outputs, strict=True):
            if array is not output:
                array[:] = output

    def _share(self, array: NDArray[Any], port: Any) -> Any:
        """An array as a tensor, in the same memory; numpy has no type for bfloat16."""
        return self._openvino.Tensor(array, list(array.shape), port.get_element_type())


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

    What it reads of what was handed to the first it takes itself.

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
    ordered, _ = _numbered(second)
    handed = [one for one in _handed_over(ordered, first) if _name(one[0].get_node()) not in _taken_over(ordered)]
    if not handed or any(len(output.get_shape()) != len(_CHANNELS_LAST) for output, _ in handed):
        return None, model
    results, taken = [], []
    for output, readers in handed:
        # channels last and narrow, as convolutions keep them: to hand them over otherwise takes as long as to make them
        given = operations.convert(operations.transpose(output, np.array(_CHANNELS_LAST)), kind)
        results.append(operations.result(given))
        taken.append(operations.parameter(list(given.output(0).shape), narrow_kind))
        for node in (results[-1], taken[-1]):
            node.set_friendly_name(f"{_name(output.get_node())}, handed over")
        found = operations.transpose(operations.convert(taken[-1], "f32"), np.array(_CHANNELS_FIRST))
        for reader in readers:
            reader.replace_source_output(found.output(0))
    parameters = second.get_parameters()
    begin = openvino.Model(results, parameters, "first").clone()
    second.add_parameters(taken)
    for part in (begin, second):
        _drop_unread(part)
    return begin, second


def _taken_over(ordered: Sequence[Any]) -> set[str]:
    """Names of the nodes that only make an image of what was handed over."""
    found: set[str] = set()
    for node in ordered:
        kind, sources = node.get_type_name(), [_name(entry.get_source_output().get_node()) for entry in node.inputs()]
        if kind == "Parameter" or (kind in _READING and sources[0] in found):
            found.add(_name(node))
    return found


def _drop_unread(model: Any) -> None:
    """Takes away a model's inputs that none of its results depends on."""
    read: set[str] = set()
    nodes = list(model.get_results())
    while nodes:
        node = nodes.pop()
        if _name(node) not in read:
            read.add(_name(node))
            nodes += [entry.get_source_output().get_node() for entry in node.inputs()]
    for parameter in model.get_parameters():
        if _name(parameter) not in read:
            model.remove_parameter(parameter)


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
