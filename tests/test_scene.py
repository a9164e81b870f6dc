"""Scenes: the header, validity, mirrored edges, bands, other grids, and many readers at once."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT

from geoseg.errors import ReadError, SceneError, SettingsError
from geoseg.lattice import Window
from geoseg.scene import Scene

RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def pixels(rng):
    return rng.integers(1, 256, (3, 90, 70), dtype=np.uint8)


def one_line(caught):
    return "\n" not in str(caught.value) and str(caught.value)


class TestOpen:
    def test_says_what_the_header_says(self, write_raster, pixels):
        path = write_raster(pixels, nodata=0, descriptions=("Red", "", ""), colours=RGB)
        scene = Scene.open(path)
        assert scene.path == str(path)
        assert (scene.height, scene.width, scene.window) == (90, 70, Window(0, 0, 70, 90))
        assert scene.transform == Affine(0.5, 0, 500_000, 0, -0.5, 5_200_000)
        assert scene.crs.to_epsg() == 32614
        assert (scene.dtype, scene.gsd_m, scene.native_gsd_m, scene.datetime) == ("uint8", 0.5, 0.5, None)
        first = scene.bands[0]
        assert (first.index, first.name, first.common_name) == (1, "Red", "red")
        assert (first.dtype, first.nodata) == ("uint8", 0)
        assert [band.common_name for band in scene.bands] == ["red", "green", "blue"]

    def test_a_relative_path_survives_a_change_of_folder(self, write_raster, pixels, monkeypatch):
        path = write_raster(pixels)
        monkeypatch.chdir(path.parent)
        scene = Scene.open(path.name)
        monkeypatch.chdir("/")
        assert (scene.read(scene.window, (1, 2, 3))[0] == pixels).all()

    def test_gdals_virtual_files(self, write_raster, pixels, tmp_path):
        with zipfile.ZipFile(tmp_path / "scene.zip", "w") as archive:
            archive.write(write_raster(pixels, overviews=(2,)), "scene.tif")
        for name in (f"/vsizip/{tmp_path}/scene.zip/scene.tif", f"zip://{tmp_path}/scene.zip!scene.tif"):
            scene = Scene.open(name)
            assert scene.path == name
            assert (scene.read(scene.window, (1, 2, 3))[0] == pixels).all()
            assert scene.at_gsd(1.0).read(Window(0, 0, 5, 6), (1,))[0].shape == (1, 6, 5)
        with pytest.raises(SceneError, match="cannot be opened as a raster"):
            Scene.open(f"/vsizip/{tmp_path}/scene.zip/other.tif")

    def test_reads_only_the_header(self, write_raster, pixels):
        path = write_raster(pixels)
        path.write_bytes(path.read_bytes()[:-10_000])  # pixels are missing
        scene = Scene.open(path)
        assert scene.width == 70
        with pytest.raises(ReadError, match=r"Window\(.*\) cannot be read") as caught:
            scene.read(scene.window, (1,))
        assert one_line(caught)

    @pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float64"])
    def test_types(self, write_raster, dtype):
        scene = Scene.open(write_raster(np.full((2, 3), 100, dtype), nodata=100 if dtype == "int16" else None))
        found, valid = scene.read(scene.window, (1,))
        assert found.dtype == scene.dtype == dtype
        assert (found == 100).all()
        assert valid.all() == (dtype != "int16")

    def test_when_it_was_taken(self, write_raster, pixels):
        path = write_raster(pixels, tags={"TIFFTAG_DATETIME": "2018:07:16 12:30:00"})
        assert Scene.open(path).datetime == "2018-07-16T12:30:00Z"
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(ns="IMAGERY", ACQUISITIONDATETIME="2017-08-27 17:00:00")
        assert Scene.open(path).datetime == "2017-08-27T17:00:00Z"
        path = write_raster(pixels, "other.tif", tags={"TIFFTAG_DATETIME": "last summer"})
        assert Scene.open(path).datetime is None


class TestRefusals:
    """Each in one line, without a word of GDAL's or a warning on the way."""

    def test_no_such_file(self, tmp_path):
        with pytest.raises(SceneError, match=r"nothing\.tif: no such file$"):
            Scene.open(str(tmp_path / "nothing.tif"))

    def test_a_text_file(self, tmp_path):
        path = tmp_path / "text.tif"
        path.write_text("not\na\nraster")
        with pytest.raises(SceneError, match=r"text\.tif: cannot be opened as a raster") as caught:
            Scene.open(path)
        assert one_line(caught)

    def test_a_folder(self, tmp_path):
        with pytest.raises(SceneError, match="cannot be opened as a raster") as caught:
            Scene.open(tmp_path)
        assert one_line(caught)

    def test_a_url_goes_to_gdal_and_its_signature_nowhere_else(self):
        with pytest.raises(SceneError, match=r"^http://127\.0\.0\.1:9/scene\.tif: cannot be opened") as caught:
            Scene.open("http://127.0.0.1:9/scene.tif?sig=secret")
        assert "secret" not in one_line(caught)

    def test_no_crs(self, write_raster, pixels):
        with pytest.raises(SceneError, match=r"no CRS; set it first"):
            Scene.open(write_raster(pixels, crs=None))

    def test_a_crs_that_is_nowhere_on_earth(self, write_raster, pixels):
        crs = 'LOCAL_CS["site grid",UNIT["metre",1]]'
        with pytest.raises(SceneError, match="neither projected nor geographic"):
            Scene.open(write_raster(pixels, crs=crs))

    @pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # of writing it
    def test_no_geotransform(self, write_raster, pixels):
        path = write_raster(pixels, transform=None)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(SceneError, match="no geotransform; a georeferenced raster is expected"):
                Scene.open(path)

    @pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
    def test_only_control_points(self, write_raster, pixels):
        path = write_raster(pixels, transform=None)
        points = [GroundControlPoint(r, c, 5e5 + c, 5e6 - r) for r, c in ((0, 0), (0, 60), (80, 0), (80, 60))]
        with rasterio.open(path, "r+") as dataset:
            dataset.gcps = (points, dataset.crs)
        with pytest.raises(SceneError, match="only ground control points"):
            Scene.open(path)

    def test_metres_under_a_crs_of_degrees(self, write_raster, pixels):
        with pytest.raises(SceneError, match="its coordinates lie nowhere in its CRS"):
            Scene.open(write_raster(pixels, crs="EPSG:4326"))

    def test_far_off_the_earth(self, write_raster, pixels):
        with pytest.raises(SceneError, match="its coordinates lie nowhere in its CRS"):
            Scene.open(write_raster(pixels, transform=Affine(1, 0, 5e9, 0, -1, 5e6)))

    def test_complex_numbers(self, write_raster):
        with pytest.raises(SceneError, match="bands of type complex64; whole or real numbers"):
            Scene.open(write_raster(np.zeros((4, 4), np.complex64)))

    def test_bands_of_two_types(self, write_raster, tmp_path):
        one = write_raster(np.zeros((4, 4), np.uint8), "one.tif")
        two = write_raster(np.zeros((4, 4), np.uint16), "two.tif")
        vrt = tmp_path / "both.vrt"
        band = '<VRTRasterBand dataType="{}" band="{}"><SimpleSource><SourceFilename>{}</SourceFilename></SimpleSource>'
        vrt.write_text(
            '<VRTDataset rasterXSize="4" rasterYSize="4"><SRS>EPSG:32614</SRS>'
            "<GeoTransform>5e5,1,0,5e6,0,-1</GeoTransform>"
            + "".join(band.format(*b) + "</VRTRasterBand>" for b in (("Byte", 1, one), ("UInt16", 2, two)))
            + "</VRTDataset>"
        )
        with pytest.raises(SceneError, match=r"bands of different types \(uint16, uint8\)"):
            Scene.open(vrt)

    def test_nothing_on_stderr(self, tmp_path, write_raster, pixels):
        """A process of its own: under pytest the logs would be caught."""
        text = tmp_path / "text.tif"
        text.write_text("no raster")
        cut = write_raster(pixels, "cut.tif")
        cut.write_bytes(cut.read_bytes()[:-10_000])
        good = write_raster(pixels)
        bare = write_raster(pixels, "bare.tif", crs=None)
        script = f"""
from geoseg.scene import Scene
from geoseg.errors import ReadError, SceneError
for path in {[str(p) for p in (text, tmp_path, cut, bare, good)]}:
    try:
        scene = Scene.open(path)
        scene.read(scene.window, (1,))
        print("read")
    except (ReadError, SceneError):
        print("refused")
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["refused"] * 4 + ["read"]
        assert not done.stderr

    def test_a_file_that_changed(self, write_raster, pixels):
        scene = Scene.open(write_raster(pixels))
        write_raster(pixels[:, :50])
        with pytest.raises(SceneError, match="has changed since the scene was opened"):
            scene.read(Window(0, 0, 5, 5), (1,))

    @pytest.mark.parametrize("indexes", [(), (0,), (4,), (-1,)])
    def test_bands_that_are_not_there(self, write_raster, pixels, indexes):
        scene = Scene.open(write_raster(pixels))
        with pytest.raises(SceneError, match="it has 3 bands"):
            scene.read(scene.window, indexes)


class TestGsd:
    """Metres on the ground, checked against geodesics by another road."""

    def gsd(self, write_raster, **facts):
        return Scene.open(write_raster(np.zeros((40, 60), np.uint8), **facts)).gsd_m

    def test_metres(self, write_raster):
        assert self.gsd(write_raster, transform=Affine(0.3, 0, 5e5, 0, -0.3, 5e6)) == pytest.approx(0.3, rel=1e-12)

    def test_us_survey_feet(self, write_raster):
        transform = Affine(2, 0, 2_000_000, 0, -2, 700_000)
        assert self.gsd(write_raster, crs="EPSG:2263", transform=transform) == pytest.approx(2 * 1200 / 3937, rel=1e-9)

    def test_degrees(self, write_raster):
        transform = Affine(1e-4, 0, 25, 0, -1e-4, 60.002)  # 60 degrees north at the centre
        scene = Scene.open(write_raster(np.zeros((40, 60), np.uint8), crs="EPSG:4326", transform=transform))
        geod = pyproj.Geod(ellps="WGS84")
        wide, high = (geod.inv(25, 59.99995, *there)[2] for there in ((25.0001, 59.99995), (25, 60.00005)))
        assert scene.pixel_m == pytest.approx((wide, high), rel=1e-5)
        assert scene.gsd_m == pytest.approx(np.sqrt(wide * high), rel=1e-5)
        assert scene.pixel_m == pytest.approx((5.58, 11.14), rel=1e-3)  # from tables

    def test_rotated_and_oblong(self, write_raster):
        transform = Affine.translation(5e5, 5e6) @ Affine.rotation(30) @ Affine.scale(0.4, -0.9)
        scene = Scene.open(write_raster(np.zeros((40, 60), np.uint8), transform=transform))
        assert scene.gsd_m == pytest.approx(0.6, rel=1e-9)
        assert scene.pixel_m == pytest.approx((0.4, 0.9), rel=1e-9)

    def test_web_mercator_is_not_taken_at_its_word(self, write_raster):
        """At 60 degrees north one of its metres is half a metre on the ground."""
        x, y = pyproj.Transformer.from_crs(4326, 3857, always_xy=True).transform(25, 60)
        assert self.gsd(write_raster, crs="EPSG:3857", transform=Affine(1, 0, x, 0, -1, y)) == pytest.approx(
            0.5, rel=0.01
        )


class TestValidity:
    def read(self, path, indexes=None):
        scene = Scene.open(path)
        return scene.read(scene.window, indexes or tuple(band.index for band in scene.bands))

    def test_all_valid(self, write_raster, pixels):
        found, valid = self.read(write_raster(pixels))
        assert (found == pixels).all()
        assert valid.all()

    def test_nodata_only_where_every_selected_band_holds_it(self, write_raster, pixels):
        pixels[:, 0, 0] = 0
        pixels[:2, 0, 1] = 0
        pixels[2, 0, 2] = 0
        path = write_raster(pixels, nodata=0)
        assert self.read(path)[1][0, :3].tolist() == [False, True, True]
        assert self.read(path, (1, 2))[1][0, :3].tolist() == [False, False, True]
        assert self.read(path, (3,))[1][0, :3].tolist() == [False, True, False]
        assert self.read(path)[1].sum() == 90 * 70 - 1

    @pytest.mark.parametrize("nodata", [-9999.0, 300.0, 0.5, float("nan")])
    def test_a_nodata_value_that_the_type_cannot_hold(self, write_raster, tmp_path, pixels, nodata):
        source = write_raster(pixels)
        vrt = tmp_path / "scene.vrt"
        vrt.write_text(
            '<VRTDataset rasterXSize="70" rasterYSize="90"><SRS>EPSG:32614</SRS>'
            f'<GeoTransform>5e5,1,0,5e6,0,-1</GeoTransform><VRTRasterBand dataType="Byte" band="1">'
            f"<NoDataValue>{nodata}</NoDataValue><SimpleSource><SourceFilename>{source}</SourceFilename></SimpleSource>"
            "</VRTRasterBand></VRTDataset>"
        )
        assert self.read(vrt)[1].all()

    def test_nodata_of_float32_that_decimals_do_not_hold(self, write_raster, rng):
        values = rng.random((8, 9), np.float32)
        values[2, 3] = -3.4028235e38
        values[2, 4] = np.float32(-9999.9)
        path = write_raster(values, nodata=-3.4028234663852886e38)
        assert np.argwhere(~self.read(path)[1]).tolist() == [[2, 3]]
        path = write_raster(values, "other.tif", nodata=-9999.9)
        assert np.argwhere(~self.read(path)[1]).tolist() == [[2, 4]]

    def test_nan_in_any_band(self, write_raster, rng):
        values = rng.random((2, 8, 9), np.float32)
        values[0, 1, 2] = np.nan
        values[1, 3, 4] = np.inf
        for nodata in (None, float("nan")):
            found, valid = self.read(write_raster(values, nodata=nodata))
            assert np.argwhere(~valid).tolist() == [[1, 2], [3, 4]]
            assert np.isfinite(found).all()
            assert (found[0, 1, 2], found[1, 3, 4]) == (0, 0)
            assert found[1, 1, 2] == values[1, 1, 2]

    def test_a_mask_inside_the_file(self, write_raster, pixels, rng):
        mask = rng.random((90, 70)) < 0.5
        assert (self.read(write_raster(pixels, mask=mask))[1] == mask).all()

    def test_a_mask_beside_the_file(self, write_raster, pixels, rng):
        mask = rng.random((90, 70)) < 0.5
        path = write_raster(pixels)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dataset:
            dataset.write_mask(mask.astype(np.uint8) * 255)
        assert Path(f"{path}.msk").exists()
        assert (self.read(path)[1] == mask).all()

    def test_alpha(self, write_raster, pixels, rng):
        alpha = rng.integers(0, 3, (90, 70), dtype=np.uint8)
        path = write_raster(np.concatenate([pixels, alpha[None]]), colours=(*RGB, ColorInterp.alpha))
        found, valid = self.read(path, (3, 1))
        assert (found == pixels[[2, 0]]).all()
        assert (valid == (alpha > 0)).all()
        assert self.read(path, (1, 2, 3, 4))[1].all(), "a selected band is data"

    def test_alpha_and_nodata_count_both(self, write_raster, pixels):
        alpha = np.full((90, 70), 255, np.uint8)
        alpha[0, 0] = 0
        pixels[:, 0, 1] = 9
        path = write_raster(np.concatenate([pixels, alpha[None]]), nodata=9, colours=(*RGB, ColorInterp.alpha))
        assert np.argwhere(~self.read(path, (1, 2, 3))[1]).tolist() == [[0, 0], [0, 1]]

    def test_near_infrared_tagged_as_alpha_is_no_mask(self, write_raster, pixels, rng):
        """GDAL tags the fourth of four bytes as alpha where nobody says otherwise."""
        nir = rng.integers(0, 2, (1, 90, 70), dtype=np.uint8)
        for name in ("NIR", "B08"):
            names, colours = ("B04", "B03", "B02", name), (*RGB, ColorInterp.alpha)
            path = write_raster(np.concatenate([pixels, nir]), descriptions=names, colours=colours)
            with rasterio.open(path) as dataset:
                assert dataset.colorinterp[3] == ColorInterp.alpha
            assert self.read(path, (1, 2, 3))[1].all()

    def test_a_mask_of_classes(self, write_raster, rng):
        codes = rng.choice(np.array([0, 1, 2, 3, 4, 255], np.uint8), (50, 60))
        found, valid = self.read(write_raster(codes, nodata=255))
        assert (found[0] == codes).all()
        assert (valid == (codes != 255)).all()


class TestEdges:
    @pytest.mark.parametrize("window", [Window(-20, -30, 110, 150), Window(-3, 5, 10, 10), Window(60, 85, 20, 20)])
    def test_mirrors_at_the_edge_pixel(self, write_raster, pixels, window):
        scene = Scene.open(write_raster(pixels))
        found, valid = scene.read(window, (1, 2, 3))
        padded = np.pad(pixels, ((0, 0), (60, 60), (60, 60)), mode="reflect")
        rows, cols = window.shift(60, 60).slices()
        assert (found == padded[:, rows, cols]).all()
        assert valid.all()

    @pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 1), (2, 3), (3, 2)])
    def test_mirrors_again_and_again_in_a_tiny_scene(self, write_raster, rng, shape):
        tiny = rng.integers(1, 256, (2, *shape), dtype=np.uint8)
        found, valid = Scene.open(write_raster(tiny)).read(Window(-40, -40, 100, 100), (1, 2))
        after = 60 - shape[0], 60 - shape[1]
        assert (found == np.pad(tiny, ((0, 0), (40, after[0]), (40, after[1])), mode="reflect")).all()
        assert valid.all()

    @pytest.mark.parametrize("window", [Window(-1000, -700, 30, 20), Window(500, 10, 8, 8), Window(0, 10**9, 7, 3)])
    def test_far_outside(self, write_raster, pixels, window):
        found, valid = Scene.open(write_raster(pixels)).read(window, (2,))
        assert valid.all()
        rows, cols = (
            [abs((i + n - 1) % (2 * n - 2) - (n - 1)) for i in range(start, stop)]  # a triangle wave
            for start, stop, n in (
                (window.row_off, window.row_stop, 90),
                (window.col_off, window.col_stop, 70),
            )
        )
        assert (found[0] == pixels[1][np.ix_(rows, cols)]).all()

    def test_an_empty_window(self, write_raster, pixels):
        found, valid = Scene.open(write_raster(pixels)).read(Window(3, 3, 0, 4), (1, 2))
        assert (found.shape, found.dtype, valid.shape) == ((2, 4, 0), np.uint8, (4, 0))

    def test_validity_is_mirrored_with_the_pixels(self, write_raster, pixels):
        pixels[:, 1, 1] = 0
        valid = Scene.open(write_raster(pixels, nodata=0)).read(Window(-2, -2, 6, 6), (1, 2, 3))[1]
        expected = np.ones((6, 6), bool)
        expected[np.ix_([1, 3], [1, 3])] = False
        assert (valid == expected).all()

    def test_one_small_read_for_a_window_at_the_edge(self, write_raster, pixels, monkeypatch):
        """Mirrored pixels cost nothing but the true window that they come from."""
        scene = Scene.open(write_raster(pixels))
        asked = []
        read = rasterio.DatasetReader.read

        class Spy:
            def __init__(self, path, **options):
                self.inner = opened(path, **options)

            def __getattr__(self, name):
                return getattr(self.inner, name)

            def read(self, *args, window, **options):
                asked.append(window)
                return read(self.inner, *args, window=window, **options)

        opened = rasterio.open
        monkeypatch.setattr(rasterio, "open", Spy)
        scene.read(Window(-8, 80, 16, 30), (1, 2, 3))
        assert asked == [((69, 90), (0, 9))]


class TestCrop:
    def test_moves_the_origin(self, write_raster, pixels):
        scene = Scene.open(write_raster(pixels))
        part = scene.crop(Window(10, 20, 30, 40))
        assert (part.height, part.width) == (40, 30)
        assert part.transform @ (0, 0) == scene.transform @ (10, 20)
        assert part.gsd_m == scene.gsd_m
        found, valid = part.read(part.window, (1, 2, 3))
        assert (found == pixels[:, 20:60, 10:40]).all()
        assert valid.all()
        again = part.crop(Window(5, 6, 7, 8))
        assert (again.read(again.window, (1,))[0][0] == pixels[0, 26:34, 15:22]).all()
        assert again == scene.crop(Window(15, 26, 7, 8))

    def test_sees_true_pixels_beyond_it_and_mirrors_beyond_the_raster(self, write_raster, pixels):
        scene = Scene.open(write_raster(pixels))
        part = scene.crop(Window(2, 2, 8, 8))
        for window in (Window(-2, -2, 14, 14), Window(-12, -6, 40, 90)):
            for mine, whole in zip(
                part.read(window, (1, 2, 3)), scene.read(window.shift(2, 2), (1, 2, 3)), strict=True
            ):
                assert (mine == whole).all()

    @pytest.mark.parametrize("window", [Window(0, 0, 0, 5), Window(-1, 0, 5, 5), Window(66, 0, 5, 5)])
    def test_refuses_what_sticks_out(self, write_raster, pixels, window):
        with pytest.raises(SceneError, match="a window within 70 x 90 px is expected"):
            Scene.open(write_raster(pixels)).crop(window)


class TestBounds:
    def lonlat(self, scene, *corners):
        return [
            pyproj.Transformer.from_crs(scene.crs, 4326, always_xy=True).transform(*(scene.transform @ c))
            for c in corners
        ]

    def test_the_smallest_window_over_a_box(self, write_raster, pixels):
        scene = Scene.open(write_raster(pixels))
        (west, north), (east, south) = self.lonlat(scene, (10.4, 20.4), (29.6, 39.6))
        assert scene.window_of_bounds((west, south, east, north)) == Window(10, 20, 20, 20)

    def test_edges_on_pixel_edges_add_no_pixel(self, write_raster, pixels):
        transform = Affine(1e-5, 0, 7.0, 0, -1e-5, 50.0)
        scene = Scene.open(write_raster(pixels, crs="EPSG:4326", transform=transform))
        bounds = (*(transform @ (10, 40)), *(transform @ (30, 20)))
        assert scene.window_of_bounds(bounds) == Window(10, 20, 20, 20)

    def test_its_own_bounds_are_the_scene(self, write_raster, pixels):
        rotated = Affine.translation(5e5, 5e6) @ Affine.rotation(25) @ Affine.scale(0.5, -0.5)
        for name, transform in (("north_up.tif", Affine(0.5, 0, 5e5, 0, -0.5, 5e6)), ("rotated.tif", rotated)):
            scene = Scene.open(write_raster(pixels, name, transform=transform))
            assert scene.window_of_bounds(scene.bounds_lonlat) == scene.window
            for lon, lat in self.lonlat(scene, (0, 0), (70, 0), (70, 90), (0, 90), (35, 45)):
                west, south, east, north = scene.bounds_lonlat
                assert west - 1e-9 <= lon <= east + 1e-9
                assert south - 1e-9 <= lat <= north + 1e-9

    def test_clipped_and_in_a_crop(self, write_raster, pixels):
        scene = Scene.open(write_raster(pixels))
        west, south, east, north = scene.bounds_lonlat
        assert scene.window_of_bounds((west - 1, south - 1, east + 1, north + 1)) == scene.window
        (lon, lat), *_ = self.lonlat(scene, (12.5, 33.5))
        assert scene.window_of_bounds((lon, lat, lon, lat)) == Window(12, 33, 1, 1)
        assert scene.crop(Window(10, 30, 20, 20)).window_of_bounds((lon, lat, lon, lat)) == Window(2, 3, 1, 1)

    def test_across_the_antimeridian(self, write_raster, pixels):
        transform = Affine(0.1, 0, 177.0, 0, -0.1, 4.5)  # to 184 degrees
        scene = Scene.open(write_raster(pixels, crs="EPSG:4326", transform=transform))
        assert scene.bounds_lonlat == pytest.approx((177.0, -4.5, -176.0, 4.5))
        assert scene.window_of_bounds((179, -1, -179, 1)) == Window(20, 35, 20, 20)
        assert scene.window_of_bounds((-178, -1, -177, 1)) == Window(50, 35, 10, 20)

    def test_outside(self, write_raster, pixels):
        scene = Scene.open(write_raster(pixels))
        with pytest.raises(SceneError, match=r"bounds 1, 2, 3, 4 lie outside .*scene\.tif, which covers -9") as caught:
            scene.window_of_bounds((1, 2, 3, 4))
        assert one_line(caught)

    @pytest.mark.parametrize(
        "bounds", [(1, 2, 3), (0, 50, 1, 40), (0, 0, 1, 91), (0, 0, float("nan"), 1), (500, 0, 1, 1)]
    )
    def test_no_bounds(self, write_raster, pixels, bounds):
        with pytest.raises(SettingsError, match="west, south, east, north in degrees are expected"):
            Scene.open(write_raster(pixels)).window_of_bounds(bounds)


class TestSelect:
    def test_by_number_description_and_common_name(self, write_raster, pixels):
        scene = Scene.open(write_raster(pixels, descriptions=("B4", "Green", "NIR"), colours=RGB))
        assert scene.select([3, "1", "b4", "green", "nir", "GREEN"]) == (3, 1, 1, 2, 3, 2)
        with pytest.raises(SceneError, match='no band is "blue"'):  # its name says NIR, whatever its colour tag says
            scene.select(["blue"])

    def test_by_colour_tag(self, write_raster, pixels):
        scene = Scene.open(write_raster(pixels, colours=RGB[::-1]))
        assert scene.select(["red", "green", "blue"]) == (3, 2, 1)

    def test_by_a_stac_tag(self, write_raster, pixels):
        path = write_raster(pixels)
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(2, common_name="nir08")
        assert Scene.open(path).select(["nir08"]) == (2,)

    def test_never_guesses_colours(self, write_raster, rng):
        path = write_raster(rng.integers(0, 9, (4, 5, 5), dtype=np.uint8))
        with pytest.raises(SceneError) as caught:
            Scene.open(path).select(["red", "green", "blue"])
        assert one_line(caught) == (
            f'{path}: no band is "red"; it has 4 bands: 1 (no name), 2 (no name), 3 (no name), 4 (no name); '
            "name bands by number"
        )

    def test_says_what_there_is(self, write_raster, pixels):
        scene = Scene.open(write_raster(pixels, descriptions=("B4", "", ""), colours=RGB))
        with pytest.raises(SceneError, match=r"it has 3 bands: 1 \(B4 = red\), 2 \(green\), 3 \(blue\); name bands"):
            scene.select(["swir16"])

    @pytest.mark.parametrize("wanted", [0, 4, "0", "-1", "", "1.0"])
    def test_no_such_band(self, write_raster, pixels, wanted):
        with pytest.raises(SceneError, match="no band is"):
            Scene.open(write_raster(pixels)).select([wanted])

    def test_a_name_that_two_bands_bear(self, write_raster, pixels):
        scene = Scene.open(write_raster(pixels, descriptions=("NIR", "nir", "")))
        with pytest.raises(SceneError, match='bands 1, 2 are all "nir"'):
            scene.select(["nir"])


class TestAtGsd:
    def test_the_grid(self, write_raster, pixels):
        scene = Scene.open(write_raster(pixels))
        coarse = scene.at_gsd(1.5)
        assert (coarse.height, coarse.width, coarse.gsd_m, coarse.native_gsd_m) == (30, 23, 1.5, 0.5)
        assert coarse.transform == Affine(1.5, 0, 500_000, 0, -1.5, 5_200_000)
        assert coarse.at_gsd(0.5) == scene
        assert scene.at_gsd(0.50001) == scene
        assert scene.at_gsd(500).window == Window(0, 0, 1, 1)

    @pytest.mark.parametrize("gsd_m", [0, -1, float("nan"), float("inf")])
    def test_refuses_what_is_no_gsd(self, write_raster, pixels, gsd_m):
        with pytest.raises(SettingsError, match="a positive number of metres per pixel"):
            Scene.open(write_raster(pixels)).at_gsd(gsd_m)

    def test_a_whole_factor_is_the_plain_mean(self, write_raster, pixels):
        coarse = Scene.open(write_raster(pixels)).at_gsd(2.5)
        found, valid = coarse.read(coarse.window, (1, 2, 3))
        means = pixels.reshape(3, 18, 5, 14, 5).mean(axis=(2, 4))
        assert (found == np.floor(means + 0.5)).all()
        assert valid.all()

    @pytest.mark.parametrize(("factor", "method"), [(2.7, "average"), (1.3, "average"), (0.6, "bilinear")])
    def test_agrees_with_gdals_warper(self, write_raster, rng, factor, method):
        values = rng.random((2, 90, 70), np.float32)
        path = write_raster(values)
        other = Scene.open(path).at_gsd(0.5 * factor)
        found, valid = other.read(other.window, (1, 2))
        grid = {"transform": other.transform, "height": other.height, "width": other.width}
        with (
            rasterio.open(path) as file,
            WarpedVRT(file, crs=file.crs, resampling=Resampling[method], **grid) as warped,
        ):
            expected = warped.read()
        inner = np.s_[:, 2:-2, 2:-2]  # at the raster's edge GDAL drops what lies only partly inside
        assert np.abs(found[inner] - expected[inner]).max() < 1e-5
        assert valid.all()

    def test_on_a_rotated_grid_every_pixel_stays_over_its_ground(self, write_raster):
        rows, cols = np.mgrid[:60, :80].astype(np.float32)
        transform = Affine.translation(5e5, 5e6) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5)
        scene = Scene.open(write_raster(np.stack([cols, rows]) + 0.5, transform=transform))
        for gsd_m in (1.5, 0.2):
            other = scene.at_gsd(gsd_m)
            found, _ = other.read(other.window, (1, 2))  # where in the file, in pixels, a value comes from
            col, row = other.width // 2, other.height // 3
            there = other.transform @ (col + 0.5, row + 0.5)
            assert scene.transform @ tuple(found[:, row, col].astype(float)) == pytest.approx(there, abs=1e-4)

    def test_oblong_pixels_become_square(self, write_raster, rng):
        """At 60 degrees north a pixel of equal degrees is half as wide as high."""
        rows, cols = np.mgrid[:40, :60].astype(np.float32)
        transform = Affine(1e-4, 0, 25, 0, -1e-4, 60.002)
        scene = Scene.open(write_raster(np.stack([cols, rows]) + 0.5, crs="EPSG:4326", transform=transform))
        for gsd_m in (scene.gsd_m, 3.0, 40.0):
            square = scene.at_gsd(gsd_m)
            assert square.gsd_m == gsd_m
            assert square.pixel_m == pytest.approx((gsd_m, gsd_m), rel=1e-9)
            assert square.at_gsd(scene.gsd_m).at_gsd(gsd_m) == square
            found, _ = square.read(square.window, (1, 2))
            col, row = square.width // 2, square.height // 3
            there = square.transform @ (col + 0.5, row + 0.5)
            assert scene.transform @ tuple(found[:, row, col].astype(float)) == pytest.approx(
                there,
                abs=2e-5,  # a fifth of a file pixel: a mean weighs the parts of pixels, not where they lie
            )
        assert (square.height, square.width) == (11, 8)  # 446 m by 335 m

    @pytest.mark.parametrize("factor", [3.3, 1.7, 0.7])
    def test_any_window_holds_the_same_pixels(self, write_raster, rng, factor):
        pixels = rng.integers(0, 3, (2, 90, 70)).astype(np.uint8) * 100
        pixels[:, 20:50, 10:35] = 0
        scene = Scene.open(write_raster(pixels, nodata=0)).at_gsd(0.5 * factor)
        whole, where = scene.read(Window(-30, -30, scene.width + 60, scene.height + 60), (1, 2))
        assert not where[30:-30, 30:-30].all()
        for _ in range(60):
            col, row = (int(rng.integers(-30, n + 20)) for n in (scene.width, scene.height))
            window = Window(
                col, row, *(int(rng.integers(1, n + 30 - o)) for n, o in ((scene.width, col), (scene.height, row)))
            )
            found, valid = scene.read(window, (1, 2))
            rows, cols = window.shift(30, 30).slices()
            assert (found == whole[:, rows, cols]).all()
            assert (valid == where[rows, cols]).all()

    def test_strips_hold_the_same_pixels(self, write_raster, pixels, monkeypatch):
        scene = Scene.open(write_raster(pixels)).at_gsd(1.1)
        whole = scene.read(scene.window, (1, 2, 3))
        monkeypatch.setattr("geoseg.scene.STRIP_PIXELS", 300)
        for mine, expected in zip(scene.read(scene.window, (1, 2, 3)), whole, strict=True):
            assert (mine == expected).all()

    @pytest.mark.parametrize("factor", [4.0, 2.3, 0.4])
    @pytest.mark.parametrize("kind", ["nodata", "mask", "alpha", "nan"])
    def test_nothing_bleeds_out_of_what_is_not_valid(self, write_raster, rng, factor, kind):
        """Valid pixels are all 200, the others hold 0: every valid mean must still be 200."""
        where = rng.random((90, 70)) < 0.6
        where[:30, :30] = False
        where[60:] = True
        pixels = np.where(where, 200, 0).astype(np.float32 if kind == "nan" else np.uint8)[None]
        facts = {}
        if kind == "nodata":
            facts = {"nodata": 0}
        elif kind == "mask":
            facts = {"mask": where}
        elif kind == "alpha":
            pixels = np.concatenate([pixels, where[None].astype(np.uint8) * 255])
            facts = {"colours": (ColorInterp.gray, ColorInterp.alpha)}
        else:
            pixels[0, ~where] = np.nan
        scene = Scene.open(write_raster(pixels, **facts)).at_gsd(0.5 * factor)
        found, valid = scene.read(scene.window, (1,))
        assert (found[0, valid] == 200).all()
        assert np.isfinite(found).all()
        inner = int(30 / factor)
        assert not valid[: inner - 1, : inner - 1].any()
        assert valid[int(60 / factor) + 1 :].all()
        if factor == 4.0:
            cover = where[:88, :68].reshape(22, 4, 17, 4).mean(axis=(1, 3))
            assert (valid[:22, :17] == (cover >= 0.5)).all()

    def test_overviews_are_used(self, write_raster, rng):
        """They hold other values than the file here, so that it shows which was read."""
        path = write_raster(
            np.full((256, 200), 10, np.uint8), overviews=(2, 4, 8), tiled=True, blockxsize=64, blockysize=64
        )
        self.fill_overviews(path, {2: 20, 4: 40, 8: 80})
        scene = Scene.open(path)
        for factor, value in ((1, 10), (0.5, 10), (1.9, 10), (2, 20), (3.9, 20), (4, 40), (7, 40), (8, 80), (30, 80)):
            other = scene.at_gsd(0.5 * factor)
            found, valid = other.read(other.window, (1,))
            assert (found == value).all(), factor
            assert valid.all()
            found, _ = other.read(Window(-3, 2, 5, 5), (1,))
            assert (found == value).all()

    def fill_overviews(self, path, values):
        """Build each overview from another picture than the file's, then put the file's back."""
        with rasterio.open(path, "r+") as dataset:
            original = dataset.read()
            for factor, value in values.items():
                dataset.write(np.full_like(original, value))
                dataset.build_overviews([factor], Resampling.nearest)
            dataset.write(original)

    def test_a_mask_without_overviews_beside_pixels_with_them(self, write_raster, rng):
        where = np.ones((128, 128), bool)
        where[:, :40] = False
        pixels = np.full((128, 128), 50, np.uint8)
        path = write_raster(pixels, overviews=(2, 4))
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
            dataset.write_mask(where.astype(np.uint8) * 255)
        scene = Scene.open(path).at_gsd(2.0)
        assert (scene.read(scene.window, (1,))[1] == where[::4, ::4]).all()

    def test_odd_sizes_with_overviews_stay_over_their_ground(self, write_raster):
        rows, cols = np.mgrid[:101, :75].astype(np.float32)
        scene = Scene.open(write_raster(np.stack([cols, rows]) + 0.5, overviews=(2, 4))).at_gsd(2.2)
        found, _ = scene.read(scene.window, (1, 2))
        expected = np.mgrid[: scene.height, : scene.width][::-1] * 4.4 + 2.2
        inner = np.s_[:, 1:-2, 1:-2]
        assert np.abs(found[inner] - expected[inner]).max() < 0.6  # of a file pixel: the overview's own half

    def test_crop_then_gsd_and_gsd_then_crop_show_the_same(self, write_raster, pixels):
        scene = Scene.open(write_raster(pixels))
        coarse = scene.at_gsd(1.5)
        part = scene.crop(Window(10, 20, 31, 40)).at_gsd(1.5)
        assert part == coarse.crop(Window(3, 6, 11, 14))  # 10/3..41/3 and 20/3..60/3, outwards
        assert part.transform == coarse.transform @ Affine.translation(3, 6)
        mine, whole = part.read(part.window, (1, 2, 3))[0], coarse.read(coarse.window, (1, 2, 3))[0]
        assert (mine == whole[:, 6:20, 3:14]).all()
        assert part.at_gsd(0.5).window == Window(0, 0, 33, 42)
        assert part.at_gsd(0.5).transform @ (0, 0) == scene.transform @ (9, 18)

    def test_whole_numbers_of_each_type(self, write_raster):
        for dtype in ("uint16", "int16", "float32"):
            values = np.array([[1, 2], [4, 4]], dtype) * (-1 if dtype != "uint16" else 1)
            scene = Scene.open(write_raster(values, f"{dtype}.tif")).at_gsd(1.0)
            found, _ = scene.read(scene.window, (1,))
            expected = {"uint16": 3, "int16": -3, "float32": -2.75}[dtype]
            assert found.tolist() == [[[expected]]]
            assert found.dtype == dtype


class TestEverywhere:
    """A scene is a value; its files belong to threads and processes."""

    def test_equal_by_value(self, write_raster, pixels):
        path = write_raster(pixels, nodata=0)
        one, other = Scene.open(path), Scene.open(str(path))
        assert one == other
        assert hash(one) == hash(other)
        assert one.at_gsd(1.0) != one
        assert one.crop(Window(0, 0, 70, 90)) == one
        assert len({one, other, one.at_gsd(1.0), other.at_gsd(1.0)}) == 2

    def test_pickles_without_its_files(self, write_raster, pixels):
        scene = Scene.open(write_raster(pixels)).at_gsd(0.8).crop(Window(1, 2, 20, 30))
        before = scene.read(scene.window, (1, 2))
        again = pickle.loads(pickle.dumps(scene))
        assert again == scene
        assert hash(again) == hash(scene)
        assert again.fingerprint() == scene.fingerprint()
        for mine, expected in zip(again.read(again.window, (1, 2)), before, strict=True):
            assert (mine == expected).all()
        assert len(pickle.dumps(scene)) < 5000

    def test_four_threads_read_what_one_reads(self, write_raster, rng):
        pixels = rng.integers(0, 255, (3, 300, 260), dtype=np.uint8)
        path = write_raster(
            pixels, nodata=7, overviews=(2,), compress="deflate", tiled=True, blockxsize=64, blockysize=64
        )
        scene = Scene.open(path)
        scenes = [scene, scene.at_gsd(1.2), scene.at_gsd(0.35), scene.crop(Window(40, 40, 90, 90))]
        jobs = [
            (scenes[i % 4], Window(*(int(v) for v in (*rng.integers(-40, 120, 2), *rng.integers(1, 90, 2)))))
            for i in range(160)
        ]

        def read(job):
            return job[0].read(job[1], (3, 1))

        alone = list(map(read, jobs))
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(read, jobs))
        for (found, valid), (expected, expected_valid) in zip(together, alone, strict=True):
            assert (found == expected).all()
            assert (valid == expected_valid).all()

    def open_files(self, path):
        links = Path("/proc/self/fd")
        if not links.exists():
            pytest.skip("needs /proc to see open files")
        found = 0
        for link in links.iterdir():
            try:
                found += os.readlink(link) == str(path)  # noqa: PTH115 - Path.readlink resolves nothing more
            except FileNotFoundError:
                continue
        return found

    @pytest.mark.filterwarnings("error::ResourceWarning")
    def test_files_close_with_their_scene(self, write_raster, pixels):
        path = write_raster(pixels, overviews=(2,))
        scene = Scene.open(path)
        assert self.open_files(path) == 0
        seen = []

        def read(scene):
            scene.read(scene.window, (1,))
            seen.append(self.open_files(path))

        for _ in range(3):  # one after the other they need one between them
            thread = threading.Thread(target=read, args=(scene,))
            thread.start()
            thread.join()
        assert seen[0] > 0
        assert set(seen) == {seen[0]}
        coarse = scene.at_gsd(1.0)
        coarse.read(Window(0, 0, 5, 5), (1,))
        del scene
        gc.collect()
        assert self.open_files(path) > 0
        del coarse, thread
        gc.collect()
        assert self.open_files(path) == 0

    def test_files_close_without_a_collector(self, write_raster, pixels):
        path = write_raster(pixels)
        gc.disable()
        try:
            scene = Scene.open(path)
            scene.read(scene.window, (1,))
            assert self.open_files(path) > 0
            del scene
            assert self.open_files(path) == 0
        finally:
            gc.enable()

    def test_a_lent_file_knows_no_bands_of_an_older_scene(self, write_raster, pixels):
        path = write_raster(pixels)
        older = Scene.open(path)
        assert older.read(older.window, (1,))[1].all()
        value = int(pixels[0, 0, 0])
        Path(f"{path}.aux.xml").write_text(
            f'<PAMDataset><PAMRasterBand band="1"><NoDataValue>{value}</NoDataValue></PAMRasterBand></PAMDataset>',
            encoding="utf-8",
        )
        newer = Scene.open(path)
        assert newer.bands[0].nodata == value
        assert np.array_equal(newer.read(newer.window, (1,))[1], pixels[0] != value)
        assert older.read(older.window, (1,))[1].all()

    def test_blocks_are_decoded_once(self, write_raster, pixels):
        path = write_raster(pixels, compress="deflate", tiled=True, blockxsize=16, blockysize=16)
        scene = Scene.open(path)
        expected, _ = scene.read(scene.window, (1,))
        with open(path, "r+b") as file:  # noqa: PTH123
            size = file.seek(0, 2)
            file.seek(0)
            file.write(b"\0" * size)
        again = []
        thread = threading.Thread(target=lambda: again.append(scene.read(scene.window, (1,))[0]))
        thread.start()
        thread.join()
        assert np.array_equal(again[0], expected)

    @pytest.mark.skipif(sys.platform != "linux", reason="needs fork")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_forked_child_opens_its_own(self, write_raster, pixels):
        path = write_raster(pixels)
        scene = Scene.open(path)
        scene.read(scene.window, (1,))
        mine = self.open_files(path)
        fork = multiprocessing.get_context("fork")
        receive, send = fork.Pipe(duplex=False)

        def child():
            found, _ = scene.read(scene.window, (1, 2, 3))
            send.send((bool((found == pixels).all()), self.open_files(path)))

        process = fork.Process(target=child)
        process.start()
        assert receive.poll(20)
        same, theirs = receive.recv()
        process.join()
        assert same
        assert theirs > mine

    def test_fingerprint(self, write_raster, pixels, tmp_path):
        path = write_raster(pixels)
        scene = Scene.open(path)
        prints = {scene.fingerprint(), scene.at_gsd(1.0).fingerprint(), scene.crop(Window(0, 0, 9, 9)).fingerprint()}
        assert len(prints) == 3
        moved = path.rename(tmp_path / "moved.tif")
        assert Scene.open(moved).fingerprint() == scene.fingerprint()
        (tmp_path / "moved.tif.aux.xml").write_text("<PAMDataset></PAMDataset>")  # a viewer's statistics
        assert Scene.open(moved).fingerprint() == scene.fingerprint()
        os.utime(moved, ns=(1, 1))
        assert Scene.open(moved).fingerprint() != scene.fingerprint()

    def test_fingerprint_of_a_vrt_knows_its_sources(self, write_raster, pixels, tmp_path):
        source = write_raster(pixels)
        vrt = tmp_path / "scene.vrt"
        vrt.write_text(
            '<VRTDataset rasterXSize="70" rasterYSize="90"><SRS>EPSG:32614</SRS>'
            '<GeoTransform>5e5,1,0,5e6,0,-1</GeoTransform><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
            '<SourceFilename relativeToVRT="1">scene.tif</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>'
        )
        before = Scene.open(vrt).fingerprint()
        os.utime(source, ns=(1, 1))
        assert Scene.open(vrt).fingerprint() != before


class TestBurn:
    def test_a_pixel_belongs_to_what_its_centre_lies_in(self, write_raster, pixels):
        scene = Scene.open(write_raster(pixels)).crop(Window(10, 20, 30, 40))
        left, top = scene.transform @ (2, 3)
        shapes = [shapely.box(left - 0.2, top - 5, left + 4.3, top + 0.2), shapely.box(left, top - 1, left + 1, top)]
        burnt = scene.burn(scene.window, shapes, [7, 9])
        expected = np.zeros((40, 30), np.int32)
        expected[3:13, 2:11] = 7  # 0.4 px above and left of it are too little, 0.6 px to the right are enough
        expected[3:5, 2:4] = 9
        assert np.array_equal(burnt, expected)
        around = scene.burn(scene.window.pad(5), shapes, [7, 9])
        assert np.array_equal(around[5:-5, 5:-5], burnt)
        assert not scene.burn(scene.window, [], []).any()


def test_a_raster_without_a_place_lies_on_a_plane_of_its_own(write_raster, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (3, 40, 50)).astype(np.uint8)
    path = tmp_path / "chip.png"
    Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
    with pytest.raises(SceneError, match="no geotransform"):
        Scene.open(path)
    scene = Scene.open(path, gsd_m=0.3)
    assert (scene.gsd_m, scene.width, scene.height) == (pytest.approx(0.3), 50, 40)
    assert scene.pixel_m == pytest.approx((0.3, 0.3))
    assert np.array_equal(scene.read(scene.window, (1, 2, 3))[0], pixels)
    again = pickle.loads(pickle.dumps(scene))
    assert np.array_equal(again.read(Window(5, 6, 7, 8), (2,))[0], pixels[1:2, 6:14, 5:12])
    placed = write_raster(pixels, "placed.tif")
    with pytest.raises(SceneError, match="a GSD of its own"):
        Scene.open(placed, gsd_m=0.3)
    with pytest.raises(SettingsError, match="positive"):
        Scene.open(path, gsd_m=0.0)
