"""OpenVINO as an engine for graphs, on the CPU (floor 3)."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from geoseg.models.runtime_graph import Engine
from geoseg.settings import Arithmetic

__all__ = ["compile_graph"]

_TELEMETRY = "openvino_telemetry"


def compile_graph(graph: bytes, shape: tuple[int, int, int, int], *, precision: Arithmetic) -> Engine:
    """An engine on one thread of the CPU.

    Args:
        graph: ONNX, with one input.
        shape: of that input.
        precision: of the arithmetic; int8 is what the graph itself rounds to, with fp32 around it.

    Raises:
        RuntimeError: a graph that OpenVINO cannot read, or that does not take such inputs.
    """
    core = _openvino().Core()
    model = core.read_model(io.BytesIO(graph))
    model.reshape(list(shape))
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # else all workers of a machine would share its first core
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    alone = threading.Lock()

    def run(inputs: NDArray[Any]) -> Sequence[NDArray[Any]]:
        with alone:  # a request serves one thread
            results = request.infer([inputs], share_inputs=True)
            return [results[index] for index in range(len(results))]

    return run


def _openvino() -> Any:
    """Imports the package, which would tell its makers over the network that it was; a run calls nobody."""
    if "openvino" not in sys.modules and _TELEMETRY not in sys.modules:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
        try:
            import openvino
        finally:
            del sys.modules[_TELEMETRY]
    import openvino

    return openvino
