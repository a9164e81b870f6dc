"""What every test may ask for."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import HealthCheck, settings
from rasterio.enums import ColorInterp, Resampling

from geoseg.cli import main
from geoseg.engine.kernels import StoredMask, VectorJob, label_window, vectorize_window
from geoseg.engine.store import Store
from geoseg.lattice import Window
from geoseg.rings import Arcs, Polygons, offsets_of, take_ragged
from geoseg.settings import SimplifyMethod
from geoseg.stages.assemble import Rings, assemble
from geoseg.stages.instances import merge_faces
from geoseg.stages.join import Fragment, Joiner
from geoseg.stages.polygons import Ground, to_wkb

from .object_store import ObjectStore, serving

# deadlines are for quiet machines; the first example of a test also pays for compiling its kernel
settings.register_profile("geoseg", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "geoseg"))

# a shell that starts tests beside it has them ignore Ctrl-C, and all that they start
signal.signal(signal.SIGINT, signal.default_int_handler)

WriteRaster = Callable[..., Path]
TRANSFORM = Affine(0.5, 0, 500_000, 0, -0.5, 5_200_000)  # half a metre, in North Dakota


@pytest.fixture
def write_raster(tmp_path: Path) -> WriteRaster:
    """Write a small GeoTIFF in the test's own folder."""

    def write(
        pixels: np.ndarray,
        name: str = "scene.tif",
        *,
        transform: Affine | None = TRANSFORM,
        crs: str | None = "EPSG:32614",
        nodata: float | None = None,
        descriptions: tuple[str, ...] = (),
        colours: tuple[ColorInterp, ...] = (),
        tags: dict[str, str] | None = None,
        mask: np.ndarray | None = None,
        overviews: tuple[int, ...] = (),
        **profile: Any,
    ) -> Path:
        """Write (bands, rows, cols) or (rows, cols) pixels; `mask` is (rows, cols) bool, kept inside the file."""
        pixels = pixels[None] if pixels.ndim == 2 else pixels
        path = tmp_path / name
        facts = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype}
        facts |= {"driver": "GTiff", "crs": crs, "transform": transform, "nodata": nodata}
        if not colours and "photometric" not in profile:
            facts["photometric"] = "MINISBLACK"  # else GDAL calls 3 and 4 bytes RGB and RGBA
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            with rasterio.open(path, "w", **facts | profile) as dataset:
                if colours:
                    dataset.colorinterp = colours
                for band, text in enumerate(descriptions, start=1):
                    dataset.set_band_description(band, text)
                if tags:
                    dataset.update_tags(**tags)
                dataset.write(pixels)  # last, so that the header stands first in the file
                if mask is not None:
                    dataset.write_mask(mask.astype(np.uint8) * 255)
            if overviews:
                with rasterio.open(path, "r+") as dataset:
                    dataset.build_overviews(overviews, Resampling.average)
        return path

    return write


