"""Tracing against GDAL's polygonizer, by hand, and against slow statistics."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import rasterio.features
import shapely
from scipy import ndimage

from geoseg.errors import InputError
from geoseg.lattice import Window
from geoseg.stages.instances import find_faces, merge_faces
from geoseg.stages.trace import Fragment, Polygons, join_fragments, trace_chunk


def spiral(size: int) -> np.ndarray:
    """A one-pixel path that winds inwards, one pixel between its turns."""
    mask = np.zeros((size, size), np.uint8)
    row, col, d_row, d_col = 0, 0, 0, 1
    while True:
        mask[row, col] = 1
        ahead = (row + 2 * d_row, col + 2 * d_col)
        blocked = not (0 <= row + d_row < size and 0 <= col + d_col < size)
        blocked = blocked or (0 <= ahead[0] < size and 0 <= ahead[1] < size and mask[ahead] == 1)
        if blocked:
            d_row, d_col = d_col, -d_row
            if mask[row + d_row, col + d_col] or mask[row + 2 * d_row, col + 2 * d_col]:
                return mask
        row, col = row + d_row, col + d_col


def nested(size: int) -> np.ndarray:
    """Square rings of five codes within each other."""
    rows, cols = np.indices((size, size))
    depth = np.minimum(np.minimum(rows, cols), np.minimum(size - 1 - rows, size - 1 - cols))
    return (depth % 5).astype(np.uint8)


ROWS, COLS = np.indices((21, 26))
MASKS = {
    "one pixel": np.array([[3]], np.uint8),
    "one row": np.array([[1, 1, 0, 2, 255, 2, 2, 1]], np.uint8),
    "one column": np.array([[1, 1, 0, 2, 255, 2, 2, 1]], np.uint8).T.copy(),
    "one class": np.full((20, 15), 4, np.uint8),
    "background": np.zeros((9, 9), np.uint8),
    "nodata": np.full((9, 9), 255, np.uint8),
    "checkerboard": ((ROWS + COLS) % 2).astype(np.uint8),
    "checkerboard of two classes": ((ROWS + COLS) % 2 + 1).astype(np.uint8),
    "one-pixel lines": (ROWS % 2 * 7).astype(np.uint8),
    "grid of lines": ((ROWS % 3 == 0) | (COLS % 4 == 0)).astype(np.uint8),
    "diagonals": ((ROWS - COLS) % 3).astype(np.uint8),
    "spiral": spiral(27),
    "nested rings": nested(23),
    "highest codes": (252 + (ROWS * COLS) % 4).astype(np.uint8),
    "noise": np.random.default_rng(1).integers(0, 2, (25, 22)).astype(np.uint8),
    "dense noise": (np.random.default_rng(2).random((23, 28)) < 0.7).astype(np.uint8),
    "noise of classes": np.random.default_rng(3).choice(np.array([0, 1, 2, 3, 255], np.uint8), (21, 19)),
}


def in_pixels(polygons: Polygons, *, keep_junctions: bool = False) -> np.ndarray:
    """Shapely polygons in pixel corners, built ring by ring from the definition of the arrays."""
    made = []
    for first, last in zip(polygons.polygon_offsets[:-1], polygons.polygon_offsets[1:], strict=True):
        rings = []
        for ring in range(first, last):
            vertices = slice(polygons.ring_offsets[ring], polygons.ring_offsets[ring + 1])
            coords = polygons.coords[vertices]
            rings.append(coords if keep_junctions else coords[polygons.junction[vertices] < 2])
        made.append(shapely.Polygon(rings[0], rings[1:]))
    return np.array(made, object)


def by_gdal(mask: np.ndarray) -> list[tuple[int, bytes]]:
    """Codes and normalised WKB of GDAL's polygons."""
    shapes = rasterio.features.shapes(mask, mask=~np.isin(mask, (0, 255)), connectivity=4)
    return sorted((int(code), shapely.to_wkb(shapely.normalize(shapely.geometry.shape(s)))) for s, code in shapes)


def assert_same(one: Polygons, other: Polygons) -> None:
    for name, column in one.to_arrays().items():
        again = getattr(other, name)
        assert column.dtype == again.dtype, name
        assert np.array_equal(column, again, equal_nan=column.dtype.kind == "f"), name


