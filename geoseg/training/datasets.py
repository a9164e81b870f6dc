"""Labelled imagery in memory, and the random crops that a network learns from.

Sets differ in what they annotate. Each pixel therefore carries one byte, `labels`: bit c says that class c is
present, bit 4 + c that it is *known* whether class c is present (classes in the order of `CLASSES`). What a set
leaves out is unknown, and unknown pixels reach neither loss nor metric.

Fields are instances: where two of them touch, a thin gap is cut between them at the scale of the crop, so that the
network learns to keep them apart.

Each reader describes the layout of its set: a folder with JPEG images, PNG masks and a ``split.json`` with the
keys ``train`` and ``test``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from geoseg.errors import SettingsError

__all__ = [
    "CLASSES",
    "Example",
    "Sample",
    "Sampler",
    "Source",
    "augment",
    "encode",
    "load_dubai",
    "load_fields_naip",
    "load_rendered",
    "load_ucmerced",
    "paste_ponds",
    "planes",
    "rescale",
    "save_rendered",
    "separate_fields",
]

CLASSES = ("water", "road", "field", "parking")
_WATER, _ROAD, _FIELD, _PARKING = range(4)
_KNOWN_ALL = 0xF0
UNSURE = 255

# Label byte -> four uint8 of 240 or 0 in one word, for presence and for knowledge: one gather per pixel.
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little") * np.uint8(240)
_SHARES = tuple(np.ascontiguousarray(_BITS[:, part]).view(np.uint32)[:, 0] for part in (np.s_[:4], np.s_[4:]))

_POND_COLOURS = ((14, 20, 26), (38, 34, 28), (46, 62, 50), (82, 104, 78), (96, 112, 104), (52, 50, 56))  # RGB

_Image = NDArray[np.uint8]  # (rows, cols, 3), RGB: OpenCV's order, used in this module only


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One labelled image.

    Attributes:
        name: where it came from.
        image: uint8 (rows, cols, 3), RGB.
        labels: uint8 (rows, cols), presence bits 0-3 and known bits 4-7.
        instances: uint16 (rows, cols), 0 = no field, else the field's number; None when fields are not told apart.
        gsd_m: metres per pixel.
    """

    name: str
    image: _Image
    labels: NDArray[np.uint8]
    instances: NDArray[np.uint16] | None
    gsd_m: float


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Examples that are sampled alike.

    Attributes:
        name: of the set.
        examples: all of them, decoded.
        share: of the samples drawn from this source, relative to the other sources.
        gsd_range_m: (finest, coarsest) GSD of the crops.
        mosaic: join several small examples into one before cropping.
        ponds: chance that synthetic ponds are pasted on a crop.
        focus: chance that a crop is centred on a pixel of a randomly chosen class.
    """

    name: str
    examples: Sequence[Example]
    share: float
    gsd_range_m: tuple[float, float]
    mosaic: bool = False
    ponds: float = 0.0
    focus: float = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One crop.

    Attributes:
        image: uint8 (3, size, size).
        target: uint8 (4, size, size), 1 = present.
        weight: float32 (4, size, size), 0 = unknown.
        source: name of the source.
        gsd_m: metres per pixel of the crop.
    """

    image: NDArray[np.uint8]
    target: NDArray[np.uint8]
    weight: NDArray[np.float32]
    source: str
    gsd_m: float


def encode(present: NDArray[Any], known: NDArray[Any]) -> NDArray[np.uint8]:
    """Pack planes into label bytes.

    Args:
        present: (4, rows, cols), true where the class is present.
        known: (4, rows, cols), true where that is known.

    Returns:
        uint8 (rows, cols); an unknown class is never present.
    """
    labels = np.zeros(present.shape[1:], np.uint8)
    for index in range(len(CLASSES)):
        seen = known[index].astype(bool)
        labels |= (seen & present[index].astype(bool)).astype(np.uint8) << index
        labels |= seen.astype(np.uint8) << (index + 4)
    return labels


