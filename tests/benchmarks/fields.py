"""How well touching fields are told apart, given their extent and boundaries: from instance rasters back to instances.

    python tests/benchmarks/fields.py FOLDER [GROWTH_PX [CHUNK]]        default 8 256

FOLDER holds one uint16 PNG per scene: 0 no field, else the field's number. Each is turned into a mask of fields and
their boundaries (the pixels with anything else in their 3x3), as a perfect model would give it; cores and growth must
then find the fields again. Prints the F1 of objects at IoU 0.5, per scene and over all, and the growth's speed; fails
if that over all is below 0.98, or if the instances depend on how the scene is cut.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from geoseg.lattice import Window
from geoseg.stages.cores import grow_cores
from geoseg.stages.instances import find_faces, label_chunk, merge_faces

FIELD, BOUNDARY = 1, 2
LEAST_F1 = 0.98


def extent_and_boundary(instances: np.ndarray) -> np.ndarray:
    """The mask of a perfect model; the scene's edge is no boundary."""
    inside = ndimage.minimum_filter(instances, 3, mode="nearest") == ndimage.maximum_filter(
        instances, 3, mode="nearest"
    )
    return np.where(instances == 0, 0, np.where(inside, FIELD, BOUNDARY)).astype(np.uint8)


def find_instances(mask: np.ndarray, growth_px: int, chunk: int) -> tuple[np.ndarray, float]:
    """Ids of all pixels, and the seconds that growth took."""
    rows, cols = mask.shape
    whole = Window(0, 0, cols, rows)
    parts, seconds = {}, 0.0
    for row in range(0, rows, chunk):
        for col in range(0, cols, chunk):
            window = Window(col, row, min(chunk, cols - col), min(chunk, rows - row))
            around = window.pad(growth_px).intersection(whole) or window
            start = time.process_time()
            grown = grow_cores(mask[around.slices()], {FIELD: BOUNDARY}, growth_px)
            seconds += time.process_time() - start
            parts[window] = [array[window.slices(around)] for array in grown]
    merge = merge_faces([find_faces(codes, parent, w, mask.shape) for w, (codes, parent) in parts.items()], mask.shape)
    ids = np.zeros(mask.shape, np.int64)
    for window, (codes, parent) in parts.items():
        labels = label_chunk(codes, parent, merge.border(window), window, mask.shape)
        ids[window.slices()] = labels.id[labels.labels[1:-1, 1:-1]]
    return ids, seconds


def count_matches(found: np.ndarray, truth: np.ndarray) -> tuple[int, int, int]:
    """Pairs with an IoU above 0.5, and the numbers of instances found and true; 0 is none."""
    _, found = np.unique(np.append(found, 0), return_inverse=True)
    _, truth = np.unique(np.append(truth, 0), return_inverse=True)
    size = int(truth.max()) + 1
    shared = np.bincount(found * size + truth, minlength=(int(found.max()) + 1) * size).reshape(-1, size)
    union = shared.sum(axis=1)[:, None] + shared.sum(axis=0) - shared
    return int(((shared / union)[1:, 1:] > 0.5).sum()), int(found.max()), int(truth.max())


def main(folder: str, growth_px: int = 8, chunk: int = 256) -> None:
    paths = sorted(Path(folder).glob("*.png"))
    if not paths:
        raise SystemExit(f"no PNG files in {folder}")
    grow_cores(np.full((2, 2), BOUNDARY, np.uint8), {FIELD: BOUNDARY}, growth_px)  # compiles
    total, seconds, pixels = np.zeros(3, int), 0.0, 0
    for path in paths:
        truth = np.asarray(Image.open(path)).astype(np.int64)
        mask = extent_and_boundary(truth)
        ids, spent = find_instances(mask, growth_px, max(mask.shape))
        if not np.array_equal(ids, find_instances(mask, growth_px, chunk)[0]):
            raise SystemExit(f"{path.name}: instances depend on how the scene is cut")
        counts = np.array(count_matches(ids, truth))
        total, seconds, pixels = total + counts, seconds + spent, pixels + mask.size
        print(f"{path.stem}: {counts[1]} of {counts[2]} fields, F1 {2 * counts[0] / counts[1:].sum():.4f}")
    f1 = 2 * total[0] / total[1:].sum()
    print(f"all: {total[1]} of {total[2]} fields, F1 at IoU 0.5: {f1:.4f}")
    print(f"the same instances in chunks of {chunk} px; growth by {growth_px} px: {1e9 * seconds / pixels:.2f} ns/px")
    if not f1 >= LEAST_F1:  # nor without any field
        raise SystemExit(f"F1 is below {LEAST_F1}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(sys.argv[1], *map(int, sys.argv[2:]))
