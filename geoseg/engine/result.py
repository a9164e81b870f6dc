"""What a finished run says of itself (floor 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from geoseg.atomic import local_copies
from geoseg.errors import InputError
from geoseg.remote import Place
from geoseg.settings import RESERVED

if TYPE_CHECKING:
    import geopandas

__all__ = ["FAILED", "ChunkCount", "FailedWindow", "LayerSummary", "PassSummary", "Result", "StageTime"]

FAILED = f"{RESERVED}.geojson"
"""File that shows where windows failed; there is none when all is well."""


@dataclass(frozen=True, slots=True)
class ChunkCount:
    """The chunks of a stage.

    Attributes:
        total: all that there are.
        reused: those that an earlier run had finished.
        failed: those that are still not done.
    """

    total: int
    reused: int
    failed: int = 0

    @property
    def done(self) -> int:
        """Those that this run finished."""
        return self.total - self.reused - self.failed

    def __add__(self, other: ChunkCount) -> ChunkCount:
        return ChunkCount(self.total + other.total, self.reused + other.reused, self.failed + other.failed)

    def to_json(self) -> dict[str, int]:
        """Plain JSON values, with what this run finished."""
        return {"total": self.total, "reused": self.reused, "done": self.done, "failed": self.failed}

    @classmethod
    def from_json(cls, record: Mapping[str, int]) -> ChunkCount:
        """Reads what :meth:`to_json` gave."""
        return cls(record["total"], record["reused"], record["failed"])


@dataclass(frozen=True, slots=True)
class FailedWindow:
    """A chunk that one pass could not predict: its pixels are nodata, and in no layer.

    Attributes:
        stage: in which it failed.
        model: of the pass.
        window: (col_off, row_off, width, height), pixels of the pass's mask.
        bounds: (west, south, east, north) in degrees; ``None`` where it lies off the earth.
        reason: in one line.
    """

    stage: str
    model: str
    window: tuple[int, int, int, int]
    bounds: tuple[float, float, float, float] | None
    reason: str

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> FailedWindow:
        """Reads what ``asdict`` gave."""
        bounds = record["bounds"]
        return cls(**{**record, "window": tuple(record["window"]), "bounds": bounds and tuple(bounds)})


@dataclass(frozen=True, slots=True)
class LayerSummary:
    """One finished layer.

    Attributes:
        polygons: how many.
        area_m2: their geodesic area.
        share: of the ground with data, 0-1; ``None`` where the scene's corners lie off the earth.
    """

    polygons: int
    area_m2: float
    share: float | None


@dataclass(frozen=True, slots=True)
class PassSummary:
    """What one model's share of a run was.

    Attributes:
        model: its name.
        version: of its weights.
        classes: layers that it found.
        gsd_m: of its mask, metres.
        runtime: what ran it.
        precision: of its arithmetic.
        stitch: how its tiles became one mask.
        refine: how its scores were refined.
        tta: the views over which they were averaged.
        lattice: of its mask, see :class:`geoseg.lattice.Lattice`.
        valid_pixels: of its mask.
        mask: file name of its mask.
        chunks: of its stages, by their names.
        kept_apart: those of its classes whose touching instances are kept apart.
    """

    model: str
    version: str
    classes: tuple[str, ...]
    gsd_m: float
    runtime: str
    precision: str
    stitch: str
    refine: str
    tta: str
    lattice: Mapping[str, int]
    valid_pixels: int
    mask: str
    chunks: Mapping[str, ChunkCount] = field(default_factory=dict)
    kept_apart: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"chunks": {stage: count.to_json() for stage, count in self.chunks.items()}}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> PassSummary:
        """Reads what :meth:`to_json` gave."""
        chunks = {stage: ChunkCount.from_json(count) for stage, count in record.get("chunks", {}).items()}
        names = {name: tuple(record[name]) for name in ("classes", "kept_apart") if name in record}
        return cls(**{**record, **names, "chunks": chunks})


@dataclass(frozen=True, slots=True)
class StageTime:
    """What one stage took.

    Attributes:
        name: of the stage.
        seconds: wall time, of all passes.
        pixels: that it went over in this run, 0 where pixels are not its measure.
        chunks: of all passes (what passes read together counts once); ``None`` where it does not go by chunks.
    """

    name: str
    seconds: float
    pixels: int
    chunks: ChunkCount | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"chunks": self.chunks and self.chunks.to_json()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> StageTime:
        """Reads what :meth:`to_json` gave."""
        chunks = record.get("chunks")
        return cls(**{**record, "chunks": chunks and ChunkCount.from_json(chunks)})


@dataclass(frozen=True, slots=True)
class Result:
    """What a run left behind.

    Attributes:
        directory: where everything lies.
        passes: of the models; none where a mask was given.
        layers: by class name.
        stages: in order.
        files: written, relative to the directory.
        executor: who did it.
        failed: windows that are missing; the same command again tries them again.
    """

    directory: Place
    passes: tuple[PassSummary, ...]
    layers: Mapping[str, LayerSummary]
    stages: tuple[StageTime, ...]
    files: tuple[str, ...]
    executor: str
    failed: tuple[FailedWindow, ...] = ()

    def layer(self, name: str) -> geopandas.GeoDataFrame:
        """Reads a layer back: from GeoParquet in the scene's CRS, else from GeoJSON in lon/lat.

        Raises:
            InputError: the run wrote no such layer in one of the two.
        """
        import geopandas  # takes a while, and a run needs none

        for suffix, read in ((".parquet", geopandas.read_parquet), (".geojson", geopandas.read_file)):
            path = self.directory / f"{name}{suffix}"
            if path.exists():
                with local_copies([path]) as copies:
                    return read(copies[0])
        raise InputError(f"{self.directory} has no {name}.parquet or {name}.geojson; it has {', '.join(self.files)}")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; :meth:`from_json` is the way back."""
        return {
            "passes": [part.to_json() for part in self.passes],
            "layers": {name: asdict(layer) for name, layer in self.layers.items()},
            "stages": [stage.to_json() for stage in self.stages],
            "files": list(self.files),
            "executor": self.executor,
            "failed": [asdict(window) for window in self.failed],
        }

    @classmethod
    def from_json(cls, directory: Place, record: Mapping[str, Any]) -> Result:
        """Reads what :meth:`to_json` gave."""
        return cls(
            directory=directory,
            passes=tuple(PassSummary.from_json(part) for part in record.get("passes", ())),
            layers={name: LayerSummary(**layer) for name, layer in record["layers"].items()},
            stages=tuple(StageTime.from_json(stage) for stage in record["stages"]),
            files=tuple(record["files"]),
            executor=record["executor"],
            failed=tuple(FailedWindow.from_json(window) for window in record.get("failed", ())),
        )