@pytest.fixture(scope="session")
def as_polygons() -> Callable[..., Polygons]:
    """Make polygons of shapely polygons in pixels, with rings turned and begun as geoseg has them, sorted by id."""

    def ring_of(ring: shapely.LinearRing) -> np.ndarray:
        vertices = np.rint(2 * shapely.get_coordinates(ring)[:-1]).astype(np.int32)
        vertices = np.roll(vertices, -np.lexsort(vertices.T)[0], axis=0)
        return np.concatenate([vertices, vertices[:1]])

    def make(shapes: Any, width: int, *, codes: Any = 1, seed: int = 0) -> Polygons:
        rings = []
        for shape in shapely.orient_polygons(np.asarray(shapes, object)):  # counter-clockwise where rows go up
            shell, *holes = (ring_of(ring) for ring in shapely.get_rings(shape))
            rings.append([shell, *sorted(holes, key=lambda ring: (ring[0, 1], ring[0, 0]))])
        ids = np.array([shell[0, 1] // 2 * width + shell[0, 0] // 2 + 1 for shell, *_ in rings], np.int64)
        order = np.argsort(ids, kind="stable")
        flat = [ring for polygon in order for ring in rings[polygon]]
        random = np.random.default_rng(seed)
        return Polygons(
            coords=np.concatenate([np.zeros((0, 2), np.int32), *flat]),
            ring_offsets=offsets_of(np.array([len(ring) for ring in flat], np.int64)),
            polygon_offsets=offsets_of(np.array([len(rings[polygon]) for polygon in order], np.int64)),
            id=ids[order],
            code=np.broadcast_to(np.asarray(codes, np.uint8), len(ids))[order],
            area_px=np.array([round(shape.area) for shape in shapes], np.int64)[order],
            confidence=random.random(len(ids)),
            confidence_p10=np.where(np.arange(len(ids)) % 3, random.random(len(ids)), np.nan),
            edge=random.random(len(ids)) < 0.2,
        )

    return make


@pytest.fixture(scope="session")
def to_geometries() -> Callable[[Polygons, Affine], np.ndarray]:
    """Make shapely polygons of polygons in half pixels, on the ground as geoseg writes them."""

    def make(polygons: Polygons, transform: Affine) -> np.ndarray:
        data, offsets = to_wkb(polygons, transform)
        return shapely.from_wkb(np.array([data[a:b].tobytes() for a, b in itertools.pairwise(offsets)], object))

    return make


def cut_into_windows(shape: tuple[int, int], chunk: int | tuple[int, int]) -> list[list[Window]]:
    """Rows of windows of chunks of (rows, cols), or of one side, over a scene."""
    rows, cols = shape
    chunk_rows, chunk_cols = (chunk, chunk) if isinstance(chunk, int) else chunk
    return [
        [
            Window(col, row, min(chunk_cols, cols - col), min(chunk_rows, rows - row))
            for col in range(0, cols, chunk_cols)
        ]
        for row in range(0, rows, chunk_rows)
    ]


def merge_by_id(parts: Sequence[Polygons]) -> Polygons:
    """All polygons of some parts, sorted by id."""
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("coords", "id", "code", "area_px", "confidence", "confidence_p10", "edge")
    }
    ring_offsets = offsets_of(np.concatenate([np.diff(part.ring_offsets) for part in parts]))
    polygon_offsets = offsets_of(np.concatenate([np.diff(part.polygon_offsets) for part in parts]))
    order = np.argsort(columns["id"])
    rings, polygon_offsets = take_ragged(polygon_offsets, order)
    vertices, ring_offsets = take_ragged(ring_offsets, rings)
    coords = columns.pop("coords")[vertices]
    return Polygons(coords, ring_offsets, polygon_offsets, **{name: values[order] for name, values in columns.items()})


class ArrayMask(NamedTuple):
    """A mask in memory, and its confidence."""

    codes: np.ndarray
    confidence: np.ndarray | None = None

    def read(self, window: Window) -> np.ndarray:
        return self.codes[window.slices()].copy()

    def read_confidence(self, window: Window) -> np.ndarray | None:
        return None if self.confidence is None else self.confidence[window.slices()].copy()

    def cleaned(self, store: Store, array: str) -> StoredMask:
        raise NotImplementedError


class AllJunctionsJob(VectorJob):
    """Keeps straight vertices where only the neighbour changes, also of unsimplified rings."""

    def assemble(self, arcs: Arcs, darts: np.ndarray, following: np.ndarray, owner: np.ndarray) -> Rings:
        return assemble(arcs, darts, following, owner, keep_straight=True)


class Piece(NamedTuple):
    """What one chunk gives."""

    window: Window
    polygons: Polygons
    fragment: Fragment


@dataclass(frozen=True)
class VectorHalf:
    """The engine's vector half on a mask in memory: its kernels, without executor and files."""

    tolerance: float = 0.0
    method: SimplifyMethod = "visvalingam"
    smooth: bool = False
    keep_straight: bool = False
    boundaries: tuple[tuple[int, int], ...] = ()
    growth: int = 8

    def job(self, mask: np.ndarray, confidence: np.ndarray | None = None) -> VectorJob:
        kind = AllJunctionsJob if self.keep_straight else VectorJob
        return kind(
            source=ArrayMask(mask, confidence),
            store=Store(Path("nowhere"), "run"),
            ground=Ground(TRANSFORM, "EPSG:32614", mask.shape),
            tolerance_px=self.tolerance,
            method=self.method,
            smooth=self.smooth,
            boundaries=self.boundaries,
            growth_px=self.growth,
            lonlat=False,
        )

    def joiner(self, width: int) -> Joiner:
        return self.job(np.zeros((1, width), np.uint8)).joiner()

    def pieces(
        self, mask: np.ndarray, confidence: np.ndarray | None = None, chunk: int | tuple[int, int] = 64
    ) -> list[list[Piece]]:
        """What each chunk gives, rows of chunks from top to bottom."""
        job = self.job(mask, confidence)
        windows = cut_into_windows(mask.shape, chunk)
        merge = merge_faces([label_window(job, window).faces for row in windows for window in row], mask.shape)
        return [[Piece(window, *vectorize_window(job, merge.border(window))) for window in row] for row in windows]

    def join(self, pieces: Sequence[Sequence[Piece]], shape: tuple[int, int]) -> Polygons:
        """All polygons, sorted by id."""
        joiner = self.joiner(shape[1])
        parts = [piece.polygons for in_row in pieces for piece in in_row]
        for in_row in pieces:
            row_stop = in_row[0].window.row_stop
            parts.append(joiner.add([piece.fragment for piece in in_row], row_stop, last=row_stop == shape[0]))
        return merge_by_id(parts)


def vectorize_in_chunks(
    mask: np.ndarray, confidence: np.ndarray | None = None, chunk: int | tuple[int, int] = 64, **options: Any
) -> Polygons:
    """All polygons of a mask, made in chunks of (rows, cols) or of one side, sorted by id."""
    half = VectorHalf(**options)
    return half.join(half.pieces(mask, confidence, chunk), mask.shape)


@pytest.fixture(scope="session")
def vector_half() -> type[VectorHalf]:
    return VectorHalf


@pytest.fixture(scope="session")
def vectorize() -> Callable[..., Polygons]:
    return vectorize_in_chunks


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    """An S3 server behind a proxy; processes that are started find it by their environment."""
    with serving() as store:
        yield store


@pytest.fixture
def bucket(object_store) -> str:
    """The name of a new bucket there."""
    return object_store.bucket()


@pytest.fixture
def geoseg(capsys):
    """Calls the command line; gives (exit code, standard output, standard error)."""

    def call(*arguments) -> tuple[int, str, str]:
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        output = capsys.readouterr()
        return code, output.out, output.err

    return call
