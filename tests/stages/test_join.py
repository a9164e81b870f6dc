"""Polygons of any mask, in any chunks: GDAL's where nothing is simplified, a coverage where it is, the same bytes."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import rasterio.features
import shapely

from geoseg.errors import InputError
from geoseg.rings import Polygons
from geoseg.stages.join import Domain, Fragment, finished_arcs

from .masks import KINDS, realistic, spiral
from .test_trace import trace_in_chunks

Vectorize = Callable[..., Polygons]
METHODS = ("visvalingam", "douglas-peucker")


def confidence_for(mask: np.ndarray) -> np.ndarray:
    """Any value 0-255, where 255 is unknown."""
    return np.random.default_rng(0).integers(0, 256, mask.shape).astype(np.uint8)


def in_pixels(polygons: Polygons) -> np.ndarray:
    """Shapely polygons in pixel corners."""
    if len(polygons) == 0:
        return np.zeros(0, object)
    offsets = polygons.ring_offsets, polygons.polygon_offsets
    return np.asarray(shapely.from_ragged_array(shapely.GeometryType.POLYGON, polygons.coords / 2, offsets))


def by_gdal(mask: np.ndarray) -> list[tuple[int, bytes]]:
    """Codes and normalised WKB of GDAL's polygons."""
    found = list(rasterio.features.shapes(mask, mask=~np.isin(mask, (0, 255)), connectivity=4))
    geometries = np.array([shapely.geometry.shape(shape) for shape, _ in found], object)
    return normalised([int(code) for _, code in found], geometries)


def normalised(codes: list[int], geometries: np.ndarray) -> list[tuple[int, bytes]]:
    wkb = shapely.to_wkb(shapely.normalize(geometries)) if len(geometries) else []
    return sorted(zip(codes, wkb, strict=True))


def assert_same(one: Polygons, other: Polygons) -> None:
    for name, column in one.to_arrays().items():
        again = getattr(other, name)
        assert column.dtype == again.dtype, name
        assert np.array_equal(column, again, equal_nan=column.dtype.kind == "f"), name


def assert_gdals(polygons: Polygons, mask: np.ndarray) -> None:
    geometries = in_pixels(polygons)
    assert shapely.is_valid(geometries).all()
    assert normalised(polygons.code.tolist(), geometries) == by_gdal(mask)
    assert np.array_equal(shapely.area(geometries), polygons.area_px)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        ((22, 19), (1, 7)),
        ((131, 140), (64, (9, 1000))),
        ((1, 61), (1, 7, 64)),
        ((61, 1), (1, 7, 64)),
        ((1, 1), (1,)),
    ],
    ids=str,
)
def test_polygons_are_gdals_for_any_chunk(vectorize: Vectorize, kind: str, shape: tuple[int, int], chunks) -> None:
    mask = KINDS[kind](*shape)
    confidence = confidence_for(mask)
    whole = vectorize(mask, confidence, 1000)
    assert_gdals(whole, mask)
    for chunk in chunks:
        assert_same(whole, vectorize(mask, confidence, chunk))


