"""OpenVINO as an engine for graphs, on the CPU (floor 3)."""

from __future__ import annotations

import functools
import hashlib
import io
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.machine import cpu_has, describe_cpu
from geoseg.models.compiled import CompiledPart, compile_part, pack, unpack
from geoseg.models.kept import find_kept, keep
from geoseg.models.narrowing import narrow
from geoseg.models.parts import ROWS, ROWS_BETWEEN, Hint, InStrips, cut_network
from geoseg.models.runtime_graph import Engine
from geoseg.models.slots import Slots
from geoseg.models.strips import Strips
from geoseg.settings import OF_BF16, Arithmetic

__all__ = ["compile_graph"]

_TELEMETRY = "openvino_telemetry"
_KIND = "compiled"  # of what is kept


def compile_graph(graph: bytes, shape: tuple[int, int, int, int], *, precision: Arithmetic, at_once: int) -> Engine:
    """An engine on one thread of the CPU for each call.

    Args:
        graph: ONNX, with one input.
        shape: of that input.
        precision: of the arithmetic; int8 is what the graph itself rounds to, with fp32 around it, and bf16 that of all
            else but the first convolutions, see ``geoseg.models.rounding``.
        at_once: calls that run at the same time; others wait.

    Raises:
        RuntimeError: a graph that OpenVINO cannot read, or that does not take such inputs.
    """
    openvino, core = _openvino(), _core()
    hint: Hint = "bf16" if precision in OF_BF16 else "f32"
    in_strips, rows = _choose_strips(precision)
    settings = {
        "INFERENCE_NUM_THREADS": at_once,
        "NUM_STREAMS": at_once,  # of one thread each, whose arithmetic does not depend on how many there are
        "ENABLE_CPU_PINNING": False,  # else all workers of a machine would share its first core
    }
    # half a second to a whole one is saved where it was compiled before
    machine = describe_cpu(), openvino.get_version()
    facts = [hashlib.sha256(graph).hexdigest(), shape, hint, in_strips, rows, *machine]
    parts: list[CompiledPart] = []
    if (packed := find_kept(_KIND, facts)) is not None:
        with suppress(RuntimeError, ValueError, TypeError, KeyError):
            parts = unpack(core, packed, settings)
    if not parts:
        model = core.read_model(io.BytesIO(graph))
        model.reshape(list(shape))
        _fold(model)
        narrow(openvino, model)
        cut = cut_network(openvino, model, hint, in_strips, rows)
        parts = [compile_part(core, part, settings) for part in cut]
        with suppress(RuntimeError):  # what cannot be kept is compiled each time
            keep(_KIND, facts, pack(parts))
    requests = Slots(lambda: _Request(openvino, parts), at_once)

    def run(inputs: NDArray[Any]) -> Sequence[NDArray[Any]]:
        with requests.borrow() as request:
            return request(inputs)

    return run


def _choose_strips(precision: Arithmetic) -> tuple[InStrips, int]:
    """Which layers this CPU computes so quickly that strips pay, and their rows; see tests/benchmarks/strips.py."""
    if precision == "bf16" and cpu_has("amx_bf16"):
        return "both ends", 128
    return ("beginning", 32) if precision in OF_BF16 else ("nothing", 0)


@functools.cache
def _core() -> Any:
    """OpenVINO, loaded once and kept for as long as the process lives.

    Its CPU plugin gives the thread that loads it a stack for signal handlers. It frees that memory when the last
    network is gone, and where another thread saw to that, the next signal (a child that ended, Ctrl-C) writes to memory
    that is not there.
    """
    return _openvino().Core()


def _fold(model: Any) -> None:
    """Computes what does not depend on the inputs, such as all that is made of shapes."""
    from openvino.passes import ConstantFolding, Manager

    passes = Manager()
    passes.register_pass(ConstantFolding())
    passes.run_passes(model)


class _Step:
    """A part of a network, and a request to it.

    Attributes:
        request: of OpenVINO.
        strips: of the part.
        takes: names of its inputs.
        gives: names of its results.
    """

    def __init__(self, part: CompiledPart) -> None:
        self.request = part.network.create_infer_request()
        self.strips = part.strips
        self.takes = part.takes
        self.gives = part.gives


class _Request:
    """What one call uses: a request to each part of a network, and what these hand over to each other."""

    def __init__(self, openvino: Any, parts: Sequence[CompiledPart]) -> None:
        self._openvino = openvino
        self._steps = [_Step(part) for part in parts]
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
        return [last.strips.keep(index, array, ROWS) for index, array in enumerate(results.values())]

    def _room(self, step: _Step) -> dict[str, NDArray[Any]]:
        """For the results of a step, of all its strips."""
        found = {}
        for index, (name, port) in enumerate(zip(step.gives, step.request.model_outputs, strict=True)):
            shape, kind = list(port.get_shape()), port.get_element_type()
            if step.strips is not None:
                shape[ROWS if step is self._steps[-1] else ROWS_BETWEEN] = step.strips.length(index)
            found[name] = np.empty(shape, np.uint16 if kind == self._openvino.Type.bf16 else kind.to_dtype())
        return found

    def _infer_strips(
        self, step: _Step, strips: Strips, taken: Sequence[NDArray[Any]], given: Sequence[NDArray[Any]]
    ) -> None:
        """Results go where they belong; what the strip before had right, and the next one has not, is put back."""
        of_taken = ROWS if step is self._steps[0] else ROWS_BETWEEN
        of_given = ROWS if step is self._steps[-1] else ROWS_BETWEEN
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
