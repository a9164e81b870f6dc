"""What people see in a terminal: progress bars, tables, descriptions (floor 5)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from geoseg.engine.progress import Advance
from geoseg.engine.result import FAILED, ChunkCount

if TYPE_CHECKING:
    from geoseg.engine.agreement import Agreement
    from geoseg.engine.halo import MeasuredHalo
    from geoseg.engine.parity import MeasuredParity
    from geoseg.engine.plan import Pass, Plan
    from geoseg.engine.quantize import MeasuredQuantization
    from geoseg.engine.result import Result
    from geoseg.evaluation.bootstrap import Figure
    from geoseg.evaluation.report import Report
    from geoseg.models.card import Card, CardClass
    from geoseg.models.reach import Tiling
    from geoseg.scene import Scene
    from geoseg.training.callbacks import Progress as Step
    from geoseg.training.preparation import Found
    from geoseg.training.train import Trained

__all__ = [
    "Bars",
    "TrainingLog",
    "describe",
    "describe_architecture",
    "describe_plan",
    "facts",
    "list_cards",
    "show_found",
    "show_halo",
    "show_parity",
    "show_quantization",
    "show_report",
    "show_result",
    "show_trained",
]


_LOG_COLUMNS = 120


class _Rate(ProgressColumn):
    """Million pixels per second."""

    def render(self, task: Task) -> Text:
        if not (task.total and task.total > 1 and task.completed and task.elapsed):
            return Text("")
        return Text(f"{task.completed / 1e6 / task.elapsed:7.2f} Mpx/s", style="cyan")


class _Chunks(ProgressColumn):
    """Chunks that are done, were done before, and failed."""

    def render(self, task: Task) -> Text:
        count: ChunkCount | None = task.fields["count"]
        if count is None:
            return Text("")
        text = Text(f"{task.fields['done'] + count.reused:,}/{count.total:,} chunks")
        if count.reused:
            text.append(f", {count.reused:,} before", style="dim")
        if task.fields["failed"]:
            text.append(f", {task.fields['failed']:,} failed", style="red")
        return text


class Bars:
    """A progress bar with rate, time left and chunks for each stage, on standard error.

    Without a terminal each stage is one line when it ends.
    """

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._console = console if console.is_terminal else Console(stderr=True, width=_LOG_COLUMNS)

    def note(self, text: str) -> None:
        """See ``geoseg.engine.progress.Progress.note``."""
        self._console.print(text, style="dim", highlight=False, soft_wrap=True, markup=False)

    @contextmanager
    def stage(self, name: str, pixels: int, chunks: ChunkCount | None = None) -> Iterator[Advance]:
        """See ``geoseg.engine.progress.Progress.stage``."""
        columns = (
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=16),
            TextColumn("{task.percentage:>3.0f}%"),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            _Chunks(),
        )
        with Progress(*columns, console=self._console, refresh_per_second=4, speed_estimate_period=60) as bars:
            task = bars.add_task(name, total=pixels or None, count=chunks, done=0, failed=0)
            done = failures = 0

            def advance(pixels: int, *, failed: bool = False) -> None:
                nonlocal done, failures
                done, failures = done + (not failed), failures + failed
                bars.update(task, advance=pixels, done=done, failed=failures)

            yield advance
            if not pixels:
                bars.update(task, total=1, completed=1)


def _area(square_metres: float) -> str:
    if square_metres >= 1e6:
        return f"{square_metres / 1e6:,.2f} km²"
    return f"{square_metres / 1e4:,.2f} ha" if square_metres >= 100 else f"{square_metres:.0f} m²"


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit in {"B", "KiB"} else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{max(seconds, 0.0):.1f} s"


def show_result(result: Result) -> None:
    """The closing tables: polygons, area and share of each class; seconds and rate of each stage."""
    from geoseg.engine.catalogue import CatalogueResult

    console = Console()
    layers = Table("layer", title=None, box=None, header_style="bold")
    for heading in ("polygons", "area", "share"):
        layers.add_column(heading, justify="right")
    for name, layer in result.layers.items():
        share = "-" if layer.share is None else f"{layer.share:.1%}"
        layers.add_row(name, f"{layer.polygons:,}", _area(layer.area_m2), share)
    console.print(layers)
    for part in result.passes:
        facts = f"{', '.join(part.classes)}: {part.model} {part.version} at {part.gsd_m:.3g} m, {part.mask}"
        console.print(facts, highlight=False, soft_wrap=True, markup=False)
    stages = Table("stage", box=None, header_style="bold")
    for heading in ("seconds", "Mpx/s"):
        stages.add_column(heading, justify="right")
    for stage in result.stages:
        rate = f"{stage.pixels / 1e6 / stage.seconds:,.2f}" if stage.pixels and stage.seconds else ""
        stages.add_row(stage.name, f"{stage.seconds:.2f}", rate)
    stages.add_row("all", f"{sum(stage.seconds for stage in result.stages):.2f}", "")
    console.print(stages)
    if result.failed:
        missing = f"{_counted(len(result.failed), 'window')} failed and are in no layer, see {FAILED}"
        console.print(f"{missing}; the same command again tries them again", highlight=False, soft_wrap=True)
    if isinstance(result, CatalogueResult):
        states = Counter(scene.state for scene in result.scenes)
        told = ", ".join(f"{states[state]} {state}" for state in ("done", "reused", "failed") if states[state])
        console.print(f"{_counted(len(result.scenes), 'scene')}: {told}", highlight=False, soft_wrap=True, markup=False)
    console.print(
        f"{result.directory}: {', '.join((*result.files, 'run.json'))}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


def _print_rows(rows: Sequence[tuple[str, object]]) -> None:
    console = Console()
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        console.print(f"{name:<{width}}  {value}", highlight=False, soft_wrap=True, markup=False)


def describe_plan(plan: Plan, seconds_per_tile: Sequence[float]) -> None:
    """A plan in words.

    Args:
        plan: of the run.
        seconds_per_tile: of each pass.
    """
    workers = plan.workers
    kind = "worker" if plan.execution.workers else "thread"
    who = "the scheduler's workers" if not workers else f"{workers} {kind}{'s' if workers != 1 else ''}"
    rows = _scene_rows(plan.scene)
    total = 0.0
    for part, one in zip(plan.passes, seconds_per_tile, strict=True):
        lattice = part.lattice
        seconds = part.computed_tiles * one / min(workers or 1, part.chunks)
        total += seconds
        rows += [
            ("model", f"{part.name} {part.card.version}: {', '.join(part.codes)}"),
            ("  bands used", ", ".join(str(index) for index in part.bands)),
            ("  grid", f"{part.grid.width} x {part.grid.height} px at {part.grid.gsd_m:.3g} m"),
            ("  tiles", f"{part.tiles:,} of {lattice.tile_size} px (core {lattice.core}, halo {lattice.halo})"),
            ("  chunks", f"{part.chunks:,} of {lattice.chunk} px"),
            *([("  stitched by", _stitching(part))] if part.stitch != "crop" else []),
            ("  runs in", f"{part.runtime}, {part.precision}"),
            ("  time", f"about {_duration(seconds)} to predict, by one tile timed here"),
        ]
    if len(plan.reads) < len(plan.passes):
        shared = (" and ".join(part.name for part in together) for together in plan.reads if len(together) > 1)
        rows.append(("read once for", "; ".join(shared)))
    rows += [
        *([("refined by", plan.settings.refine)] if plan.settings.refine != "none" else []),
        *([("averaged over", "eight views of each tile")] if any(part.tta != "none" for part in plan.passes) else []),
        ("runs on", f"{plan.device}, {who}"),
        ("memory", f"about {_bytes(plan.worker_bytes)} for each worker"),
        ("disk", f"at most {_bytes(plan.disk_bytes)} and the layers"),
        *([("time", f"about {_duration(total)} to predict")] if len(plan.passes) > 1 else []),
        *(("note", note) for note in plan.notes),
    ]
    _print_rows(rows)


def _stitching(part: Pass) -> str:
    """How tiles are blended, and what that takes."""
    share = part.computed_tiles * part.lattice.tile_size**2 / part.pixels
    return f"{part.stitch} weights; {part.computed_tiles:,} tiles computed, {share:.2f} x the pixels of the grid"


def _scene_rows(scene: Scene) -> list[tuple[str, object]]:
    return [
        ("scene", scene.shown),
        ("size", f"{scene.width} x {scene.height} px, {scene.dtype}"),
        ("CRS", scene.crs.to_string()),
        ("GSD", f"{scene.gsd_m:.4g} m"),
        ("date", scene.datetime or "not stated"),
    ]


def describe(thing: Scene | Card | Result) -> None:
    """A scene, a model's card or a finished run in words."""
    from geoseg.engine.result import Result
    from geoseg.models.card import Card

    if isinstance(thing, Result):
        show_result(thing)
    elif isinstance(thing, Card):
        _describe_card(thing)
    else:
        _describe_scene(thing)


