from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import zarr
from affine import Affine
from rio_cogeo import cog_validate

from geoseg.errors import OutputError, SettingsError
from geoseg.export import cog, tiff
from geoseg.export.cog import write_cog
from geoseg.export.overviews import halve, make_levels

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
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
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


@pytest.mark.parametrize(("rows", "cols"), [(1, 1500), (1500, 1), (513, 40), (1025, 1026), (2049, 1027)])
@pytest.mark.parametrize("resampling", ["mode", "average"])
def test_overviews_have_the_sizes_of_gdaladdo_and_are_made_one_of_the_other(tmp_path, rows, cols, resampling):
    path, pixels = tmp_path / "mask.tif", np.random.default_rng(0).integers(0, 5, (rows, cols), dtype=np.uint8)
    pixels[pixels == 4] = 255
    write_cog(path, pixels, **GRID, overview_resampling=resampling)
    with rasterio.open(path) as raster:
        factors = [2, 4, 8][: len(raster.overviews(1))]
    rasterio.shutil.copy(path, tmp_path / "gdal.tif", driver="GTiff")
    with rasterio.open(tmp_path / "gdal.tif", "r+") as raster:
        raster.build_overviews(factors)
    for level in range(len(factors)):
        assert max(pixels.shape) > 512
        pixels = halve(pixels, nodata=255, average=resampling == "average")
        with rasterio.open(tmp_path / "gdal.tif", overview_level=level) as raster:
            assert raster.shape == pixels.shape
        with rasterio.open(path, overview_level=level) as raster:
            assert (raster.nodata, raster.block_shapes) == (255, [(512, 512)])
            np.testing.assert_array_equal(raster.read(1), pixels)
    assert max(pixels.shape) <= 512


def test_overviews_keep_the_colours(tmp_path):
    write_cog(tmp_path / "mask.tif", codes(600, 600), **GRID, colours=COLOURS)
    with rasterio.open(tmp_path / "mask.tif", overview_level=0) as overview:
        assert overview.colorinterp[0].name == "palette"
        assert overview.colormap(1)[3] == COLOURS[3]


