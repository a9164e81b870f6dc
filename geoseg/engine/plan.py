"""What a run would be: every check made, every choice resolved, nothing done (floor 4)."""

from __future__ import annotations

import importlib.metadata
import math
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geoseg.engine.choice import Choice, choose_models
from geoseg.engine.executor import fit
from geoseg.errors import SettingsError
from geoseg.lattice import Lattice, Window, fitting_core, fitting_overlap, overlap
from geoseg.models.card import Card
from geoseg.models.classical import scene_thresholds
from geoseg.models.runtimes import (
    Resolved,
    count_gpus,
    open_runtime,
    open_scorer,
    resolve_device,
    resolve_precision,
    resolve_runtime,
)
from geoseg.scene import Scene
from geoseg.settings import Arithmetic, Execution, RunSettings, RuntimeName, Stitch, Tta, VectorSettings
from geoseg.stages.blend import blend_bytes
from geoseg.stages.predict import converter
from geoseg.stages.refine import reach_px

__all__ = ["Pass", "Plan", "make_plan", "seconds_per_tile"]

_BYTES_PER_TILE_PIXEL: dict[Resolved, int] = {"torch": 1100, "openvino": 600, "onnx": 800}
# With OpenVINO, of what is well below or above that, see tests/benchmarks/tile_memory.py.
_BYTES_OF_FAMILY = {
    "unet": 210,
    "linknet": 210,
    "fpn": 240,
    "deeplabv3plus": 210,
    "pan": 210,
    "manet": 280,
    "unetplusplus": 450,
    "tiramisu": 1500,
}
_OF_FP32 = {"fp32": 1.0, "bf16": 0.6, "int8": 0.6, "int8-bf16": 0.6}
_TILE_BYTES = 2 * 1024**3  # of a worker's memory; a constant, since tiles must not depend on the machine
_WORKER_BASE_BYTES = 700 * 1024**2
_TORCH_BYTES = 300 * 1024**2  # which decides by blended scores, beside another runtime
_BLENDED_TILE = 1024  # px, at most
_BLENDED_CHUNK = 4096  # px, at most, unless a core is larger
_GLANCE_PX = 1024  # longest side of what segmenters see of the whole scene
_GLANCE_READ_PX = 1 << 24  # of the scene, read at once for that


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One model's share of a run, with a mask and a confidence of its own.

    Attributes:
        card: of the model.
        codes: layer name to mask code, of the classes that this pass finds.
        grid: what it reads: the scene, perhaps at another GSD and cropped to whole cores around a bounding box.
        within: the bounding box in pixels of ``grid``, or ``None``.
        bands: 1-based indexes, in the card's order.
        scale: of the scene's values, see ``stages.predict.to_uint8``; ``None`` where they are taken as they are.
        thresholds: of the whole scene, for models that need them.
        lattice: of ``grid``.
        vector: what shapes its layers, with the model's boundaries and the resolved tolerance.
        stitch: how its tiles become one mask; those of a segmenter without weights always fit.
        runtime: what runs the model.
        precision: of its arithmetic.
        tta: views of a tile that it sees; a segmenter without weights decides by pixels alone.
    """

    card: Card
    codes: Mapping[str, int]
    grid: Scene
    within: Window | None
    bands: tuple[int, ...]
    scale: tuple[float, float] | None
    thresholds: tuple[float, ...] | None
    lattice: Lattice
    vector: VectorSettings
    stitch: Stitch
    runtime: Resolved
    precision: Arithmetic
    tta: Tta

    @property
    def name(self) -> str:
        """The model's name, which no other pass of the run has."""
        return self.card.name

    @property
    def sight(self) -> Hashable:
        """All that decides what the model is shown: passes for which it is equal read each tile once, together."""
        return self.grid, self.within, self.bands, self.card.dtype, self.lattice, self.stitch

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
    def computed_tiles(self) -> int:
        """Tiles that go through the model: with blending those at chunk edges do so for each chunk that they reach."""
        if self.stitch == "crop":
            return self.tiles
        return self.lattice.count_reaching(self.within)[0]

    @property
    def chunks(self) -> int:
        """Chunks of the grid."""
        rows, cols = self.lattice.chunk_shape
        return rows * cols

    @property
    def worker_bytes(self) -> int:
        """Estimated memory that it takes of one CPU worker, bytes: a network's activations for one tile, its chunk.

        With blending there are the sums of some rows of tiles, too, and what decides by them.
        """
        lattice = self.lattice
        taken = int(lattice.tile_size**2 * _bytes_per_pixel(self.card, self.runtime, self.precision))
        taken += 24 * min(lattice.chunk**2, self.pixels)
        if self.stitch != "crop":
            taken += blend_bytes(lattice.core, lattice.halo, self.card.planes, min(lattice.chunk, lattice.width))
            taken += _TORCH_BYTES if self.runtime != "torch" else 0
        return taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run, resolved.

    Attributes:
        settings: as asked for.
        scene: as opened.
        passes: of the models that have something to find, in the order of preference.
        execution: who does the work; how it is cut say the passes' lattices.
        workers: kernels that run at once; 0 where a scheduler's workers decide.
        device: where the models run.
        gpus: how many of them the run may use, each in a process of its own.
        notes: what a user should know, one line each.
    """

    settings: RunSettings
    scene: Scene
    passes: tuple[Pass, ...]
    execution: Execution
    workers: int
    device: Literal["cpu", "cuda"]
    gpus: int
    notes: tuple[str, ...]

    def with_chunks(self, chunks: Mapping[str, int]) -> Plan:
        """The same run, with each pass cut into other chunks (multiples of its tile core)."""
        passes = (replace(part, lattice=replace(part.lattice, chunk=chunks[part.name])) for part in self.passes)
        return replace(self, passes=tuple(passes))

    def raster_name(self, part: Pass, array: str = "mask") -> str:
        """File name of a pass's mask or confidence."""
        return f"{array}.tif" if len(self.passes) == 1 else f"{array}_{part.name}.tif"

    @property
    def reads(self) -> list[list[Pass]]:
        """The passes, together where one read of a tile serves them all."""
        together: dict[Hashable, list[Pass]] = {}
        for part in self.passes:
            together.setdefault(part.sight, []).append(part)
        return list(together.values())

    @property
    def worker_bytes(self) -> int:
        """Estimated peak memory of one CPU worker, bytes: what its libraries take, and the largest of the passes."""
        return _WORKER_BASE_BYTES + max(part.worker_bytes for part in self.passes)

    @property
    def disk_bytes(self) -> int:
        """Most that masks and confidences can take on disk, bytes: in the store, while the COG is made, and as COGs."""
        return sum(2 * 3 * part.pixels for part in self.passes)

    def _least_areas_m2(self) -> float | dict[str, dict[str, float]]:
        """What counts as small: one area, or that of each layer's class by model."""
        areas = {
            part.name: {name: part.vector.least_area_m2(code) for name, code in part.card.class_codes(None).items()}
            for part in self.passes
        }
        all_areas = {area for classes in areas.values() for area in classes.values()}
        return all_areas.pop() if len(all_areas) == 1 else areas

    def identity(self) -> dict[str, Any]:
        """All facts that decide the layers, as plain JSON values; the same identity means the same bytes.

        How the work is cut and who does it (chunk, workers) is not among them.
        """
        settings = self.settings
        bounded = any(part.vector.boundaries for part in self.passes)
        return {
            "geoseg": importlib.metadata.version("geoseg"),
            "scene": self.scene.shown,
            "scene_fingerprint": self.scene.fingerprint(),
            "models": [part.name for part in self.passes],
            "model_digest": {part.name: part.card.digest for part in self.passes},
            "classes": {part.name: list(part.codes) for part in self.passes},
            "bands": {part.name: list(part.bands) for part in self.passes},
            "scale": {part.name: part.scale for part in self.passes},
            "thresholds": {part.name: part.thresholds for part in self.passes},
            "bbox": list(settings.bounds) if settings.bounds else None,
            "gsd_m": {part.name: round(part.grid.gsd_m, 9) for part in self.passes},
            "tile": {part.name: part.lattice.tile_size for part in self.passes},
            "halo": {part.name: part.lattice.halo for part in self.passes},
            "stitch": {part.name: part.stitch for part in self.passes},
            "refine": settings.refine,
            **({"datetime": settings.datetime} if settings.datetime else {}),
            "tta": {part.name: part.tta for part in self.passes},
            "device": self.device,
            "runtime": {part.name: part.runtime for part in self.passes},
            "precision": {part.name: part.precision for part in self.passes},
            **settings.vector.identity(),
            "min_area_m2": self._least_areas_m2(),
            "boundaries": {part.name: part.vector.boundaries for part in self.passes},
            "simplify_m": {part.name: part.vector.simplify_m for part in self.passes},
            **({"growth_px": settings.vector.growth_px} if bounded else {}),
        }


