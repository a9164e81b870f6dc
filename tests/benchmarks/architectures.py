"""What each kind of model does on the same held-out images: quality, speed, size.

    python tests/benchmarks/architectures.py DATA --minutes M [--networks NAME ...] [--shipped NAME ...] [--json FILE]
        [--chips N] [--side PX] [--crop PX] [--batch N]

DATA holds two sets of labelled images, each with a ``split.json`` of the keys ``train`` and ``test``:

- ``fields_naip``: ``images/<stem>.jpg``, ``instances/<stem>.png`` (0 = no field), ``water_roads/<stem>.png`` (1 water,
  2 road, 255 unsure), ``meta.json`` with ``gsd_m`` of each stem;
- ``ucmerced``: ``<class>/<chip>.jpg`` of 0.3048 m, ``masks/<class>/<chip>.png`` (1 water, 2 road, 3 field, 4 parking,
  255 unsure); chips without a mask are left out.

**Networks** start from random weights and learn for the same wall time, by geoseg's own training, from the same
sequence of crops as they are (without changes of light and colour), of which a quicker network sees more. So the table
compares what a budget buys, not what a network could become. Shipped models were trained for hours, from ImageNet, on
more sets: they are the goal, not a peer.

**Gray levels** mean nothing by themselves, so each class has the gray class that fits it best over all held-out images
of the set, however little sense that makes: no assignment would do better. Thresholds are of each image alone. NDVI and
NDWI need near infrared, which none of the labelled sets has, so there is no figure of theirs here.

**Quality** is IoU of each class's pixels and, over all columns, the means of IoU and of boundary F1 (2 px), by
`geoseg.evaluation`; unknown pixels count nowhere, and the JSON has all figures with 95 % intervals by image bootstrap.
A model that lacks a class has no means. `--chips` and `--side` judge fewer images, and their middle alone.

**Speed** is Mpx per second of processor time: one thread, fp32, one tile of 1024 x 1024 px, pixels to scores, with the
refinement where there is one.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from geoseg.codes import NODATA
from geoseg.evaluation.judge import tally_arrays
from geoseg.evaluation.report import Figure, summarise
from geoseg.models import zoo
from geoseg.models.architectures import IMAGENET_MEAN, IMAGENET_STD, build
from geoseg.models.card import Card
from geoseg.models.classical import Segmenter, scene_thresholds
from geoseg.models.runtime_torch import load_network
from geoseg.settings import EvaluationSettings
from geoseg.stages.refine import Method, refine
from geoseg.training.classes import TrainClass
from geoseg.training.crops import Crop, encode
from geoseg.training.fit import FitSettings, fit
from geoseg.training.sampler import Sampler, Source

CLASSES = ("water", "road", "field", "parking")
JUDGED = {"fields_naip": CLASSES[:3], "ucmerced": CLASSES}
NETWORKS = ("fcn-resnet50", "unet-tf_efficientnet_lite0", "tiramisu-56")
GRAY = ("otsu", "multi-otsu")
SHIPPED = ("landscape", "town")
REFINED: tuple[Method, ...] = ("crf", "guided")
FIGURES = ("iou", "boundary_f1")
CHIP_GSD_M = 0.3048
MARGIN, STRIDE, TILE = 16, 32, 1024
CLOSE = 0.02  # scales so near are one
REACH = 1.5  # times finer or coarser than a model's range, images still tell of it

Pixels = NDArray[np.uint8]
Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Chip:
    """One labelled image: RGB (rows, cols, 3), class codes (rows, cols) with 255 = unknown, metres per pixel."""

    name: str
    image: Pixels
    codes: Pixels
    gsd_m: float


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One line of the table.

    Attributes:
        kind: gray levels, network, shipped.
        name: of the line.
        speed: Mpx per second of processor time.
        parameters: trained numbers.
        figures: by "set/class" and name, with 95 % intervals.
        note: on how it came about.
    """

    kind: str
    name: str
    speed: float
    parameters: int
    figures: dict[str, dict[str, Figure]]
    note: str


def read_codes(path: Path) -> NDArray[Any]:
    with Image.open(path) as mask:
        return np.array(mask)


