"""OpenVINO as an engine for graphs, on the CPU (floor 3)."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from geoseg.models.runtime_graph import Engine
from geoseg.models.slots import Slots
from geoseg.settings import Arithmetic

__all__ = ["compile_graph"]

_TELEMETRY = "openvino_telemetry"


def compile_graph(graph: bytes, shape: tuple[int, int, int, int], *, precision: Arithmetic, at_once: int) -> Engine:
    """An engine on one thread of the CPU for each call.

    Args:
        graph: ONNX, with one input.
        shape: of that input.
        precision: of the arithmetic; int8 is what the graph itself rounds to, with fp32 around it.
        at_once: calls that run at the same time; others wait.

    Raises:
        RuntimeError: a graph that OpenVINO cannot read, or that does not take such inputs.
    """
    core = _openvino().Core()
    model = core.read_model(io.BytesIO(graph))
    model.reshape(list(shape))
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": at_once,
        "NUM_STREAMS": at_once,  # of one thread each, whose arithmetic does not depend on how many there are
        "ENABLE_CPU_PINNING": False,  # else all workers of a machine would share its first core
    }
    compiled = core.compile_model(model, "CPU", settings)
    requests: Slots[Any] = Slots(compiled.create_infer_request, at_once)

    def run(inputs: NDArray[Any]) -> Sequence[NDArray[Any]]:
        with requests.borrow() as request:
            results = request.infer([inputs], share_inputs=True)
            return [results[index] for index in range(len(results))]

    return run


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