def make_plan(path: str, settings: RunSettings, execution: Execution | None = None) -> Plan:
    """Opens the scene and the cards, checks one against the other, resolves every ``auto``.

    Args:
        path: of the scene; a path or URL that GDAL reads.
        settings: what the run is asked to do.
        execution: how to cut the work and who does it; by default what fits.

    Raises:
        InputError: anything that would keep the run from being right, in one line.
    """
    scene = Scene.open(path)
    if settings.datetime is not None:
        scene = replace(scene, datetime=settings.datetime)
    choices, notes = choose_models(scene, settings)
    any_file = settings.runtime == "auto" and any(choice.card.is_onnx for choice in choices)
    asked = execution or Execution()
    device = _device(settings, asked, "onnx" if any_file else settings.runtime)
    gpus = count_gpus() if device == "cuda" else 0
    passes, fits = zip(*(_make_pass(choice, settings, asked, device, gpus) for choice in choices), strict=True)
    widest, workers = max(fits, key=lambda fitted: fitted[1])
    notes += [
        f"--chunk {asked.chunk} becomes {part.lattice.chunk} px for {part.name}: chunks are whole tiles"
        for part in passes
        if asked.chunk is not None and part.lattice.chunk != asked.chunk
    ]
    return Plan(
        settings=settings,
        scene=scene,
        passes=passes,
        execution=replace(widest, chunk=asked.chunk),
        workers=workers,
        device=device,
        gpus=gpus,
        notes=tuple(notes),
    )


