"""Which halo a model needs, measured: labels of tiles against labels of the whole image (floor 4).

Windows of a scene are labelled at once, with as much of the scene around them as the model's network can see: these are
the labels of the whole image. Then tiles of the card's size are laid over them in several cuttings, each shifted by a
multiple of the stride, and labelled as a run labels them: the same reading and scaling, mirrored beyond the scene's
edges, the same runtime, the same decision. A pixel that lies ``d`` pixels from its tile's edge is in the core of every
halo up to ``d``, so one set of tiles tells of all halos: for each of them all pixels of the cores count that it leaves.

Averaged over all cuttings that is exactly what runs with that halo give, whatever pixel their lattice begins at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from geoseg.codes import NODATA
from geoseg.engine.plan import Pass, Plan, make_plan
from geoseg.engine.prediction import fill_of
from geoseg.engine.progress import Progress, Silent
from geoseg.errors import ModelError, SceneError, SettingsError
from geoseg.evaluation.bootstrap import draw_scenes, ratio, to_figure
from geoseg.lattice import Tile, Window
from geoseg.models import zoo
from geoseg.models.card import Card, write_halo
from geoseg.models.reach import Tiling, measure_network
from geoseg.models.runtime_torch import load_network
from geoseg.models.runtimes import open_runtime
from geoseg.settings import Execution, RunSettings
from geoseg.stages.predict import Network, converter, predict_chunk

__all__ = ["HaloRow", "MeasuredHalo", "count_differing", "cuttings", "measure_halo", "spread_windows", "tiles_over"]

_CUTTINGS = 6
_TILE = 1536  # px, at most: larger tiles agree more, since less of them lies near an edge
_RESAMPLES = 1000
_SPREAD = (0.7548776662466927, 0.5698402909980532)  # by which shifts in rows and columns fill the square evenly

Label: TypeAlias = Callable[[Window], NDArray[np.uint8]]
"""a tile, perhaps beyond the scene's edge -> the labels of all its pixels, (rows, cols); 255 is nodata"""


@dataclass(frozen=True, slots=True)
class HaloRow:
    """What one halo does.

    Attributes:
        halo: pixels.
        pixels: compared.
        differing: share of them whose labels in a tile are not those of the whole image.
        low: lower end of its 95 % interval by bootstrap over scenes; ``None`` with one scene.
        high: upper end.
        worst: the share in the worst of all windows.
        cost: pixels through the network for each pixel of a large scene.
    """

    halo: int
    pixels: int
    differing: float
    low: float | None
    high: float | None
    worst: float
    cost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredHalo:
    """What was measured, and how.

    Attributes:
        card: of the model.
        rate: share of equal labels that is asked for.
        scenes: what was measured on, file names.
        windows: of all scenes together.
        window_px: largest side of a window whose labels were compared.
        whole_px: side of what stood for the whole image of such a window.
        device: where the model ran.
        runtime: what ran it.
        precision: its arithmetic.
        rows: halos, the smallest first.
        notes: what a user should know, one line each.
    """

    card: Card
    rate: float
    scenes: tuple[str, ...]
    windows: int
    window_px: int
    whole_px: int
    device: str
    runtime: str
    precision: str
    rows: tuple[HaloRow, ...]
    notes: tuple[str, ...]

    @property
    def halo(self) -> int | None:
        """The smallest halo from which on labels agree at the rate; ``None`` if there is none."""
        found = None
        for row in reversed(self.rows):
            if 1 - row.differing < self.rate:
                break
            found = row.halo
        return found

    def facts(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "model": self.card.name,
            "tile": self.card.tile,
            "stride": self.card.stride,
            "card_halo": self.card.halo,
            "rate": self.rate,
            "halo": self.halo,
            "rows": [asdict(row) for row in self.rows],
            **{
                name: getattr(self, name)
                for name in ("scenes", "windows", "window_px", "whole_px", "device", "runtime", "precision", "notes")
            },
        }

    def write(self) -> Card:
        """Writes the halo and what it rests on into the card, atomically; the weights stay.

        Raises:
            ModelError: no halo reaches the rate, or the card has no place for one.
            OutputError: the card cannot be written.
        """
        if self.halo is None:
            best = min(self.rows, key=lambda row: row.differing)
            nearest = f"{best.halo} with {1 - best.differing:.6f}"
            raise ModelError(
                f"no halo of model {self.card.name} below half its tile {self.card.tile} reaches the rate "
                f"{self.rate:g}, the nearest is {nearest}: ask for a lower --rate; nothing was written"
            )
        shared = {"scenes": len(self.scenes), "tile": self.card.tile, "runtime": self.runtime}
        shared["precision"] = self.precision
        rows = []
        for row in self.rows:
            shares = {name: getattr(row, name) for name in ("differing", "low", "high", "worst")}
            rounded = {name: float(f"{share:.3g}") for name, share in shares.items() if share is not None}
            rows.append({"halo": row.halo, **rounded, "pixels": row.pixels, **shared})
        return write_halo(self.card, self.halo, rows)


