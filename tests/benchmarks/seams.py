"""Looks for seams in a finished run: ``python tests/benchmarks/seams.py DIR``

Counts the mask's class changes across every column and row line. If tiles or chunks left seams, lines at tile-core
and chunk borders carry more changes than the others. Neighbouring lines resemble each other, so each border line is
compared with the lines up to 24 px from it. Also counts axis-parallel polygon edges of the exact outlines that run
along border lines, in the same way.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import rasterio

AROUND = 24


def changes(mask: np.ndarray, axis: int) -> np.ndarray:
    """Changes across each line k (between pixel k - 1 and k), nodata left out; line 0 has none."""
    before, after = (mask[:-1], mask[1:]) if axis == 0 else (mask[:, :-1], mask[:, 1:])
    counted = (before != after) & (before != 255) & (after != 255)
    return np.concatenate([[0], counted.sum(axis=1 - axis)])


def long_edges(mask: np.ndarray, axis: int, least: int = 8) -> np.ndarray:
    """Pixels of straight outline of at least ``least`` px along each line."""
    before, after = (mask[:-1], mask[1:]) if axis == 0 else (mask[:, :-1], mask[:, 1:])
    counted = (before != after) & (before != 255) & (after != 255)
    if axis == 1:
        counted = counted.T
    total = np.zeros(counted.shape[0] + 1, np.int64)
    for line, row in enumerate(counted, start=1):
        padded = np.diff(np.concatenate([[0], row.view(np.int8), [0]]))
        lengths = np.flatnonzero(padded < 0) - np.flatnonzero(padded > 0)
        total[line] = lengths[lengths >= least].sum()
    return total


def excess(counts: np.ndarray, step: int) -> tuple[float, float]:
    """Ratio of border lines to the lines around them, and its standard error."""
    size = len(counts)
    borders = np.arange(step, size - 1, step)
    ratios_at, ratios_around = [], []
    for border in borders:
        near = [line for line in range(border - AROUND, border + AROUND + 1) if 0 < line < size and line != border]
        ratios_at.append(counts[border])
        ratios_around.append(counts[near].mean())
    at, around = np.array(ratios_at, float), np.array(ratios_around, float)
    if not len(borders) or around.sum() == 0:
        return float("nan"), float("nan")
    return at.sum() / around.sum(), float(np.sqrt(((at - around) ** 2).sum()) / around.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    lattice = json.loads((options.directory / "run.json").read_text())["lattice"]
    with rasterio.open(options.directory / "mask.tif") as raster:
        mask = raster.read(1)
    for what, count in (("class changes", changes), ("straight edges >= 8 px", long_edges)):
        for axis, name in ((0, "rows"), (1, "columns")):
            counts = count(mask, axis)
            for lines, step in (("tile", lattice["core"]), ("chunk", lattice["chunk"])):
                ratio, error = excess(counts, step)
                print(f"{what} along {lines} {name} (every {step} px): {ratio:.3f} +- {error:.3f} of the lines around")


if __name__ == "__main__":
    main()
