"""The renderer: the same bytes for the same seed, and a truth that is one."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import shapely
from rasterio.features import rasterize
from shapely import Polygon

from geoseg.errors import SettingsError
from geoseg.training.renderer import LAYERS, Rendering, render
from geoseg.training.renderer.raster import edges_of, edges_of_rings, fractal, label, paint

CODES = {"water": 1, "road": 2, "field": 3, "parking": 4}


@pytest.fixture(scope="module")
def scene() -> Rendering:
    return render(3, size=512, gsd_m=0.5)


@pytest.fixture(scope="module")
def wide() -> Rendering:
    """A whole piece of land, as the default scene is, at fewer pixels."""
    return render(3, size=512, gsd_m=2.0)


def digest(scene: Rendering) -> str:
    shapes = [shape for layer in LAYERS for shape in scene.polygons[layer]]
    parts = [scene.image.tobytes(), scene.mask.tobytes(), *shapely.to_wkb([*shapes, *scene.stalls, *scene.cars])]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_same_seed_same_bytes():
    first, second = render(11, size=256, gsd_m=0.6), render(11, size=256, gsd_m=0.6)
    assert digest(first) == digest(second)
    assert digest(first) != digest(render(12, size=256, gsd_m=0.6))


def test_shapes_and_types(scene):
    assert scene.image.shape == (3, 512, 512)
    assert scene.image.dtype == scene.mask.dtype == np.uint8
    assert scene.mask.shape == (512, 512)
    assert set(np.unique(scene.mask)) <= {0, 1, 2, 3, 4}
    assert scene.image.std() > 15


@pytest.mark.parametrize("name", ["scene", "wide"])
def test_mask_is_what_gdal_makes_of_the_polygons(name, request):
    scene = request.getfixturevalue(name)
    shapes = [(shape, CODES[layer]) for layer in LAYERS for shape in scene.polygons[layer]]
    expected = rasterize(shapes, out_shape=scene.mask.shape, dtype=np.uint8)
    assert np.count_nonzero(expected != scene.mask) <= 3  # centres that lie on an edge


@pytest.mark.parametrize("name", ["scene", "wide"])
def test_truth_is_valid_and_does_not_overlap(name, request):
    scene = request.getfixturevalue(name)
    shapes = np.array([shape for layer in LAYERS for shape in scene.polygons[layer]])
    assert all(isinstance(shape, Polygon) for shape in shapes)
    assert shapely.is_valid(shapes).all()
    assert (shapely.area(shapes) > 0).all()
    assert shapely.box(0, 0, *scene.mask.shape[::-1]).buffer(1e-6).contains(shapely.union_all(shapes))
    first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    other = first < second
    overlap = shapely.area(shapely.intersection(shapes[first[other]], shapes[second[other]]))
    assert overlap.max(initial=0) < 1e-6


def test_every_class_is_there(wide):
    for layer, code in CODES.items():
        assert wide.polygons[layer], layer
        assert (wide.mask == code).mean() > 0.001, layer


def test_some_fields_touch(wide):
    fields = np.array(wide.polygons["field"])
    first, second = shapely.STRtree(fields).query(fields, predicate="dwithin", distance=1e-6)
    assert np.count_nonzero(first < second) >= 3


def test_same_land_at_another_gsd(wide):
    coarse = render(3, size=256, gsd_m=4.0)
    for layer in LAYERS:
        fine_m2 = sum(shape.area for shape in wide.polygons[layer]) * 2.0**2
        coarse_m2 = sum(shape.area for shape in coarse.polygons[layer]) * 4.0**2
        assert coarse_m2 == pytest.approx(fine_m2, rel=0.01)
    assert np.mean(coarse.mask == wide.mask[1::2, 1::2]) > 0.9


@pytest.mark.parametrize("gsd_m", [0.3, 0.8])
def test_sizes_are_in_metres(gsd_m):
    scene = render(21, size=384, gsd_m=gsd_m)
    assert scene.stalls
    assert len(scene.stalls) == len(scene.taken)
    area_m2 = shapely.area(scene.stalls) * gsd_m**2
    slanted_m2 = 2.5 * 5.0 / np.sin(np.pi / 3)
    assert np.all(np.isclose(area_m2, 2.5 * 5.0) | np.isclose(area_m2, slanted_m2))
    boxes = shapely.get_coordinates(scene.stalls).reshape(-1, 5, 2)
    depth_m = shapely.area(scene.stalls) / np.hypot(*(boxes[:, 1] - boxes[:, 0]).T) * gsd_m
    assert np.allclose(depth_m, 5.0)
    car_m = shapely.area(scene.cars) * gsd_m**2
    assert np.all((car_m > 6) & (car_m < 32))


def test_stalls_lie_on_their_lots(scene):
    lots = shapely.union_all(scene.polygons["parking"])
    inside = shapely.area(shapely.intersection(scene.stalls, lots)) / shapely.area(scene.stalls)
    assert inside.min() > 0.85


def test_cars_stand_on_taken_stalls(scene):
    assert any(scene.taken)
    cars = shapely.union_all(scene.cars)
    stalls = np.array(scene.stalls)
    covered = shapely.area(shapely.intersection(stalls, cars)) / shapely.area(stalls)
    inner = shapely.within(stalls, shapely.box(8, 8, 504, 504))
    taken = np.array(scene.taken)
    assert (covered[taken & inner] > 0.35).all()
    assert (covered[~taken & inner] < 0.35).all()


def test_water_looks_unlike_fields(scene):
    """The picture shows what the truth says: classes differ in colour or brightness."""
    middle = {code: np.median(scene.image[:, scene.mask == code], axis=1) for code in (1, 2, 3)}
    assert np.abs(middle[1] - middle[3]).max() > 12
    assert np.abs(middle[2] - middle[3]).max() > 12


@pytest.mark.parametrize(
    ("seed", "size", "gsd_m"), [(-1, 256, 0.5), (0, 16, 0.5), (0, 256, 0.01), (0, 256, 9.0), (0, 256, float("nan"))]
)
def test_refuses_what_it_cannot_render(seed, size, gsd_m):
    with pytest.raises(SettingsError, match="expected seed"):
        render(seed, size=size, gsd_m=gsd_m)


def test_label_samples_pixel_centres():
    square = shapely.box(1.4, 1.6, 3.4, 3.7)
    numbers = label(edges_of([square, shapely.box(4, 0, 5, 1)], [7, 9]), 5, 5)
    expected = rasterize([(square, 7), (shapely.box(4, 0, 5, 1), 9)], out_shape=(5, 5), dtype=np.int32)
    assert np.array_equal(numbers, expected)


def test_label_leaves_holes():
    ring = shapely.box(0, 0, 6, 6).difference(shapely.box(2, 2, 4, 4))
    numbers = label(edges_of([ring], [3]), 6, 6)
    assert numbers[3, 3] == 0
    assert np.count_nonzero(numbers == 3) == 32


def test_paint_covers_areas():
    triangle = np.array([[(1.25, 1.0), (3.75, 1.0), (1.25, 3.0)]])
    cover, colours = paint(edges_of_rings(triangle, [[10.0, 200.0]]), 5, 6)
    assert cover.shape == (5, 6)
    assert cover.sum() == pytest.approx(2.5, abs=1e-5)
    assert np.allclose(colours[0][cover > 0.1], 10, atol=1e-3)
    assert np.allclose(colours[1][cover > 0.1], 200, atol=1e-2)


def test_paint_cuts_at_the_rim():
    cover, _ = paint(edges_of([shapely.box(-50, -50, 50, 50)], np.zeros((1, 0))), 8, 7)
    assert (cover == 1).all()
    cover, _ = paint(edges_of([shapely.box(20, 20, 30, 30)], np.zeros((1, 0))), 8, 7)
    assert (cover == 0).all()


def test_noise_is_even():
    noise = fractal(np.random.default_rng(5), 256, 0.5, coarse_m=30, fine_m=1.0)
    assert abs(noise.mean()) < 0.3
    assert 0.5 < noise.std() < 1.6
