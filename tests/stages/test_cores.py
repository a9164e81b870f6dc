"""Growth from cores against a slow search, and touching fields found again."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from scipy import ndimage

from geoseg.components import DOWN, LEFT, RIGHT, UP
from geoseg.errors import InputError
from geoseg.lattice import Window
from geoseg.stages.cores import grow_cores
from geoseg.stages.instances import find_faces, label_chunk, merge_faces
from geoseg.training.renderer import render
from geoseg.training.renderer.raster import edges_of, label

STEPS = {UP: (-1, 0), LEFT: (0, -1), RIGHT: (0, 1), DOWN: (1, 0)}


def grow_slowly(mask: np.ndarray, boundaries: dict[int, int], growth_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel by pixel, straight from the definition."""
    rows, cols = mask.shape
    codes, parent = mask.copy(), np.zeros_like(mask)
    codes[np.isin(mask, list(boundaries.values()))] = 0
    for code, boundary in boundaries.items():
        steps = dict.fromkeys(map(tuple, np.argwhere(mask == code).tolist()), 0)
        for step in range(1, growth_px + 1):
            new = {}
            for row, col in np.argwhere(mask == boundary).tolist():
                nearer = [
                    side for side, (down, right) in STEPS.items() if steps.get((row + down, col + right)) == step - 1
                ]
                if nearer and (row, col) not in steps:
                    new[row, col] = min(nearer)
            for place, side in new.items():
                steps[place], parent[place], codes[place] = step, side, code
    assert all(0 <= row < rows and 0 <= col < cols for row, col in steps)
    return codes, parent


