"""The door to what runs a model on batches of tiles, and how it is chosen (floor 3).

``torch``
    takes every network that geoseg builds, on a CPU or a CUDA device, and what is left of segmenters without weights.
``openvino``
    takes the same networks, converted in memory, and ONNX files; quicker on a CPU, and in less memory.
``onnx``
    ONNX Runtime: takes ONNX files, and the same networks, converted in memory; on a CPU or a CUDA device.

Labels of a runtime are the same bytes however the work is cut; those of two runtimes may differ in a pixel of some
hundred thousand, so a run keeps to those that it was planned with.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Collection
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from geoseg.errors import SettingsError
from geoseg.machine import cpu_has
from geoseg.models.card import Card
from geoseg.settings import OF_INTEGERS, Arithmetic, Device, Precision, Refinement, RuntimeName, Tta
from geoseg.stages.blend import Decide

__all__ = [
    "Resolved",
    "Runtime",
    "count_gpus",
    "cpu_multiplies",
    "open_decision",
    "open_runtime",
    "open_scorer",
    "packages_of",
    "resolve_device",
    "resolve_precision",
    "resolve_runtime",
    "runtimes_of",
]

Resolved: TypeAlias = Literal["torch", "openvino", "onnx"]

_PACKAGES: dict[Resolved, tuple[str, ...]] = {
    "torch": ("torch",),
    "openvino": ("openvino", "onnx"),
    "onnx": ("onnxruntime", "onnx"),
}
_INT8_FLAGS = ("avx512_vnni", "avx_vnni", "amx_int8")  # of a CPU, one of them
_BF16_FLAGS = ("amx_bf16", "avx512_bf16")
_FLAGS: dict[Arithmetic, tuple[tuple[str, ...], ...]] = {
    "fp32": (),
    "bf16": (_BF16_FLAGS,),
    "int8": (_INT8_FLAGS,),
    "int8-bf16": (_BF16_FLAGS, _INT8_FLAGS),
}
# for CPUs, of which the first is taken that the CPU has
_CHOICES: tuple[Arithmetic, ...] = ("int8-bf16", "bf16", "int8")
_CHOICES_WITH_AMX: tuple[Arithmetic, ...] = ("bf16", "int8-bf16", "int8")
_UNCONVERTED = {"dpt", "pspnet", "upernet"}  # families whose pooling ONNX lacks, for some sizes or for all


def resolve_device(device: Device, runtime: RuntimeName = "auto") -> Literal["cpu", "cuda"]:
    """Turns ``auto`` into what this machine and the runtime asked for have.

    Raises:
        SettingsError: ``cuda`` asked for where there is none.
    """
    if runtime == "openvino":
        if device == "cuda":
            raise SettingsError("--runtime openvino runs on CPUs, and --device is cuda; leave one of them out")
        return "cpu"
    if device == "cpu" or (device == "auto" and not _has_nvidia_driver()):
        return "cpu"
    if device == "auto" and runtime == "onnx" and not _missing("onnx"):
        from geoseg.models.runtime_onnx import has_cuda

        if not has_cuda():
            return "cpu"
    import torch

    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise SettingsError("--device is cuda, but torch finds no CUDA device here; use --device cpu or auto")
    return "cuda" if there else "cpu"


def count_gpus() -> int:
    """CUDA devices that this process may use."""
    import torch

    return torch.cuda.device_count()


def _has_nvidia_driver() -> bool:
    """Looks for CUDA's driver library, which is much quicker than importing torch to ask."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def resolve_runtime(runtime: RuntimeName, card: Card, device: Literal["cpu", "cuda"]) -> Resolved:
    """Turns ``auto`` into a model's runtime.

    That is ONNX Runtime for an ONNX file; for other networks OpenVINO on a CPU, where it is installed and can run them,
    else torch. A segmenter without weights has nothing to choose: what is left of it is torch's.

    Args:
        runtime: asked for.
        card: of the model.
        device: resolved, see :func:`resolve_device`.

    Raises:
        SettingsError: a runtime that is not installed, or cannot run the model or use the device.
    """
    if card.weights is None:
        return "torch"
    convertible = card.is_onnx or card.architecture.partition("-")[0] not in _UNCONVERTED
    if runtime == "auto":
        if not card.is_onnx:
            return "openvino" if device == "cpu" and convertible and not _missing("openvino") else "torch"
        runtime = "onnx"
    if card.is_onnx and runtime == "torch":
        raise SettingsError(f"--runtime is torch, but model {card.name} is an ONNX file; choose auto, onnx or openvino")
    if not convertible and runtime != "torch":
        raise SettingsError(
            f"--runtime is {runtime}; model {card.name} is a {card.architecture}, which torch alone runs; choose auto"
        )
    _require(runtime)
    if runtime == "onnx" and device == "cuda":
        from geoseg.models.runtime_onnx import has_cuda

        if not has_cuda():
            raise SettingsError(
                f"model {card.name} is to run in ONNX Runtime on a CUDA device, but the installed package is for CPUs; "
                "pip install onnxruntime-gpu in its place, or give --device cpu"
            )
    return runtime


