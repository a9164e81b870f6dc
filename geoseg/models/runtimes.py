"""Runs a model on batches of tiles (floor 3). The only torch import outside architectures and training."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from geoseg.errors import ModelError, SettingsError
from geoseg.models.card import Card
from geoseg.settings import Device, Precision

if TYPE_CHECKING:
    import torch

__all__ = ["TorchRuntime", "resolve_device", "resolve_precision"]

_CUDA_BATCH = 8


def resolve_device(device: Device) -> Literal["cpu", "cuda"]:
    """Turns ``auto`` into what this machine has.

    Raises:
        SettingsError: ``cuda`` asked for where there is none.
    """
    if device == "cpu" or (device == "auto" and not _has_nvidia_driver()):
        return "cpu"
    import torch

    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise SettingsError("--device is cuda, but torch finds no CUDA device here; use --device cpu or auto")
    return "cuda" if there else "cpu"


def _has_nvidia_driver() -> bool:
    """Looks for CUDA's driver library, which is much quicker than importing torch to ask."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def resolve_precision(precision: Precision, device: Literal["cpu", "cuda"]) -> Literal["fp32", "bf16"]:
    """Turns ``auto`` into bf16 where the hardware multiplies bf16 matrices natively, else fp32.

    Without AMX tiles a CPU emulates bf16 and is slower with it than with fp32.
    """
    if precision != "auto":
        return precision
    if device == "cuda":
        import torch

        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return "fp32"
    return "bf16" if re.search(r"\bamx_bf16\b", flags) else "fp32"


class TorchRuntime:
    """A model on one device, ready for batches of one fixed shape.

    On a CPU each runtime keeps to one thread: parallelism comes from several workers, which is faster than several
    threads in one convolution, and the arithmetic is then the same however many workers there are.

    Args:
        card: the model.
        device: resolved, see :func:`resolve_device`.
        precision: resolved, see :func:`resolve_precision`.
        halo: pixels cropped from each side of a tile's result.

    Raises:
        ModelError: weights that do not fit the architecture.
    """

    def __init__(
        self, card: Card, *, device: Literal["cpu", "cuda"], precision: Literal["fp32", "bf16"], halo: int
    ) -> None:
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from geoseg.models.architectures import build

        if device == "cpu":
            torch.set_num_threads(1)
        else:
            torch.backends.cudnn.deterministic = True
        self.batch = _CUDA_BATCH if device == "cuda" else 1
        self._halo = halo
        self._device = torch.device(device)
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        network = build(card.architecture, classes=len(card.classes))
        try:
            state = load_file(card.weights_path)
            network.load_state_dict(
                {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
            )
        except (SafetensorError, RuntimeError) as error:
            raise ModelError(
                f"the weights {card.weights_path} do not fit the architecture {card.architecture}: "
                f"{str(error).splitlines()[0]}"
            ) from None
        network = network.eval().to(self._device, self._dtype)
        self._network = network.to(memory_format=torch.channels_last)
        self._mean = torch.tensor(card.mean, device=self._device).view(1, -1, 1, 1)
        self._std = torch.tensor(card.std, device=self._device).view(1, -1, 1, 1)
        self._codes = torch.tensor([entry.code for entry in card.classes], dtype=torch.uint8, device=self._device)

    def __call__(self, tiles: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Labels a batch of tiles.

        Args:
            tiles: (batch, bands, tile, tile) uint8.

        Returns:
            mask and confidence of the tiles' cores, each (batch, core, core) uint8. A pixel takes the class of the
            highest score if that is at least 0.5, else 0; its confidence is that score, or one minus it for 0,
            quantised to 0-254.
        """
        import torch

        with torch.inference_mode():
            pixels = torch.from_numpy(tiles).to(self._device, non_blocking=True)
            pixels = pixels.contiguous(memory_format=torch.channels_last).float()
            logits = self._network(((pixels - self._mean) / self._std).to(self._dtype))
            mask, confidence = self._decide(logits)
            return mask.cpu().numpy(), confidence.cpu().numpy()

    def _decide(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        side = logits.shape[-1] - 2 * self._halo
        core = logits[..., self._halo : self._halo + side, self._halo : self._halo + side].float()
        best, channel = core.max(dim=1)
        found = best >= 0
        mask = torch.where(found, self._codes[channel], torch.zeros_like(channel, dtype=torch.uint8))
        confidence = (torch.sigmoid(best.abs()) * 254).round().to(torch.uint8)
        return mask, confidence
