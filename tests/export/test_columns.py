"""Arrow's arrays of what NumPy and Python hold: as Arrow makes them, without pandas."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import rasterio
from affine import Affine

from geoseg.export.columns import numbers_of, objects_of, of_numbers, of_texts, repeated, text

NAN = float("nan")


@pytest.mark.parametrize(
    "values",
    [
        np.array([3, 1, 255], np.uint8),
        np.array([3, -1], np.int32),
        np.arange(10)[::-2],
        np.arange(12.0).reshape(3, 4)[:, 1],
        np.array([True, False, True] * 7),
        np.array([0.5, NAN, 2.0] * 5),
        np.zeros(0),
        np.zeros(0, np.bool_),
    ],
    ids=lambda values: f"{values.dtype}-{values.size}",
)
def test_numbers_are_as_arrow_makes_them(values):
    found = of_numbers(values)
    found.validate(full=True)
    assert found.equals(pa.array(values, from_pandas=True))


def test_numbers_in_another_machines_order_of_bytes():
    assert of_numbers(np.array([1, 2], ">i4")).to_pylist() == [1, 2]


def test_numbers_come_back_from_any_part_of_an_array():
    column = of_numbers(np.arange(10))
    np.testing.assert_array_equal(numbers_of(column[3:7]), np.arange(3, 7))
    assert numbers_of(column[10:]).size == 0
    assert numbers_of(pa.nulls(0, pa.float64())).dtype == np.float64


def test_numbers_with_gaps_do_not_come_back():
    with pytest.raises(ValueError, match="1 of 2 numbers are null"):
        numbers_of(of_numbers(np.array([1.0, NAN])))


@pytest.mark.parametrize("values", [["a", "", "Straße", "道路"], []])
def test_texts_are_as_arrow_makes_them(values):
    found = of_texts(values)
    found.validate(full=True)
    assert found.equals(pa.array(values, pa.string()))


def test_a_text_alone():
    assert text("Straße").equals(pa.scalar("Straße"))


VALUES = pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("road", pa.string()),
        (None, pa.string()),
        (None, pa.timestamp("ms", tz="UTC")),
        (dt.datetime(2024, 6, 30, 10, 15, 0, 123456, tzinfo=dt.UTC), pa.timestamp("ms", tz="UTC")),
        (dt.datetime(1960, 6, 30, 10, 15, 0, 999999, tzinfo=dt.UTC), pa.timestamp("ms", tz="UTC")),
    ],
)


@VALUES
def test_objects_come_back(value, kind):
    column = repeated(value, 2, kind)
    assert objects_of(column) == column.to_pylist()


@VALUES
@pytest.mark.parametrize("count", [0, 3])
def test_a_value_repeated_is_as_arrow_makes_it(value, kind, count):
    found = repeated(value, count, kind)
    found.validate(full=True)
    assert found.equals(pa.repeat(pa.scalar(value, kind), count))


def test_layers_are_made_without_pandas(tmp_path):
    codes = np.zeros((64, 64), np.uint8)
    codes[8:40, 8:40], codes[16:30, 16:30], codes[50:60, 3:60] = 1, 2, 3
    place = {"crs": "EPSG:32614", "transform": Affine(0.6, 0, 7e5, 0, -0.6, 4.5e6)}
    with rasterio.open(
        tmp_path / "mask.tif", "w", driver="GTiff", width=64, height=64, count=1, dtype="uint8", **place
    ) as raster:
        raster.update_tags(TIFFTAG_DATETIME="2024:06:30 10:15:00")
        raster.write(codes, 1)
    code = (
        "import sys, geoseg; result = geoseg.vectorize(sys.argv[1], sys.argv[2]); "
        "assert sum(layer.polygons for layer in result.layers.values()) == 3; print('pandas' in sys.modules)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "mask.tif"), str(tmp_path / "layers")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == ["False"]
    assert {path.suffix for path in (tmp_path / "layers").glob("class_*")} == {".geojson", ".parquet"}