@pytest.mark.parametrize("kind", ["realistic", "spiral", "nested rings", "one-pixel lines", "one class", "nodata"])
@pytest.mark.parametrize("shape", [(1050, 2100), (1, 4200), (4200, 1)], ids=str)
def test_polygons_are_gdals_for_large_chunks(vectorize: Vectorize, kind: str, shape: tuple[int, int]) -> None:
    mask = KINDS[kind](*shape)
    whole = vectorize(mask, None, 5000)
    assert_gdals(whole, mask)
    for chunk in (256, 1000, 2048):
        assert_same(whole, vectorize(mask, None, chunk))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("tolerance", "method", "smooth"),
    [(tolerance, method, False) for tolerance in (0.6, 1.0, 3.5) for method in METHODS]
    + [(tolerance, method, True) for tolerance in (0.0, 1.0) for method in METHODS[: 1 + (tolerance > 0)]],
    ids=lambda value: str(value)[:11],
)
def test_simplified_polygons_are_a_coverage_and_the_same_for_any_chunk(
    vectorize: Vectorize, kind: str, tolerance: float, method: str, smooth: bool
) -> None:
    mask = KINDS[kind](27, 31)
    options = {"tolerance": tolerance, "method": method, "smooth": smooth}
    whole = vectorize(mask, None, 1000, **options)
    geometries = in_pixels(whole)
    assert shapely.is_valid(geometries).all()
    assert shapely.coverage_is_valid(geometries)
    assert (shapely.area(geometries) > 0).all()
    exact = vectorize(mask, None, 1000)
    assert np.array_equal(np.diff(whole.polygon_offsets), np.diff(exact.polygon_offsets)), "rings came or went"
    if tolerance == 0:
        inner = ~shapely.intersects(geometries, shapely.box(0, 0, *mask.shape[::-1]).exterior)
        assert np.array_equal(shapely.area(geometries)[inner], whole.area_px[inner])
    for chunk in (11, (3, 100), (100, 5)):
        assert_same(whole, vectorize(mask, None, chunk, **options))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("smooth", [False, True])
def test_a_realistic_mask_simplified(vectorize: Vectorize, method: str, smooth: bool) -> None:
    mask = realistic(300, 340)
    options = {"tolerance": 1.3, "method": method, "smooth": smooth}
    whole = vectorize(mask, None, 1000, **options)
    geometries = in_pixels(whole)
    assert shapely.coverage_is_valid(geometries)
    assert shapely.area(geometries).sum() == pytest.approx(whole.area_px.sum(), rel=0.01)
    for chunk in (64, (37, 200)):
        assert_same(whole, vectorize(mask, None, chunk, **options))


def test_unsimplified_polygons_with_all_junctions_are_a_coverage(vectorize: Vectorize) -> None:
    for kind in KINDS.values():
        mask = kind(22, 19)
        polygons = vectorize(mask, None, 8, keep_straight=True)
        assert shapely.coverage_is_valid(in_pixels(polygons))
        assert np.array_equal(shapely.area(in_pixels(polygons)), vectorize(mask, None, 8).area_px)


@pytest.mark.parametrize("tolerance", [0.0, 1.0])
def test_touching_fields_stay_apart_for_any_chunk(vectorize: Vectorize, tolerance: float) -> None:
    mask = np.full((60, 70), 5, np.uint8)
    for row in range(0, 60, 14):
        for col in range(0, 70, 11):
            mask[row : row + 11, col : col + 8] = 3
    options = {"boundaries": ((3, 5),), "growth": 8, "tolerance": tolerance}
    whole = vectorize(mask, None, 1000, **options)
    assert len(whole) == 5 * 7
    assert whole.area_px.sum() == mask.size
    assert shapely.coverage_is_valid(in_pixels(whole)) or not tolerance
    for chunk in (7, 16, (5, 70)):
        assert_same(whole, vectorize(mask, None, chunk, **options))


def test_ids_name_the_first_pixel_where_the_shell_starts(vectorize: Vectorize, landscape: np.ndarray) -> None:
    polygons = vectorize(landscape, None, 50)
    shells = polygons.coords[polygons.ring_offsets[polygons.polygon_offsets[:-1]]] // 2
    assert np.array_equal(polygons.id - 1, shells[:, 1] * landscape.shape[1] + shells[:, 0])
    assert np.array_equal(polygons.code, landscape.ravel()[polygons.id - 1])
    assert (np.diff(polygons.id) > 0).all()


