"""What models do on held-out images: the figures of the default models' cards, with 95 % intervals by image bootstrap.

::

    python workflows/default_models/held_out.py DATA [--models MODEL | CLASS=MODEL ...] [--part test|valid|train]
        [--rows WORD[+WORD...] ...] [--json FILE] [--pictures DIR] [--scenes DIR]

    ... --part valid --rows field                  quick, to tune a model with
    ... --rows fields_naip+field --scenes DIR      no figures: the images as GeoTIFFs, for `geoseg parity` and its like

DATA holds the folders ``fields_naip``, ``dubai``, ``ucmerced``, ``lakes_naip`` and ``vehicles_kit``. Every image is
written as a GeoTIFF with a made-up place in UTM and its GSD, goes through `geoseg.run` in this process, and what the
run leaves is judged by `geoseg.evaluation` on the truth's grid. All figures are pooled over a row's images.

- **Which model** is judged: the one that geoseg takes for the row's class at its GSD; CLASS=MODEL says otherwise.
- **Coarser images** are area averages. A class of the truth is known where half of the pixel is, and present where it
  fills half of the known part; object numbers are those at pixel centres.
- **Fields** are judged by their layer, which has the boundary between instances given back; the truth's objects are the
  drawn fields. **All other areas** are judged by the mask.
- **Vehicles** are judged by the centres of the layer's polygons, see `geoseg.evaluation.centres`. A detection that
  touches the frame's edge and matches nothing does not count: vehicles cut by the edge are often not labelled. Runs
  keep polygons from 2 m2 on, for a car has 8.
- **Lakes** have no labels: truth is NDWI > 0 of the same pixels, on the three dates on which that is right.
- **False area** is the share of known pixels that a class takes where it is not. Chips of forest and chaparral: those
  whose mask, if there is one, shows nothing of the class. Desert: land of `dubai` more than 64 px from any other label.
- **Tiles** are cut as small as an image allows, with the card's halo: the result is the card's to the accuracy that its
  halo was measured to, and a chip does not cost a tile of 1536 px.

The **valid** part is a share of the *train* images, to choose recipes without a look at the test images: of
`fields_naip` one image of each GSD; tile 6 of `dubai`; of `ucmerced` the last sixth of each class's masked train chips
(neighbours in number often show one place) and the negatives 70-79; of `vehicles_kit` the last five frames of
`munichstreet02`. A model that was trained on them is flattered there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import rasterio
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from sets import VALID_FIELDS

import geoseg
from geoseg.codes import NODATA
from geoseg.engine.choice import choose_models
from geoseg.engine.result import Result
from geoseg.errors import GeosegError, InputError
from geoseg.evaluation.bootstrap import Figure, draw_scenes, ratio, to_figure
from geoseg.evaluation.boundary import find_edges
from geoseg.evaluation.centres import count_centres
from geoseg.evaluation.judge import Tally, look, tally
from geoseg.evaluation.page import png
from geoseg.evaluation.report import summarise
from geoseg.evaluation.subjects import Extras, Subject, find_subjects
from geoseg.models import zoo
from geoseg.models.card import Card
from geoseg.resample import area_taps, resample
from geoseg.scene import Scene
from geoseg.settings import EvaluationSettings, Execution, Precision, RunSettings, RuntimeName, Tta, VectorSettings

CODES = {"water": 1, "road": 2, "field": 3, "parking": 4, "vehicle": 5}
LAKES = ("20090818", "20170827", "20180716")
NEGATIVES = ("forest", "chaparral")
DESERT_PX = 64
VEHICLE_GSD_M, CHIP_GSD_M, DUBAI_GSD_M = 0.12, 0.3048, 1.0
VEHICLE_AREA_M2 = 2.0
LARGEST_CORE = 1152
RESAMPLES = 1000
CRS, CORNER = "EPSG:32614", (500_000.0, 4_500_000.0)
COLOURS = {
    "water": (51, 160, 255),
    "road": (235, 70, 60),
    "field": (240, 200, 40),
    "parking": (220, 90, 220),
    "vehicle": (60, 230, 120),
}
UNKNOWN = (128, 128, 128)
SAME_IMAGES = {"desert": "dubai"}

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One labelled image.

    Attributes:
        name: unique within its set.
        image: uint8 (3, rows, cols), RGB.
        gsd_m: metres per pixel.
        codes: uint8 (rows, cols), see `CODES`; 255 is unknown.
        fields: uint16 (rows, cols), 0 = no field, else its number; None where fields are not numbered.
        boxes: float64 (n, 4), of vehicles: x0, y0, x1, y1 in pixels.
    """

    name: str
    image: Pixels
    gsd_m: float
    codes: Pixels
    fields: NDArray[np.uint16] | None = None
    boxes: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table, or some that are made of the same predictions.

    Attributes:
        source: set of images, a key of `READERS`.
        gsd_m: of the images, averaged if they are finer.
        class_name: judged.
        metrics: names of figures and what is asked of each; None is no demand.
    """

    source: str
    gsd_m: float
    class_name: str
    metrics: Mapping[str, float | None]

    @property
    def words(self) -> set[str]:
        """What selects the row."""
        return {self.source, self.class_name, f"{self.gsd_m:g}", *self.metrics}

    def fits(self, words: set[str]) -> bool:
        """Whether all of some words are the row's; false area is meant only where its metric or set is named."""
        named = words & {self.source, "false_area"} or "false_area" not in self.metrics
        return bool(named) and words <= self.words


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """One image of a row, judged.

    Attributes:
        name: of the image.
        figure: of this image alone, by the row's first metric; None where it does not show the class.
        show: gives image, truth and prediction side by side, uint8 (rows, cols, 3).
    """

    name: str
    figure: float | None
    show: Callable[[], Pixels]


