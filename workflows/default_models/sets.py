"""The labelled sets that geoseg's own models learn from, each in the layout of its folder.

Each reader gives decoded crops for the classes that are asked for; a class that a set does not annotate is unknown
there. Folders have JPEG images, PNG masks and a ``split.json`` with the keys ``train`` and ``test``.

Water that two sets do not annotate was drawn by hand for geoseg, on their training images alone: ``drawn/*.json`` has
by the image's name the rings of ``water``, of ``holes`` in it (islands, boats, docks), and of what is ``unsure``, which
wins over both. Rings are in pixels, x to the right, y down, (0, 0) the image's top-left corner; an image without rings
shows no water. They are free to use.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.features import rasterize

from geoseg.errors import InputError
from geoseg.training.crops import Crop, encode

__all__ = [
    "VALID_FIELDS",
    "Ponds",
    "load_dubai",
    "load_fields_naip",
    "load_landcover_s2",
    "load_rendered",
    "load_ucmerced",
    "load_ucmerced_drawn",
    "load_ucmerced_without",
    "load_vehicles_kit",
    "save_rendered",
]

VALID_FIELDS = ("n40.249748_w091.964123", "n41.349707_w089.882697", "n43.406631_w083.622022")
"""Images of the training part of ``fields_naip`` that no model learns from."""
UNSURE = 255
_DRAWN = Path(__file__).parent / "drawn"
_CHIP_GSD_M = 0.3048  # of UC Merced: one foot
_CUT_PX = 24  # from a frame's edge vehicles may be cut
_POND_COLOURS = ((14, 20, 26), (38, 34, 28), (46, 62, 50), (82, 104, 78), (96, 112, 104), (52, 50, 56))  # RGB


def _pack(
    name: str,
    image: NDArray[np.uint8],
    classes: Sequence[str],
    told: Mapping[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]],
    instances: NDArray[np.uint16] | None,
    gsd_m: float,
) -> Crop:
    """A crop of those classes; `told` has where each is present and where that is known, others are unknown."""
    nowhere = np.zeros(image.shape[:2], np.bool_)
    planes = [told.get(entry, (nowhere, nowhere)) for entry in classes]
    present, known = encode(np.stack([there for there, _ in planes]), np.stack([seen for _, seen in planes]))
    return Crop(name, image, present, known, instances, gsd_m)


def _read(path: Path, flags: int) -> NDArray[Any]:
    data: NDArray[Any] | None = cv2.imread(str(path), flags)
    if data is None:
        raise InputError(f"{path} is missing or no image; expected the set's own layout")
    return data


def _read_image(path: Path) -> NDArray[np.uint8]:
    return np.ascontiguousarray(_read(path, cv2.IMREAD_COLOR)[..., ::-1])


def _read_codes(path: Path) -> NDArray[np.uint8]:
    """Palette PNG as its indices (OpenCV would turn them into colours)."""
    from PIL import Image

    try:
        with Image.open(path) as mask:
            return np.array(mask, np.uint8)
    except OSError:
        raise InputError(f"{path} is missing or no image; expected the set's own layout") from None


def _split(folder: Path, part: str) -> list[str]:
    try:
        names: list[str] = json.loads((folder / "split.json").read_text(encoding="utf-8"))[part]
    except (OSError, KeyError, json.JSONDecodeError):
        raise InputError(f"{folder}/split.json has no list {part!r}; expected the keys train and test") from None
    return names


def load_fields_naip(folder: Path, part: str, classes: Sequence[str]) -> list[Crop]:
    """Read NAIP scenes with one polygon per field, and water and public roads drawn by hand.

    Of the training part three images, one of each GSD, are left out: recipes are chosen on them, see `VALID_FIELDS`.

    Layout: ``images/<stem>.jpg``, ``instances/<stem>.png`` (uint16, 0 = no field), ``water_roads/<stem>.png``
    (0 neither, 1 water, 2 road, 255 unsure) and ``meta.json`` (``gsd_m`` per stem). Parking is not annotated; it is
    taken as absent except where the water and road annotation is unsure, which is where the towns are.
    """
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    crops = []
    for stem in _split(folder, part):
        if stem in VALID_FIELDS:
            continue
        instances = _read(folder / "instances" / f"{stem}.png", cv2.IMREAD_UNCHANGED).astype(np.uint16)
        codes = _read_codes(folder / "water_roads" / f"{stem}.png")
        sure = codes != UNSURE
        instances[codes == 1] = 0
        told = {
            "water": (codes == 1, sure),
            "road": (codes == 2, sure),
            "field": (instances > 0, np.ones_like(sure)),
            "parking": (np.zeros_like(sure), sure | (instances > 0)),
        }
        image = _read_image(folder / "images" / f"{stem}.jpg")
        crops.append(_pack(f"fields_naip/{stem}", image, classes, told, instances, float(meta[stem]["gsd_m"])))
    return crops


def load_dubai(folder: Path, part: str, classes: Sequence[str], *, gsd_m: float = 1.0) -> list[Crop]:
    """Read the Dubai tiles (MBRSC, Humans in the Loop).

    Layout: ``images/<name>.jpg`` and ``masks/<name>.png`` (0 unlabelled, 1 water, 2 road, 3 building, 4 vegetation,
    5 land). Fields are not annotated: only vegetation can be one. Parking is not annotated: lots lie in land or
    road, so it is known to be absent elsewhere, and on land more than 40 m from any road.
    """
    crops = []
    for name in _split(folder, part):
        codes = _read_codes(folder / "masks" / f"{name}.png")
        seen = codes != 0
        nowhere = np.zeros_like(seen)
        remote = cv2.distanceTransform((codes != 2).astype(np.uint8), cv2.DIST_L2, 3) > 40 / gsd_m
        no_lot = (codes == 1) | (codes == 3) | (codes == 4) | ((codes == 5) & remote)
        told = {
            "water": (codes == 1, seen),
            "road": (codes == 2, seen),
            "field": (nowhere, seen & (codes != 4)),
            "parking": (nowhere, no_lot),
        }
        image = _read_image(folder / "images" / f"{name}.jpg")
        crops.append(_pack(f"dubai/{name}", image, classes, told, None, gsd_m))
    return crops


def load_ucmerced(folder: Path, part: str, classes: Sequence[str]) -> list[Crop]:
    """Read the UC Merced chips that have a mask (0 background, water, road, field, parking, 255 unsure).

    Layout: ``<class>/<chip>.jpg`` and ``masks/<class>/<chip>.png``. Chips of forest and chaparral without a mask
    join the training part: they show neither water, field nor parking; paths may cross them, so road is unknown.
    """
    crops = []
    for name in _split(folder, part):
        path = (folder / "masks" / name).with_suffix(".png")
        wild = part == "train" and name.startswith(("forest/", "chaparral/"))
        if path.is_file():
            image, codes = _read_image(folder / name), _read_codes(path)
            told = {
                entry: (codes == code, codes != UNSURE)
                for code, entry in enumerate(("water", "road", "field", "parking"), start=1)
            }
            crops.append(_pack(f"ucmerced/{name}", image, classes, told, None, _CHIP_GSD_M))
        elif wild:
            crops.append(_without(folder, name, classes, ("water", "field", "parking")))
    return crops


def load_ucmerced_drawn(folder: Path, classes: Sequence[str]) -> list[Crop]:
    """Read UC Merced chips of the training part that have no mask, but drawn water; none of them shows a field."""
    crops = []
    for name, rings in _read_drawn("ucmerced_water").items():
        image = _read_image(folder / f"{name}.jpg")
        there, sure = _draw(rings, image.shape[:2])
        told = {"water": (there, sure), "field": (np.zeros_like(there), np.ones_like(there))}
        crops.append(_pack(f"ucmerced/{name}", image, classes, told, None, _CHIP_GSD_M))
    return crops


def load_landcover_s2(folder: Path, classes: Sequence[str]) -> list[Crop]:
    """Read Sentinel-2 chips of the training part with drawn water.

    Layout: ``images/<stem>.tif``, with bands blue, green, red. The set's own labels are weak, and are not used.
    """
    crops = []
    for name, rings in _read_drawn("landcover_s2_water").items():
        with rasterio.open(folder / "images" / f"{name}.tif") as raster:
            image = np.ascontiguousarray(raster.read((3, 2, 1)).transpose(1, 2, 0))
        told = {"water": _draw(rings, image.shape[:2])}
        crops.append(_pack(f"landcover_s2/{name}", image, classes, told, None, 10.0))
    return crops


def _read_drawn(name: str) -> dict[str, dict[str, Any]]:
    rings: dict[str, dict[str, Any]] = json.loads((_DRAWN / f"{name}.json").read_text(encoding="utf-8"))
    return rings


def _draw(rings: Mapping[str, Any], size: tuple[int, ...]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Pixels whose centre is in water, and those of which that is sure."""

    def inside(part: str) -> NDArray[np.bool_]:
        shapes = [{"type": "Polygon", "coordinates": [[*ring, ring[0]]]} for ring in rings.get(part, ())]
        if not shapes:
            return np.zeros(size, np.bool_)
        return np.asarray(rasterize(shapes, size, dtype="uint8")).astype(np.bool_)

    return inside("water") & ~inside("holes"), ~inside("unsure")


