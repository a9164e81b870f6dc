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
from geoseg.models.blocks import Blocks
from geoseg.models.compiled import CompiledPart, compile_part, pack, unpack
from geoseg.models.kept import find_kept, keep
from geoseg.models.narrowing import narrow
from geoseg.models.parts import PIXELS, PIXELS_BETWEEN, Hint, InBlocks, cut_network
from geoseg.models.runtime_graph import Engine
from geoseg.models.slots import Slots
from geoseg.settings import OF_BF16, Arithmetic

__all__ = ["compile_graph"]

_TELEMETRY = "openvino_telemetry"
_KIND = "compiled"  # of what is kept
_BLOCK = 128, 512  # rows and columns


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
    in_blocks, block = _choose_blocks(precision)
    settings = {
        "INFERENCE_NUM_THREADS": at_once,
        "NUM_STREAMS": at_once,  # of one thread each, whose arithmetic does not depend on how many there are
        "ENABLE_CPU_PINNING": False,  # else all workers of a machine would share its first core
    }
    # half a second to a whole one is saved where it was compiled before
    machine = describe_cpu(), openvino.get_version()
    facts = [hashlib.sha256(graph).hexdigest(), shape, hint, in_blocks, block, *machine]
    parts: list[CompiledPart] = []
    if (packed := find_kept(_KIND, facts)) is not None:
        with suppress(RuntimeError, ValueError, TypeError, KeyError):
            parts = unpack(core, packed, settings)
    if not parts:
        model = core.read_model(io.BytesIO(graph))
        model.reshape(list(shape))
        _fold(model)
        narrow(openvino, model)
        cut = cut_network(openvino, model, hint, in_blocks, block)
        parts = [compile_part(core, part, settings) for part in cut]
        with suppress(RuntimeError):  # what cannot be kept is compiled each time
            keep(_KIND, facts, pack(parts))
    # all at once, since OpenVINO makes no request while another one computes
    ready = [_Request(openvino, parts) for _ in range(at_once)]
    requests = Slots(ready.pop, at_once)

    def run(inputs: NDArray[Any]) -> Sequence[NDArray[Any]]:
        with requests.borrow() as request:
            return request(inputs)

    return run


def _choose_blocks(precision: Arithmetic) -> tuple[InBlocks, tuple[int, int]]:
    """Which layers this CPU computes so quickly that blocks pay, and their size; see tests/benchmarks/blocks.py."""
    if precision == "bf16" and cpu_has("amx_bf16"):
        return "both ends", _BLOCK
    return ("beginning" if precision in OF_BF16 else "nothing"), _BLOCK


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
        blocks: of the part.
        takes: names of its inputs.
        gives: names of its results.
    """

    def __init__(self, openvino: Any, part: CompiledPart) -> None:
        self._openvino = openvino
        self.request = part.network.create_infer_request()
        self.blocks = part.blocks
        self.takes = part.takes
        self.gives = part.gives
        self._own: list[list[NDArray[Any]]] = []  # inputs and results of a block
        if self.blocks is not None:  # the request is told once of their place
            ports = self.request.model_inputs, self.request.model_outputs
            self._own = [[np.empty(list(port.get_shape()), self._kind(port)) for port in of_all] for of_all in ports]
            self._tell(*self._own)

    def room(self, *, last: bool) -> dict[str, NDArray[Any]]:
        """For the results of the part, of all its blocks; ``last``: they are those of the network."""
        found = {}
        for index, (name, port) in enumerate(zip(self.gives, self.request.model_outputs, strict=True)):
            shape = list(port.get_shape())
            if self.blocks is not None:
                first = PIXELS if last else PIXELS_BETWEEN
                for axis, size in enumerate(self.blocks.room(index), start=first):
                    shape[axis] = size or shape[axis]
            found[name] = np.empty(shape, self._kind(port))
        return found

    def infer(self, inputs: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]]) -> None:
        """Asks for all at once, from and into arrays without gaps: tensors do not hold the memory that they share."""
        self._tell(inputs, outputs)
        self.request.infer()

    def infer_blocks(
        self, blocks: Blocks, inputs: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]], axes: tuple[int, int]
    ) -> None:
        """Asks for block after block, and puts what is right of each where it belongs.

        Args:
            blocks: of the part.
            inputs: of the whole part.
            outputs: of all blocks, see :meth:`room`.
            axes: of rows in inputs and in outputs; that of columns is the next.
        """
        own_inputs, own_outputs = self._own
        for spot in blocks:
            region = blocks.taken(spot)
            for own, array in zip(own_inputs, inputs, strict=True):
                own[:] = _pixels(array, axes[0], region)
            self.request.infer()
            for index, (own, array) in enumerate(zip(own_outputs, outputs, strict=True)):
                found = _pixels(own, axes[1], blocks.right(spot, index))
                _pixels(array, axes[1], blocks.given(spot, index))[:] = found

    def _tell(self, inputs: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]]) -> None:
        """Tells the request from where it reads, and to where it writes."""
        request = self.request
        for index, (array, port) in enumerate(zip(inputs, request.model_inputs, strict=True)):
            request.set_input_tensor(index, self._share(array, port))
        for index, (array, port) in enumerate(zip(outputs, request.model_outputs, strict=True)):
            request.set_output_tensor(index, self._share(array, port))

    def _kind(self, port: Any) -> Any:
        """Numpy has no type for bfloat16."""
        kind = port.get_element_type()
        return np.uint16 if kind == self._openvino.Type.bf16 else kind.to_dtype()

    def _share(self, array: NDArray[Any], port: Any) -> Any:
        """An array as a tensor, in the same memory."""
        return self._openvino.Tensor(array, list(array.shape), port.get_element_type())


def _pixels(array: NDArray[Any], first: int, region: tuple[slice, slice]) -> NDArray[Any]:
    """Some rows and columns, of which the first axis is given."""
    return array[(*(slice(None),) * (first % array.ndim), *region)]


class _Request:
    """What one call uses: a request to each part of a network, and what these hand over to each other."""

    def __init__(self, openvino: Any, parts: Sequence[CompiledPart]) -> None:
        self._steps = [_Step(openvino, part) for part in parts]
        self._handed = {name: array for step in self._steps[:-1] for name, array in step.room(last=False).items()}

    def __call__(self, inputs: NDArray[Any]) -> list[NDArray[Any]]:
        first, last = self._steps[0], self._steps[-1]
        results = last.room(last=True)
        arrays = {first.takes[0]: np.ascontiguousarray(inputs), **self._handed, **results}
        for step in self._steps:
            taken, given = ([arrays[name] for name in names] for names in (step.takes, step.gives))
            if step.blocks is None:
                step.infer(taken, given)
            else:
                axes = PIXELS if step is first else PIXELS_BETWEEN, PIXELS if step is last else PIXELS_BETWEEN
                step.infer_blocks(step.blocks, taken, given, axes)
        if last.blocks is None:
            return list(results.values())
        return [_pixels(array, PIXELS, last.blocks.keep(index)) for index, array in enumerate(results.values())]


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