FIELD_FINE = {"iou": 0.91, "object_f1": 0.65, "boundary_f1": 0.75}
FIELD_COARSE = {"iou": 0.87, "object_f1": 0.55, "boundary_f1": None}
ROWS = (
    Row("fields_naip", 1.0, "field", FIELD_FINE),
    Row("fields_naip", 2.5, "field", FIELD_FINE),
    Row("fields_naip", 5.0, "field", FIELD_COARSE),
    Row("fields_naip", 10.0, "field", FIELD_COARSE),
    Row("dubai", DUBAI_GSD_M, "water", {"iou": 0.88}),
    Row("ucmerced", CHIP_GSD_M, "water", {"iou": 0.88}),
    Row("fields_naip", 1.0, "water", {"iou": 0.88}),
    Row("fields_naip", 2.5, "water", {"iou": None}),
    Row("fields_naip", 5.0, "water", {"iou": None}),
    Row("fields_naip", 10.0, "water", {"iou": None}),
    Row("lakes_naip", 5.0, "water", {"iou": 0.85}),
    Row("ucmerced", CHIP_GSD_M, "road", {"iou": 0.65, "relaxed_f1": 0.82}),
    Row("dubai", DUBAI_GSD_M, "road", {"relaxed_f1": 0.75}),
    Row("fields_naip", 1.0, "road", {"relaxed_f1": 0.75}),
    Row("fields_naip", 2.5, "road", {"relaxed_f1": None}),
    Row("ucmerced", CHIP_GSD_M, "parking", {"iou": 0.78}),
    Row("vehicles_kit", 0.3, "vehicle", {"centre_f1": 0.75, "centre_precision": None, "centre_recall": None}),
    *(Row(name, CHIP_GSD_M, known, {"false_area": 0.01}) for name in NEGATIVES for known in CODES),
    *(Row("desert", DUBAI_GSD_M, known, {"false_area": 0.01}) for known in CODES),
)


def read_raster(path: Path) -> NDArray[Any]:
    """All bands of a raster, whatever its place; (bands, rows, cols)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as raster:
            pixels: NDArray[Any] = raster.read()
    return pixels


def read_split(folder: Path, part: str) -> list[str]:
    """Names of a set's images in one of its own parts."""
    names: list[str] = json.loads((folder / "split.json").read_text(encoding="utf-8"))[part]
    return names