def load_ucmerced_without(
    folder: Path, part: str, classes: Sequence[str], absent: Mapping[str, Sequence[str]]
) -> list[Crop]:
    """Read UC Merced chips without a mask whose kind of place says what they do not show.

    Args:
        folder: of the set.
        part: of the split.
        classes: of the crops.
        absent: classes that chips of a kind do not show, such as ``{"runway": ("water",)}``.
    """
    crops = []
    for name in _split(folder, part):
        kind = name.split("/")[0]
        if kind in absent and not (folder / "masks" / name).with_suffix(".png").is_file():
            crops.append(_without(folder, name, classes, absent[kind]))
    return crops


def _without(folder: Path, name: str, classes: Sequence[str], absent: Sequence[str]) -> Crop:
    image = _read_image(folder / name)
    nowhere = np.zeros(image.shape[:2], np.bool_)
    told = dict.fromkeys(absent, (nowhere, ~nowhere))
    return _pack(f"ucmerced/{name}", image, classes, told, None, _CHIP_GSD_M)


def load_vehicles_kit(folder: Path, part: str, classes: Sequence[str], *, gsd_m: float = 0.12) -> list[Crop]:
    """Read frames with axis-aligned boxes of vehicles (KIT AIS): ``images/<name>.jpg`` and ``boxes.json``.

    Of each box an ellipse of 0.8 of its sides is a vehicle: boxes of turned cars are loose. All else is taken as
    free of vehicles, save near the frame's edge, where cut ones are often not labelled.
    """
    boxes = json.loads((folder / "boxes.json").read_text(encoding="utf-8"))
    crops = []
    for name in _split(folder, part):
        image = _read_image(folder / "images" / name)
        inside = np.zeros(image.shape[:2], np.uint8)
        for left, top, right, bottom in boxes[name]:
            centre = (left + right) / 2 - 0.5, (top + bottom) / 2 - 0.5
            cv2.ellipse(inside, (centre, ((right - left) * 0.8, (bottom - top) * 0.8), 0), 1, cv2.FILLED)
        there = inside.astype(np.bool_)
        known = np.zeros_like(there)
        known[_CUT_PX:-_CUT_PX, _CUT_PX:-_CUT_PX] = True
        crops.append(_pack(f"vehicles_kit/{name}", image, classes, {"vehicle": (there, there | known)}, None, gsd_m))
    return crops