def runtimes_of(card: Card, device: Literal["cpu", "cuda"]) -> list[tuple[Resolved, Arithmetic]]:
    """Every runtime and precision that can be asked for here, for a model on a device."""

    def can(runtime: Resolved, precision: Arithmetic) -> bool:
        try:
            resolve_runtime(runtime, card, device)
            resolve_precision(precision, device, runtime, passed=("fp32", *["int8"] * (card.int8 is not None)))
        except SettingsError:
            return False
        return not (runtime == "openvino" and device == "cuda")

    return [
        (runtime, precision) for runtime in _PACKAGES for precision in get_args(Arithmetic) if can(runtime, precision)
    ]


def packages_of(runtime: Resolved) -> tuple[str, ...]:
    """The packages that a runtime needs, by the names under which they are installed."""
    return _PACKAGES[runtime]


def _missing(runtime: Resolved) -> list[str]:
    return [package for package in _PACKAGES[runtime] if find_spec(package) is None]


def _require(runtime: Resolved) -> None:
    if missing := _missing(runtime):
        raise SettingsError(
            f"runtime {runtime} needs the package {missing[0]}; install geoseg's extra: pip install 'geoseg[{runtime}]'"
        )


def resolve_precision(
    precision: Precision,
    device: Literal["cpu", "cuda"],
    runtime: Resolved = "torch",
    *,
    passed: Collection[str] = ("fp32", "bf16"),
) -> Arithmetic:
    """Turns ``auto`` into bf16 or int8 where the hardware multiplies them natively, else fp32.

    Integers are OpenVINO's alone, and need VNNI: older CPUs are slow with them and clip their sums. CPUs with AMX are
    quick enough with bf16, which loses less; others that multiply bf16 are a quarter quicker still with integers and
    bf16 around them. CPUs that emulate bf16 are slower with it than with fp32.

    Args:
        precision: asked for.
        device: resolved, see :func:`resolve_device`.
        runtime: resolved, see :func:`resolve_runtime`.
        passed: what ``auto`` may choose, for a model that runs: see ``Card.precisions``.

    Raises:
        SettingsError: a precision asked of a runtime, a CPU or a model that lacks it.
    """
    if precision in OF_INTEGERS:
        _require_int8(precision, runtime, passed)
    if runtime == "onnx":
        if precision == "bf16":
            raise SettingsError(
                "--precision is bf16, which ONNX Runtime lacks; give --precision auto, or --runtime openvino"
            )
        return "fp32"
    if precision != "auto":
        return precision
    if device == "cuda":
        import torch

        # on a machine without one that leads GPUs elsewhere, it is not known
        native = (
            "bf16" in passed and torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        )
        return "bf16" if native else "fp32"
    for choice in _CHOICES_WITH_AMX if cpu_has("amx_bf16") else _CHOICES:
        runs = choice not in OF_INTEGERS or runtime == "openvino"
        if choice in passed and runs and cpu_multiplies(choice):
            return choice
    return "fp32"


def cpu_multiplies(precision: Arithmetic) -> bool:
    """Whether this machine's CPU has the features for a precision; without them it is slow, and rounds otherwise."""
    return all(cpu_has(*flags) for flags in _FLAGS[precision])


def _require_int8(precision: str, runtime: Resolved, passed: Collection[str]) -> None:
    asked = f"--precision is {precision}"
    if runtime != "openvino":
        raise SettingsError(f"{asked}, which openvino alone runs, and not {runtime}; choose auto")
    if not OF_INTEGERS.intersection(passed):
        raise SettingsError(f"{asked}, but the model has no integers; make them with geoseg quantize")
    if not cpu_multiplies("int8"):
        raise SettingsError(f"{asked}, and this CPU lacks VNNI; choose auto")