def _side(part: str) -> str:
    """Of a set's own split in two."""
    return "test" if part == "test" else "train"


def read_fields(data: Path, part: str) -> Iterator[Picture]:
    """`fields_naip`: fields, water and roads."""
    folder = data / "fields_naip"
    facts = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    trained_on = [stem for stem in read_split(folder, "train") if stem not in VALID_FIELDS]
    for stem in {"train": trained_on, "valid": VALID_FIELDS, "test": read_split(folder, "test")}[part]:
        found = read_raster(folder / "water_roads" / f"{stem}.png")[0]
        fields = read_raster(folder / "instances" / f"{stem}.png")[0]
        gsd_m = round(float(facts[stem]["gsd_m"]), 3)
        yield Picture(stem, read_raster(folder / "images" / f"{stem}.jpg"), gsd_m, found, fields)


def read_dubai(data: Path, part: str) -> Iterator[Picture]:
    """`dubai`: water and roads."""
    for name, image, mask in _dubai(data, part):
        table = np.zeros(256, np.uint8)
        table[[0, 1, 2]] = NODATA, CODES["water"], CODES["road"]
        yield Picture(name, image, DUBAI_GSD_M, table[mask])


def read_desert(data: Path, part: str) -> Iterator[Picture]:
    """Land of `dubai` far from anything else."""
    for name, image, mask in _dubai(data, part):
        desert = distance_transform_edt(mask == 5) > DESERT_PX
        if desert.any():
            yield Picture(name, image, DUBAI_GSD_M, np.where(desert, 0, NODATA).astype(np.uint8))


def _dubai(data: Path, part: str) -> Iterator[tuple[str, Pixels, Pixels]]:
    folder = data / "dubai"
    for name in read_split(folder, _side(part)):
        if part == "test" or name.startswith("tile6_") == (part == "valid"):
            yield name, read_raster(folder / "images" / f"{name}.jpg"), read_raster(folder / "masks" / f"{name}.png")[0]


def read_chips(data: Path, part: str) -> Iterator[Picture]:
    """`ucmerced`, chips with masks: water, roads, fields and parking."""
    folder = data / "ucmerced"
    masked: dict[str, list[Path]] = {}
    for name in read_split(folder, _side(part)):
        mask = (folder / "masks" / name).with_suffix(".png")
        if mask.is_file():
            masked.setdefault(mask.parent.name, []).append(mask)
    for masks in masked.values():
        last = len(masks) - math.ceil(len(masks) / 6)
        for mask in {"train": sorted(masks)[:last], "valid": sorted(masks)[last:], "test": masks}[part]:
            image = read_raster(folder / mask.parent.name / f"{mask.stem}.jpg")
            yield Picture(mask.stem, image, CHIP_GSD_M, read_raster(mask)[0])


def read_negatives(kind: str) -> Callable[[Path, str], Iterator[Picture]]:
    """Chips of one class of `ucmerced` that is neither water nor road, field, parking or vehicle."""

    def read(data: Path, part: str) -> Iterator[Picture]:
        folder = data / "ucmerced"
        for name in read_split(folder, _side(part)):
            stem = Path(name).stem
            held_back = 70 <= int(stem[-2:]) <= 79
            if not name.startswith(f"{kind}/") or (part != "test" and held_back != (part == "valid")):
                continue
            image = read_raster(folder / name)
            mask = (folder / "masks" / name).with_suffix(".png")
            codes = read_raster(mask)[0] if mask.is_file() else np.zeros(image.shape[1:], np.uint8)
            yield Picture(stem, image, CHIP_GSD_M, codes)

    return read


def read_lakes(data: Path, part: str) -> Iterator[Picture]:
    """`lakes_naip`: water where the normalised difference of green and near infrared is positive; a test set only."""
    for date in LAKES if part == "test" else ():
        pixels = read_raster(data / "lakes_naip" / f"m_4709963_se_14_1_{date}.tif")
        green, infrared = pixels[1].astype(np.int16), pixels[3].astype(np.int16)
        codes = np.where(green > infrared, CODES["water"], 0).astype(np.uint8)  # the sum never changes the sign
        codes[~pixels.any(axis=0)] = NODATA
        yield Picture(date, pixels[:3], 5.0, codes)