def save_rendered(
    path: Path,
    *,
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    fields: Sequence[Any],
    gsd_m: float,
) -> None:
    """Keep one rendered scene as .npz; a file that exists is whole.

    Args:
        path: of the file.
        image: uint8 (3, rows, cols).
        mask: uint8 (rows, cols), class codes, 255 unknown.
        fields: shapely polygons of the fields, in pixel corners (x = col, y = row).
        gsd_m: metres per pixel.
    """
    instances = np.zeros(mask.shape, np.uint16)
    for number, polygon in enumerate(fields, start=1):
        # pixel centres carry OpenCV's integers
        shell = np.rint(np.asarray(polygon.exterior.coords) - 0.5).astype(np.int32)
        cv2.fillPoly(instances, [shell], number)
    instances[mask != 3] = 0
    partial = path.with_name(path.stem + ".partial")
    with partial.open("wb") as file:  # given a name, numpy would add .npz to it
        np.savez_compressed(file, image=image, mask=mask, instances=instances, gsd_m=gsd_m)
    partial.replace(path)


def load_rendered(paths: Sequence[Path], classes: Sequence[str]) -> list[Crop]:
    """Read scenes kept by `save_rendered`; water, road, field and parking are known everywhere."""
    crops = []
    for path in paths:
        with np.load(path) as kept:
            mask, image = kept["mask"], np.ascontiguousarray(kept["image"].transpose(1, 2, 0))
            told = {
                entry: (mask == code, mask != UNSURE)
                for code, entry in enumerate(("water", "road", "field", "parking"), start=1)
            }
            crops.append(_pack(path.stem, image, classes, told, kept["instances"], float(kept["gsd_m"])))
    return crops


