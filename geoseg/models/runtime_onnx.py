"""ONNX Runtime as an engine for graphs, on the CPU or a CUDA device (floor 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from numpy.typing import NDArray

from geoseg.models.runtime_graph import Engine
from geoseg.models.slots import Slots

__all__ = ["compile_graph", "has_cuda"]

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# else each process would time algorithms, and perhaps choose others
_HOW: dict[str, dict[str, str]] = {"cpu": {}, "cuda": {"cudnn_conv_algo_search": "DEFAULT", "use_tf32": "0"}}
_ERRORS_ALONE = 3


def has_cuda() -> bool:
    """Whether the installed package was built for CUDA; that of PyPI's name ``onnxruntime`` is not."""
    import onnxruntime

    return _PROVIDERS["cuda"] in onnxruntime.get_available_providers()


def compile_graph(
    graph: bytes,
    shape: tuple[int, int, int, int],  # noqa: ARG001  (the graph takes it, nothing is to be done)
    *,
    device: Literal["cpu", "cuda"],
    at_once: int,
) -> Engine:
    """An engine on one thread of the CPU for each call, or on a CUDA device.

    Args:
        graph: ONNX, with one input.
        shape: of that input.
        device: where it runs.
        at_once: calls that run at the same time; others wait.

    Raises:
        RuntimeError: a graph that ONNX Runtime cannot read.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = _ERRORS_ALONE
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=[(_PROVIDERS[device], _HOW[device])])
    except Exception as error:  # its own errors have no base of their own
        raise RuntimeError(str(error)) from error
    if session.get_providers()[0] != _PROVIDERS[device]:  # it goes on without what does not load
        raise RuntimeError("ONNX Runtime cannot load its CUDA libraries")
    name = session.get_inputs()[0].name

    sessions: Slots[Any] = Slots(lambda: session, at_once)  # it takes any number of calls, each of which takes memory

    def run(inputs: NDArray[Any]) -> Sequence[NDArray[Any]]:
        try:
            with sessions.borrow() as lent:
                results: Sequence[NDArray[Any]] = lent.run(None, {name: inputs})
        except Exception as error:
            raise RuntimeError(str(error)) from error
        return results

    return run
