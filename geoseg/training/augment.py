"""Photometric augmentation by kornia: light, colour, haze, sharpness, noise and compression.

Imagery of the same ground differs by sun, season, sensor and by what a mosaic went through before delivery. What
moves pixels (symmetries, rotation, GSD) belongs to the sampler, which also moves the labels.

Nothing is cut out or pasted over: a label under a hole would teach guesswork.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor, nn

from geoseg.errors import SettingsError

__all__ = ["Augmenter", "Strength"]

Strength: TypeAlias = Literal["none", "light", "strong"]


class Augmenter:
    """Changes the look of an image; a pure function of (seed, index) and the image.

    Args:
        strength: "none" changes nothing; "light" has about half the reach and the chances of "strong".
        seed: of all random numbers.
        bands: of the images. What is about colour (saturation, hue, white balance, JPEG) needs three: red, green, blue.

    Raises:
        SettingsError: for an unknown strength, or no band.
    """

    def __init__(self, strength: Strength, *, seed: int, bands: int = 3) -> None:
        if strength not in get_args(Strength):
            raise SettingsError(f"augmentation is {strength!r}; expected one of {', '.join(get_args(Strength))}")
        if bands < 1:
            raise SettingsError(f"an image of {bands} bands cannot be augmented; give at least 1")
        self._seed = seed
        self._steps = () if strength == "none" else _steps(1.0 if strength == "strong" else 0.5, colour=bands == 3)

    def __call__(self, image: Tensor, index: int) -> Tensor:
        """Augment one image.

        Args:
            image: uint8 (bands, rows, cols).
            index: number of the sample, 0 or more.

        Returns:
            uint8 (bands, rows, cols), a new tensor unless nothing changes.
        """
        if not self._steps:
            return image
        generator = torch.default_generator  # kornia draws from this one alone
        before = generator.get_state()
        try:
            # a stream of its own: the sampler may draw the crop from the same two numbers
            state = np.random.SeedSequence([self._seed, index], spawn_key=(1,)).generate_state(1, np.uint64)
            generator.manual_seed(int(state[0]))
            with torch.no_grad():
                pixels = image[None].float() / 255.0
                for step in self._steps:
                    pixels = step(pixels).clamp_(0.0, 1.0)
        finally:
            generator.set_state(before)
        return (pixels[0] * 255.0).round_().to(torch.uint8)


def _steps(reach: float, *, colour: bool) -> tuple[nn.Module, ...]:
    """The steps in the order in which nature and processing do them: light, air, lens, sensor, files."""
    # imported here: kornia is of the extra "train", and slow to import
    from kornia import augmentation as kornia
    from kornia.augmentation.random_generator import PlainUniformGenerator

    class RandomHaze(kornia.IntensityAugmentationBase2D):
        """Scattered light lifts the shadows (Koschmieder's law with one depth for the whole image)."""

        def __init__(self, veil: tuple[float, float], p: float) -> None:
            super().__init__(p=p)
            self._param_generator = PlainUniformGenerator((veil, "veil", None, None), ((0.6, 0.9), "glow", None, None))

        def apply_transform(self, input: Tensor, params: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:  # noqa: A002
            veil, glow = (params[name].view(-1, 1, 1, 1).to(input) for name in ("veil", "glow"))
            return input * (1.0 - veil) + veil * glow

    def around(neutral: float, below: float, above: float) -> tuple[float, float]:
        return neutral - reach * below, neutral + reach * above

    light: list[nn.Module] = [kornia.RandomGamma(around(1.0, 0.3, 0.45), (1.0, 1.0), p=0.8 * reach)]
    if colour:
        light += [
            kornia.ColorJitter(
                brightness=around(1.0, 0.3, 0.3),
                contrast=around(1.0, 0.3, 0.35),
                saturation=around(1.0, 0.5, 0.5),
                order=(0, 1, 2),
                p=0.8 * reach,
            ),
            kornia.RandomPlanckianJitter(mode="blackbody", p=0.4 * reach),
            kornia.RandomHue(around(0.0, 0.04, 0.04), p=0.3 * reach),
        ]
    else:
        light.append(
            kornia.ColorJitter(
                brightness=around(1.0, 0.3, 0.3), contrast=around(1.0, 0.3, 0.35), order=(0, 1), p=0.8 * reach
            )
        )
    files = [kornia.RandomJPEG((40.0, 92.0), p=0.3 * reach)] if colour else []
    return (
        *light,
        RandomHaze((0.05, 0.05 + 0.25 * reach), p=0.25 * reach),
        kornia.RandomGaussianBlur((7, 7), (0.4, 0.4 + 0.8 * reach), p=0.25 * reach),
        kornia.RandomSharpness((1.0, 1.0 + 2.0 * reach), p=0.2 * reach),
        kornia.RandomGaussianNoise(0.0, 0.02 * reach, p=0.35 * reach),
        *files,
    )
