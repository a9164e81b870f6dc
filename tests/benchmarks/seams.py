"""Looks for seams in a finished run: ``python tests/benchmarks/seams.py DIR [--scene SCENE --bands 1,2,3]``

Counts the mask's class changes across every column and row line, and the straight outlines of at least 8 px along it.
If tiles or chunks left seams, the lines at their borders carry more than others. Neighbouring lines resemble each
other, so each border line is compared with the lines up to 24 px from it. What chance does is measured on the same
mask: the ratio is also taken for the same spacing at every other offset, and the rank of the true borders among them
is printed.

With ``--scene`` the scene is predicted once more with every border line in the middle of a tile, where no seam can be:
the excess of the run's changes across its borders over those is what the borders themselves add.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio

import geoseg
from geoseg.lattice import Window
from geoseg.models.runtimes import open_runtime

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


def excess(counts: np.ndarray, first: int, step: int) -> float:
    """Ratio of the lines first, first + step, ... to the lines around them."""
    smooth = np.convolve(counts, np.ones(2 * AROUND + 1), mode="same")
    lines = np.arange(first, len(counts), step)
    lines = lines[(lines > AROUND) & (lines < len(counts) - AROUND - 1)]
    around = (smooth[lines] - counts[lines]).sum() / (2 * AROUND)
    return float(counts[lines].sum() / around) if around else float("nan")


def compare_with_centred(
    mask: np.ndarray, scene_path: str, settings: geoseg.RunSettings, lattice: dict[str, int], *, axes: str, every: int
) -> None:
    """Prints changes across tile borders in the run, and in predictions with the border in the middle of a tile."""
    plan = geoseg.make_plan(scene_path, settings, geoseg.Execution(threads=1))
    [part] = plan.passes
    how = {"runtime": part.runtime, "device": plan.device, "precision": part.precision}
    infer = open_runtime(replace(part.card, tile=part.lattice.tile_size), **how, halo=lattice["halo"])
    fill = np.array(part.card.mean).round().astype(np.uint8)[:, None, None]
    core, halo = lattice["core"], lattice["halo"]
    for axis, name in ((0, "rows"), (1, "columns")):
        if name not in axes:
            continue
        run_total = centred_total = differing = pixels = 0
        for border in range(core, mask.shape[axis], core):
            for start in range(0, mask.shape[1 - axis], core * every):
                row, col = (border - core // 2, start) if axis == 0 else (start, border - core // 2)
                values, valid = part.grid.read(
                    Window(col - halo, row - halo, core + 2 * halo, core + 2 * halo), part.bands
                )
                if not valid[halo : halo + core, halo : halo + core].any():
                    continue
                centred = infer(np.where(valid, values, fill)[None])[0][0]
                centred[~valid[halo : halo + core, halo : halo + core]] = 255
                there = mask[row : row + core, col : col + core]
                centred = centred[: there.shape[0], : there.shape[1]]
                line = core // 2
                run_total += changes(there, axis)[line]
                centred_total += changes(centred, axis)[line]
                beside = np.s_[line - 8 : line + 8]
                near = (there[beside], centred[beside]) if axis == 0 else (there[:, beside], centred[:, beside])
                differing += (near[0] != near[1]).sum()
                pixels += near[0].size
        print(
            f"across tile border {name}: {run_total} changes in the run, {centred_total} with the border inside a tile "
            f"({run_total / centred_total:.3f}); {differing / pixels:.3%} of the pixels within 8 px differ",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--scene")
    parser.add_argument("--bands", default="1,2,3")
    parser.add_argument("--axes", default="rows,columns", help="which borders to compare with --scene")
    parser.add_argument("--every", type=int, default=1, help="compare every n-th tile along a border")
    options = parser.parse_args()
    record = json.loads((options.directory / "run.json").read_text())
    lattice, asked = record["passes"][0]["lattice"], record["settings"]
    settings = geoseg.RunSettings(
        models=tuple(asked["models"]), bands=tuple(options.bands.split(",")), precision=asked["precision"]
    )
    with rasterio.open(options.directory / "mask.tif") as raster:
        mask = raster.read(1)
    for what, count in (("class changes", changes), ("straight edges >= 8 px", long_edges)):
        for axis, name in ((0, "rows"), (1, "columns")):
            counts = count(mask, axis)
            for lines, step in {"tile": lattice["core"], "chunk": lattice["chunk"]}.items():
                true = excess(counts, step, step)
                others = np.array([excess(counts, step + offset, step) for offset in range(1, step)])
                others = others[np.isfinite(others)]
                rank = (others < true).mean() if len(others) else float("nan")
                print(
                    f"{what} along {lines} {name} (every {step} px): {true:.3f} of the lines around; other offsets "
                    f"{others.mean():.3f} +- {others.std():.3f}, rank {rank:.0%}"
                )
    if options.scene:
        compare_with_centred(mask, options.scene, settings, lattice, axes=options.axes, every=options.every)


if __name__ == "__main__":
    main()