def planes(labels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Unpack label bytes into `present` and `known`, each uint8 0/1 (4, rows, cols)."""
    bits = np.stack([(labels >> bit) & 1 for bit in range(8)])
    return bits[:4], bits[4:]


def _resize(plane: NDArray[Any], height: int, width: int, how: int) -> NDArray[Any]:
    """`cv2.resize`, whose type says neither size nor kind of number."""
    return np.asarray(cv2.resize(plane, (width, height), interpolation=how))


def rescale(example: Example, height: int, width: int, *, smooth: bool = True) -> Example:
    """Resample an example to another size: area averages when coarser, bicubic when finer.

    Labels follow the pixel's majority: a class is known where at least half of the pixel is, and present where at
    least half of the known part is. Instance numbers follow the nearest pixel.

    Args:
        example: to resample; its pixels are assumed square before and after.
        height: new rows, at least 1.
        width: new columns, at least 1.
        smooth: bicubic when finer; False takes the nearest pixel.
    """
    rows, cols = example.labels.shape
    if (height, width) == (rows, cols):
        return example
    if height < 1 or width < 1:
        raise SettingsError(f"cannot rescale {example.name} to {height} x {width} pixels; give at least 1 x 1")
    finer = cv2.INTER_CUBIC if smooth else cv2.INTER_NEAREST
    image = _resize(example.image, height, width, cv2.INTER_AREA if height < rows else finer)
    how = cv2.INTER_AREA if height < rows else cv2.INTER_LINEAR
    present_part, known_part = (
        _resize(table[example.labels].view(np.uint8).reshape(rows, cols, 4), height, width, how) for table in _SHARES
    )
    known_now = known_part >= 120
    present_now = known_now & (present_part.astype(np.uint16) * 2 >= known_part)
    instances = example.instances
    if instances is not None:
        instances = _resize(instances, height, width, cv2.INTER_NEAREST_EXACT)
    return Example(
        example.name,
        image,
        encode(present_now.transpose(2, 0, 1), known_now.transpose(2, 0, 1)),
        instances,
        example.gsd_m * rows / height,
    )


def separate_fields(instances: NDArray[np.uint16], *, reach: int = 2) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where fields touch, and where they are close.

    Args:
        instances: uint16 (rows, cols), 0 = no field.
        reach: pixels up to which two fields count as close.

    Returns:
        (gap, close), bool (rows, cols): `gap` are field pixels with a pixel of another field among their eight
        neighbours (two pixels wide along a shared border); `close` are pixels within `reach` of two fields.
    """

    def several(radius: int) -> NDArray[np.bool_]:
        kernel = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
        highest = cv2.dilate(instances, kernel)
        lowest = cv2.erode(np.where(instances == 0, np.uint16(65535), instances), kernel)
        several_fields: NDArray[np.bool_] = (lowest != 65535) & (highest != lowest)
        return several_fields

    return several(1) & (instances > 0), several(reach)


def _turn(example: Example, quarter_turns: int, *, mirror: bool) -> Example:
    """One of the eight symmetries of the square."""

    def turn(plane: NDArray[Any]) -> NDArray[Any]:
        turned = np.rot90(plane, quarter_turns)
        return np.ascontiguousarray(turned[:, ::-1] if mirror else turned)

    instances = None if example.instances is None else turn(example.instances)
    return Example(example.name, turn(example.image), turn(example.labels), instances, example.gsd_m)


def _cut(example: Example, row: int, col: int, rows: int, cols: int) -> Example:
    """A window of an example; what sticks out mirrors the image and is unknown."""
    height, width = example.labels.shape
    top, left = max(0, row), max(0, col)
    bottom, right = min(height, row + rows), min(width, col + cols)
    inside = np.s_[top:bottom, left:right]
    border = (top - row, row + rows - bottom, left - col, col + cols - right)
    if not any(border):
        instances = None if example.instances is None else example.instances[inside]
        return Example(example.name, example.image[inside], example.labels[inside], instances, example.gsd_m)

    def pad(plane: NDArray[Any], kind: int) -> NDArray[Any]:
        padded: NDArray[Any] = cv2.copyMakeBorder(plane[inside], *border, kind, value=0)
        return padded

    return Example(
        example.name,
        pad(example.image, cv2.BORDER_REFLECT),
        pad(example.labels, cv2.BORDER_CONSTANT),
        None if example.instances is None else pad(example.instances, cv2.BORDER_CONSTANT),
        example.gsd_m,
    )


def _rotate(example: Example, degrees: float, size: int) -> Example:
    """Rotate about the centre and keep the central size x size; corners from outside are unknown."""
    height, width = example.labels.shape
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    matrix[:, 2] += (size - width) / 2, (size - height) / 2

    def warp(plane: NDArray[Any], how: int, border: int) -> NDArray[Any]:
        warped: NDArray[Any] = cv2.warpAffine(plane, matrix, (size, size), flags=how, borderMode=border)
        return warped

    return Example(
        example.name,
        warp(example.image, cv2.INTER_LINEAR, cv2.BORDER_REFLECT),
        warp(example.labels, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT),
        None if example.instances is None else warp(example.instances, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT),
        example.gsd_m,
    )


def _smooth_noise(rng: np.random.Generator, size: int, smoothness: float) -> NDArray[np.float32]:
    """Smooth random surface, zero mean, unit deviation."""
    coarse = max(2, round(size / smoothness))
    knots = rng.standard_normal((coarse, coarse), dtype=np.float32)
    surface: NDArray[np.float32] = _resize(knots, size, size, cv2.INTER_CUBIC)
    surface -= surface.mean()
    surface /= surface.std() + np.float32(1e-6)
    return surface


def paste_ponds(example: Example, rng: np.random.Generator) -> Example:
    """Paste blobs with the plain look of lakes and ponds, labelled as water.

    Copy-paste augmentation (Ghiasi et al., 2021, https://arxiv.org/abs/2012.07177) with made-up ponds: labelled
    sets have few natural lakes, and of few colours. Colours run from black over brown and green to milky grey.

    Args:
        example: square.
        rng: of random numbers.
    """
    size = example.labels.shape[0]
    scale = rng.uniform(24, 110)
    surface = _smooth_noise(rng, size, scale) + 0.25 * _smooth_noise(rng, size, scale / 4)
    pond = surface > np.quantile(surface, rng.uniform(0.72, 0.96))
    if not pond.any():
        return example
    image = example.image.astype(np.float32)
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
    labels = example.labels.copy()
    labels[pond] = _KNOWN_ALL | (1 << _WATER)
    instances = None
    if example.instances is not None:
        instances = np.where(pond, np.uint16(0), example.instances)
    return Example(example.name, np.clip(image, 0, 255).astype(np.uint8), labels, instances, example.gsd_m)


def augment(image: _Image, rng: np.random.Generator) -> _Image:
    """Change light, colour, haze, sharpness, noise and compression of an image (rows, cols, 3), uint8."""
    pixels: NDArray[Any] = image.astype(np.float32) / 255.0
    if rng.random() < 0.8:  # exposure, contrast, gamma
        pixels = np.clip(pixels, 0, 1) ** rng.uniform(0.7, 1.4)
        mean = pixels.mean()
        pixels = (pixels - mean) * rng.uniform(0.7, 1.3) + mean * rng.uniform(0.75, 1.25)
    if rng.random() < 0.6:  # white balance and saturation
        pixels = pixels * rng.uniform(0.88, 1.12, 3).astype(np.float32)
        grey = pixels.mean(axis=2, keepdims=True)
        pixels = grey + (pixels - grey) * rng.uniform(0.5, 1.5)
    if rng.random() < 0.3:  # small turn of the hue about the grey axis
        angle = rng.uniform(-0.25, 0.25)
        c, s = np.cos(angle), np.sin(angle) / np.sqrt(3.0)
        third = (1 - c) / 3
        turn = np.array(
            [[c + third, third - s, third + s], [third + s, c + third, third - s], [third - s, third + s, c + third]]
        )
        pixels = pixels @ turn.T.astype(np.float32)
    if rng.random() < 0.25:  # haze lifts the shadows, most in blue
        veil = rng.uniform(0.05, 0.3) * np.array([0.85, 0.95, 1.05], np.float32)
        pixels = pixels * (1 - veil) + veil * rng.uniform(0.6, 0.9)
    if rng.random() < 0.25:
        pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.4, 1.1))
    if rng.random() < 0.15:  # oversharpened, as many delivered mosaics are
        pixels = pixels + rng.uniform(0.3, 1.0) * (pixels - cv2.GaussianBlur(pixels, (0, 0), 1.0))
    if rng.random() < 0.35:
        pixels = pixels + rng.normal(0, rng.uniform(0.005, 0.03), pixels.shape).astype(np.float32)
    result: _Image = np.clip(pixels * 255.0 + 0.5, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = int(rng.integers(40, 92))
        _, jpeg = cv2.imencode(".jpg", result[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded: NDArray[Any] | None = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
        if decoded is not None:
            result = np.ascontiguousarray(decoded[..., ::-1])
    return result


@dataclass(slots=True)
class Sampler:
    """Draws crops from several sources; the same seed draws the same crops.

    Attributes:
        sources: where to draw from, by their shares.
        size: side of a crop, pixels.
        seed: of the random numbers.
        gap_weight: weight of the field class within four pixels of two fields, where they must come apart.
    """

    sources: Sequence[Source]
    size: int = 256
    seed: int = 0
    gap_weight: float = 6.0
    rng: np.random.Generator = field(init=False)
    _anchors: list[list[NDArray[np.int32]]] = field(init=False)

    def __post_init__(self) -> None:
        if not self.sources or any(not source.examples for source in self.sources):
            raise SettingsError("a sampler needs at least one source, and each source an example; give labelled images")
        self.rng = np.random.default_rng(self.seed)
        self._anchors = [self._find_anchors(source) for source in self.sources]

    def _find_anchors(self, source: Source, per_example: int = 200) -> list[NDArray[np.int32]]:
        """Per class that occurs: (n, 3) of example, row, col on which a crop can be centred."""
        rng = np.random.default_rng(0)
        found: list[list[NDArray[np.int32]]] = [[] for _ in CLASSES]
        for index, example in enumerate(source.examples):
            for number in range(len(CLASSES)):
                flat = np.flatnonzero(example.labels & (1 << number))
                if flat.size:
                    chosen = flat[rng.integers(flat.size, size=min(per_example, flat.size))]
                    rows, cols = np.divmod(chosen, example.labels.shape[1])
                    found[number].append(np.stack([np.full_like(rows, index), rows, cols], 1).astype(np.int32))
        return [np.concatenate(parts) for parts in found if parts]

    def draw(self) -> Sample:
        """Draw one crop."""
        rng = self.rng
        shares = np.array([source.share for source in self.sources], float)
        number = int(rng.choice(len(self.sources), p=shares / shares.sum()))
        source = self.sources[number]
        gsd_m = float(np.exp(rng.uniform(*np.log(source.gsd_range_m))))
        degrees = float(rng.uniform(-45, 45)) if rng.random() < 0.3 else 0.0
        grown = self.size
        if degrees:
            radians = np.deg2rad(abs(degrees))
            grown = int(np.ceil(self.size * (np.cos(radians) + np.sin(radians)))) + 2
        cut = self._window(number, source, gsd_m, grown)
        crop = _turn(rescale(cut, grown, grown), int(rng.integers(4)), mirror=bool(rng.integers(2)))
        if degrees:
            crop = _rotate(crop, degrees, self.size)
        if rng.random() < source.ponds:
            crop = paste_ponds(crop, rng)
        return self._finish(crop, source.name)

    def _window(self, number: int, source: Source, gsd_m: float, grown: int) -> Example:
        rng = self.rng
        anchors = self._anchors[number]
        if source.mosaic:
            base = source.examples[0].gsd_m
            side = max(8, round(grown * gsd_m / base))
            example = self._join(number, side)
            row, col = (int(rng.integers(0, length - side + 1)) for length in example.labels.shape)
            return _cut(example, row, col, side, side)
        if anchors and rng.random() < source.focus:
            points = anchors[rng.integers(len(anchors))]
            index, centre_row, centre_col = points[rng.integers(len(points))].tolist()
            example = source.examples[index]
            side = max(8, round(grown * gsd_m / example.gsd_m))
            jitter = rng.integers(-(side // 3), side // 3 + 1, size=2)
            row, col = centre_row - side // 2 + int(jitter[0]), centre_col - side // 2 + int(jitter[1])
        else:
            areas = np.array([e.labels.size * e.gsd_m**2 for e in source.examples])
            example = source.examples[int(rng.choice(len(areas), p=areas / areas.sum()))]
            side = max(8, round(grown * gsd_m / example.gsd_m))
            row, col = (
                int(rng.integers(min(0, length - side), max(0, length - side) + 1)) for length in example.labels.shape
            )
        # keep as much of the window on the image as fits
        height, width = example.labels.shape
        row = min(max(row, min(0, height - side)), max(0, height - side))
        col = min(max(col, min(0, width - side)), max(0, width - side))
        return _cut(example, row, col, side, side)

    def _join(self, number: int, side: int) -> Example:
        """Lay random chips side by side, at least `side` pixels each way."""
        rng, source, anchors = self.rng, self.sources[number], self._anchors[number]
        chip = min(min(e.labels.shape) for e in source.examples)
        count = -(-side // chip)
        image = np.empty((count * chip, count * chip, 3), np.uint8)
        labels = np.zeros((count * chip, count * chip), np.uint8)
        instances = np.zeros((count * chip, count * chip), np.uint16)
        for row in range(count):
            for col in range(count):
                if anchors and rng.random() < source.focus:
                    points = anchors[rng.integers(len(anchors))]
                    picked = source.examples[int(points[rng.integers(len(points))][0])]
                else:
                    picked = source.examples[int(rng.integers(len(source.examples)))]
                piece = _turn(_cut(picked, 0, 0, chip, chip), int(rng.integers(4)), mirror=bool(rng.integers(2)))
                place = np.s_[row * chip : (row + 1) * chip, col * chip : (col + 1) * chip]
                image[place], labels[place] = piece.image, piece.labels
                # one number for all: chips that meet by chance are no border between fields
                instances[place] = (piece.labels >> _FIELD) & 1
        return Example(source.name, image, labels, instances, source.examples[0].gsd_m)

    def _finish(self, crop: Example, source: str) -> Sample:
        present, known = planes(crop.labels)
        weight = known.astype(np.float32)
        if crop.instances is not None:
            gap, close = separate_fields(np.ascontiguousarray(crop.instances), reach=4)
            present[_FIELD][gap] = 0
            weight[_FIELD][close] *= self.gap_weight
        image = augment(np.ascontiguousarray(crop.image), self.rng)
        return Sample(np.ascontiguousarray(image.transpose(2, 0, 1)), present, weight, source, crop.gsd_m)

    def batch(self, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
        """Draw `count` crops: images (N, 3, S, S) uint8, targets (N, 4, S, S) uint8, weights float32."""
        samples = [self.draw() for _ in range(count)]
        return (
            np.stack([s.image for s in samples]),
            np.stack([s.target for s in samples]),
            np.stack([s.weight for s in samples]),
        )


def _read(path: Path, flags: int) -> NDArray[Any]:
    data: NDArray[Any] | None = cv2.imread(str(path), flags)
    if data is None:
        raise SettingsError(f"{path} is missing or no image; expected the set's own layout")
    return data


def _read_image(path: Path) -> _Image:
    return np.ascontiguousarray(_read(path, cv2.IMREAD_COLOR)[..., ::-1])


def _read_codes(path: Path) -> NDArray[np.uint8]:
    """Palette PNG as its indices (OpenCV would turn them into colours)."""
    from PIL import Image

    try:
        with Image.open(path) as mask:
            return np.array(mask, np.uint8)
    except OSError:
        raise SettingsError(f"{path} is missing or no image; expected the set's own layout") from None


def _split(folder: Path, part: str) -> list[str]:
    try:
        names: list[str] = json.loads((folder / "split.json").read_text(encoding="utf-8"))[part]
    except (OSError, KeyError, json.JSONDecodeError):
        raise SettingsError(f"{folder}/split.json has no list {part!r}; expected the keys train and test") from None
    return names


def load_fields_naip(folder: Path, part: str) -> list[Example]:
    """Read NAIP scenes with one polygon per field, and water and public roads drawn by hand.

    Layout: ``images/<stem>.jpg``, ``instances/<stem>.png`` (uint16, 0 = no field), ``water_roads/<stem>.png``
    (0 neither, 1 water, 2 road, 255 unsure) and ``meta.json`` (``gsd_m`` per stem). Parking is not annotated; it is
    taken as absent except where the water and road annotation is unsure, which is where the towns are.
    """
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    examples = []
    for stem in _split(folder, part):
        instances = _read(folder / "instances" / f"{stem}.png", cv2.IMREAD_UNCHANGED).astype(np.uint16)
        codes = _read_codes(folder / "water_roads" / f"{stem}.png")
        sure = codes != UNSURE
        present = np.stack([codes == 1, codes == 2, (instances > 0) & (codes != 1), np.zeros_like(sure)])
        known = np.stack([sure, sure, np.ones_like(sure), sure | (instances > 0)])
        image = _read_image(folder / "images" / f"{stem}.jpg")
        examples.append(
            Example(f"fields_naip/{stem}", image, encode(present, known), instances, float(meta[stem]["gsd_m"]))
        )
    return examples


def load_dubai(folder: Path, part: str, *, gsd_m: float = 1.0) -> list[Example]:
    """Read the Dubai tiles (MBRSC, Humans in the Loop).

    Layout: ``images/<name>.jpg`` and ``masks/<name>.png`` (0 unlabelled, 1 water, 2 road, 3 building, 4 vegetation,
    5 land). Fields are not annotated: only vegetation can be one. Parking is not annotated: lots lie in land or
    road, so it is known to be absent elsewhere, and on land more than 40 m from any road.
    """
    examples = []
    for name in _split(folder, part):
        codes = _read_codes(folder / "masks" / f"{name}.png")
        seen = codes != 0
        nowhere = np.zeros_like(seen)
        present = np.stack([codes == 1, codes == 2, nowhere, nowhere])
        remote = cv2.distanceTransform((codes != 2).astype(np.uint8), cv2.DIST_L2, 3) > 40 / gsd_m
        no_lot = (codes == 1) | (codes == 3) | (codes == 4) | ((codes == 5) & remote)
        known = np.stack([seen, seen, seen & (codes != 4), no_lot])
        image = _read_image(folder / "images" / f"{name}.jpg")
        examples.append(Example(f"dubai/{name}", image, encode(present, known), None, gsd_m))
    return examples


def load_ucmerced(folder: Path, part: str, *, gsd_m: float = 0.3048) -> list[Example]:
    """Read the UC Merced chips that have a mask (0 background, water, road, field, parking, 255 unsure).

    Layout: ``<class>/<chip>.jpg`` and ``masks/<class>/<chip>.png``. Chips of forest and chaparral without a mask
    join the training part: they show neither water, field nor parking; paths may cross them, so road is unknown.
    """
    examples = []
    for name in _split(folder, part):
        path = (folder / "masks" / name).with_suffix(".png")
        wild = part == "train" and name.startswith(("forest/", "chaparral/"))
        if not path.is_file() and not wild:
            continue
        image = _read_image(folder / name)
        if path.is_file():
            codes = _read_codes(path)
            present = np.stack([codes == code for code in (1, 2, 3, 4)])
            known = np.broadcast_to(codes != UNSURE, present.shape)
        else:
            present = np.zeros((len(CLASSES), *image.shape[:2]), bool)
            known = np.ones_like(present)
            known[_ROAD] = False
        examples.append(Example(f"ucmerced/{name}", image, encode(present, known), None, gsd_m))
    return examples


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


def load_rendered(paths: Sequence[Path]) -> list[Example]:
    """Read scenes kept by `save_rendered`; all classes are known."""
    examples = []
    for path in paths:
        with np.load(path) as kept:
            mask = kept["mask"]
            present = np.stack([mask == code for code in (1, 2, 3, 4)])
            known = np.broadcast_to(mask != UNSURE, present.shape)
            image = np.ascontiguousarray(kept["image"].transpose(1, 2, 0))
            examples.append(Example(path.stem, image, encode(present, known), kept["instances"], float(kept["gsd_m"])))
    return examples
