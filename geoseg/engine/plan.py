"""What a run would be: every check made, every choice resolved, nothing done (floor 4)."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from geoseg.engine.executor import fit
from geoseg.errors import SceneError, SettingsError
from geoseg.lattice import Lattice, Window
from geoseg.models import zoo
from geoseg.models.card import Card
from geoseg.models.runtimes import TorchRuntime, resolve_device, resolve_precision
from geoseg.scene import Scene
from geoseg.settings import Execution, RunSettings, VectorSettings

__all__ = ["Plan", "make_plan", "seconds_per_tile"]

_GSD_SLACK = 1.05
_SQUARE_SLACK = 0.01
_COARSEST_UPSAMPLING = 2.0
_BYTES_PER_TILE_PIXEL = {"fp32": 1100, "bf16": 650}
_WORKER_BASE_BYTES = 700 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run, resolved.

    Attributes:
        settings: as asked for.
        card: of the model.
        codes: layer name to mask code, of the classes wanted.
        scene: as opened.
        grid: what the run reads: the scene, perhaps at another GSD and cropped to whole cores around a bounding box.
        within: the bounding box in pixels of ``grid``, or ``None``.
        bands: 1-based indexes, in the card's order.
        lattice: of ``grid``.
        execution: every choice made.
        workers: kernels that run at once; 0 where a scheduler's workers decide.
        device: where the model runs.
        precision: its arithmetic.
        vector: what shapes the layers, with the model's boundaries and the resolved tolerance.
        notes: what a user should know, one line each.
    """

    settings: RunSettings
    card: Card
    codes: Mapping[str, int]
    scene: Scene
    grid: Scene
    within: Window | None
    bands: tuple[int, ...]
    lattice: Lattice
    execution: Execution
    workers: int
    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16"]
    vector: VectorSettings
    notes: tuple[str, ...]

    def with_chunk(self, chunk: int) -> Plan:
        """The same run, cut into other chunks (a multiple of the tile core)."""
        return replace(self, lattice=replace(self.lattice, chunk=chunk))

    @property
    def pixels(self) -> int:
        """Pixels of the grid."""
        return self.lattice.window.area

    @property
    def tiles(self) -> int:
        """Tiles of the grid."""
        rows, cols = self.lattice.tile_shape
        return rows * cols

    @property
    def chunks(self) -> int:
        """Chunks of the grid."""
        rows, cols = self.lattice.chunk_shape
        return rows * cols

    @property
    def worker_bytes(self) -> int:
        """Estimated peak memory of one CPU worker, bytes: the network's activations, its libraries, its chunk."""
        tile = self.lattice.tile_size**2 * _BYTES_PER_TILE_PIXEL[self.precision]
        return _WORKER_BASE_BYTES + tile + 24 * min(self.lattice.chunk**2, self.pixels)

    @property
    def disk_bytes(self) -> int:
        """Most that mask and confidence can take on disk, bytes: in the store, while the COG is made, and as COGs."""
        return 2 * 3 * self.pixels

    def identity(self) -> dict[str, Any]:
        """All facts that decide the layers, as plain JSON values; the same identity means the same bytes.

        How the work is cut and who does it (chunk, workers) is not among them.
        """
        settings = self.settings
        return {
            "geoseg": importlib.metadata.version("geoseg"),
            "scene": self.scene.shown,
            "scene_fingerprint": self.scene.fingerprint(),
            "model": self.card.name,
            "model_digest": self.card.digest,
            "classes": list(self.codes),
            "bands": list(self.bands),
            "scale": list(settings.scale) if settings.scale else None,
            "bbox": list(settings.bounds) if settings.bounds else None,
            "gsd_m": round(self.grid.gsd_m, 9),
            "halo": self.lattice.halo,
            "device": self.device,
            "precision": self.precision,
            **self.vector.identity(),
        }