def facts(thing: Scene | Card | Result) -> dict[str, Any]:
    """The same for machines, as plain JSON values; a card is its own STAC item."""
    from geoseg.engine.result import Result
    from geoseg.models.card import Card

    if isinstance(thing, Result):
        return {"kind": "run", "directory": str(thing.directory), **thing.to_json()}
    if isinstance(thing, Card):
        return thing.to_item()
    return {
        "kind": "scene",
        "path": thing.shown,
        "width": thing.width,
        "height": thing.height,
        "dtype": thing.dtype,
        "crs": thing.crs.to_string(),
        "transform": list(thing.transform)[:6],
        "gsd_m": thing.gsd_m,
        "datetime": thing.datetime,
        "bands": [asdict(band) for band in thing.bands],
    }


def _describe_scene(scene: Scene) -> None:
    """A scene in words."""
    bands = [
        (
            f"band {band.index}",
            " ".join(
                part
                for part in (
                    band.dtype,
                    band.common_name or "no common name",
                    repr(band.name) if band.name else "",
                    f"nodata {band.nodata:g}" if band.nodata is not None else "",
                )
                if part
            ),
        )
        for band in scene.bands
    ]
    _print_rows([*_scene_rows(scene), *bands])


def list_cards(cards: Sequence[Card]) -> None:
    """The models at hand, a line each where 80 columns allow; a card alone tells the rest."""
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for heading in ("model", "GSD", "bands", "classes", "licence"):
        table.add_column(heading, overflow="fold")
    for card in cards:
        classes = ", ".join(entry.name for entry in card.classes if not entry.boundary_of)
        table.add_row(card.name, _gsd_range(card), ", ".join(card.bands), classes, card.licence)
    Console().print(table)
    if absent := [card.name for card in cards if not card.is_there]:
        _print_rows([("not downloaded", f"{', '.join(absent)}; geoseg models NAME --download fetches one")])