def read_vehicles(data: Path, part: str) -> Iterator[Picture]:
    """`vehicles_kit`: frames of one sequence."""
    folder = data / "vehicles_kit"
    boxes = json.loads((folder / "boxes.json").read_text(encoding="utf-8"))
    test, others = (sorted(name for name in boxes if name.startswith("mos74_93") == wanted) for wanted in (True, False))
    valid = [name for name in others if name.startswith("munichstreet02")][-5:]
    trained_on = [name for name in others if name not in valid]
    for name in {"train": trained_on, "valid": valid, "test": test}[part]:
        image = read_raster(folder / "images" / name)
        edges = np.array(boxes[name], np.float64).reshape(-1, 4)
        yield Picture(Path(name).stem, image, VEHICLE_GSD_M, np.zeros(image.shape[1:], np.uint8), boxes=edges)


READERS: Mapping[str, Callable[[Path, str], Iterator[Picture]]] = {
    "fields_naip": read_fields,
    "dubai": read_dubai,
    "desert": read_desert,
    "ucmerced": read_chips,
    "lakes_naip": read_lakes,
    "vehicles_kit": read_vehicles,
    **{kind: read_negatives(kind) for kind in NEGATIVES},
}


def coarsen(picture: Picture, gsd_m: float) -> Picture:
    """Average a picture over larger pixels; a last row or column that would be cut is left out."""
    scale = gsd_m / picture.gsd_m
    if abs(scale - 1) < 0.01:
        return picture
    taps = [area_taps(0, int(side / scale + 1e-6), scale=scale, size=side) for side in picture.codes.shape]
    ways = {"rows": taps[0], "cols": taps[1]}
    inside = np.s_[: taps[0].stop, : taps[1].stop]
    everywhere = np.ones(picture.codes[inside].shape, np.bool_)
    image, _ = resample(picture.image[:, *inside], everywhere, **ways)
    names = np.array(list(CODES.values()), np.uint8)
    planes = (picture.codes[inside] == names[:, None, None]).astype(np.float32)
    share, known = resample(planes, picture.codes[inside] != NODATA, **ways)
    best = share.argmax(axis=0)
    codes = np.where(share.max(axis=0) >= 0.5, names[best], np.uint8(0))
    codes[~known] = NODATA
    fields = None
    if picture.fields is not None:
        rows, cols = (((np.arange(side) + 0.5) * scale).astype(np.int64) for side in codes.shape)
        fields = picture.fields[np.ix_(rows, cols)]
    boxes = None if picture.boxes is None else picture.boxes / scale
    return Picture(picture.name, image, gsd_m, codes, fields, boxes)


def write_raster(path: Path, pixels: NDArray[Any], gsd_m: float) -> Path:
    """Write (bands, rows, cols) as a GeoTIFF in a made-up place; three bands are red, green, blue."""
    transform = rasterio.Affine(gsd_m, 0.0, CORNER[0], 0.0, -gsd_m, CORNER[1])
    bands, rows, cols = pixels.shape
    colours = {"photometric": "RGB"} if bands == 3 else {}
    with rasterio.open(
        path, "w", "GTiff", cols, rows, bands, CRS, transform, pixels.dtype, compress="deflate", **colours
    ) as raster:
        raster.write(pixels)
    return path


def write_scenes(data: Path, part: str, rows: Sequence[Row], folder: Path) -> None:
    """Write the images of some rows as scenes, each once at each GSD."""
    folder.mkdir(parents=True, exist_ok=True)
    for source, gsd_m in dict.fromkeys((row.source, row.gsd_m) for row in rows):
        for picture in READERS[source](data, part):
            image = coarsen(picture, gsd_m).image
            write_raster(folder / f"{source}_{gsd_m:g}_{picture.name}.tif", image, gsd_m)