def test_finished_arcs_keep_away_from_other_chunks_only(landscape: np.ndarray) -> None:
    rows, cols = landscape.shape
    for reach in (0, 3, 9):
        for window, traced in trace_in_chunks(landscape, (80, 120)):
            finished = finished_arcs(traced, Domain(window, landscape.shape, reach))
            for arc in np.flatnonzero(traced.whole):
                first, last = traced.offsets[arc : arc + 2]
                col, row = traced.coords[first:last].T / 2
                far = (col.min() >= window.col_off + reach) | (window.col_off == 0)
                far &= (row.min() >= window.row_off + reach) | (window.row_off == 0)
                far &= (col.max() <= window.col_stop - reach) | (window.col_stop == cols)
                far &= (row.max() <= window.row_stop - reach) | (window.row_stop == rows)
                assert finished[arc] == far
            assert not finished[~traced.whole].any()


def test_what_lies_inside_a_chunk_is_finished_there(vector_half) -> None:
    mask = np.zeros((60, 60), np.uint8)
    mask[5:9, 5:9], mask[18:23, 40:43], mask[0:3, 59] = 1, 2, 3
    [[left, right], [_, below]] = vector_half().pieces(mask, None, (20, 30))[:2]
    assert left.polygons.code.tolist() == [1]
    assert right.polygons.code.tolist() == [3]
    assert len(left.fragment.arcs) == len(left.fragment.instances.id) == 0
    assert right.fragment.instances.area_px.tolist() == [6]
    assert below.fragment.instances.area_px.tolist() == [9]


def test_a_chunk_inside_one_instance_hands_on_its_pixels(vector_half) -> None:
    pieces = vector_half().pieces(np.ones((30, 30), np.uint8), None, 10)
    middle = pieces[1][1].fragment
    assert len(middle.arcs) == len(middle.darts) == 0
    assert middle.instances.area_px.tolist() == [100]
    assert not middle.instances.edge.any()


def test_instances_come_out_as_soon_as_they_are_complete(vector_half) -> None:
    mask = np.zeros((40, 12), np.uint8)
    mask[3:9, 2:8], mask[12:31, 2:8] = 1, 2
    half = vector_half()
    joiner = half.joiner(12)
    found = []
    for in_row in half.pieces(mask, None, (5, 5)):
        row_stop = in_row[0].window.row_stop
        fragments = [piece.fragment for piece in in_row]
        found.append(joiner.add(fragments, row_stop, last=row_stop == 40).code.tolist())
    assert found == [[], [1], [], [], [], [], [2], []]