def _gsd_range(card: Card) -> str:
    finest, coarsest = card.gsd_range_m
    if not finest:
        return "any"
    farther = f", scenes to {coarsest * card.upsampling:.2g} m" if card.upsampling > 1 else ""
    return f"{finest:g}-{coarsest:g} m{farther}"


def describe_architecture(found: Tiling) -> None:
    """What an architecture is, and what tiles do to it."""
    exact = f"exact from a halo of {found.halo_px} px on" if found.halo_px is not None else f"never exact: {found.why}"
    _print_rows(
        [
            ("architecture", found.architecture),
            ("parameters", f"{found.parameters / 1e6:.2f} M (three bands, one class)"),
            ("stride", f"{found.stride} px"),
            ("tiling", exact),
        ]
    )


def _describe_card(card: Card) -> None:
    """A model's card in words, with its held-out figures."""
    facts = dict(card.download)
    parameters = f", {card.parameters / 1e6:.2f} M parameters" if card.parameters else ""
    thresholds = ", ".join(f"{value:g}" for value in card.thresholds)
    rows: list[tuple[str, object]] = [
        ("model", f"{card.name} {card.version}"),
        ("title", card.title),
        ("licence", card.licence),
        ("architecture", f"{card.architecture}{parameters}"),
        ("bands", ", ".join(card.bands)),
        ("values", "uint8 0-255, others with --scale" if card.dtype == "uint8" else "any, as they are"),
        ("GSD", _gsd_range(card)),
        ("classes", ", ".join(_class(entry) for entry in card.classes)),
        *([("threshold", thresholds)] if thresholds else []),
        ("tile", f"{card.tile} px, halo {card.halo}, stride {card.stride}"),
        *(
            (
                "halo",
                f"{_equal(row['differing'])} of labels as of the whole image, on {_counted(row['scenes'], 'scene')}",
            )
            for row in card.halo_measured
            if row["halo"] == card.halo
        ),
        *([("chosen", "only when --model names it")] if not card.automatic else []),
    ]
    if not card.is_there:
        rows.append(("weights", f"not downloaded yet; run: geoseg models {card.name} --download"))
    elif card.weights:
        rows.append(("weights", f"{card.weights}, sha256 {card.weights_sha256[:16]}…"))
    if facts:
        published = facts.get("sha256")
        rows.append(("source", facts["url"]))
        rows.append(("sha256", published or "not published; that of the first download is kept and trusted"))
    rows += [("intended use", line) for line in card.intended_use]
    rows += [("known failure", line) for line in card.known_failures]
    rows += [("trained on", f"{entry['name']} ({entry['licence']})") for entry in card.training_data]
    rows += [("picture", str(card.path.parent / name)) for name in card.pictures]
    _print_rows(rows)
    if card.held_out:
        _print_held_out(card)