@pytest.mark.parametrize("name", MASKS)
def test_equals_gdal_for_any_chunk(vectorize, name: str) -> None:
    mask = MASKS[name]
    confidence = np.random.default_rng(0).integers(0, 255, mask.shape).astype(np.uint8)
    whole = vectorize(mask, confidence, 1000)
    geometries = in_pixels(whole)
    assert shapely.is_valid(geometries).all()
    wkb = shapely.to_wkb(shapely.normalize(geometries)) if len(geometries) else []
    assert sorted(zip(whole.code.tolist(), wkb, strict=True)) == by_gdal(mask)
    assert shapely.coverage_is_valid(in_pixels(whole, keep_junctions=True))
    assert np.array_equal(shapely.area(geometries), whole.area_px)
    for chunk in (1, 5, 8, 17):
        assert_same(whole, vectorize(mask, confidence, chunk))


def test_a_realistic_mask(vectorize, landscape: np.ndarray) -> None:
    whole = vectorize(landscape, None, 1000)
    wkb = shapely.to_wkb(shapely.normalize(in_pixels(whole)))
    assert sorted(zip(whole.code.tolist(), wkb, strict=True)) == by_gdal(landscape)
    for chunk in (31, 100):
        assert_same(whole, vectorize(landscape, None, chunk))


def test_rings_by_hand(vectorize) -> None:
    mask = np.array(
        [
            [0, 1, 1, 1],
            [1, 1, 0, 1],
            [1, 0, 1, 1],
            [1, 1, 1, 1],
        ],
        np.uint8,
    )
    polygons = vectorize(mask)
    shell = [(1, 0), (4, 0), (4, 4), (0, 4), (0, 1), (1, 1), (1, 0)]
    upper = [(2, 1), (2, 2), (3, 2), (3, 1), (2, 1)]  # the two holes touch at (2, 2), and stay two
    lower = [(1, 2), (1, 3), (2, 3), (2, 2), (1, 2)]
    assert polygons.coords.tolist() == [list(corner) for corner in shell + upper + lower]
    assert polygons.ring_offsets.tolist() == [0, 7, 12, 17]
    assert polygons.polygon_offsets.tolist() == [0, 3]
    assert polygons.id.tolist() == [2]
    assert polygons.area_px.tolist() == [13]


def test_pixels_that_touch_by_a_corner_are_two_instances(vectorize) -> None:
    polygons = vectorize(np.array([[1, 0], [0, 1]], np.uint8))
    assert polygons.id.tolist() == [1, 4]


def test_junctions_by_hand(vectorize) -> None:
    polygons = vectorize(np.array([[1, 1], [2, 3], [2, 0]], np.uint8), chunk=2)
    junctions = {tuple(corner) for corner in polygons.coords[polygons.junction == 2].tolist()}
    # 1's lower side passes from 2 to 3, and 2's right side from 3 to background
    assert junctions == {(1, 1), (1, 2)}
    upper = slice(*polygons.ring_offsets[:2])
    assert polygons.coords[upper].tolist() == [[0, 0], [2, 0], [2, 1], [1, 1], [0, 1], [0, 0]]
    assert polygons.junction[upper].tolist() == [0, 0, 1, 2, 1, 0]


def test_background_and_nodata_are_one_neighbour(vectorize) -> None:
    assert not vectorize(np.array([[1, 1], [0, 255]], np.uint8)).junction.any()


def test_ids_name_the_first_pixel_where_the_shell_starts(vectorize, landscape: np.ndarray) -> None:
    polygons = vectorize(landscape, None, 50)
    shells = polygons.coords[polygons.ring_offsets[polygons.polygon_offsets[:-1]]]
    assert np.array_equal(polygons.id - 1, shells[:, 1] * landscape.shape[1] + shells[:, 0])
    assert np.array_equal(polygons.code, landscape.ravel()[polygons.id - 1])
    assert (np.diff(polygons.id) > 0).all()