def cheapest_tile(card: Card, rows: int, cols: int) -> int:
    """The side of the tiles that cover an image with the fewest pixels, with the card's halo."""

    def cost(core: int) -> int:
        return math.ceil(rows / core) * math.ceil(cols / core) * (core + 2 * card.halo) ** 2

    return min(range(card.stride, LARGEST_CORE + 1, card.stride), key=cost) + 2 * card.halo


@dataclass(slots=True, eq=False)
class Bench:
    """Images, runs and models of one call.

    Attributes:
        data: folder of the sets.
        part: ``test`` or ``valid``.
        cards: that may be chosen from.
        given: card of a class, where the caller said so.
        folder: where everything goes.
        settings: of runs.
        pictures: of each set and GSD, as they are judged.
        results: of each run, by (set, GSD, image, card).
        variants: cards by (card, tile).
    """

    data: Path
    part: str
    cards: Sequence[Card]
    given: Mapping[str, Card]
    folder: Path
    settings: RunSettings
    pictures: dict[tuple[str, float], list[Picture]] = dataclasses.field(default_factory=dict)
    results: dict[tuple[str, float, str, Path], Result] = dataclasses.field(default_factory=dict)
    variants: dict[tuple[Path, int], Path] = dataclasses.field(default_factory=dict)

    def choose(self, row: Row) -> Card | None:
        """The model that geoseg takes for a row, of those that can read its images."""
        if row.class_name in self.given:
            return self.given[row.class_name]
        scene = Scene.open(str(self.scene(row, self.images(row)[0])))

        def among(cards: Sequence[Card]) -> list[Card]:
            wanted = RunSettings(models=tuple(str(card.path) for card in cards), classes=(row.class_name,))
            try:
                return [choice.card for choice in choose_models(scene, wanted)[0]]
            except InputError:
                return []

        able = [card for card in self.cards if among([card])]
        return among(able)[0] if able else None

    def images(self, row: Row) -> list[Picture]:
        """The images of a row, at its GSD; those that are coarser are left out."""
        key = row.source, row.gsd_m
        if key not in self.pictures:
            read = READERS[row.source](self.data, self.part)
            self.pictures[key] = [coarsen(one, row.gsd_m) for one in read if one.gsd_m <= 1.01 * row.gsd_m]
        return self.pictures[key]

    def scene(self, row: Row, picture: Picture) -> Path:
        """The image as a GeoTIFF."""
        source = SAME_IMAGES.get(row.source, row.source)
        path = self.folder / f"{source}-{row.gsd_m:g}m-{picture.name}.tif"
        return path if path.exists() else write_raster(path, picture.image, picture.gsd_m)

    def run(self, row: Row, picture: Picture, card: Card) -> Result:
        """Run a card on an image, once."""
        key = SAME_IMAGES.get(row.source, row.source), row.gsd_m, picture.name, card.path
        if key not in self.results:
            scene = self.scene(row, picture)
            place = self.folder / f"{scene.stem}-{len(self.results)}"
            low, high = card.gsd_range_m
            factor = picture.gsd_m / min(max(picture.gsd_m, low), high)
            rows, cols = (max(1, round(side * factor)) for side in picture.codes.shape)
            vector = VectorSettings(formats=("parquet",))
            if row.source == "vehicles_kit":
                vector = dataclasses.replace(vector, min_area_m2=VEHICLE_AREA_M2)
            variant = str(self._variant(card, cheapest_tile(card, rows, cols)))
            settings = dataclasses.replace(self.settings, models=(variant,), vector=vector)
            self.results[key] = geoseg.run(scene, place, settings=settings, execution=Execution(threads=1))
        return self.results[key]

    def _variant(self, card: Card, tile: int) -> Path:
        """The card with another tile, beside the same weights."""
        key = card.path, tile
        if key not in self.variants:
            folder = self.folder / f"card-{len(self.variants)}"
            folder.mkdir()
            for name in filter(None, (card.weights, card.int8)):
                (folder / name).symlink_to(card.path.resolve().parent / name)
            copy = dataclasses.replace(card, path=folder / card.path.name, tile=tile)
            copy.path.write_text(json.dumps(copy.to_item()), encoding="utf-8")
            self.variants[key] = copy.path
        return self.variants[key]


