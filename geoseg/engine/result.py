"""What a finished run says of itself (floor 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.errors import InputError

if TYPE_CHECKING:
    import geopandas

__all__ = ["LayerSummary", "PassSummary", "Result", "StageTime"]


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
    kept_apart: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StageTime:
    """What one stage took.

    Attributes:
        name: of the stage.
        seconds: wall time, of all passes.
        pixels: that it went over in this run, 0 where pixels are not its measure.
    """

    name: str
    seconds: float
    pixels: int


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
    """

    directory: Path
    passes: tuple[PassSummary, ...]
    layers: Mapping[str, LayerSummary]
    stages: tuple[StageTime, ...]
    files: tuple[str, ...]
    executor: str

    def layer(self, name: str) -> geopandas.GeoDataFrame:
        """Reads a layer back: from GeoParquet in the scene's CRS, else from GeoJSON in lon/lat.

        Raises:
            InputError: the run wrote no such layer in one of the two.
        """
        import geopandas  # takes a while, and a run needs none

        for suffix, read in ((".parquet", geopandas.read_parquet), (".geojson", geopandas.read_file)):
            path = self.directory / f"{name}{suffix}"
            if path.exists():
                return read(path)
        raise InputError(f"{self.directory} has no {name}.parquet or {name}.geojson; it has {', '.join(self.files)}")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; :meth:`from_json` is the way back."""
        return {
            "passes": [asdict(part) for part in self.passes],
            "layers": {name: asdict(layer) for name, layer in self.layers.items()},
            "stages": [asdict(stage) for stage in self.stages],
            "files": list(self.files),
            "executor": self.executor,
        }

    @classmethod
    def from_json(cls, directory: Path, record: Mapping[str, Any]) -> Result:
        """Reads what :meth:`to_json` gave."""
        return cls(
            directory=directory,
            passes=tuple(
                PassSummary(**part | {name: tuple(part[name]) for name in ("classes", "kept_apart") if name in part})
                for part in record.get("passes", ())
            ),
            layers={name: LayerSummary(**layer) for name, layer in record["layers"].items()},
            stages=tuple(StageTime(**stage) for stage in record["stages"]),
            files=tuple(record["files"]),
            executor=record["executor"],
        )
