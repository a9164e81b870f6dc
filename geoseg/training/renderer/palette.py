"""Colours as they come out of aerial cameras, by season."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoseg.training.renderer.land import Season

__all__ = ["CROP_LOOKS", "CropLook", "Palette", "make_palette"]

Colour = NDArray[np.float64]


@dataclass(frozen=True)
class CropLook:
    """How a crop looks.

    Attributes:
        colour: of the canopy or straw.
        cover: how little soil shows through, 0..1.
        rows: depth of the row texture.
        row_m: distance of rows that show.
        streak: depth of the marks that passes of machines leave along the rows.
        height_m: of the crop, for the shadow at its edge.
    """

    colour: tuple[int, int, int]
    cover: float
    rows: float
    row_m: float
    streak: float
    height_m: float


CROP_LOOKS = {
    "maize": CropLook((64, 96, 58), 0.97, 0.07, 1.5, 0.035, 2.2),
    "beans": CropLook((84, 118, 66), 0.93, 0.06, 1.6, 0.04, 0.8),
    "wheat": CropLook((186, 166, 116), 0.97, 0.03, 1.2, 0.04, 0.8),
    "ripe": CropLook((150, 132, 92), 0.93, 0.06, 1.6, 0.05, 1.2),
    "cereal": CropLook((92, 128, 62), 0.94, 0.04, 1.2, 0.04, 0.4),
    "rape": CropLook((178, 174, 62), 0.97, 0.03, 1.2, 0.05, 1.1),
    "young": CropLook((108, 136, 74), 0.5, 0.13, 1.5, 0.05, 0.1),
    "stubble": CropLook((188, 170, 132), 0.88, 0.06, 6.5, 0.05, 0.1),
    "bare": CropLook((160, 138, 112), 0.6, 0.04, 2.2, 0.05, 0.0),
    "ploughed": CropLook((124, 98, 76), 0.5, 0.08, 2.4, 0.05, 0.0),
    "meadow": CropLook((112, 138, 76), 0.97, 0.045, 5.5, 0.06, 0.2),
    "fallow": CropLook((138, 132, 96), 0.8, 0.02, 3.0, 0.04, 0.4),
    "orchard": CropLook((116, 128, 78), 0.85, 0.04, 5.5, 0.03, 0.0),
    "vines": CropLook((120, 116, 82), 0.7, 0.26, 2.6, 0.03, 0.6),
}


@dataclass(frozen=True)
class Palette:
    """Colours of one picture, float64 (3,) each."""

    grass: Colour
    straw: Colour
    soil: Colour
    crown: Colour
    crown_other: Colour
    deep: Colour
    shallow: Colour
    sand: Colour
    asphalt: Colour
    concrete: Colour
    gravel: Colour
    tint: Colour


_GRASS: dict[Season, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "summer": ((96, 118, 66), (150, 142, 98)),
    "spring": ((104, 134, 66), (140, 140, 88)),
    "autumn": ((122, 122, 78), (164, 146, 104)),
    "dry": ((156, 142, 106), (190, 170, 134)),
}
_CROWN: dict[Season, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "summer": ((64, 88, 48), (86, 108, 60)),
    "spring": ((82, 112, 54), (106, 126, 72)),
    "autumn": ((118, 98, 54), (96, 92, 52)),
    "dry": ((78, 88, 56), (102, 102, 70)),
}
_WATER = (
    ((38, 54, 58), (78, 96, 80)),  # dark, clear
    ((44, 74, 92), (94, 120, 116)),  # blue
    ((112, 98, 72), (142, 124, 94)),  # brown, in flood
    ((86, 96, 66), (116, 118, 84)),  # olive
    ((48, 78, 62), (92, 112, 84)),  # green with algae
    ((24, 32, 36), (58, 66, 58)),  # nearly black
)
_SOILS = ((166, 144, 116), (142, 114, 88), (128, 110, 92), (160, 128, 100), (184, 168, 142))


def make_palette(rng: np.random.Generator, season: Season) -> Palette:
    """Draw the colours of one picture."""

    def near(colour: tuple[int, int, int], spread: float = 6.0) -> Colour:
        # brighter or darker above all, then warmer or colder, hardly ever greener or pinker
        warm = rng.normal(0, spread * 0.35)
        shift = rng.normal(0, spread) + np.array([warm, 0.0, -warm]) + rng.normal(0, spread * 0.08, 3)
        return np.asarray(colour, np.float64) + shift

    deep, shallow = _WATER[int(rng.integers(len(_WATER)))]
    asphalt = np.full(3, rng.normal(118, 14)) + rng.normal(0, 3) * np.array([1, 0.3, -1])
    return Palette(
        grass=near(_GRASS[season][0]),
        straw=near(_GRASS[season][1]),
        soil=near(_SOILS[int(rng.integers(len(_SOILS)))], 8),
        crown=near(_CROWN[season][0]),
        crown_other=near(_CROWN[season][1]),
        deep=near(deep, 5),
        shallow=near(shallow, 6),
        sand=near((186, 172, 142), 10),
        asphalt=asphalt,
        concrete=near((178, 174, 166), 8),
        gravel=near((196, 184, 162) if rng.random() < 0.6 else (164, 156, 146), 10),
        tint=np.array([1.0, 1.0, 1.0]) + rng.normal(0, 0.03) * np.array([1, 0, -1]) + rng.normal(0, 0.012, 3),
    )