def stored(fragment: Fragment) -> Fragment:
    """As it comes back from a file."""
    file = io.BytesIO()
    np.savez(file, **fragment.to_arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        return Fragment.from_arrays(arrays)


def test_fragments_come_back_from_a_file(vector_half, landscape: np.ndarray) -> None:
    half = vector_half(tolerance=1.0)
    pieces = half.pieces(landscape, confidence_for(landscape), 90)
    whole = half.join(pieces, landscape.shape)
    for way in (stored, lambda fragment: pickle.loads(pickle.dumps(fragment))):
        again = [[piece._replace(fragment=way(piece.fragment)) for piece in in_row] for in_row in pieces]
        assert_same(whole, half.join(again, landscape.shape))


def test_the_order_within_a_row_of_chunks_does_not_matter(vector_half, landscape: np.ndarray) -> None:
    half = vector_half(tolerance=1.0)
    pieces = half.pieces(landscape, confidence_for(landscape), (90, 40))
    random = np.random.default_rng(2)
    shuffled = [[in_row[place] for place in random.permutation(len(in_row))] for in_row in pieces]
    assert_same(half.join(pieces, landscape.shape), half.join(shuffled, landscape.shape))


@pytest.mark.parametrize("tolerance", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["realistic", "one class", "noise of classes", "spiral", "background"])
def test_a_missing_or_doubled_fragment_is_noticed(vector_half, kind: str, tolerance: float) -> None:
    mask = KINDS[kind](60, 60)
    half = vector_half(tolerance=tolerance)
    pieces = half.pieces(mask, None, 20)
    for row in range(3):
        for col in range(3):
            in_row = pieces[row]
            for wrong in (in_row[:col] + in_row[col + 1 :], [*in_row, in_row[col]]):
                with pytest.raises(InputError, match="give the fragment of every chunk once"):
                    half.join([*pieces[:row], wrong, *pieces[row + 1 :]], mask.shape)


def test_a_missing_doubled_or_misplaced_row_is_noticed(vector_half) -> None:
    mask = realistic(60, 60)
    half = vector_half()
    first, second, third = half.pieces(mask, None, 20)
    for wrong in ([first, third], [second, third], [first, first, second, third], [first, third, second]):
        with pytest.raises(InputError, match="give the fragment of every chunk once"):
            half.join(wrong, mask.shape)


def held_by(joiner) -> dict[str, int]:
    """What a joiner holds between two rows: looks at its private state, as memory shows nowhere else."""
    lengths = np.diff(joiner._arcs.offsets)
    return {
        "waiting vertices": int(lengths[~joiner._ready].sum()),
        "vertices": int(lengths.sum()),
        "darts": len(joiner._darts),
        "obstacles": len(joiner._obstacles),
        "instances": len(joiner._instances.id),
    }


@pytest.mark.parametrize("tolerance", [0.0, 1.0])
def test_memory_follows_the_boundaries_not_the_chunks(vector_half, tolerance: float) -> None:
    size, chunk = 2000, 100
    half = vector_half(tolerance=tolerance)
    joiner = half.joiner(size)
    most: dict[str, int] = {}
    for in_row in half.pieces(spiral(size, size), None, chunk):
        row_stop = in_row[0].window.row_stop
        polygons = joiner.add([piece.fragment for piece in in_row], row_stop, last=row_stop == size)
        most = {name: max(value, most.get(name, 0)) for name, value in held_by(joiner).items()}
    assert len(polygons) == 1
    # the whole boundary turns 4000 times, and 2000 lines cross the sweep: two ends each, and two darts
    assert most["waiting vertices"] <= 4000 + 2 * 2000
    assert most["vertices"] <= 4000 + 2 * 2000
    assert most["darts"] <= 2000 + 10
    assert most["instances"] == 1


def test_memory_does_not_grow_with_the_scene(vector_half) -> None:
    half = vector_half(tolerance=1.0)
    tile = realistic(240, 240)
    tile[0] = tile[-1] = 0  # no instance goes through all of the scene
    most = {}
    for times in (2, 6):
        mask = np.concatenate([tile if number % 2 == 0 else tile[::-1] for number in range(times)])
        joiner = half.joiner(240)
        held = []
        for in_row in half.pieces(mask, None, 60):
            row_stop = in_row[0].window.row_stop
            joiner.add([piece.fragment for piece in in_row], row_stop, last=row_stop == len(mask))
            held.append(held_by(joiner))
        assert not any(held[-1][name] for name in ("waiting vertices", "vertices", "darts", "instances"))
        most[times] = {name: max(values[name] for values in held) for name in held[0]}
    for name, value in most[6].items():
        assert value <= 1.1 * most[2][name], name


def test_a_long_open_line_keeps_only_what_is_near_it(vector_half) -> None:
    half = vector_half(tolerance=1.0)
    most = []
    for rows in (200, 1000):
        mask = np.random.default_rng(0).integers(0, 3, (rows, 90)).astype(np.uint8)
        mask[0], mask[:, :20], mask[:, 6] = 0, 0, 3  # a road from top to bottom, and noise that lies apart from it
        joiner = half.joiner(90)
        held = []
        for in_row in half.pieces(mask, None, 40):
            row_stop = in_row[0].window.row_stop
            joiner.add([piece.fragment for piece in in_row], row_stop, last=row_stop == rows)
            held.append(held_by(joiner)["obstacles"])
        most.append(max(held))
    assert most[1] <= 1.3 * most[0]


def test_a_row_without_any_chunk_is_refused(vector_half) -> None:
    with pytest.raises(InputError, match="0 chunks do not fill the rows 0 to 10"):
        vector_half().joiner(10).add([], 10, last=True)
