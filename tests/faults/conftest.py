"""A small model, small scenes and what a run leaves of them, for tests of faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

import geoseg
from geoseg import Execution, RunSettings, VectorSettings
from geoseg.models import zoo

CHUNK = 64  # px, which is the core of the tiles below
SIDES = 5, 6  # chunks down and across
ONE_BY_ONE = Execution(threads=1, chunk=CHUNK)
FORMATS = ("geojson", "parquet", "fgb", "gpkg")


@pytest.fixture(scope="session")
def tiny_card(tmp_path_factory) -> Path:
    """The card of a shipped model with tiles of 128 px; its weights lie beside it."""
    folder = tmp_path_factory.mktemp("tiny")
    shipped = zoo.load("landscape")
    item = shipped.to_item()
    item["properties"] |= {"geoseg:halo": 32, "geoseg:gsd_range_m": [0.3, 5.0]}
    item["properties"]["mlm:input"][0]["input"]["shape"][-2:] = [128, 128]
    (folder / "tiny.card.json").write_text(json.dumps(item))
    (folder / shipped.weights).write_bytes(shipped.weights_path.read_bytes())
    return folder / "tiny.card.json"


def patches() -> np.ndarray:
    """Patches of colour with grain, (3, rows, cols) uint8, of 5 x 6 chunks."""
    rng = np.random.default_rng(0)
    coarse = np.kron(rng.integers(40, 200, (3, 4 * SIDES[0], 4 * SIDES[1])), np.ones((16, 16)))
    return (coarse + rng.integers(0, 20, coarse.shape)).astype(np.uint8)


def write(path: Path, pixels: np.ndarray, col: int = 0) -> Path:
    """Writes a GeoTIFF of deflated blocks of 64 px, one after the other, whose first column is that of a larger one."""
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=len(pixels),
        height=pixels.shape[1],
        width=pixels.shape[2],
        dtype="uint8",
        photometric="RGB" if len(pixels) == 3 else "MINISBLACK",
        tiled=True,
        blockxsize=CHUNK,
        blockysize=CHUNK,
        compress="deflate",
        crs="EPSG:32614",
        transform=Affine(1, 0, 5e5 + col, 0, -1, 5e6),
    ) as raster:
        raster.write(pixels)
    return path


def contents(directory: Path) -> dict[str, bytes]:
    """The bytes of what a run left, but for those that tell when they were written."""
    return {
        path.name: path.read_bytes()
        for path in sorted(directory.iterdir())
        if path.is_file() and path.name != "run.json" and path.suffix != ".gpkg"
    }


class Watcher:
    """A progress that calls a function with (stage, chunks that are behind): 0 when it begins, -1 when it has ended."""

    def __init__(self, see: Callable[[str, int], None] = lambda *_: None) -> None:
        self.notes: list[str] = []
        self.begun: list[str] = []
        self._see = see

    def note(self, text: str) -> None:
        self.notes.append(text)

    @contextmanager
    def stage(self, name, pixels, chunks=None):
        calls = 0
        self.begun.append(name)
        self._see(name, 0)

        def advance(pixels, *, failed=False):
            nonlocal calls
            calls += 1
            self._see(name, calls)

        yield advance
        self._see(name, -1)


class Subject:
    """A scene that the test may damage, and a run of it.

    Attributes:
        scene: its path.
        whole: what a run leaves that nothing disturbs.
        seen: the watcher of the last run.
    """

    def __init__(self, scene: Path, card: Path, whole: dict[str, bytes]) -> None:
        self.scene = scene
        self.whole = whole
        self.seen = Watcher()
        vector = VectorSettings(min_area_m2=9, fill_holes_m2=9, formats=FORMATS)
        self._settings = RunSettings(models=(str(card),), vector=vector)

    def run(
        self, home: Path, see: Callable[[str, int], None] = lambda *_: None, execution: Execution = ONE_BY_ONE
    ) -> geoseg.Result:
        self.seen = Watcher(see)
        return geoseg.run(self.scene, home, settings=self._settings, execution=execution, progress=self.seen)

    def assert_whole(self, home: Path) -> None:
        """Nothing is missing, and nothing is there that does not belong there."""
        assert contents(home) == self.whole
        assert (home / "layers.gpkg").exists()
        assert (home / "run.json").exists()


@pytest.fixture(scope="session")
def write_blocks() -> Callable[..., Path]:
    return write


@pytest.fixture(scope="session")
def watcher() -> type[Watcher]:
    return Watcher


def undisturbed(card: Path, folder: Path) -> dict[str, bytes]:
    Subject(write(folder / "scene.tif", patches()), card, {}).run(folder / "layers")
    return contents(folder / "layers")


@pytest.fixture(scope="session")
def whole(tiny_card, tmp_path_factory) -> dict[str, bytes]:
    return undisturbed(tiny_card, tmp_path_factory.mktemp("whole"))


@pytest.fixture
def subject(tmp_path, tiny_card, whole) -> Subject:
    return Subject(write(tmp_path / "scene.tif", patches()), tiny_card, whole)


@pytest.fixture(scope="session")
def quick_card(tmp_path_factory) -> Path:
    """The card of a model that has no network: dark, middle and bright ground."""
    item = zoo.load("multi-otsu").to_item()
    item["properties"]["mlm:input"][0]["input"]["shape"][-2:] = [CHUNK, CHUNK]
    path = tmp_path_factory.mktemp("quick") / "quick.card.json"
    path.write_text(json.dumps(item))
    return path


@pytest.fixture(scope="session")
def quick_whole(quick_card, tmp_path_factory) -> dict[str, bytes]:
    return undisturbed(quick_card, tmp_path_factory.mktemp("quick_whole"))


@pytest.fixture
def quick_subject(tmp_path, quick_card, quick_whole) -> Subject:
    """As `subject`, but soon predicted."""
    return Subject(write(tmp_path / "scene.tif", patches()), quick_card, quick_whole)


@pytest.fixture
def mosaic(tmp_path, subject) -> Path:
    """Makes the subject's scene a VRT of two files; the one on the right."""
    half = SIDES[1] // 2 * CHUNK
    pixels = patches()
    write(tmp_path / "left.tif", pixels[:, :, :half])
    sources = "".join(
        f"<SimpleSource><SourceFilename relativeToVRT='1'>{name}.tif</SourceFilename><SourceBand>{{0}}</SourceBand>"
        f"<SrcRect xOff='0' yOff='0' xSize='192' ySize='320'/><DstRect xOff='{col}' yOff='0' xSize='192' ySize='320'/>"
        "</SimpleSource>"
        for name, col in (("left", 0), ("right", half))
    )
    bands = "".join(
        f"<VRTRasterBand dataType='Byte' band='{band}'><ColorInterp>{colour}</ColorInterp>{sources.format(band)}"
        "</VRTRasterBand>"
        for band, colour in enumerate(("Red", "Green", "Blue"), start=1)
    )
    subject.scene = tmp_path / "mosaic.vrt"
    subject.scene.write_text(
        "<VRTDataset rasterXSize='384' rasterYSize='320'><SRS>EPSG:32614</SRS>"
        f"<GeoTransform>500000, 1, 0, 5000000, 0, -1</GeoTransform>{bands}</VRTDataset>"
    )
    return write(tmp_path / "right.tif", pixels[:, :, half:], col=half)
