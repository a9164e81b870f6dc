"""What a network is to learn: its classes, and the channels that stand for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["TrainClass", "boundary_channels", "channel_names", "channel_weights"]


@dataclass(frozen=True, slots=True)
class TrainClass:
    """One class of a model to be.

    Attributes:
        name: of the class, and of its layer.
        code: in masks, 1-254.
        colour: (red, green, blue), 0-255.
        instances: its objects are told apart: touching ones must come apart.
        boundary: they come apart by a channel of their own: the inner band along each object's whole outline. Without
            it a gap of a pixel is left on either side where objects touch.
        boundary_px: least width of that band in pixels of the crop.
        boundary_m: least width of it in metres: outlines drawn by hand stray by metres, not by pixels.
        boundary_code: of the boundary in masks, 1-254; 0 where there is none.
        weight: in the loss, relative to the other classes; of the boundary, too.
    """

    name: str
    code: int
    colour: tuple[int, int, int]
    instances: bool = False
    boundary: bool = False
    boundary_px: int = 2
    boundary_m: float = 0.0
    boundary_code: int = 0
    weight: float = 1.0

    def boundary_width(self, gsd_m: float) -> int:
        """Width of the band in pixels of a crop at that GSD."""
        return max(self.boundary_px, round(self.boundary_m / gsd_m))


def channel_names(classes: Sequence[TrainClass]) -> tuple[str, ...]:
    """Names of a network's channels: the classes in order, then the boundaries of those that have one."""
    bounded = [f"{entry.name}_boundary" for entry in classes if entry.boundary]
    return (*(entry.name for entry in classes), *bounded)


def boundary_channels(classes: Sequence[TrainClass]) -> tuple[tuple[int, int], ...]:
    """Channels of each class that has a boundary, and of that boundary."""
    inside = [place for place, entry in enumerate(classes) if entry.boundary]
    return tuple((place, len(classes) + number) for number, place in enumerate(inside))


def channel_weights(classes: Sequence[TrainClass]) -> tuple[float, ...]:
    """Weights of the same channels in the loss."""
    return (*(entry.weight for entry in classes), *(entry.weight for entry in classes if entry.boundary))