@pytest.mark.parametrize("limit", [2**32, 1000])
def test_blocks_lie_as_the_file_promises(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(tiff, "_CLASSIC_LIMIT", limit)
    path, mask = tmp_path / "mask.tif", codes(1100, 1700)
    write_cog(path, mask, **GRID, colours=COLOURS, description="class", tags={"A": "B"})
    assert cog_validate(path, strict=True) == (True, [], [])
    content = path.read_bytes()
    assert content[:4] == (b"II*\0" if limit == 2**32 else b"II+\0")
    with rasterio.open(path) as raster:
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert (raster.tags()["A"], raster.descriptions, raster.crs.to_epsg()) == ("B", ("class",), 32632)
        np.testing.assert_array_equal(raster.read(1), mask)
        end = len(content)
        # from the end of the file to its beginning
        for overview, grid in ((None, (3, 4)), (0, (2, 2)), (1, (1, 1))):
            for row, col in reversed(list(np.ndindex(grid))):
                start, size = (
                    int(raster.get_tag_item(f"BLOCK_{what}_{col}_{row}", dm="TIFF", bidx=1, ovr=overview))
                    for what in ("OFFSET", "SIZE")
                )
                assert start + size + 4 == end
                assert content[start - 4 : start] == size.to_bytes(4, "little")
                assert content[end - 8 : end - 4] == content[end - 4 : end]
                end = start - 4


def test_a_crs_without_keys_of_geotiff_lies_in_the_side_file(tmp_path):
    path, pole = tmp_path / "mask.tif", "+proj=ob_tran +o_proj=longlat +o_lon_p=-162 +o_lat_p=39 +lon_0=180"
    for categories in ({}, CATEGORIES):
        write_cog(path, codes(9, 9), transform=GRID["transform"], crs=pole, categories=categories)
        with rasterio.open(path) as raster:
            assert "o_lon_p" in raster.crs.to_wkt()
        assert category_names(path) == list(categories.values())


def test_bytes_depend_on_the_pixels_only(tmp_path):
    mask = codes(1300, 1100)
    given = {
        "array": mask,
        "small chunks": zarr.create_array({}, data=mask, chunks=(100, 300)),
        "large chunks": zarr.create_array({}, data=mask, chunks=(1300, 700)),
    }
    written = set()
    for name, data in given.items():
        path = tmp_path / f"{name}.tif"
        for _ in range(2):
            write_cog(path, data, **GRID, colours=COLOURS, categories=CATEGORIES)
            written.add(path.read_bytes())
    assert len(written) == 1


def test_several_threads_write_at_once(tmp_path):
    mask = codes(1300, 1100)

    def write(number):
        write_cog(tmp_path / f"{number}.tif", mask, **GRID, overview_resampling=("mode", "average")[number % 2])
        return (tmp_path / f"{number}.tif").read_bytes()

    with ThreadPoolExecutor(4) as threads:
        written = list(threads.map(write, range(12)))
    assert set(written) == {write(0), write(1)}


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


NOISE = np.random.default_rng(0).integers(0, 5, (900, 1100)).astype(np.uint8)


def test_a_disk_that_is_full_at_any_moment_is_an_output_error_and_leaves_nothing(tmp_path):
    resource = pytest.importorskip("resource")
    write_cog(tmp_path / "mask.tif", NOISE, **GRID)
    whole = (tmp_path / "mask.tif").stat().st_size
    (tmp_path / "mask.tif").unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 1, *range(20_000, whole, 40_000), whole - 4000, whole - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(OutputError, match=r"cannot write .*mask\.tif: File too large"):
                write_cog(tmp_path / "mask.tif", NOISE, **GRID)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list(tmp_path.iterdir()) == []


def test_a_small_disk_holds_the_whole_file_or_nothing(tmp_path):
    write_cog(tmp_path / "mask.tif", NOISE, **GRID, categories=CATEGORIES)
    whole = (tmp_path / "mask.tif").read_bytes()
    disk, held = tmp_path / "disk", []
    disk.mkdir()
    for percent in (1, 10, 50, 90, 110, 150, 190, 200, 205, 300):  # while it is written, there is a draft beside it
        size = len(whole) * percent // 100
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("no file system of a given size can be mounted here")
        try:
            write_cog(disk / "mask.tif", NOISE, **GRID, categories=CATEGORIES)
            assert (disk / "mask.tif").read_bytes() == whole
            assert category_names(disk / "mask.tif") == list(CATEGORIES.values())
            held.append(percent)
        except OutputError:
            assert list(disk.iterdir()) == []
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    assert 300 in held
    assert not set(held) & {1, 10, 50, 90, 110, 150}


def test_blocks_that_are_missing_are_an_output_error(tmp_path, monkeypatch):
    def without_the_last(*args, **kwargs):
        *levels, _ = make_levels(*args, **kwargs)
        return levels

    monkeypatch.setattr(cog, "make_levels", without_the_last)
    with pytest.raises(OutputError, match=r"cannot write .*mask\.tif: there are blocks without pixels"):
        write_cog(tmp_path / "mask.tif", NOISE, **GRID)
    assert list(tmp_path.iterdir()) == []


def test_a_draft_that_lost_its_end_is_an_output_error(tmp_path, monkeypatch):
    add = cog._Draft.add

    def add_and_lose(self, *window):
        add(self, *window)
        self._file.truncate(self._file.tell() - 1)

    monkeypatch.setattr(cog._Draft, "add", add_and_lose)
    with pytest.raises(OutputError, match=r"cannot write .*mask\.tif: \d+ of \d+ bytes are on the disk"):
        write_cog(tmp_path / "mask.tif", NOISE, **GRID)
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_gdal_leaves_out_is_an_output_error(tmp_path, monkeypatch):
    monkeypatch.setitem(cog._PROFILE, "sparse_ok", True)
    with pytest.raises(OutputError, match=r"cannot write .*mask\.tif: GDAL compressed 0 blocks of 3"):
        write_cog(tmp_path / "mask.tif", np.pad(NOISE, ((512, 0), (0, 0))), **GRID)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (
            np.zeros((4, 4), np.uint8),
            {"overview_resampling": "nearest"},
            SettingsError,
            "'nearest' is not known; use one of mode, average",
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