def slow_statistics(mask: np.ndarray, confidence: np.ndarray) -> dict[int, tuple[int, float, float, bool]]:
    """By id: area, mean, 10th percentile, edge; from one full-scene mask per instance."""
    found = {}
    border = np.ones(mask.shape, bool)
    border[1:-1, 1:-1] = False
    for code in set(np.unique(mask)) - {0, 255}:
        labels, count = ndimage.label(mask == code)
        for label in range(1, count + 1):
            here = labels == label
            values = np.sort(confidence[here])
            values = values[values < 255]
            need = -(-len(values) // 10)
            mean = values.astype(int).sum() / (254 * len(values)) if len(values) else np.nan
            p10 = values[need - 1] / 254 if len(values) else np.nan
            found[int(np.flatnonzero(here)[0]) + 1] = (int(here.sum()), mean, p10, bool((here & border).any()))
    return found


@pytest.mark.parametrize("chunk", [7, 1000])
def test_statistics_equal_slow_ones(vectorize, chunk: int) -> None:
    random = np.random.default_rng(5)
    mask = np.kron(random.integers(0, 3, (9, 11)), np.ones((5, 4))).astype(np.uint8)
    confidence = random.integers(0, 256, mask.shape).astype(np.uint8)  # with some unknown
    confidence[mask == 2] = np.where(random.random((mask == 2).sum()) < 0.9, 255, 17)
    polygons = vectorize(mask, confidence, chunk)
    expected = slow_statistics(mask, confidence)
    assert polygons.id.tolist() == sorted(expected)
    columns = [polygons.area_px, polygons.confidence, polygons.confidence_p10, polygons.edge]
    for column, values in zip(columns, zip(*(expected[i] for i in sorted(expected)), strict=True), strict=True):
        assert np.array_equal(column, np.array(values), equal_nan=column.dtype.kind == "f")


@pytest.mark.parametrize(("pixels", "rank"), [(1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (21, 3)])
def test_the_percentile_is_the_least_value_that_a_tenth_does_not_exceed(vectorize, pixels: int, rank: int) -> None:
    confidence = np.arange(pixels, dtype=np.uint8)[None, ::-1] * 10 + 3
    polygons = vectorize(np.ones((1, pixels), np.uint8), np.ascontiguousarray(confidence), 4)
    assert polygons.confidence_p10[0] == (10 * (rank - 1) + 3) / 254


def test_without_confidence_there_are_no_statistics(vectorize, landscape: np.ndarray) -> None:
    polygons = vectorize(landscape, None, 64)
    assert np.isnan(polygons.confidence).all()
    assert np.isnan(polygons.confidence_p10).all()
    assert polygons.area_px.sum() == (~np.isin(landscape, (0, 255))).sum()


def test_unknown_confidence_is_left_out(vectorize) -> None:
    confidence = np.array([[255, 127, 255, 255]], np.uint8)
    polygons = vectorize(np.array([[1, 1, 0, 2]], np.uint8), confidence, 2)
    assert polygons.confidence.tolist()[0] == 0.5
    assert np.isnan(polygons.confidence[1])


def test_a_chunk_inside_one_instance_has_no_arcs(fragments) -> None:
    middle = fragments(np.ones((30, 30), np.uint8), None, 10)[4]
    assert middle.arcs.id.size == middle.closed.id.size == 0
    assert middle.open.area_px.tolist() == [100]
    assert not middle.open.edge.any()


def test_fragments_come_back_from_a_file(fragments, landscape: np.ndarray) -> None:
    confidence = (landscape + 100).astype(np.uint8)
    parts = fragments(landscape, confidence, 90)
    stored = []
    for part in parts:
        file = io.BytesIO()
        np.savez(file, **part.to_arrays())
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            stored.append(Fragment.from_arrays(arrays))
    assert_same(join_fragments(parts), join_fragments(stored))
    assert_same(join_fragments(parts), join_fragments(pickle.loads(pickle.dumps(parts))))


def test_the_order_of_the_chunks_does_not_matter(fragments, landscape: np.ndarray) -> None:
    confidence = np.random.default_rng(1).integers(0, 255, landscape.shape).astype(np.uint8)
    parts = fragments(landscape, confidence, 60)
    shuffled = [parts[i] for i in np.random.default_rng(2).permutation(len(parts))]
    assert_same(join_fragments(parts), join_fragments(part for part in shuffled))


def test_a_missing_or_doubled_chunk_is_noticed(fragments, landscape: np.ndarray) -> None:
    parts = fragments(landscape, None, 60)
    for wrong in (parts[1:], [*parts, parts[0]]):
        with pytest.raises(InputError, match="arcs do not meet"):
            join_fragments(wrong)


def test_nothing_to_join() -> None:
    polygons = join_fragments([])
    assert len(polygons) == 0
    assert polygons.ring_offsets.tolist() == polygons.polygon_offsets.tolist() == [0]


def test_wrong_arrays_are_refused() -> None:
    mask = np.array([[1, 1], [0, 2]], np.uint8)
    window = Window(0, 0, 2, 2)
    border = merge_faces([find_faces(mask, window, (2, 2))], (2, 2)).border(window)
    with pytest.raises(InputError, match="mask is uint8"):
        trace_chunk(mask[:1], None, border, window, (2, 2))
    with pytest.raises(InputError, match="confidence is int64"):
        trace_chunk(mask, mask.astype(np.int64), border, window, (2, 2))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not this mask's"):
        trace_chunk(np.ascontiguousarray(mask.T), None, border, window, (2, 2))