def _device(settings: RunSettings, execution: Execution, runtime: RuntimeName) -> Literal["cpu", "cuda"]:
    """Where the models run. Of workers elsewhere this machine knows nothing, so there ``cuda`` is believed."""
    elsewhere = execution.scheduler is not None or execution.cluster is not None
    return (
        "cuda"
        if elsewhere and settings.device == "cuda" and runtime != "openvino"
        else resolve_device(settings.device, runtime)
    )


def _make_pass(
    choice: Choice, settings: RunSettings, execution: Execution, device: Literal["cpu", "cuda"], gpus: int
) -> tuple[Pass, tuple[Execution, int]]:
    """A model's share of the run, and the execution that fits it with how many kernels run at once."""
    card, grid, within = choice.card, choice.grid, None
    runtime = resolve_runtime(settings.runtime, card, device)
    precision = resolve_precision(settings.precision, device, runtime, passed=card.precisions)
    scale = settings.scale if card.dtype == "uint8" else None
    thresholds = _thresholds(card, grid, choice.bands, scale)
    stitch: Stitch = "crop" if card.weights is None else settings.stitch
    core, halo = _core_and_halo(card, grid, settings, stitch, _bytes_per_pixel(card, runtime, precision))
    if settings.bounds is not None:
        wanted = grid.window_of_bounds(settings.bounds)
        # with blending all tiles count that hold a pixel, also those whose cores lie up to a halo away
        snapped = _snap(wanted if stitch == "crop" else wanted.pad(halo), core, grid)
        grid, within = grid.crop(snapped), wanted.shift(-snapped.row_off, -snapped.col_off)
    fitted, workers = fit(execution, grid.height, grid.width, core=core, gpus=gpus)
    if stitch != "crop" and execution.chunk is None:
        chunk = _blended_chunk(Lattice(grid.height, grid.width, core, halo, core), within, workers)
        fitted, workers = fit(replace(execution, chunk=chunk), grid.height, grid.width, core=core, gpus=gpus)
    simplify_m = settings.vector.simplify_m
    if simplify_m is None:
        simplify_m = round(grid.gsd_m, 6)
    part = Pass(
        card=card,
        codes=choice.codes,
        grid=grid,
        within=within,
        bands=choice.bands,
        scale=scale,
        thresholds=thresholds,
        lattice=Lattice(grid.height, grid.width, core, halo, fitted.chunk or core),
        vector=replace(
            settings.vector,
            boundaries=card.boundaries,
            mapping_units_m2=tuple(card.min_areas_m2.items()),
            simplify_m=simplify_m,
        ),
        stitch=stitch,
        runtime=runtime,
        precision=precision,
        tta="none" if card.weights is None else settings.tta,
    )
    return part, (fitted, workers)


