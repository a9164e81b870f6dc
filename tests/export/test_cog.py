from __future__ import annotations

from xml.etree import ElementTree as ET

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import zarr
from affine import Affine
from rio_cogeo import cog_validate

from geoseg.errors import OutputError, SettingsError
from geoseg.export import cog
from geoseg.export.cog import write_cog

GRID = {"transform": Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000), "crs": "EPSG:32632"}
COLOURS = {0: (0, 0, 0, 0), 1: (30, 90, 200, 255), 3: (120, 170, 40, 255)}
CATEGORIES = {0: "background", 1: "water", 2: "road", 3: "field", 4: "wäter & <park>"}


def codes(rows, cols, seed=0):
    """A mask of patches, with nodata in a corner when it is large enough."""
    mask = np.random.default_rng(seed).integers(0, 5, (rows // 16 + 1, cols // 16 + 1)).astype(np.uint8)
    mask = np.kron(mask, np.ones((16, 16), np.uint8))[:rows, :cols]
    mask[: rows // 3, : cols // 2] = 255
    return mask


class Reads:
    """An array that notes the windows that are read of it."""

    dtype = np.dtype("uint8")

    def __init__(self, pixels, fail_from_row=None):
        self.pixels, self.shape, self.fail_from_row, self.sizes = pixels, pixels.shape, fail_from_row, []

    def __getitem__(self, key):
        block = self.pixels[key]
        self.sizes.append(block.size)
        if self.fail_from_row is not None and key[0].start >= self.fail_from_row:
            raise ConnectionError("the store went away")
        return block


def category_names(path):
    """The names that GDAL itself gives for the band, seen through a VRT that GDAL makes of the file."""
    vrt = path.with_suffix(".vrt")
    rasterio.shutil.copy(path, vrt, driver="VRT")
    names = [entry.text or "" for entry in ET.parse(vrt).getroot().iter("Category")]
    vrt.unlink()
    return names


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 1500), (37, 20), (512, 512), (511, 513), (700, 1300)])
@pytest.mark.parametrize("resampling", ["mode", "average"])
def test_is_a_strictly_valid_cog_with_the_same_pixels(tmp_path, rows, cols, resampling):
    path, mask = tmp_path / "mask.tif", codes(rows, cols)
    write_cog(path, mask, **GRID, overview_resampling=resampling)
    assert cog_validate(path, strict=True) == (True, [], [])
    with rasterio.open(path) as raster:
        np.testing.assert_array_equal(raster.read(1), mask)
        assert (raster.transform, raster.crs.to_epsg(), raster.nodata) == (GRID["transform"], 32632, 255)
        assert raster.block_shapes == [(512, 512)]
        assert raster.compression.name == "deflate"
        assert bool(raster.overviews(1)) == (max(rows, cols) > 512)
        structure = raster.tags(ns="IMAGE_STRUCTURE")
        assert structure["LAYOUT"] == "COG"
        # differences of neighbours say something of confidences, nothing of codes
        assert structure.get("PREDICTOR") == ("2" if resampling == "average" else None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mask.tif"]


def test_colours_names_description_and_tags_come_back(tmp_path):
    path = tmp_path / "mask.tif"
    write_cog(
        path,
        codes(600, 40),
        **GRID,
        colours=COLOURS,
        categories=CATEGORIES,
        description="class of the pixel é",
        tags={"TIFFTAG_DATETIME": "2024:06:30 10:15:00", "GEOSEG_MODEL": "ü"},
    )
    assert category_names(path) == list(CATEGORIES.values())
    path.with_name("mask.tif.aux.xml").unlink()  # the rest lies inside the file
    assert cog_validate(path, strict=True)[0]
    with rasterio.open(path) as raster:
        table = raster.colormap(1)
        assert {code: table[code] for code in (1, 3)} == {code: COLOURS[code] for code in (1, 3)}
        assert table[255][3] == 0  # nodata is transparent
        assert raster.colorinterp[0].name == "palette"
        assert raster.descriptions == ("class of the pixel é",)
        assert raster.tags()["TIFFTAG_DATETIME"] == "2024:06:30 10:15:00"
        assert raster.tags()["GEOSEG_MODEL"] == "ü"
        assert raster.tags(1) == {f"CATEGORY_{code}": name for code, name in CATEGORIES.items()}


def test_gaps_between_category_codes_have_empty_names(tmp_path):
    write_cog(tmp_path / "mask.tif", codes(9, 9), **GRID, categories={3: "field", 1: "water"})
    assert category_names(tmp_path / "mask.tif") == ["", "water", "", "field"]


def test_a_new_file_does_not_inherit_the_names_of_an_old_one(tmp_path):
    path = tmp_path / "mask.tif"
    write_cog(path, codes(9, 9), **GRID, categories=CATEGORIES)
    write_cog(path, codes(9, 9), **GRID)
    assert category_names(path) == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["mask.tif"]


def test_mode_overviews_hold_the_commonest_code_that_is_not_nodata(tmp_path):
    quad = np.array([[1, 1, 255, 255], [1, 4, 255, 3], [255, 255, 2, 0], [255, 255, 0, 0]], np.uint8)
    write_cog(tmp_path / "mask.tif", np.tile(quad, (200, 200)), **GRID, overview_resampling="mode")
    with rasterio.open(tmp_path / "mask.tif", overview_level=0) as overview:
        pixels = overview.read(1)
    np.testing.assert_array_equal(pixels, np.tile(np.array([[1, 3], [255, 0]]), (200, 200)))


def test_average_overviews_leave_nodata_out(tmp_path):
    quad = np.array([[10, 20, 255, 255], [30, 40, 255, 200], [255, 255, 0, 0], [255, 255, 0, 254]], np.uint8)
    write_cog(tmp_path / "confidence.tif", np.tile(quad, (200, 200)), **GRID, overview_resampling="average")
    with rasterio.open(tmp_path / "confidence.tif", overview_level=0) as overview:
        pixels = overview.read(1)
    expected = np.tile(np.array([[25, 200], [255, 63.5]]), (200, 200))
    assert np.abs(pixels - expected).max() <= 0.5


def test_bytes_depend_on_the_pixels_only(tmp_path):
    mask = codes(1300, 1100)
    given = {
        "array": mask,
        "small chunks": zarr.create_array({}, data=mask, chunks=(100, 300)),
        "large chunks": zarr.create_array({}, data=mask, chunks=(1300, 700)),
    }
    written = set()
    for name, data in given.items():
        for threads in (1, 2):
            path = tmp_path / f"{name} {threads}.tif"
            write_cog(path, data, **GRID, colours=COLOURS, categories=CATEGORIES, threads=threads)
            written.add(path.read_bytes())
    assert len(written) == 1


def test_reads_windows_never_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(cog, "_READ_PIXELS", 1024 * 512)
    data = Reads(codes(1500, 2100))
    write_cog(tmp_path / "mask.tif", data, **GRID)
    assert max(data.sizes) <= 1024 * 512
    assert sum(data.sizes) == data.pixels.size
    with rasterio.open(tmp_path / "mask.tif") as raster:
        np.testing.assert_array_equal(raster.read(1), data.pixels)


def test_a_failing_source_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "mask.tif"
    path.write_bytes(b"old")
    with pytest.raises(ConnectionError, match="went away"):
        write_cog(path, Reads(codes(1100, 30), fail_from_row=512), **GRID, categories=CATEGORIES)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mask.tif"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("limit", [20_000, 230_000, 290_000])
def test_a_full_disk_is_an_output_error_and_leaves_nothing(tmp_path, limit):
    resource = pytest.importorskip("resource")
    noise = np.random.default_rng(0).integers(0, 5, (900, 900)).astype(np.uint8)  # the draft takes 300 kB
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*mask\.tif"):
            write_cog(tmp_path / "mask.tif", noise, **GRID)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (
            np.zeros((4, 4), np.uint8),
            {"overview_resampling": "median"},
            SettingsError,
            "'median' is not known; use one of",
        ),
        (
            np.zeros((4, 4), np.uint8),
            {"categories": {256: "x"}},
            SettingsError,
            "code 256 of mask.tif is outside 0-255",
        ),
        (np.zeros((4, 4), np.uint8), {"nodata": -1}, SettingsError, "code -1 of mask.tif is outside 0-255"),
        (np.zeros((4, 4), np.int16), {}, OutputError, r"wanted \(rows, cols\) uint8, given \(4, 4\) int16"),
        (np.zeros((1, 4, 4), np.uint8), {}, OutputError, r"given \(1, 4, 4\) uint8"),
        (np.zeros((0, 4), np.uint8), {}, OutputError, r"given \(0, 4\) uint8"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, data, options, error, message):
    with pytest.raises(error, match=message):
        write_cog(tmp_path / "mask.tif", data, **GRID, **options)
    assert list(tmp_path.iterdir()) == []