def judge(bench: Bench, row: Row, card: Card) -> tuple[dict[str, Figure], list[Judged]]:
    """The figures of a row, and of its images one by one."""
    images = bench.images(row)
    if "centre_f1" in row.metrics:
        return _judge_vehicles(bench, row, card, images)
    if "false_area" in row.metrics:
        images = [one for one in images if not np.any(one.codes == CODES[row.class_name])]
    counts = [_count(bench, row, card, one) for one in images]
    settings = _settings(row, card)

    def figures(chosen: Sequence[Tally]) -> dict[str, Figure]:
        if "false_area" in row.metrics:
            confusion = np.stack([one.confusion for one in chosen])
            draws = draw_scenes(len(chosen), RESAMPLES)
            area = ratio(draws @ confusion[:, 0, 1], draws @ confusion.sum(axis=(1, 2)))
            return {"false_area": to_figure(area)}
        return summarise(chosen, settings, []).classes[row.class_name]

    first = next(iter(row.metrics))
    single = [
        Judged(
            one.name, figures([seen])[first].value if _worth(row, one) else None, partial(_show, bench, row, card, one)
        )
        for one, seen in zip(images, counts, strict=True)
    ]
    found = figures(counts)
    return {name: found[name] for name in row.metrics}, single


def _worth(row: Row, picture: Picture) -> bool:
    """Whether an image alone says something: one that shows the class, or one of a row of false area."""
    if "false_area" in row.metrics:
        return True
    if row.class_name == "field" and picture.fields is not None:
        return bool(picture.fields.any())
    return bool(np.any(picture.codes == CODES[row.class_name]))


def _settings(row: Row, card: Card) -> EvaluationSettings:
    name = row.class_name
    return EvaluationSettings(
        classes=((name, card.class_codes(None)[name]),),
        truth_classes=((name, CODES[name]),),
        instances=name if row.source == "fields_naip" and name == "field" else None,
        resamples=RESAMPLES,
        worst=0,
    )


def _subject(bench: Bench, row: Row, card: Card, picture: Picture) -> Subject:
    """A run's mask or layer and the truth, on the truth's grid."""
    result = bench.run(row, picture, card)
    settings = _settings(row, card)
    numbered = settings.instances is not None and picture.fields is not None
    stem = f"truth-{row.source}-{row.gsd_m:g}-{picture.name}{'-fields' if numbered else ''}.tif"
    truth = bench.folder / stem
    if not truth.exists():
        pixels = picture.fields if numbered and picture.fields is not None else picture.codes
        write_raster(truth, pixels[None], picture.gsd_m)
    prediction = result.directory / ("field.parquet" if row.class_name == "field" else "mask.tif")
    return find_subjects(str(prediction), str(truth), settings, Extras(grid=str(truth)))[0]


def _count(bench: Bench, row: Row, card: Card, picture: Picture) -> Tally:
    return tally(_subject(bench, row, card, picture), _settings(row, card))


def _detections(bench: Bench, row: Row, card: Card, picture: Picture) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Centres of the vehicles found, (n, 2) pixels, and which touch the frame's edge."""
    layer = bench.run(row, picture, card).layer("vehicle")
    centres = layer.geometry.centroid
    x = (centres.x.to_numpy(np.float64) - CORNER[0]) / picture.gsd_m
    y = (CORNER[1] - centres.y.to_numpy(np.float64)) / picture.gsd_m
    return np.stack([x, y], axis=1), layer["touches_edge"].to_numpy(np.bool_)


def _judge_vehicles(
    bench: Bench, row: Row, card: Card, images: Sequence[Picture]
) -> tuple[dict[str, Figure], list[Judged]]:
    counts = []
    for one in images:
        centres, at_edge = _detections(bench, row, card, one)
        counts.append(count_centres(centres, np.zeros((0, 4)) if one.boxes is None else one.boxes, at_edge))
    each = np.array(counts, np.float64)
    hits, false, missed = (draw_scenes(len(images), RESAMPLES) @ each).T
    found = {
        "centre_f1": ratio(2 * hits, 2 * hits + false + missed),
        "centre_precision": ratio(hits, hits + false),
        "centre_recall": ratio(hits, hits + missed),
    }
    alone = ratio(2 * each[:, 0], 2 * each[:, 0] + each[:, 1] + each[:, 2])
    single = [
        Judged(one.name, None if np.isnan(figure) else figure, partial(_show_vehicles, bench, row, card, one))
        for one, figure in zip(images, alone.tolist(), strict=True)
    ]
    return {name: to_figure(values) for name, values in found.items()}, single


