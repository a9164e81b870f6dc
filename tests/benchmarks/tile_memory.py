"""Memory that OpenVINO takes for a tile, by kind of network: ``python tests/benchmarks/tile_memory.py [NAME ...]``

Bytes per pixel of a tile, from the peaks of two processes whose tiles have different sides (random weights, a halo of
224 px, one tile at a time); 0 where to load the network takes more than either tile. By such figures a plan chooses how
large tiles are, see ``geoseg.engine.plan``.
"""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors.torch import save_file

from geoseg.engine.executor import peak_bytes
from geoseg.models import zoo
from geoseg.models.architectures import build
from geoseg.models.card import Card
from geoseg.models.runtimes import open_runtime

NETWORKS = (
    "unet-tf_efficientnet_lite0",
    "unet-resnet18",
    "unet-resnet50",
    "unet-mobilenet_v2",
    "unet-densenet121",
    "unet-mit_b0",
    "unet-tu-convnext_tiny",
    "linknet-resnet18",
    "fpn-resnet34",
    "fpn-mobilenet_v2",
    "deeplabv3plus-resnet34",
    "deeplabv3-resnet18",
    "pan-resnet18",
    "pspnet-resnet18",
    "manet-resnet18",
    "unetplusplus-resnet18",
    "upernet-resnet18",
    "segformer-mit_b0",
    "fcn-resnet50",
    "tiramisu-56",
)
SIDES = 1024, 1792
HALO = 224


def peak(card: Card, side: int, precision: str) -> int:
    """Peak of a process that labels some tiles, bytes."""
    infer = open_runtime(
        replace(card, tile=side), runtime="openvino", device="cpu", precision=precision, halo=HALO, at_once=1
    )
    tile = np.zeros((1, 3, side, side), np.uint8)
    infer(tile)
    infer(tile)
    return peak_bytes()


def alone(*what: object) -> int:
    """The same in a process of its own; what is made at first use lies in the cache then."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(peak, *what).result()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak, *what).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    options = parser.parse_args()
    print("| network | fp32, bytes per pixel | bf16 |")
    print("|---|---|---|")
    with TemporaryDirectory() as name:
        for network in options.networks:
            torch.manual_seed(0)
            card = replace(
                zoo.load("town"),
                path=Path(name) / f"{network}.card.json",
                weights=f"{network}.safetensors",
                architecture=network,
                options=(),
                checksum="",
            )
            weights = build(network, classes=card.planes).state_dict()
            save_file({key: value.contiguous() for key, value in weights.items()}, card.weights_path)
            found = []
            for precision in ("fp32", "bf16"):
                small, large = (alone(card, side, precision) for side in SIDES)
                found.append((large - small) / (SIDES[1] ** 2 - SIDES[0] ** 2))
            print(f"| {network} | {found[0]:.0f} | {found[1]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