def ids_by_definition(codes: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """Instances: neighbours of one code are connected if neither has a parent, or one is the parent of the other."""
    rows, cols = codes.shape
    ids = np.arange(1, codes.size + 1).reshape(codes.shape)
    ids[np.isin(codes, (0, 255))] = 0
    links = []
    for row in range(rows):
        for col in range(cols):
            for here, there, side, back in (
                ((row, col), (row + 1, col), DOWN, UP),
                ((row, col), (row, col + 1), RIGHT, LEFT),
            ):
                if there[0] < rows and there[1] < cols and codes[here] == codes[there] and ids[here]:
                    ordinary = parent[here] == parent[there] == 0
                    if ordinary or parent[here] == side or parent[there] == back:
                        links.append((here, there))
    changed = True
    while changed:
        changed = False
        for here, there in links:
            if ids[here] != ids[there]:
                ids[here] = ids[there] = min(ids[here], ids[there])
                changed = True
    return ids


def ids_in_chunks(mask: np.ndarray, boundaries: dict[int, int], growth_px: int, chunk: int) -> np.ndarray:
    """Ids of all pixels by way of cores, growth, faces and labels."""
    rows, cols = mask.shape
    whole = Window(0, 0, cols, rows)
    parts = {}
    for row in range(0, rows, chunk):
        for col in range(0, cols, chunk):
            window = Window(col, row, min(chunk, cols - col), min(chunk, rows - row))
            around = window.pad(growth_px).intersection(whole)
            assert around is not None
            grown = grow_cores(mask[around.slices()], boundaries, growth_px)
            parts[window] = [array[window.slices(around)] for array in grown]
    merge = merge_faces([find_faces(codes, parent, w, mask.shape) for w, (codes, parent) in parts.items()], mask.shape)
    ids = np.zeros(mask.shape, np.int64)
    for window, (codes, parent) in parts.items():
        labels = label_chunk(codes, parent, merge.border(window), window, mask.shape)
        ids[window.slices()] = labels.id[labels.labels[1:-1, 1:-1]]
        used = np.unique(labels.labels[1:-1, 1:-1])
        assert labels.area_px[used].sum() == (codes % 255 > 0).sum()
    return ids


@pytest.mark.parametrize("growth_px", [0, 1, 2, 3, 9])
def test_growth_is_the_shortest_way(growth_px: int) -> None:
    for seed in range(8):
        random = np.random.default_rng(seed)
        mask = random.choice(np.array([0, 1, 2, 3, 4, 5, 255], np.uint8), (13, 17), p=[0.1, 0.1, 0.4, 0.1, 0.2, 0, 0.1])
        expected = grow_slowly(mask, {1: 2, 3: 4}, growth_px)
        for found, wanted in zip(grow_cores(mask, {1: 2, 3: 4}, growth_px), expected, strict=True):
            assert found.dtype == np.uint8
            assert np.array_equal(found, wanted)


def test_touching_fields_stay_apart() -> None:
    mask = np.array([[3, 3, 9, 9, 3, 3, 9, 9, 9, 9]], np.uint8)
    codes, parent = grow_cores(mask, {3: 9}, 2)
    assert codes.tolist() == [[3, 3, 3, 3, 3, 3, 3, 3, 0, 0]]
    assert parent.tolist() == [[0, 0, LEFT, RIGHT, 0, 0, LEFT, LEFT, 0, 0]]
    for chunk in (1, 3, 10):
        assert ids_in_chunks(mask, {3: 9}, 2, chunk).tolist() == [[1, 1, 1, 4, 4, 4, 4, 4, 0, 0]]


@pytest.mark.parametrize("chunk", [1, 2, 5, 7, 64])
def test_instances_are_those_of_the_whole_scene(chunk: int) -> None:
    random = np.random.default_rng(chunk)
    for growth_px in (1, 3):
        mask = random.choice(np.array([0, 1, 2, 3, 255], np.uint8), (19, 23), p=[0.1, 0.3, 0.45, 0.1, 0.05])
        codes, parent = grow_cores(mask, {1: 2}, growth_px)
        ids = ids_in_chunks(mask, {1: 2}, growth_px, chunk)
        assert np.array_equal(ids, ids_by_definition(codes, parent))
        # an instance per core
        cores, count = ndimage.label(mask == 1)
        assert np.unique(ids[codes == 1]).size == count
        assert all(np.unique(ids[cores == core]).size == 1 for core in range(1, count + 1))


def test_growth_refuses_what_it_cannot_read() -> None:
    mask = np.zeros((2, 2), np.uint8)
    for wrong in ({1: 1}, {1: 2, 2: 3}, {1: 0}, {255: 1}):
        with pytest.raises(InputError, match="expected distinct codes"):
            grow_cores(mask, wrong, 1)
    with pytest.raises(InputError, match="expected 0 to 254"):
        grow_cores(mask, {1: 2}, 255)
    with pytest.raises(InputError, match="expected uint8"):
        grow_cores(mask.astype(int), {1: 2}, 1)


def extent_and_boundary(instances: np.ndarray) -> np.ndarray:
    """1 inside an instance, 2 on its pixels with anything else in their 3x3; the scene's edge is no boundary."""
    padded = np.pad(instances, 1, mode="edge")
    rows, cols = instances.shape
    around = [padded[row : row + rows, col : col + cols] for row in range(3) for col in range(3)]
    inside = np.all([other == instances for other in around], axis=0)
    return np.where(instances == 0, 0, np.where(inside, 1, 2)).astype(np.uint8)


def object_f1(found: np.ndarray, truth: np.ndarray) -> float:
    """F1 of instances matched at IoU 0.5 or more."""
    _, found = np.unique(found, return_inverse=True)
    _, truth = np.unique(truth, return_inverse=True)
    size = int(truth.max()) + 1
    shared = np.bincount((found * size + truth).ravel(), minlength=(int(found.max()) + 1) * size).reshape(-1, size)
    union = shared.sum(axis=1)[:, None] + shared.sum(axis=0) - shared
    matches = ((shared / union)[1:, 1:] > 0.5).sum()
    return float(2 * matches / (found.max() + truth.max()))


def test_rendered_fields_are_found_again() -> None:
    for seed in (1, 2):
        rendering = render(seed, size=768, gsd_m=1.0)
        fields = rendering.polygons["field"]
        large = [field for field in fields if shapely.area(field) > 200]
        truth = label(edges_of(large, np.arange(1, len(large) + 1)), 768, 768)
        assert truth.max() > 20
        mask = extent_and_boundary(truth)
        whole = ids_in_chunks(mask, {1: 2}, 8, 768)
        assert object_f1(whole, truth) >= 0.98
        for chunk in (50, 256):
            assert np.array_equal(ids_in_chunks(mask, {1: 2}, 8, chunk), whole)