def _show(bench: Bench, row: Row, card: Card, picture: Picture) -> Pixels:
    """Image, truth and prediction side by side; unknown ground is grey, objects have outlines."""
    subject = _subject(bench, row, card, picture)
    seen = look(subject, subject.grid.window)
    image = picture.image.transpose(1, 2, 0)
    panes = [image]
    for codes, labels in (seen.truth, seen.objects):
        pane = image // 3
        covered = codes == 1
        colour = np.array(COLOURS[row.class_name], np.float64)
        pane[covered] = (0.45 * image[covered] + 0.55 * colour).astype(np.uint8)
        numbers = (covered if labels is None else labels).astype(np.int32)
        pane[find_edges(numbers, np.ones(numbers.shape, np.bool_)) & covered] = 255
        pane[seen.truth[0] == NODATA] = UNKNOWN
        panes.append(pane)
    return _beside(panes)


def _show_vehicles(bench: Bench, row: Row, card: Card, picture: Picture) -> Pixels:
    """Image, boxes and centres found side by side, three times as large."""
    image = picture.image.transpose(1, 2, 0).repeat(3, axis=0).repeat(3, axis=1)
    truth, guess = image.copy(), image.copy()
    for x0, y0, x1, y1 in (3 * (picture.boxes if picture.boxes is not None else np.zeros((0, 4)))).astype(int).tolist():
        for pane in (truth, guess):
            pane[[max(y0, 0), min(y1, len(pane) - 1)], max(x0, 0) : x1] = COLOURS["field"]
            pane[max(y0, 0) : y1, [max(x0, 0), min(x1, pane.shape[1] - 1)]] = COLOURS["field"]
    for x, y in (3 * _detections(bench, row, card, picture)[0]).astype(int).tolist():
        guess[max(y - 4, 0) : y + 4, max(x - 4, 0) : x + 4] = COLOURS["vehicle"]
    return _beside([image, truth, guess])


def _beside(panes: Sequence[Pixels]) -> Pixels:
    gap = np.full((panes[0].shape[0], 6, 3), 255, np.uint8)
    return np.hstack([panes[0], gap, panes[1], gap, panes[2]])