class Runtime(Protocol):
    """A model on one device, ready for batches of one fixed shape. Any threads may call it; some may have to wait."""

    batch: int
    """Tiles per call."""

    def __call__(self, tiles: NDArray[Any]) -> tuple[NDArray[np.uint8], ...]:
        """Labels a batch of tiles.

        Args:
            tiles: (batch, bands, tile, tile), uint8, or float32 for a card whose ``dtype`` is "any".

        Returns:
            mask and confidence of the tiles' cores, each (batch, core, core) uint8; confidence is 0-254 for 0-1. From a
            scorer the scores of whole tiles alone, (batch, planes, tile, tile) uint8, 0-255 for 0-1, as the card's
            activation gives them: of each class, and with softmax of background before these.
        """
        ...


def open_runtime(  # noqa: PLR0913
    card: Card,
    *,
    runtime: Resolved,
    device: Literal["cpu", "cuda"],
    precision: Arithmetic,
    halo: int,
    refine: Refinement = "none",
    tta: Tta = "none",
    thresholds: tuple[float, ...] | None = None,
    at_once: int = 1,
) -> Runtime:
    """Loads a model.

    Args:
        card: the model.
        runtime: resolved, see :func:`resolve_runtime`.
        device: resolved, see :func:`resolve_device`.
        precision: of a network, resolved, see :func:`resolve_precision`.
        halo: pixels cropped from each side of a tile's result.
        refine: how scores are refined by the image before the decision, see ``geoseg.stages.refine``.
        tta: views of a tile whose scores a network's are averaged over; segmenters without weights see pixels alone.
        thresholds: of the scene, for segmenters that need them, see ``geoseg.models.classical.scene_thresholds``.
        at_once: calls that run at the same time on a CPU, each on one thread; a CUDA device has as many as it has
            memory for.

    Raises:
        ModelError: weights that do not fit the architecture or the card, or thresholds that are not there.
        SettingsError: a runtime that is not installed here.
    """
    if card.weights is None:
        from geoseg.models.runtime_torch import ClassicalRuntime

        return ClassicalRuntime(card, device=device, halo=halo, refine=refine, thresholds=thresholds, at_once=at_once)
    how: Any = {"runtime": runtime, "device": device, "precision": precision, "refine": refine, "tta": tta}
    return _open_network(card, **how, halo=halo, scores=False, at_once=at_once)


def open_scorer(
    card: Card,
    *,
    runtime: Resolved,
    device: Literal["cpu", "cuda"],
    precision: Arithmetic,
    refine: Refinement = "none",
    tta: Tta = "none",
    at_once: int = 1,
) -> Runtime:
    """Loads a network that gives scores in place of labels, of whole tiles, so that they can be blended.

    Args:
        card: the model, with weights.
        runtime: see :func:`open_runtime`, as all of these.
        device: where it runs.
        precision: of its arithmetic.
        refine: how scores are refined by the image.
        tta: views of a tile that scores are averaged over.
        at_once: calls that run at the same time.

    Raises:
        ModelError: weights that do not fit the architecture or the card.
        SettingsError: a runtime that is not installed here.
    """
    how: Any = {"runtime": runtime, "device": device, "precision": precision, "refine": refine, "tta": tta}
    return _open_network(card, **how, halo=0, scores=True, at_once=at_once)


def open_decision(card: Card) -> Decide:
    """What decides by blended scores; torch's, whatever gave them."""
    from geoseg.models.runtime_torch import BlendedDecision

    return BlendedDecision(card)


def _open_network(  # noqa: PLR0913
    card: Card,
    *,
    runtime: Resolved,
    device: Literal["cpu", "cuda"],
    precision: Arithmetic,
    halo: int,
    refine: Refinement,
    tta: Tta,
    scores: bool,
    at_once: int,
) -> Runtime:
    """See :func:`open_runtime` and :func:`open_scorer`."""
    _require(runtime)
    if runtime == "torch":
        from geoseg.models.runtime_torch import TorchRuntime

        return TorchRuntime(
            card,
            device=device,
            precision=precision,
            halo=halo,
            refine=refine,
            tta=tta,
            scores=scores,
            at_once=at_once,
        )
    from geoseg.models.graphs import Form
    from geoseg.models.runtime_graph import GraphRuntime

    if runtime == "openvino":
        from geoseg.models import runtime_openvino

        compile_graph = partial(runtime_openvino.compile_graph, precision=precision, at_once=at_once)
        form: Form = "merged" if precision == "fp32" else precision
        return GraphRuntime(card, compile_graph, batch=1, halo=halo, refine=refine, tta=tta, form=form, scores=scores)
    from geoseg.models import runtime_onnx

    compile_graph = partial(runtime_onnx.compile_graph, device=device, at_once=at_once)
    return GraphRuntime(card, compile_graph, batch=1, halo=halo, refine=refine, tta=tta, scores=scores)