def measure_halo(
    model: str,
    scenes: Sequence[str],
    settings: RunSettings,
    *,
    rate: float = 0.9999,
    window_px: int = 1024,
    windows: int = 3,
    progress: Progress | None = None,
) -> MeasuredHalo:
    """Measures the agreement of tiled and whole-image labels for all halos that are multiples of the model's stride.

    The tiles are the card's, of 1536 px at most. Memory depends on them and ``window_px``, not on the scenes' size.

    Args:
        model: a name of the zoo, or the path of a card.
        scenes: paths or URLs that GDAL reads, of what the model is made for.
        settings: ``bands``, ``scale``, ``device``, ``runtime`` and ``precision`` are those of a run; all else is
            not used.
        rate: share of equal labels that is asked for, above 0, at most 1.
        window_px: largest side of a window, pixels of the grid at which the model reads the scene.
        windows: for each scene that is larger, from its first corner to its last.
        progress: sees it go by.

    Raises:
        ModelError: the model cannot be used, or has no halo to measure.
        SceneError: a scene cannot be read by the model, or there is nothing to compare.
        SettingsError: a number out of range.
    """
    card = zoo.load(model)
    card = replace(card, tile=min(card.tile, _TILE))
    if card.weights is None:
        raise ModelError(f"model {card.name} decides every pixel alone: its halo is 0 and there is none to measure")
    _check(card, scenes, rate, window_px, windows)
    asked = RunSettings(
        models=(model,),
        bands=settings.bands,
        scale=settings.scale,
        device=settings.device,
        runtime=settings.runtime,
        precision=settings.precision,
    )
    plans = [make_plan(path, asked, Execution(threads=1)) for path in scenes]
    largest = (card.tile - 1) // 2 // card.stride * card.stride
    tiling = None
    if not card.is_onnx:
        tiling = measure_network(load_network(card).eval(), card.architecture, bands=card.channels)
    reach = tiling.halo_px if tiling else None
    margin = largest if reach is None else min(-(-reach // card.stride) * card.stride, largest)
    halos = range(0, margin + 1, card.stride)
    looks = [
        _Look(number, part, window)
        for number, part in enumerate(plan.passes[0] for plan in plans)
        for window in spread_windows(part.grid.height, part.grid.width, window_px, card.stride, windows)
    ]
    first = plans[0].passes[0]
    longest = max(max(look.window.height, look.window.width) for look in looks)
    whole_px = -(-longest // card.stride) * card.stride + 2 * margin  # a square of whole strides, as models take it
    counts = _count(card, plans[0], looks, halos, whole_px, progress or Silent())
    return MeasuredHalo(
        card=card,
        rate=rate,
        scenes=tuple(Path(plan.scene.shown).name for plan in plans),
        windows=len(looks),
        window_px=longest,
        whole_px=whole_px,
        device=plans[0].device,
        runtime=first.runtime,
        precision=first.precision,
        rows=tuple(_rows(card.tile, halos, counts, np.array([look.scene for look in looks]))),
        notes=(*dict.fromkeys(note for plan in plans for note in plan.notes), *_notes(tiling, margin)),
    )


def _check(card: Card, scenes: Sequence[str], rate: float, window_px: int, windows: int) -> None:
    if not scenes:
        raise SettingsError("no scene is given: name at least one that shows what the model is made for")
    if not 0 < rate <= 1:
        raise SettingsError(f"--rate is {rate:g}: give a share of equal labels above 0 and up to 1, e.g. 0.9999")
    if window_px < card.stride:
        raise SettingsError(f"--window is {window_px}: give {card.stride} pixels or more, the stride of {card.name}")
    if windows < 1:
        raise SettingsError(f"--windows is {windows}: give 1 or more")


def _notes(tiling: Tiling | None, margin: int) -> Iterator[str]:
    if tiling is None:
        yield (
            "how far an ONNX file looks is not known: for the whole image stand windows "
            f"with {margin} px around them, and labels may go on changing with wider ones"
        )
    elif tiling.halo_px is None:
        yield (
            f"architecture {tiling.architecture} is never exact, with no halo: {tiling.why}; for the whole image stand "
            f"windows with {margin} px around them, and labels would go on changing with wider ones"
        )
    elif tiling.halo_px > margin:
        yield (
            f"the network looks {tiling.halo_px} px far, farther than half its tile: for the whole image stand windows "
            f"with {margin} px around them"
        )


@dataclass(frozen=True, slots=True)
class _Look:
    """One window of a scene.

    Attributes:
        scene: its number.
        part: how the model reads it.
        window: whose labels are compared.
    """

    scene: int
    part: Pass
    window: Window

    def label(self, tile: Tile, network: Network) -> NDArray[np.uint8]:
        """Labels of a tile's core, (rows, cols), as a run gives them."""
        part = self.part
        [(mask, _)] = predict_chunk(
            [tile],
            tile.core,
            read=lambda window: part.grid.read(window, part.bands),
            convert=converter(part.card.dtype, part.scale),
            networks=[network],
        )
        return mask


def _count(
    card: Card, plan: Plan, looks: Sequence[_Look], halos: Sequence[int], whole_px: int, progress: Progress
) -> NDArray[np.int64]:
    """Differing and compared pixels, (windows, halos, 2) int64; ``plan`` says where the model runs.

    Raises:
        SceneError: nothing to compare: labels of one class alone agree with any halo.
    """
    margin = halos[-1]
    whole_card = replace(card, tile=whole_px, halo=margin)  # a runtime is made for tiles of one size
    part = plan.passes[0]
    how: Any = {"runtime": part.runtime, "device": plan.device, "precision": part.precision}
    cut = open_runtime(card, **how, halo=0)
    try:
        at_once = open_runtime(whole_card, **how, halo=margin)
    except ModelError:
        if not card.is_onnx:
            raise
        raise ModelError(
            f"the network {card.weights} of model {card.name} takes tiles of {card.tile} px alone, so there is no "
            "whole image to compare them with; export it with free rows and columns"
        ) from None
    whole_network, tile_network = Network(at_once, at_once.batch, fill_of(card)), Network(cut, cut.batch, fill_of(card))
    shifts = cuttings(card.tile, card.stride, _CUTTINGS)
    placed = [[outer for by in shifts for outer in tiles_over(look.window, card.tile, by)] for look in looks]
    total = sum(whole_px**2 + len(outers) * card.tile**2 for outers in placed)
    codes: set[int] = set()
    counts = []
    with progress.stage("measure", total) as advance:
        for look, outers in zip(looks, placed, strict=True):
            outer = Window(look.window.col_off - margin, look.window.row_off - margin, whole_px, whole_px)
            whole = look.label(Tile(0, 0, look.window, outer), whole_network)
            advance(outer.area)
            codes.update(np.unique(whole).tolist())

            def label(outer: Window, look: _Look = look) -> NDArray[np.uint8]:
                labels = look.label(Tile(0, 0, outer, outer), tile_network)
                advance(outer.area)
                return labels

            counts.append(count_differing(look.window, whole, outers, halos, label))
    if len(codes - {NODATA}) < 2:
        shown = ", ".join(dict.fromkeys(look.part.grid.shown for look in looks))
        raise SceneError(
            f"model {card.name} labels everything alike in {shown}: any halo would do there; give scenes that show "
            "what it is made for"
        )
    return np.stack(counts)


def _rows(tile: int, halos: Sequence[int], counts: NDArray[np.int64], scenes: NDArray[np.int64]) -> Iterator[HaloRow]:
    """The figures of each halo; of scenes small against the tile the widest may leave no pixel, and are left out."""
    of_windows = counts.astype(np.float64)
    of_scenes = np.stack([of_windows[scenes == scene].sum(axis=0) for scene in np.unique(scenes)])
    draws = draw_scenes(len(of_scenes), _RESAMPLES)
    for place, halo in enumerate(halos):
        differing, compared = of_scenes[:, place].T
        figure = to_figure(ratio(draws @ differing, draws @ compared))
        if figure.value is None:
            continue
        worst = float(np.nanmax(ratio(*of_windows[:, place].T)))
        cost = (tile / (tile - 2 * halo)) ** 2
        yield HaloRow(halo, int(compared.sum()), figure.value, figure.low, figure.high, worst, cost)


def count_differing(
    window: Window, whole: NDArray[np.uint8], outers: Sequence[Window], halos: Sequence[int], label: Label
) -> NDArray[np.int64]:
    """Compares the labels of tiles with those of the whole image, for many halos at once.

    Args:
        window: what is compared.
        whole: its labels, (rows, cols); 255 is nodata and counts nowhere.
        outers: the tiles.
        halos: pixels, each below half a tile.
        label: labels a tile.

    Returns:
        (halos, 2): pixels whose labels differ, and pixels compared, of the cores that each halo leaves.
    """
    counts = np.zeros((len(halos), 2), np.int64)
    known = whole != NODATA
    for outer in outers:
        labels = label(outer)
        for place, halo in enumerate(halos):
            core = outer.pad(-halo).intersection(window)
            if core is None:
                continue
            there = core.slices(window)
            differs = (labels[core.slices(outer)] != whole[there]) & known[there]
            counts[place] += np.count_nonzero(differs), np.count_nonzero(known[there])
    return counts


def cuttings(tile: int, stride: int, count: int) -> list[tuple[int, int]]:
    """Shifts (rows, cols) of a lattice of tiles, multiples of the stride, spread evenly over all that there are.

    Args:
        tile: side, a multiple of the stride, pixels.
        stride: pixels.
        count: how many.
    """
    steps = tile // stride
    down, right = _SPREAD
    return [
        (stride * int(steps * ((0.5 + down * number) % 1)), stride * int(steps * ((0.5 + right * number) % 1)))
        for number in range(count)
    ]


def tiles_over(window: Window, tile: int, shift: tuple[int, int]) -> Iterator[Window]:
    """The tiles side by side that cover a window, of the lattice that begins at pixel ``shift``."""
    first_row, first_col = (
        (start - by) // tile * tile + by for start, by in zip((window.row_off, window.col_off), shift, strict=True)
    )
    for row in range(first_row, window.row_stop, tile):
        for col in range(first_col, window.col_stop, tile):
            yield Window(col, row, tile, tile)


def spread_windows(height: int, width: int, side: int, stride: int, count: int) -> list[Window]:
    """Windows from a scene's first corner to its last, so that its edges are among them.

    Args:
        height: of the scene, rows.
        width: of the scene, columns.
        side: of a window, pixels; windows end where the scene ends.
        stride: windows begin at multiples of it, pixels.
        count: how many, where the scene is larger than one.
    """

    def starts(length: int) -> list[int]:
        last = -(-max(length - side, 0) // stride)
        return [stride * (last * number // max(count - 1, 1)) for number in range(count)]

    corners = dict.fromkeys(zip(starts(height), starts(width), strict=True))
    return [Window(col, row, min(side, width - col), min(side, height - row)) for row, col in corners]