def read_image(path: Path) -> Pixels:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def read_chips(data: Path, part: str) -> dict[str, list[Chip]]:
    """The labelled images of a part, by set."""
    folder, chips = data / "fields_naip", []
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    for stem in json.loads((folder / "split.json").read_text(encoding="utf-8"))[part]:
        codes = read_codes(folder / "water_roads" / f"{stem}.png").astype(np.uint8)
        fields = read_codes(folder / "instances" / f"{stem}.png") > 0
        codes[fields & (codes == 0)] = 3
        chips.append(Chip(stem, read_image(folder / "images" / f"{stem}.jpg"), codes, float(meta[stem]["gsd_m"])))
    found = {"fields_naip": chips, "ucmerced": []}
    folder = data / "ucmerced"
    for name in json.loads((folder / "split.json").read_text(encoding="utf-8"))[part]:
        mask = (folder / "masks" / name).with_suffix(".png")
        if mask.is_file():
            chip = Chip(name, read_image(folder / name), read_codes(mask).astype(np.uint8), CHIP_GSD_M)
            found["ucmerced"].append(chip)
    return found


def choose(chips: Sequence[Chip], count: int, side: int) -> list[Chip]:
    """The middle of some images, spread evenly over all of them, at most `side` pixels wide and high."""
    chosen = []
    for index in np.unique(np.linspace(0, len(chips) - 1, min(count, len(chips))).round().astype(int)).tolist():
        chip = chips[index]
        rows, cols = (slice(max(0, size - side) // 2, (size + min(size, side)) // 2) for size in chip.codes.shape)
        chosen.append(Chip(chip.name, np.ascontiguousarray(chip.image[rows, cols]), chip.codes[rows, cols], chip.gsd_m))
    return chosen


def to_crop(chip: Chip, classes: Sequence[str]) -> Crop:
    """A chip as training takes it; classes that the set does not annotate are unknown."""
    present = np.stack([chip.codes == code for code in range(1, len(CLASSES) + 1)])
    known = np.stack([(chip.codes != NODATA) & (name in classes) for name in CLASSES])
    return Crop(chip.name, chip.image, *encode(present, known), None, chip.gsd_m)


def make_sampler(chips: dict[str, list[Chip]], size: int) -> Sampler:
    """Crops of both sets in equal parts, at a little more than their scales."""
    ranges = {"fields_naip": (0.9, 2.5), "ucmerced": (0.27, 0.6)}
    sources = [
        Source(name, [to_crop(chip, JUDGED[name]) for chip in found], 0.5, ranges[name], mosaic=name == "ucmerced")
        for name, found in chips.items()
    ]
    return Sampler(sources, [TrainClass(name, code, (0, 0, 0)) for code, name in enumerate(CLASSES, 1)], size=size)


def train(name: str, sampler: Sampler, minutes: float, batch: int) -> tuple[nn.Module, int]:
    """A network that learned for so long, and its steps."""
    torch.manual_seed(0)
    network = build(name, classes=len(CLASSES))
    settings = FitSettings(
        minutes=minutes, batch=batch, encoder_share=1.0, average=0.98, augment="none", precision="fp32"
    )
    with tempfile.TemporaryDirectory() as folder:
        result = fit(network, sampler, (), settings, Path(folder), class_names=CLASSES)
    return network.eval(), result.steps


class Network:
    """A network and, perhaps, a refinement: from an image to codes.

    Args:
        network: gives logits.
        codes: of its channels, of `CLASSES`; 0 for those that are judged as background.
        mean: subtracted from values of 0-255.
        std: which the rest is divided by.
        method: of refinement, or none.
        gsd_range_m: that it reads; other images are resampled to the nearest end, and scores back, as in a run.
    """

    def __init__(
        self,
        network: nn.Module,
        codes: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        method: Method | None,
        gsd_range_m: tuple[float, float] = (0, math.inf),
    ) -> None:
        self._gsd_range_m = gsd_range_m
        self._network, self.codes, self.method = network, np.array(codes, np.uint8), method
        self.parameters = sum(values.numel() for values in network.parameters())
        self._mean, self._std = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))

    @torch.inference_mode()
    def score(self, image: Pixels) -> Scores:
        """Scores (classes, rows, cols) of an image (rows, cols, 3) whose sides are multiples of `STRIDE`."""
        pixels = torch.from_numpy(image.transpose(2, 0, 1)[None].copy()).float()
        inputs = ((pixels - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        scores = torch.sigmoid(self._network(inputs).float())
        return (refine(scores, pixels, self.method) if self.method else scores)[0].numpy()

    def __call__(self, chip: Chip) -> Pixels:
        """Codes (rows, cols) of an image."""
        finest, coarsest = self._gsd_range_m
        factor = chip.gsd_m / min(max(chip.gsd_m, finest), coarsest)
        if abs(factor - 1) < CLOSE:
            return self._decide(self._score_any(chip.image))
        rows, cols = chip.codes.shape
        size = max(1, round(cols * factor)), max(1, round(rows * factor))
        image = cv2.resize(chip.image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
        planes = [cv2.resize(plane, (cols, rows), interpolation=cv2.INTER_LINEAR) for plane in self._score_any(image)]
        return self._decide(np.stack(planes))

    def _score_any(self, image: Pixels) -> Scores:
        rows, cols = image.shape[:2]
        margins = ((MARGIN, MARGIN + -rows % STRIDE), (MARGIN, MARGIN + -cols % STRIDE), (0, 0))
        return self.score(np.pad(image, margins, mode="reflect"))[:, MARGIN : MARGIN + rows, MARGIN : MARGIN + cols]

    def _decide(self, scores: Scores) -> Pixels:
        best = scores.argmax(0)
        return np.where(scores.max(0) >= 0.5, self.codes[best], np.uint8(0))


def measure(network: Callable[[Pixels], Any]) -> float:
    """Mpx per second of processor time, of one tile after a small one."""
    tile = np.random.default_rng(0).integers(0, 256, (TILE, TILE, 3), dtype=np.uint8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    network(tile[:256, :256])
    start = time.process_time()
    network(tile)
    seconds = time.process_time() - start
    torch.set_num_threads(threads)
    return TILE**2 / 1e6 / seconds


def judge(
    key: str, classes: Sequence[str], chips: Sequence[Chip], predicted: Sequence[Pixels]
) -> dict[str, dict[str, Figure]]:
    """Figures of some classes of a set, of codes of `CLASSES`; all other classes are background."""
    settings = EvaluationSettings(classes=tuple((name, CLASSES.index(name) + 1) for name in classes), roads=(), worst=0)
    table = np.zeros(256, np.uint8)
    for place, name in enumerate(classes, 1):
        table[CLASSES.index(name) + 1] = place
    table[NODATA] = NODATA
    tallies = [
        tally_arrays(chip.name, (table[codes], None), (table[chip.codes], None), settings, gsd_m=chip.gsd_m)
        for chip, codes in zip(chips, predicted, strict=True)
        if (chip.codes != NODATA).any()
    ]
    report = summarise(tallies, settings, ())
    return {f"{key}/{name}": {figure: report.classes[name][figure] for figure in FIGURES} for name in classes}


def network_rows(chips: dict[str, list[Chip]], sampler: Sampler, options: argparse.Namespace) -> Iterator[Row]:
    """Networks that learn here; the U-Net also with each refinement."""
    scaling = [[255 * value for value in values] for values in (IMAGENET_MEAN, IMAGENET_STD)]
    codes = range(1, len(CLASSES) + 1)
    for name in options.networks:
        network, steps = train(name, sampler, options.minutes, options.batch)
        for method in (None, *REFINED) if name.startswith("unet-") else (None,):
            model = Network(network, codes, *scaling, method)
            yield network_row("network", name, model, chips, f"{steps} steps")


def shipped_rows(chips: dict[str, list[Chip]], names: Sequence[str]) -> Iterator[Row]:
    """Shipped models with each refinement, on the sets whose GSD is near those that they read."""
    for name in names:
        card = zoo.load(name)
        network = load_network(card).eval()
        finest, coarsest = card.gsd_range_m[0] / REACH, REACH * card.gsd_range_m[1]
        seen = {key: [chip for chip in found if finest <= chip.gsd_m <= coarsest] for key, found in chips.items()}
        for method in (None, *REFINED):
            # the boundary of a class is the class
            named = [entry.boundary_of or entry.name for entry in card.classes]
            codes = [CLASSES.index(entry) + 1 if entry in CLASSES else 0 for entry in named]
            model = Network(network, codes, card.mean, card.std, method, card.gsd_range_m)
            yield network_row("shipped", name, model, {key: found for key, found in seen.items() if found}, "")


def network_row(kind: str, name: str, model: Network, chips: dict[str, list[Chip]], note: str) -> Row:
    """Judge a network, on the classes that it has."""
    figures: dict[str, dict[str, Figure]] = {}
    for key, found in chips.items():
        classes = [entry for entry in JUDGED[key] if CLASSES.index(entry) + 1 in model.codes]
        if classes:
            figures |= judge(key, classes, found, [model(chip) for chip in found])
    title = name if model.method is None else f"{name} + {model.method}"
    return Row(kind, title, measure(model.score), model.parameters, figures, note)


def gray_rows(chips: dict[str, list[Chip]]) -> Iterator[Row]:
    """The gray-level models, each class with the gray class that fits it best."""
    for name in GRAY:
        card = zoo.load(name)

        def label(image: Pixels, card: Card = card) -> NDArray[np.int64]:
            bands = image.transpose(2, 0, 1)
            thresholds = scene_thresholds(card, bands, np.ones(bands.shape[1:], bool))
            return Segmenter(card, thresholds)(bands[None])[0][0].argmax(0)

        figures: dict[str, dict[str, Figure]] = {}
        for key, found in chips.items():
            grays = [label(chip.image) for chip in found]
            counts = np.zeros((len(card.classes), 256))
            for gray, chip in zip(grays, found, strict=True):
                np.add.at(counts, (gray, chip.codes), 1)
            counts = counts[:, :NODATA]
            overlap = counts / (counts.sum(1, keepdims=True) + counts.sum(0, keepdims=True) - counts).clip(1)
            for entry in JUDGED[key]:
                code = CLASSES.index(entry) + 1
                best = overlap[:, code].argmax()
                figures |= judge(
                    key, [entry], found, [np.where(gray == best, code, 0).astype(np.uint8) for gray in grays]
                )
        yield Row("gray levels", name, measure(label), 0, figures, "best gray class for each class")


def to_markdown(rows: Sequence[Row], chips: dict[str, list[Chip]], options: argparse.Namespace) -> str:
    """The table, and what it is of."""
    columns = [f"{key}/{name}" for key, classes in JUDGED.items() for name in classes]
    heads = [f"{name}, {key}" for key, classes in JUDGED.items() for name in classes]
    lines = [
        f"| model | {' | '.join(heads)} | mean IoU | mean boundary F1 | Mpx/s | parameters (M) | trained |",
        "|---|" + "---|" * (len(heads) + 5),
    ]
    for row in rows:
        cells = [show(row.figures[column]["iou"].value) if column in row.figures else "-" for column in columns]
        cells += [show(mean(row, columns, figure)) for figure in FIGURES]
        cells += [f"{row.speed:.2f}", f"{row.parameters / 1e6:.1f}", row.note or "-"]
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    judged = ", ".join(
        f"{len(found)} of {key} ({sum(chip.codes.size for chip in found) / 1e6:.1f} Mpx)"
        for key, found in chips.items()
    )
    lines.append("")
    lines.append(
        f"IoU by class and set. Held-out images: {judged}. Networks learned from random weights for "
        f"{options.minutes:g} minutes each, in batches of {options.batch} crops of {options.crop} px."
    )
    return "\n".join(lines)


def mean(row: Row, columns: Sequence[str], figure: str) -> float | None:
    """Mean over the columns; None where the model lacks a class."""
    values = [row.figures[column][figure].value if column in row.figures else None for column in columns]
    return None if None in values else sum(value for value in values if value is not None) / len(values)


def show(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, required=True, help="of training, of each network")
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--shipped", nargs="*", default=SHIPPED)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", type=int, default=1024, help="of the middle of each image that is judged")
    parser.add_argument("--chips", type=int, default=1000, help="of each set that are judged, at most")
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    held_out = read_chips(options.data, "test").items()
    chips = {key: choose(found, options.chips, options.side) for key, found in held_out}
    rows: list[Row] = []
    for row in chain(
        gray_rows(chips),
        network_rows(chips, make_sampler(read_chips(options.data, "train"), options.crop), options),
        shipped_rows(chips, options.shipped),
    ):
        rows.append(row)
        print(f"done: {row.name}, {row.note}", file=sys.stderr, flush=True)
        if options.json:
            options.json.write_text(json.dumps([asdict(one) for one in rows], indent=1) + "\n", encoding="utf-8")
    print(to_markdown(rows, chips, options))


if __name__ == "__main__":
    main()