def make_plan(path: str, settings: RunSettings, execution: Execution | None = None) -> Plan:
    """Opens the scene and the card, checks one against the other, resolves every ``auto``.

    Args:
        path: of the scene; a path or URL that GDAL reads.
        settings: what the run is asked to do.
        execution: how to cut the work and who does it; by default what fits.

    Raises:
        InputError: anything that would keep the run from being right, in one line.
    """
    card = zoo.load(settings.model)
    codes = card.class_codes(settings.classes)
    scene = Scene.open(path)
    bands = _bands(scene, card, settings)
    _check_values(scene, card, bands, settings)
    halo = _halo(card, settings)
    core = card.tile - 2 * halo
    grid, notes = _at_model_gsd(scene, card)
    within = None
    if settings.bounds is not None:
        wanted = grid.window_of_bounds(settings.bounds)
        snapped = _snap(wanted, core, grid)
        grid, within = grid.crop(snapped), wanted.shift(-snapped.row_off, -snapped.col_off)
    device = resolve_device(settings.device)
    execution, workers = fit(execution or Execution(), grid.height, grid.width, core=core)
    chunk = execution.chunk or core
    simplify_m = settings.vector.simplify_m
    if simplify_m is None:
        simplify_m = round(grid.gsd_m, 6)
    return Plan(
        settings=settings,
        card=card,
        codes=codes,
        scene=scene,
        grid=grid,
        within=within,
        bands=bands,
        lattice=Lattice(grid.height, grid.width, core, halo, chunk),
        execution=execution,
        workers=workers,
        device=device,
        precision=resolve_precision(settings.precision, device),
        vector=replace(settings.vector, boundaries=card.boundaries, simplify_m=simplify_m),
        notes=tuple(notes),
    )


def _bands(scene: Scene, card: Card, settings: RunSettings) -> tuple[int, ...]:
    needed = ", ".join(card.bands)
    if settings.bands is not None and len(settings.bands) != len(card.bands):
        raise SettingsError(
            f"--bands names {len(settings.bands)} bands; model {card.name} takes {len(card.bands)}, in this order: "
            f"{needed}"
        )
    try:
        return scene.select(settings.bands or card.bands)
    except SceneError as error:
        hint = "" if settings.bands else f"; say which bands are {needed} with --bands, e.g. --bands 1,2,3"
        raise SceneError(f"{error}{hint}") from None


def _check_values(scene: Scene, card: Card, bands: tuple[int, ...], settings: RunSettings) -> None:
    kinds = {band.dtype for band in scene.bands if band.index in bands}
    if kinds != {"uint8"} and settings.scale is None:
        raise SceneError(
            f"{scene.shown} has {', '.join(sorted(kinds))} values; model {card.name} takes uint8 0-255: "
            "say which values become 0 and 255 with --scale LOW,HIGH, e.g. --scale 0,3000"
        )


def _halo(card: Card, settings: RunSettings) -> int:
    halo = card.halo if settings.halo is None else settings.halo
    if halo % card.stride or card.tile <= 2 * halo:
        raise SettingsError(
            f"--halo is {halo}; model {card.name} needs a multiple of its stride {card.stride} below half its tile "
            f"{card.tile}"
        )
    return halo


def _at_model_gsd(scene: Scene, card: Card) -> tuple[Scene, list[str]]:
    finest, coarsest = card.gsd_range_m
    gsd = scene.gsd_m
    if gsd > coarsest * _COARSEST_UPSAMPLING * _GSD_SLACK:
        raise SceneError(
            f"{scene.shown} has a GSD of {gsd:.3g} m; model {card.name} was trained for {finest:g}-{coarsest:g} m and "
            f"upsampling more than {_COARSEST_UPSAMPLING:g}x shows nothing new: give a finer scene or another --model"
        )
    if finest / _GSD_SLACK <= gsd <= coarsest * _GSD_SLACK:
        width_m, height_m = scene.pixel_m
        if abs(width_m / height_m - 1) <= _SQUARE_SLACK:
            return scene, []
        note = f"the scene's pixels are {width_m:.3g} x {height_m:.3g} m: read and mapped as squares of {gsd:.3g} m"
        return scene.at_gsd(gsd), [note]
    target = finest if gsd < finest else coarsest
    note = (
        f"the scene's GSD of {gsd:.3g} m is outside the model's {finest:g}-{coarsest:g} m: "
        f"read and mapped at {target:g} m"
    )
    return scene.at_gsd(target), [note]


def _snap(window: Window, core: int, scene: Scene) -> Window:
    """Grows a window to whole cores, so that its tiles are those of the whole scene's run."""
    row_off, col_off = window.row_off // core * core, window.col_off // core * core
    row_stop = min(-(-window.row_stop // core) * core, scene.height)
    col_stop = min(-(-window.col_stop // core) * core, scene.width)
    return Window(col_off, row_off, col_stop - col_off, row_stop - row_off)


def seconds_per_tile(plan: Plan) -> float:
    """Times the model on one tile of this machine (the second of two, after warming up)."""
    infer = TorchRuntime(plan.card, device=plan.device, precision=plan.precision, halo=plan.lattice.halo)
    side = plan.lattice.tile_size
    tiles = np.zeros((infer.batch, len(plan.bands), side, side), dtype=np.uint8)
    infer(tiles)
    start = time.perf_counter()
    infer(tiles)
    return (time.perf_counter() - start) / infer.batch
