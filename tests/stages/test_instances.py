"""Faces, merge and border against labelling the whole scene at once."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from scipy import ndimage

from geoseg.errors import InputError
from geoseg.lattice import Window
from geoseg.stages.instances import Border, Faces, find_faces, label_chunk, merge_faces


def cut(shape: tuple[int, int], chunk: int) -> list[Window]:
    """Row-major windows of chunks over a scene."""
    rows, cols = shape
    return [
        Window(col, row, min(chunk, cols - col), min(chunk, rows - row))
        for row in range(0, rows, chunk)
        for col in range(0, cols, chunk)
    ]


def whole_scene_ids(mask: np.ndarray) -> np.ndarray:
    """Id of every pixel, the slow way: scipy labels class by class, then the first pixel of each; -1 for nodata."""
    ids = np.zeros(mask.shape, np.int64)
    flat = np.arange(mask.size).reshape(mask.shape)
    for code in set(np.unique(mask)) - {0, 255}:
        labels, count = ndimage.label(mask == code)
        first = ndimage.minimum(flat, labels, np.arange(1, count + 1)).astype(np.int64)
        ids += np.concatenate([[0], first + 1])[labels]
    return np.where(mask == 255, -1, ids)


def on_border(border: Border) -> tuple[np.ndarray, np.ndarray]:
    """Global ids inside and outside; -1 for nodata."""
    ids = np.concatenate([[0], border.ids, [-1]])
    return ids[border.inside], ids[border.outside]


def test_faces_keep_what_touches_an_edge() -> None:
    mask = np.array(
        [
            [1, 1, 0, 2],
            [0, 0, 3, 0],
            [255, 0, 0, 2],
        ],
        np.uint8,
    )
    faces = find_faces(mask, None, Window(10, 20, 4, 3), (100, 50))
    # components in row-major order: the 1s, the 2 above, the 2 below; the 3 touches no edge
    top, bottom, left, right = np.split(faces.edges, [4, 8, 11])
    assert top.tolist() == [1, 1, 0, 2]
    assert bottom.tolist() == [-1, 0, 0, 3]
    assert left.tolist() == [1, 0, -1]
    assert right.tolist() == [2, 0, 3]
    assert faces.code.tolist() == [1, 2, 2]
    assert faces.first.tolist() == [20 * 50 + 10, 20 * 50 + 13, 22 * 50 + 13]


def test_codes_0_and_255_are_never_instances() -> None:
    window = Window(0, 0, 3, 2)
    for code, entry in ((0, 0), (255, -1)):
        faces = find_faces(np.full((2, 3), code, np.uint8), None, window, (2, 3))
        assert faces.edges.tolist() == [entry] * 10
        assert faces.code.size == faces.first.size == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 23), (23, 1), (16, 16), (19, 26)])
@pytest.mark.parametrize("chunk", [1, 4, 7, 64])
@pytest.mark.parametrize("density", [0.5, 0.9])
def test_borders_equal_the_whole_scene(shape: tuple[int, int], chunk: int, density: float) -> None:
    random = np.random.default_rng([*shape, chunk])
    rest = (1 - density) / 3
    mask = random.choice(np.array([1, 2, 0, 255], np.uint8), size=shape, p=[density, rest, rest, rest])
    expected = np.pad(whole_scene_ids(mask), 1, constant_values=-1)
    windows = cut(shape, chunk)
    merge = merge_faces([find_faces(mask[w.slices()], None, w, shape) for w in reversed(windows)], shape)
    for window in windows:
        around = expected[window.pad(1).shift(1, 1).slices()]
        inner, ring = around[1:-1, 1:-1], around
        inside, outside = on_border(merge.border(window))
        assert np.array_equal(inside, np.concatenate([inner[0], inner[-1], inner[:, 0], inner[:, -1]]))
        sides = [ring[0, 1:-1], ring[-1, 1:-1], ring[1:-1, 0], ring[1:-1, -1]]
        corners = [ring[0, 0], ring[0, -1], ring[-1, 0], ring[-1, -1]]
        assert np.array_equal(outside, np.concatenate([*sides, corners]))


def test_arms_that_meet_in_another_chunk_are_one_instance() -> None:
    mask = np.array([[5, 0, 5, 0], [5, 0, 5, 0], [5, 5, 5, 0], [0, 0, 0, 6]], np.uint8)
    windows = [Window(0, 0, 4, 2), Window(0, 2, 4, 2)]
    merge = merge_faces([find_faces(mask[w.slices()], None, w, (4, 4)) for w in windows], (4, 4))
    upper, lower = (merge.border(w) for w in windows)
    assert upper.ids.tolist() == [1]
    assert lower.ids.tolist() == [1, 16]
    assert upper.inside[:4].tolist() == [1, 0, 1, 0]


def test_touching_classes_stay_apart_at_a_seam() -> None:
    mask = np.array([[1, 2]], np.uint8)
    windows = [Window(0, 0, 1, 1), Window(1, 0, 1, 1)]
    merge = merge_faces([find_faces(mask[w.slices()], None, w, (1, 2)) for w in windows], (1, 2))
    assert merge.border(windows[0]).ids.tolist() == [1, 2]


def test_what_moves_is_bounded_by_the_perimeter() -> None:
    size = 256
    mask = np.random.default_rng(0).integers(0, 4, (size, size)).astype(np.uint8)
    window = Window(0, 0, size, size)
    faces = find_faces(mask, None, window, (size, size))
    border = merge_faces([faces], (size, size)).border(window)
    for small in (faces, border):
        assert len(pickle.dumps(small)) < 4 * size * 20 + 1000  # the mask alone has 256 bytes per edge pixel
        again = pickle.loads(pickle.dumps(small))
        assert again.window == window


def nothing(window: Window) -> Faces:
    return find_faces(np.zeros((window.height, window.width), np.uint8), None, window, (4, 4))


@pytest.mark.parametrize(
    "windows",
    [
        [],
        [Window(0, 0, 2, 4)],
        [Window(0, 0, 2, 4), Window(0, 0, 2, 4)],
        [Window(0, 0, 2, 4), Window(2, 0, 2, 4), Window(2, 0, 2, 4)],
        [Window(0, 0, 2, 4), Window(2, 0, 2, 2)],
    ],
)
def test_merge_refuses_windows_that_do_not_tile_the_scene(windows: list[Window]) -> None:
    with pytest.raises(InputError, match="do not tile a scene of 4 x 4 px"):
        merge_faces([nothing(window) for window in windows], (4, 4))


def test_border_refuses_a_window_that_was_not_merged() -> None:
    merge = merge_faces([nothing(Window(0, 0, 4, 4))], (4, 4))
    with pytest.raises(InputError, match="no chunk lies at"):
        merge.border(Window(0, 0, 2, 2))


def test_faces_refuse_a_wrong_mask_or_window() -> None:
    with pytest.raises(InputError, match=r"mask is uint8 .* expected uint8"):
        find_faces(np.zeros((3, 4), np.uint8), None, Window(0, 0, 3, 4), (10, 10))
    with pytest.raises(InputError, match="expected uint8"):
        find_faces(np.zeros((3, 4), np.int32), None, Window(0, 0, 4, 3), (10, 10))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"parent is .* expected uint8"):
        find_faces(np.zeros((3, 4), np.uint8), np.zeros((4, 4), np.uint8), Window(0, 0, 4, 3), (10, 10))
    with pytest.raises(InputError, match="leaves the scene"):
        find_faces(np.zeros((3, 4), np.uint8), None, Window(8, 0, 4, 3), (10, 10))
    with pytest.raises(InputError, match="is empty"):
        find_faces(np.zeros((0, 4), np.uint8), None, Window(0, 0, 4, 0), (10, 10))


@pytest.mark.parametrize("shape", [(1, 1), (1, 23), (23, 1), (19, 26)])
@pytest.mark.parametrize("chunk", [1, 4, 7, 64])
@pytest.mark.parametrize("density", [0.5, 0.9])
def test_labels_equal_the_whole_scene(shape: tuple[int, int], chunk: int, density: float) -> None:
    random = np.random.default_rng([*shape, chunk])
    rest = (1 - density) / 3
    mask = random.choice(np.array([1, 2, 0, 255], np.uint8), size=shape, p=[density, rest, rest, rest])
    expected = np.pad(whole_scene_ids(mask), 1, constant_values=-1)
    codes_of = dict(zip(expected[1:-1, 1:-1].ravel().tolist(), mask.ravel().tolist(), strict=True))
    windows = cut(shape, chunk)
    merge = merge_faces([find_faces(mask[w.slices()], None, w, shape) for w in windows], shape)
    for window in windows:
        found = label_chunk(mask[window.slices()], None, merge.border(window), window, shape)
        around = expected[window.pad(1).shift(1, 1).slices()]
        inner = around[1:-1, 1:-1]
        assert np.array_equal(found.id[found.labels], np.maximum(around, 0))
        assert np.array_equal(found.labels < 0, around < 0)
        used = np.setdiff1d(found.labels, [-1])
        assert len(set(found.id[used])) == used.size
        assert not found.id[np.setdiff1d(np.arange(found.id.size), used)].any()
        for name in ("id", "code", "area_px", "edge"):
            assert not getattr(found, name)[[0, -1]].any()
        outside = np.ones(expected.shape, bool)
        outside[window.shift(1, 1).slices()] = False
        on_edge = np.zeros(expected.shape, bool)
        on_edge[[1, -2]] = on_edge[:, [1, -2]] = True
        for label in used[used > 0]:
            instance = found.id[label]
            assert found.code[label] == codes_of[instance]
            assert found.area_px[label] == (inner == instance).sum()
            assert found.edge[label] == (expected == instance)[~outside & on_edge].any()


def test_labels_refuse_the_border_of_another_chunk_or_mask() -> None:
    mask = np.array([[1, 0, 1, 1]], np.uint8)
    windows = [Window(0, 0, 2, 1), Window(2, 0, 2, 1)]
    merge = merge_faces([find_faces(mask[w.slices()], None, w, (1, 4)) for w in windows], (1, 4))
    with pytest.raises(InputError, match=r"give Merge\.border"):
        label_chunk(mask[:, :2], None, merge.border(windows[1]), windows[0], (1, 4))
    with pytest.raises(InputError, match="of another mask"):
        label_chunk(mask[:, 1:3], None, merge.border(windows[0]), windows[0], (1, 4))
