"""OpenVINO as an engine for graphs, on the CPU (floor 3)."""

from __future__ import annotations

import functools
import io
import sys
import threading
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.models.graphs import EXACT
from geoseg.models.narrowing import narrow
from geoseg.models.runtime_graph import Engine
from geoseg.models.slots import Slots
from geoseg.settings import Arithmetic

__all__ = ["compile_graph"]

_TELEMETRY = "openvino_telemetry"
_CHANNELS_LAST, _CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


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
    parts = [(model, "bf16" if precision == "bf16" else "f32")]
    if precision == "bf16" and (first := _cut(openvino, model, EXACT)) is not None:
        parts.insert(0, (first, "f32"))
    settings = {
        "INFERENCE_NUM_THREADS": at_once,
        "NUM_STREAMS": at_once,  # of one thread each, whose arithmetic does not depend on how many there are
        "ENABLE_CPU_PINNING": False,  # else all workers of a machine would share its first core
    }
    compiled = [core.compile_model(part, "CPU", settings | {"INFERENCE_PRECISION_HINT": hint}) for part, hint in parts]
    requests = Slots(lambda: _Request(compiled), at_once)

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


class _Request:
    """What one call uses: a request to each part of a network, each of which reads what the one before it gives."""

    def __init__(self, compiled: Sequence[Any]) -> None:
        self._parts = [part.create_infer_request() for part in compiled]
        for before, after in pairwise(self._parts):
            for index, tensor in enumerate(before.output_tensors):
                after.set_input_tensor(index, tensor)

    def __call__(self, inputs: NDArray[Any]) -> list[NDArray[Any]]:
        first, *others = self._parts
        first.infer([inputs], share_inputs=True)
        for part in others:
            part.infer()
        return [tensor.data.copy() for tensor in self._parts[-1].output_tensors]


def _fold(model: Any) -> None:
    """Computes what does not depend on the inputs, such as all that is made of shapes."""
    from openvino.passes import ConstantFolding, Manager

    passes = Manager()
    passes.register_pass(ConstantFolding())
    passes.run_passes(model)


def _cut(openvino: Any, model: Any, convolutions: int) -> Any:
    """Cuts off the first convolutions of a model, which then takes what of their results is used by the others.

    Args:
        openvino: the package.
        model: of a fixed shape, see :func:`_fold`, whose convolutions see images; it is changed.
        convolutions: how many.

    Returns:
        the model of what was cut off; ``None`` where there are no others.
    """
    ordered = [node for node in model.get_ordered_ops() if node.get_type_name() != "Constant"]
    numbers = list(accumulate(node.get_type_name().endswith("Convolution") for node in ordered))
    if numbers[-1] <= convolutions:
        return None
    first = {node.get_friendly_name() for node, number in zip(ordered, numbers, strict=True) if number <= convolutions}
    operations = openvino.opset13
    results, taken = [], []
    for output in (output for node in ordered if node.get_friendly_name() in first for output in node.outputs()):
        readers = [entry for entry in output.get_target_inputs() if entry.get_node().get_friendly_name() not in first]
        if not readers:
            continue
        # channels last and narrow, as convolutions keep them: to hand them over otherwise takes as long as to make them
        given = operations.convert(operations.transpose(output, np.array(_CHANNELS_LAST)), "bf16")
        results.append(operations.result(given))
        taken.append(operations.parameter(list(given.output(0).shape), openvino.Type.bf16))
        found = operations.transpose(operations.convert(taken[-1], "f32"), np.array(_CHANNELS_FIRST))
        for reader in readers:
            reader.replace_source_output(found.output(0))
    parameters = model.get_parameters()
    model.add_parameters(taken)
    for parameter in parameters:
        model.remove_parameter(parameter)
    return openvino.Model(results, parameters, "first")


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