def write_pictures(folder: Path, row: Row, images: Sequence[Judged]) -> None:
    """The best, the median and the worst image of a row, of those that show its class."""
    low = "false_area" in row.metrics
    judged = sorted((one for one in images if one.figure is not None), key=lambda one: (one.figure or 0.0, one.name))
    ordered = judged if low else judged[::-1]
    for word, place in (("best", 0), ("median", len(ordered) // 2), ("worst", len(ordered) - 1)):
        if ordered:
            one = ordered[place]
            name = f"{row.source}-{row.gsd_m:g}m-{row.class_name}-{word}-{one.figure:.3f}-{one.name}.png"
            (folder / name).write_bytes(png(one.show()))


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The figures as a Markdown table."""
    text = ["| set | GSD | class | metric | value | 95 % interval | images | at least | model |", "|" + "---|" * 9]
    for line in lines:
        value = "-" if line["value"] is None else f"{line['value']:.4f}"
        inside = "-" if line["low"] is None else f"{line['low']:.4f}-{line['high']:.4f}"
        wanted = line["wanted"]
        asked = "-" if wanted is None else f"<= {wanted:g}" if line["metric"] == "false_area" else f"{wanted:g}"
        if wanted is not None and line["value"] is not None:
            good = line["value"] <= wanted if line["metric"] == "false_area" else line["value"] >= wanted
            asked += " yes" if good else " NO"
        cells = line["set"], f"{line['gsd_m']:g} m", line["class"], line["metric"], value, inside, line["images"], asked
        text.append(f"| {' | '.join(map(str, cells))} | {line['model'] or 'none has it'} |")
    return "\n".join(text)


def _told(figure: Figure) -> str:
    ends = figure.low, figure.high
    inside = "" if None in ends else f" ({figure.low:.3f}-{figure.high:.3f})"
    return "-" if figure.value is None else f"{figure.value:.4f}{inside}"


def evaluate(bench: Bench, rows: Sequence[Row], pictures: Path | None) -> list[dict[str, Any]]:
    """The lines of all rows, told as they come."""
    lines: list[dict[str, Any]] = []
    for row in rows:
        start = time.perf_counter()
        card = bench.choose(row) if bench.images(row) else None
        images: list[Judged] = []
        figures = dict.fromkeys(row.metrics, Figure(None))
        if card is not None:
            figures, images = judge(bench, row, card)
        for metric, figure in figures.items():
            numbers = {
                end: None if (value := getattr(figure, end)) is None else round(value, 5)
                for end in ("value", "low", "high")
            }
            lines.append(
                {"set": row.source, "gsd_m": row.gsd_m, "class": row.class_name, "metric": metric}
                | numbers
                | {"images": len(images), "part": bench.part, "model": card and card.name}
                | {"wanted": row.metrics[metric]}
            )
        told = ", ".join(f"{name} {_told(figure)}" for name, figure in figures.items())
        seconds = time.perf_counter() - start
        print(f"{row.source} {row.gsd_m:g} m {row.class_name}: {told} ({seconds:.0f} s)", file=sys.stderr, flush=True)
        if pictures is not None:
            write_pictures(pictures, row, images)
    return lines


def find_models(words: Sequence[str]) -> tuple[list[Card], dict[str, Card]]:
    """Cards of names and paths, and those that are given for a class."""
    cards, given = [], {}
    for word in words:
        name, _, model = word.rpartition("=")
        card = zoo.load(model)
        if name:
            card.class_codes((name,))  # complains of a class that the model lacks
            given[name] = card
        else:
            cards.append(card)
    return cards, given


def main(arguments: Sequence[str]) -> None:
    """Parse the arguments, judge, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    automatic = [card.name for card in zoo.automatic()]
    parser.add_argument("--models", nargs="+", default=automatic, metavar="[CLASS=]MODEL")
    parser.add_argument("--runtime", choices=get_args(RuntimeName), default="auto", help="as of a run")
    parser.add_argument("--precision", choices=get_args(Precision), default="auto", help="as of a run")
    parser.add_argument("--tta", choices=get_args(Tta), default="none", help="as of a run")
    parser.add_argument("--part", choices=("test", "valid", "train"), default="test")
    parser.add_argument("--rows", nargs="+", help="rows by set, class, GSD or metric; a+b are rows with both")
    parser.add_argument("--json", type=Path, help="where the rows go, as the cards take them")
    parser.add_argument("--pictures", type=Path, help="folder for the best, the median and the worst image of each row")
    parser.add_argument("--scenes", type=Path, help="folder for the images as GeoTIFFs; nothing is judged then")
    options = parser.parse_args(arguments)
    rows = [row for row in ROWS if any(row.fits(set(word.split("+"))) for word in options.rows or [row.source])]
    if not rows:
        words = ", ".join(sorted({word for row in ROWS for word in row.words}))
        raise SystemExit(f"error: --rows {' '.join(options.rows)} fits no row; words are {words}")
    if options.scenes is not None:
        write_scenes(options.data, options.part, rows, options.scenes)
        return
    try:
        cards, given = find_models(options.models)
        if options.pictures is not None:
            options.pictures.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            settings = RunSettings(runtime=options.runtime, precision=options.precision, tta=options.tta)
            bench = Bench(options.data, options.part, cards, given, Path(folder), settings)
            lines = evaluate(bench, rows, options.pictures)
    except (GeosegError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    print(table(lines))
    if options.json is not None:
        kept = [{key: value for key, value in line.items() if key != "wanted"} for line in lines]
        options.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