@dataclass(frozen=True, slots=True)
class Ponds:
    """Pastes blobs with the plain look of lakes and ponds on crops, labelled as water.

    Copy-paste augmentation (Ghiasi et al., 2021, https://arxiv.org/abs/2012.07177) with made-up ponds: labelled
    sets have few natural lakes, and of few colours. Colours run from black over brown and green to milky grey.

    Attributes:
        chance: that a crop gets some.
        water: number of the class.
        classes: number of classes.
    """

    chance: float
    water: int
    classes: int

    def __call__(self, crop: Crop, rng: np.random.Generator) -> Crop:
        """See `geoseg.training.sampler.Edit`; the crop is square."""
        if rng.random() >= self.chance:
            return crop
        size = crop.size[0]
        scale = rng.uniform(24, 110)
        surface = _smooth_noise(rng, size, scale) + 0.25 * _smooth_noise(rng, size, scale / 4)
        pond = surface > np.quantile(surface, rng.uniform(0.72, 0.96))
        if not pond.any():
            return crop
        image = crop.image.astype(np.float32)
        # two colours a pond group, seldom neutral: dark, brown, green, or milky
        hues = np.array(_POND_COLOURS, np.float32)
        pair = hues[rng.integers(len(hues), size=2)] * rng.uniform(0.7, 1.35, (2, 1)).astype(np.float32)
        if rng.random() < 0.4:  # as green or brown as the land around, told by its plainness alone
            ground = cv2.blur(image, (65, 65))[size // 2, size // 2]
            pair = 0.3 * pair + 0.7 * ground * rng.uniform(0.65, 1.1, (2, 1)).astype(np.float32)
        blend = np.clip(0.5 + 0.5 * _smooth_noise(rng, size, rng.uniform(60, 250)), 0, 1)[..., None]
        colour = pair[0] * blend + pair[1] * (1 - blend)
        colour = colour + rng.normal(0, rng.uniform(0.5, 4), image.shape).astype(np.float32)
        if rng.random() < 0.6:  # a shore of reeds or salt
            shore = cv2.dilate(pond.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool) & ~pond
            image[shore] = image[shore] * rng.uniform(0.6, 1.25) + rng.uniform(-10, 25)
        cover = cv2.GaussianBlur(pond.astype(np.float32), (0, 0), rng.uniform(0.4, 1.2))[..., None]
        image = image * (1 - cover) + colour * cover
        present, known = crop.present.copy(), crop.known.copy()
        present[pond], known[pond] = 1 << self.water, (1 << self.classes) - 1
        instances = None if crop.instances is None else np.where(pond, np.uint16(0), crop.instances)
        pixels = np.clip(image, 0, 255).astype(np.uint8)
        return dataclasses.replace(crop, image=pixels, present=present, known=known, instances=instances)


def _smooth_noise(rng: np.random.Generator, size: int, smoothness: float) -> NDArray[np.float32]:
    """Smooth random surface, zero mean, unit deviation."""
    coarse = max(2, round(size / smoothness))
    knots = rng.standard_normal((coarse, coarse), dtype=np.float32)
    surface: NDArray[np.float32] = np.asarray(cv2.resize(knots, (size, size), interpolation=cv2.INTER_CUBIC))
    surface -= surface.mean()
    surface /= surface.std() + np.float32(1e-6)
    return surface