def _core_and_halo(
    card: Card, grid: Scene, settings: RunSettings, stitch: Stitch, bytes_per_pixel: float
) -> tuple[int, int]:
    """Of a tile: what fits a worker's memory and the whole of the scene, up to the card's tile.

    With blending tiles overlap by half unless a halo is asked for, and are smaller: each pixel goes through the network
    four times whatever their size, but the larger they are, the more of them neighbouring chunks compute again.
    """
    fits = math.isqrt(int(_TILE_BYTES / bytes_per_pixel)) // card.stride * card.stride
    if stitch != "crop":
        fits = min(fits, _BLENDED_TILE // card.stride * card.stride)
    if stitch == "crop" or settings.halo is not None:
        halo = _halo(card, settings, stitch)
        if card.is_onnx:  # whose network may take no other tile
            return card.tile - 2 * halo, halo
        tile = min(card.tile, max(fits, 4 * halo))
        return fitting_core(grid.height, grid.width, tile=tile, halo=halo, stride=card.stride), halo
    if card.tile <= 2 * card.stride:
        raise SettingsError(
            f"--stitch is {stitch}; model {card.name} has tiles of {card.tile} px and a stride of {card.stride}, which "
            "leaves no room to overlap"
        )
    if card.is_onnx:
        return overlap(card.tile, card.stride)
    tile = min(card.tile, max(fits, 3 * card.stride))
    return fitting_overlap(grid.height, grid.width, tile=tile, stride=card.stride)


def _blended_chunk(lattice: Lattice, within: Window | None, workers: int) -> int:
    """Side of a chunk with which a scene is blended soonest, pixels.

    Large chunks compute few tiles again that others compute, too; but of several workers some would wait for the last
    chunk. Whatever the order, they do not wait for longer than it takes (R. L. Graham, *Bounds on multiprocessing
    timing anomalies*, SIAM J. Appl. Math. 17, 1969).

    Args:
        lattice: with chunks of one core.
        within: pixels outside it are not wanted.
        workers: kernels that run at once; 0 where that is unknown.
    """

    def latest(chunk: int) -> int:
        tiles, most = replace(lattice, chunk=chunk).count_reaching(within)
        return tiles + most * max(workers - 1, 0)

    core = lattice.core
    return min(range(core, max(core, _BLENDED_CHUNK) + 1, core), key=latest)


def _bytes_per_pixel(card: Card, runtime: Resolved, precision: Arithmetic) -> float:
    """Estimated memory of a tile's activations, bytes per pixel."""
    found = _BYTES_PER_TILE_PIXEL[runtime]
    if runtime == "openvino":
        found = _BYTES_OF_FAMILY.get(card.architecture.partition("-")[0], found)
    return found * _OF_FP32[precision]


def _halo(card: Card, settings: RunSettings, stitch: Stitch) -> int:
    """Pixels around a tile's core: what the model needs, and then what refining its scores needs.

    With blending nothing is added: what refining lacks at a tile's edges hardly counts.
    """
    halo = card.halo if settings.halo is None else settings.halo
    reach = 0
    if settings.refine != "none" and stitch == "crop":
        reach = -(-reach_px(settings.refine) // card.stride) * card.stride
    if halo % card.stride or card.tile <= 2 * (halo + reach):
        more = f" with another {reach} for --refine {settings.refine}" if reach else ""
        raise SettingsError(
            f"--halo is {halo}{more}; model {card.name} needs a multiple of its stride {card.stride} below half its "
            f"tile {card.tile}"
        )
    return halo + reach


def _thresholds(
    card: Card, grid: Scene, bands: tuple[int, ...], scale: tuple[float, float] | None
) -> tuple[float, ...] | None:
    """What a model must know of the whole scene, from a glance at it that depends on nothing else."""
    if card.weights is not None or card.thresholds:  # not a segmenter that the scene decides
        return None
    pixels, valid = _glance(grid, bands)
    return scene_thresholds(card, converter(card.dtype, scale)(pixels), valid)


def _glance(scene: Scene, bands: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The whole scene on at most 1024 x 1024 px, each the mean of what it covers: (bands, rows, cols), (rows, cols).

    It is read in strips, so that a scene without overviews fits memory, too; all of it is read then.
    """
    ratio = max(1.0, max(scene.height, scene.width) / _GLANCE_PX)
    small = scene.at_gsd(scene.gsd_m * ratio)
    rows = max(1, int(_GLANCE_READ_PX / (ratio**2 * small.width)))
    strips = [
        small.read(Window(0, row, small.width, min(rows, small.height - row)), bands)
        for row in range(0, small.height, rows)
    ]
    return np.concatenate([pixels for pixels, _ in strips], axis=1), np.concatenate([valid for _, valid in strips])


def _snap(window: Window, core: int, scene: Scene) -> Window:
    """Grows a window to whole cores, so that its tiles are those of the whole scene's run; what sticks out is cut."""
    row_off, col_off = max(window.row_off // core, 0) * core, max(window.col_off // core, 0) * core
    row_stop = min(-(-window.row_stop // core) * core, scene.height)
    col_stop = min(-(-window.col_stop // core) * core, scene.width)
    return Window(col_off, row_off, col_stop - col_off, row_stop - row_off)


def seconds_per_tile(plan: Plan, part: Pass) -> float:
    """Times a pass's model on one tile of this machine (the second of two, after warming up)."""
    side = part.lattice.tile_size
    card = replace(part.card, tile=side)
    how: Any = {"runtime": part.runtime, "device": plan.device, "precision": part.precision}
    how |= {"refine": plan.settings.refine, "tta": part.tta}
    if part.stitch == "crop":
        infer = open_runtime(card, **how, halo=part.lattice.halo, thresholds=part.thresholds)
    else:
        infer = open_scorer(card, **how)
    shape = (infer.batch, len(part.bands), side, side)
    tiles = np.zeros(shape, dtype=np.uint8 if part.card.dtype == "uint8" else np.float32)
    infer(tiles)
    start = time.perf_counter()
    infer(tiles)
    return (time.perf_counter() - start) / infer.batch