def show_halo(measured: MeasuredHalo) -> None:
    """Agreement and cost of each halo, and the smallest that will do."""
    card = measured.card
    table = Table(box=None, header_style="bold")
    for heading in ("halo", "equal labels", "95 % interval", "worst window", "cost", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for row in measured.rows:
        interval = "-" if row.low is None or row.high is None else f"{_equal(row.high)} - {_equal(row.low)}"
        marks = {"enough": measured.halo, "the card's": card.halo}
        shown = ", ".join(mark for mark, halo in marks.items() if halo == row.halo)
        table.add_row(str(row.halo), _equal(row.differing), interval, _equal(row.worst), f"{row.cost:.2f}x", shown)
    windows = f"{_counted(measured.windows, 'window')} of up to {measured.window_px} px of "
    windows += _counted(len(measured.scenes), "scene")
    lines = [
        f"model {card.name}, tiles of {card.tile} px, {measured.device}, {measured.runtime}, {measured.precision}",
        f"whole image: {windows}, each labelled within {measured.whole_px} px at once",
        *(f"note: {note}" for note in measured.notes),
        f"no halo here reaches {measured.rate:.6g}"
        if measured.halo is None
        else f"the smallest halo that reaches {measured.rate:.6g} is {measured.halo} px; the card has {card.halo}",
    ]
    _print_table(table, lines)


def show_quantization(measured: MeasuredQuantization) -> None:
    """What integers do to labels, the more convolutions are left out the less."""
    table = _agreement_table("fp32", "int8")
    for row in measured.rows:
        _add_agreement(table, (str(row.left_out), str(measured.convolutions - row.left_out)), row.agreement)
    lines = [
        f"model {measured.card.name}: rounding found on {_counted(measured.examples, 'window')}",
        f"labels compared with fp32 on {measured.windows} others of {measured.window_px} px, of "
        + _counted(len(measured.scenes), "scene"),
        f"labels agree at the rate of {measured.rate:.6g}"
        if measured.enough
        else f"no number of convolutions tried reaches {measured.rate:.6g}",
    ]
    _print_table(table, lines)


def show_parity(measured: MeasuredParity) -> None:
    """How many labels are those of torch in float32, for each runtime and precision."""
    table = _agreement_table("runtime", "precision", "passes")
    for row in measured.rows:
        what = row.runtime, row.precision, "yes" if measured.passes(row) else "no"
        _add_agreement(table, what, row.agreement)
    where = f"{_counted(measured.windows, 'window')} of {measured.window_px} px, of "
    where += _counted(len(measured.scenes), "scene")
    lines = [
        f"model {measured.card.name} on {measured.device}, compared with torch fp32 on {where}",
        f"a precision passes from {measured.rate:.6g} on",
    ]
    _print_table(table, lines)


def _agreement_table(*headings: str) -> Table:
    table = Table(box=None, header_style="bold")
    for heading in (*headings, "equal labels", "95 % interval", "worst scene"):
        table.add_column(heading, justify="right")
    return table


def _add_agreement(table: Table, what: Sequence[str], found: Agreement) -> None:
    interval = "-" if found.low is None or found.high is None else f"{_equal(found.high)} - {_equal(found.low)}"
    table.add_row(*what, _equal(found.differing), interval, _equal(found.worst))


def _print_table(table: Table, lines: Sequence[str]) -> None:
    console = Console()
    console.print(table)
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"


def _equal(differing: float) -> str:
    """The share that is equal; 100 % only if nothing differs."""
    return f"{math.floor((1 - differing) * 1e6) / 1e4:.4f} %" if differing else "100 %"


def _class(entry: CardClass) -> str:
    bounds = f" (boundary of {entry.boundary_of})" if entry.boundary_of else ""
    return f"{entry.code} {entry.name}{bounds}"


def _print_held_out(card: Card) -> None:
    """The held-out figures: whatever the rows hold, 95 % intervals behind the figure that they are of."""
    figures = Table(title="held-out figures", title_justify="left", box=None, header_style="bold")
    shown = [heading for heading in ("set", "gsd_m", "class", "images") if any(heading in row for row in card.held_out)]
    counts = {"known_pixels", "present_pixels", "low", "high"}
    metrics = list(dict.fromkeys(key for row in card.held_out for key in row if key not in {*shown, *counts}))
    for heading in (*shown, *metrics):
        figures.add_column(heading)
    for row in card.held_out:
        cells = {heading: _cell(row.get(heading, "")) for heading in (*shown, *metrics)}
        own = [key for key in metrics if isinstance(row.get(key), float)]
        if own and isinstance(row.get("low"), float) and isinstance(row.get("high"), float):
            cells[own[0]] += f" ({row['low']:.3f}-{row['high']:.3f})"
        figures.add_row(*cells.values())
    Console().print(figures)


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-" if value is None else str(value)


def show_report(report: Report) -> None:
    """An evaluation: figures of each class, a column each, and the confusion matrix."""
    from geoseg.evaluation.page import HEADINGS

    figures = Table("figure", box=None, header_style="bold")
    for name in report.classes:
        figures.add_column(name, justify="right")
    for key, heading in HEADINGS.items():
        row = [found.get(key) for found in report.classes.values()]
        if any(row):
            figures.add_row(heading, *map(_figure, row))
    for heading, count in (("true objects", "true"), ("predicted", "predicted"), ("matched", "matched")):
        figures.add_row(heading, *(f"{counts[count]:,}" for counts in report.counts.values()))
    pixels = Table("truth \\ prediction", box=None, header_style="bold")
    names = ["background", *report.classes]
    for name in names:
        pixels.add_column(name, justify="right")
    for name, counted in zip(names, report.confusion, strict=True):
        pixels.add_row(name, *(f"{count:,}" for count in counted))
    console = Console()
    console.print(figures)
    console.print(pixels)
    notes = [f"scenes {len(report.scenes)}", *(f"{key} {_figure(value)}" for key, value in report.overall.items())]
    if report.unpredicted:
        notes.append(f"{report.unpredicted:,} px of known truth without a prediction, not judged")
    console.print("; ".join(notes).replace("_", " "), highlight=False, soft_wrap=True, markup=False)


def _figure(figure: Figure | None) -> str:
    """A figure and its 95 % interval, if it has one."""
    if figure is None or figure.value is None:
        return "-"
    interval = "" if figure.low is None or figure.high is None else f" ({figure.low:.3f}-{figure.high:.3f})"
    return f"{figure.value:.3f}{interval}"


def show_found(found: Found) -> None:
    """What a training found before its first step, on standard error."""
    console = Console(stderr=True)
    width = max(len(name) for name in found.sets[0].known)
    for one in found.sets:
        images = f"{one.images} images" + (f" and {one.held_back} held back" if one.held_back else "")
        pixels = f"{one.megapixels:.1f} Mpx at {_span(one.gsd_m)}"
        lines = [f"{one.name}: {images}, {pixels}; {one.share:.0%} of the samples, at {_span(one.gsd_range_m)}"]
        for name, known in one.known.items():
            present = one.present[name]
            there = "" if present is None else f", {present:.1%} of that present"
            lines.append(f"  {name:<{width}}  known in {known:.1%}{there}")
        for line in lines:
            console.print(line, highlight=False, soft_wrap=True, markup=False)
    for note in (*found.notes, f"validation on {found.views} views" if found.views else ""):
        if note:
            console.print(note, style="dim", highlight=False, soft_wrap=True, markup=False)
    for warning in found.warnings:
        console.print(f"warning: {warning}", style="yellow", highlight=False, soft_wrap=True, markup=False)


def _span(ends: tuple[float, float]) -> str:
    low, high = (f"{end:.3g}" for end in ends)
    return f"{low} m" if low == high else f"{low}-{high} m"


class TrainingLog:
    """A line on standard error now and then, and one for every validation."""

    def __init__(self, every_s: float = 10.0) -> None:
        self._console = Console(stderr=True)
        self._every_s = every_s
        self._last_s = -every_s

    def __call__(self, step: Step) -> None:
        """See ``geoseg.training.fit.fit``."""
        if step.verdict is None and step.elapsed_s - self._last_s < self._every_s:
            return
        self._last_s = step.elapsed_s
        text = f"{step.share:4.0%}  step {step.step:<6} {_duration(step.elapsed_s):>12}  loss {step.loss:.4f}"
        if step.verdict is not None:
            ious = (f"{name} {_cell(one.iou)}" for name, one in step.verdict.classes.items())
            text += f"  validation IoU {step.verdict.mean_iou:.3f} ({', '.join(ious)})"
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)


def show_trained(trained: Trained) -> None:
    """A training's end: the figures of its validation, and what to do with the model."""
    console = Console()
    if trained.figures:
        table = Table("class", title="validation", title_justify="left", box=None, header_style="bold")
        headings = ("iou", "f1", "precision", "recall")
        for heading in headings:
            table.add_column(heading, justify="right")
        for name, figures in trained.figures.items():
            table.add_row(name, *(_cell(getattr(figures, heading)) for heading in headings))
        console.print(table)
    kept = f"the weights of step {trained.best_step} of {trained.steps} were kept"
    for text in (f"{_duration(trained.seconds)}; {kept}", f"geoseg run SCENE -o DIR --model {trained.card.path}"):
        console.print(text, highlight=False, soft_wrap=True, markup=False)
