"""The command line: parse, then one call (floor 5). No logic lives here, and nothing heavy is imported at the top."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

import click

from geoseg.errors import GeosegError, InputError
from geoseg.settings import (
    Device,
    EvaluationSettings,
    Execution,
    Precision,
    Refinement,
    RunSettings,
    RuntimeName,
    SimplifyMethod,
    Stitch,
    TrainingPrecision,
    Tta,
    VectorSettings,
)
from geoseg.signals import CODE, STOPPED, is_asked_to_stop, stoppable

__all__ = ["main"]

Command = TypeVar("Command", bound=Callable[..., Any])


class _Names(click.ParamType[tuple[str, ...]]):
    """A comma-separated list."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:  # noqa: ARG002
        return value if isinstance(value, tuple) else tuple(part.strip() for part in value.split(",") if part.strip())


class _Directory(click.ParamType[Path | str]):
    """A folder, or the URL of one in an object store."""

    name = "directory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        if not str(value).strip():
            self.fail("an empty name; give a folder, or . for the one you are in", param, ctx)
        return value if "://" in str(value) else Path(value)


class _Numbers(click.ParamType[tuple[float, ...]]):
    """So many comma-separated numbers."""

    def __init__(self, form: str) -> None:
        self.name = form
        self._count = form.count(",") + 1

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        try:
            numbers = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != self._count:
            self.fail(f"{value!r} is not {self.name}", param, ctx)
        return numbers


class _Codes(click.ParamType[dict[str, int]]):
    """Layer names and mask codes, ``water=1,road=2``."""

    name = "name=code,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, int]:
        try:
            pairs = [part.split("=") for part in str(value).split(",")]
            codes = {name.strip(): int(code) for name, code in pairs}
            if len(codes) < len(pairs):
                codes = {}
        except ValueError:
            codes = {}
        if not codes or not all(name and 1 <= code <= 254 for name, code in codes.items()):
            self.fail(f"{value!r} is not name=code,... with codes 1-254, e.g. water=1,road=2", param, ctx)
        return codes


class _Pairs(click.ParamType[tuple[tuple[int, int], ...]]):
    """Pairs of mask codes, ``3=5,4=6``."""

    name = "code=code,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[tuple[int, int], ...]:
        if isinstance(value, tuple):
            return value
        try:
            pairs = [part.split("=") for part in str(value).split(",")]
            return tuple((int(code), int(boundary)) for code, boundary in pairs)
        except ValueError:
            self.fail(f"{value!r} is not CODE=CODE,... with codes 1-254, e.g. 3=5", param, ctx)


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_device_options = _options(
    click.option("--device", type=click.Choice(get_args(Device)), default="auto", show_default=True),
    click.option(
        "--runtime",
        type=click.Choice(get_args(RuntimeName)),
        default="auto",
        show_default=True,
        help="What runs the networks: auto is OpenVINO on a CPU where it is installed, ONNX Runtime for ONNX files, "
        "else torch.",
    ),
    click.option("--precision", type=click.Choice(get_args(Precision)), default="auto", show_default=True),
)
_scene_options = _options(
    click.option(
        "--model",
        "models",
        multiple=True,
        metavar="NAME|CARD",
        help=(
            "A model of `geoseg models`, or the path of a card. May be given several times, the most preferred first: "
            "each class is predicted by one of them. [default: chosen by the scene's bands and GSD]"
        ),
    ),
    click.option(
        "--classes",
        type=_Names(),
        metavar="NAME,...",
        help="Layers wanted; a mask always holds all classes of its model. [default: all]",
    ),
    click.option(
        "--bands",
        type=_Names(),
        metavar="BAND,...",
        help=(
            "The scene's bands for the model's, in its order: numbers, names or common names,"
            " e.g. 1,2,3. [default: by common name]"
        ),
    ),
    click.option(
        "--scale",
        type=_Numbers("LOW,HIGH"),
        metavar="LOW,HIGH",
        help=("Scene values that become 0 and 255; needed unless the scene is uint8."),
    ),
    click.option(
        "--bbox", type=_Numbers("W,S,E,N"), metavar="W,S,E,N", help="Only the pixels around this rectangle, degrees."
    ),
    click.option(
        "--halo",
        type=int,
        metavar="PX",
        help="Pixels around a tile's core. [default: the card's; with blending a quarter of the tile]",
    ),
    click.option(
        "--stitch",
        type=click.Choice(get_args(Stitch)),
        default="crop",
        show_default=True,
        help="Take the core of each tile, or blend the scores of all tiles that overlap at a pixel, by weights that "
        "fall from a tile's middle to its edges; for networks that look at all of a tile.",
    ),
    click.option(
        "--refine",
        type=click.Choice(get_args(Refinement)),
        default="none",
        show_default=True,
        help="Fit the scores to edges in the image: by a conditional random field, or a guided filter.",
    ),
    click.option(
        "--tta",
        type=click.Choice(get_args(Tta)),
        default="none",
        show_default=True,
        help="Average the scores of each tile turned and mirrored, in all eight ways; takes eight times as long.",
    ),
    _device_options,
)
_execution_options = _options(
    click.option(
        "--chunk",
        type=int,
        metavar="PX",
        help=(
            "Side of what one task does; rounded up to whole tile cores (vectorize: taken as it is). "
            "Never changes the layers. [default: about 2048, with blending up to 4096, less where workers would idle]"
        ),
    ),
    click.option(
        "--threads",
        type=int,
        metavar="N",
        help="Tasks at once in this process. [default: what fits the machine and the scene]",
    ),
    click.option("--workers", type=int, metavar="N", help="Processes of a local Dask cluster, in place of threads."),
    click.option(
        "--scheduler",
        metavar="ADDRESS|FILE",
        help="A running Dask scheduler: tcp://host:8786, tls://host:8786, or the file that it wrote.",
    ),
    click.option(
        "--cluster",
        metavar="FILE",
        help="YAML that names a Dask cluster to start (cuda, slurm, pbs, kubernetes, gateway) or to join.",
    ),
)
_vector_options = _options(
    click.option(
        "--min-area",
        type=float,
        metavar="M2",
        help="Give what is smaller than this area, square metres, to its neighbours. "
        "[default: the model's for each class, else 25]",
    ),
    click.option(
        "--fill-holes",
        type=float,
        default=0.0,
        show_default=True,
        metavar="M2",
        help="Give patches of background smaller than this area to the polygons around them.",
    ),
    click.option(
        "--min-width",
        type=float,
        default=0.0,
        show_default=True,
        metavar="M",
        help="Give parts that are narrower than this, metres, to their neighbours.",
    ),
    click.option(
        "--simplify",
        type=float,
        metavar="M",
        help="Tolerance of the outlines' simplification, metres; 0 keeps every pixel edge. [default: one pixel]",
    ),
    click.option(
        "--simplify-method",
        type=click.Choice(get_args(SimplifyMethod)),
        default="visvalingam",
        show_default=True,
        help="By area of triangles, or by distance.",
    ),
    click.option("--smooth", is_flag=True, help="Turn pixel stairs into slanted lines, keeping all areas."),
    click.option(
        "--growth",
        type=int,
        default=8,
        show_default=True,
        metavar="PX",
        help="How far touching instances that are kept apart grow into the boundary between them.",
    ),
    click.option(
        "--formats",
        type=_Names(),
        default="geojson,parquet",
        show_default=True,
        metavar="NAME,...",
        help="geojson, geojsonl, parquet, gpkg, fgb.",
    ),
)


_WHERE_LAYERS_GO = "Where the layers go: a folder, or the URL of one in an object store, s3://bucket/run."


_progress_option = click.option(
    "--progress",
    type=click.Choice(["bar", "json", "none"]),
    default="bar",
    show_default=True,
    help="How the run is told on standard error: in bars, or as lines of JSON (see `geoseg.events`); --quiet is none.",
)


def _output_options(where: str, overwrite: str) -> Callable[[Command], Command]:
    """The options of all that writes a directory; `where` and `overwrite` are their help."""
    return _options(
        click.option("-o", "--output", "directory", required=True, type=_Directory(), metavar="DIR", help=where),
        click.option("--overwrite", is_flag=True, help=overwrite),
        click.option("--quiet", is_flag=True, help="Print errors only."),
    )


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="geoseg")
def cli() -> None:
    """Turn satellite and aerial images of any size into polygon layers: water, roads, fields and parking."""


@cli.command()
@click.argument("scenes", metavar="SCENE...", nargs=-1, required=True)
@_output_options(_WHERE_LAYERS_GO, "Replace what an earlier run left in DIR.")
@click.option("--asset", metavar="NAME", help="Of STAC items. [default: visual, data or the like, else a GeoTIFF]")
@click.option("--datetime", metavar="START/END", help="Only STAC items of this time; either end may be '..'.")
@_scene_options
@_vector_options
@_execution_options
@_progress_option
def run(
    scenes: tuple[str, ...],
    directory: Path | str,
    *,
    asset: str | None,
    datetime: str | None,
    overwrite: bool,
    quiet: bool,
    progress: str,
    **options: Any,
) -> None:
    """Label scenes and write their polygon layers to DIR.

    SCENE is a path or URL that GDAL reads. Of several, or of a folder, a glob, a CSV (a column path; perhaps name and
    datetime), a STAC file or a STAC API's collection or search, each is written to DIR/scenes/NAME, and merged layers
    to DIR, in which nothing is found twice. The same command again resumes a run that was stopped, and predicts anew
    the windows that failed: DIR/failed.geojson shows them.
    """
    settings, execution = _run_settings(options), _execution(options)
    with _told(progress, quiet=quiet) as told:
        from geoseg.engine.scenes import is_one_scene

        common: dict[str, Any] = {
            "settings": settings,
            "execution": execution,
            "overwrite": overwrite,
            "progress": told.progress,
        }
        if is_one_scene(scenes) and asset is None and datetime is None:
            from geoseg.engine.workflow import run as run_workflow

            told.end(run_workflow(scenes[0], directory, **common))
        else:
            from geoseg.engine.catalogue import run_catalogue

            told.end(run_catalogue(scenes, directory, asset=asset, datetime=datetime, **common))


@cli.command()
@click.argument("scene")
@_scene_options
@_vector_options
@_execution_options
def plan(scene: str, **options: Any) -> None:
    """Tell what `run` would do with a scene: tiles, memory, disk, time. Writes nothing."""
    from geoseg.console import describe_plan
    from geoseg.engine.plan import make_plan, seconds_per_tile

    settings, execution = _run_settings(options), _execution(options)
    planned = make_plan(scene, settings, execution)
    describe_plan(planned, [seconds_per_tile(planned, part) for part in planned.passes])


@cli.command()
@click.argument("mask")
@_output_options(_WHERE_LAYERS_GO, "Replace what an earlier run left in DIR.")
@click.option(
    "--classes",
    type=_Codes(),
    metavar="NAME=CODE,...",
    help="Layer names and codes. [default: class_<code> for every code]",
)
@click.option(
    "--boundaries",
    type=_Pairs(),
    default=(),
    metavar="CODE=CODE,...",
    help="Codes whose touching instances stay apart, and the codes that mark the boundaries between them, e.g. 3=5.",
)
@_vector_options
@_execution_options
@_progress_option
def vectorize(
    mask: str,
    directory: Path | str,
    *,
    classes: dict[str, int] | None,
    overwrite: bool,
    quiet: bool,
    progress: str,
    **options: Any,
) -> None:
    """Write the polygon layers of a class mask, made by any tool, to DIR.

    MASK has one band of whole numbers 0-254; 0 is background, nodata is left out.
    """
    settings, execution = _vector_settings(options), _execution(options)
    with _told(progress, quiet=quiet) as told:
        from geoseg.engine.workflow import vectorize as vectorize_workflow

        told.end(
            vectorize_workflow(
                mask,
                directory,
                classes=classes,
                settings=settings,
                execution=execution,
                overwrite=overwrite,
                progress=told.progress,
            )
        )


@cli.command()
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def info(path: str, *, as_json: bool) -> None:
    """Describe a scene, a model or a finished run."""
    from geoseg.console import describe, facts
    from geoseg.engine.inspection import inspect

    found = inspect(path)
    if as_json:
        click.echo(json.dumps(facts(found), indent=2, ensure_ascii=False))
    else:
        describe(found)


@cli.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="The card itself, a STAC MLM item; without NAME all of them.")
@click.option("--download", is_flag=True, help="Fetch the weights of NAME into the cache, and check them.")
@click.option("--from", "source", metavar="URL|FILE", help="Take them from here instead. [default: the card's URL]")
def models(name: str | None, *, as_json: bool, download: bool, source: str | None) -> None:
    """List the models at hand, show the card of one, or fetch one that is not shipped.

    NAME is a model, the path of a card, or an architecture such as unet-resnet34, of which it tells what it is.
    """
    from geoseg.console import describe, describe_architecture, facts, list_cards
    from geoseg.models import zoo

    if download or source:
        if name is None:
            raise click.UsageError("--download needs the NAME of a model")
        from geoseg.models.download import download as fetch

        fetch(zoo.find(name), source=source, note=lambda text: click.echo(text, err=True))
        return
    if name is not None and zoo.is_architecture(name):
        from geoseg.models.reach import measure

        measured = measure(name)
        if as_json:
            click.echo(json.dumps(asdict(measured), indent=2))
        else:
            describe_architecture(measured)
        return
    found = zoo.find(name) if name else [*zoo.available(), *zoo.downloadable()]
    if as_json:
        content = [facts(card) for card in found] if isinstance(found, list) else facts(found)
        click.echo(json.dumps(content, indent=2, ensure_ascii=False))
    elif isinstance(found, list):
        list_cards(found)
    else:
        describe(found)


@cli.command()
@click.argument("model")
@click.argument("scenes", metavar="SCENE...", nargs=-1, required=True)
@click.option("--bands", type=_Names(), metavar="BAND,...", help="As of `run`. [default: by common name]")
@click.option("--scale", type=_Numbers("LOW,HIGH"), metavar="LOW,HIGH", help="As of `run`.")
@click.option(
    "--rate", type=float, default=0.9999, show_default=True, metavar="SHARE", help="Share of labels to be equal."
)
@click.option(
    "--windows", type=int, default=3, show_default=True, metavar="N", help="How many of a scene, from corner to corner."
)
@click.option(
    "--window", "window_px", type=int, default=1024, show_default=True, metavar="PX", help="Their side; costs memory."
)
@click.option("--write", is_flag=True, help="Write the smallest halo that reaches the rate into the model's card.")
@_device_options
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def halo(model: str, scenes: tuple[str, ...], *, write: bool, as_json: bool, **options: Any) -> None:
    """Measure which halo a model needs: labels of tiles against those of the whole image.

    MODEL is a name or the path of a card; each SCENE should show what the model is made for, at a GSD that it reads.
    """
    from geoseg.console import show_halo
    from geoseg.engine.halo import measure_halo

    asked = {name: options.pop(name) for name in ("bands", "scale", "device", "runtime", "precision")}
    measured = measure_halo(model, scenes, RunSettings(**asked), progress=_progress(quiet=as_json), **options)
    if as_json:
        click.echo(json.dumps(measured.facts(), indent=2, ensure_ascii=False))
    else:
        show_halo(measured)
    if write:
        click.echo(f"written to {measured.write().path}", err=True)


@cli.command()
@click.argument("model")
@click.argument("scenes", metavar="SCENE...", nargs=-1, required=True)
@click.option("--bands", type=_Names(), metavar="BAND,...", help="As of `run`. [default: by common name]")
@click.option("--scale", type=_Numbers("LOW,HIGH"), metavar="LOW,HIGH", help="As of `run`.")
@click.option(
    "--rate", type=float, default=0.997, show_default=True, metavar="SHARE", help="Share of labels to be equal."
)
@click.option("--windows", type=int, default=96, show_default=True, metavar="N", help="How many of all scenes.")
@click.option("--window", "window_px", type=int, default=256, show_default=True, metavar="PX", help="Their side.")
@click.option("--write", is_flag=True, help="Write the integers beside the model's card, and tell of them in it.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def quantize(model: str, scenes: tuple[str, ...], *, write: bool, as_json: bool, **options: Any) -> None:
    """Make a model multiply 8-bit integers, which `run` then does where OpenVINO and the CPU can, and compare labels.

    MODEL is a name or the path of a card; each SCENE should show what the model is made for, at a GSD that it reads.
    """
    from geoseg.console import show_quantization
    from geoseg.engine.quantize import measure_quantization

    asked = {name: options.pop(name) for name in ("bands", "scale")}
    measured = measure_quantization(model, scenes, RunSettings(**asked), progress=_progress(quiet=as_json), **options)
    if as_json:
        click.echo(json.dumps(measured.facts(), indent=2, ensure_ascii=False))
    else:
        show_quantization(measured)
    if write:
        click.echo(f"written to {measured.write().path}", err=True)


@cli.command()
@click.argument("model")
@click.argument("scenes", metavar="SCENE...", nargs=-1, required=True)
@click.option("--bands", type=_Names(), metavar="BAND,...", help="As of `run`. [default: by common name]")
@click.option("--scale", type=_Numbers("LOW,HIGH"), metavar="LOW,HIGH", help="As of `run`.")
@click.option("--device", type=click.Choice(get_args(Device)), default="auto", show_default=True)
@click.option(
    "--rate", type=float, default=0.997, show_default=True, metavar="SHARE", help="Share of labels to be equal."
)
@click.option("--windows", type=int, default=48, show_default=True, metavar="N", help="How many of all scenes.")
@click.option("--window", "window_px", type=int, default=512, show_default=True, metavar="PX", help="Their side.")
@click.option("--write", is_flag=True, help="Write into the model's card which precisions pass: auto takes no others.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def parity(model: str, scenes: tuple[str, ...], *, write: bool, as_json: bool, **options: Any) -> None:
    """Compare labels of every runtime and precision here with those of torch in float32.

    MODEL is a name or the path of a card; each SCENE should show what the model is made for, at a GSD that it reads.
    """
    from geoseg.console import show_parity
    from geoseg.engine.parity import measure_parity

    asked = {name: options.pop(name) for name in ("bands", "scale", "device")}
    measured = measure_parity(model, scenes, RunSettings(**asked), progress=_progress(quiet=as_json), **options)
    if as_json:
        click.echo(json.dumps(measured.facts(), indent=2, ensure_ascii=False))
    else:
        show_parity(measured)
    if write:
        click.echo(f"written to {measured.write().path}", err=True)


@cli.command()
@click.argument("prediction", metavar="PRED")
@click.argument("truth")
@click.option(
    "--classes",
    type=_Codes(),
    default="water=1,road=2,field=3,parking=4",
    show_default=True,
    metavar="NAME=CODE,...",
    help="Classes to judge and their codes in masks; all other codes are background.",
)
@click.option(
    "--truth-classes", type=_Codes(), metavar="NAME=CODE,...", help="Their codes in the truth. [default: the same]"
)
@click.option(
    "--class-field",
    default="class",
    show_default=True,
    metavar="NAME",
    help="Attribute of vector layers that holds the class, by name or code; not needed with one class.",
)
@click.option("--instances", metavar="CLASS", help="TRUTH has objects of this class alone: numbers, or polygons.")
@click.option("--roads", type=_Names(), default="road", show_default=True, metavar="NAME,...", help="Road classes.")
@click.option(
    "--boundary", type=int, default=2, show_default=True, metavar="PX", help="Tolerance of boundary F1, pixels."
)
@click.option(
    "--relaxed", type=int, default=3, show_default=True, metavar="PX", help="Tolerance of roads' relaxed F1, pixels."
)
@click.option("--grid", metavar="RASTER", help="Judge on its grid. [default: PRED's, else TRUTH's]")
@click.option("--within", metavar="POLYGONS", help="Truth is unknown outside of these.")
@click.option("--confidence", metavar="RASTER", help="Confidences 0-254 for 0-1. [default: the run's]")
@click.option("--image", metavar="RASTER", help="What to show beside the worst places. [default: the run's scene]")
@click.option("--bootstrap", type=int, default=1000, show_default=True, metavar="N", help="Draws for the intervals.")
@click.option("--worst", type=int, default=12, show_default=True, metavar="N", help="How many places the page shows.")
@click.option("--page", type=click.Path(path_type=Path), metavar="FILE", help="Write an HTML page with pictures.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def evaluate(prediction: str, truth: str, *, page: Path | None, as_json: bool, **options: Any) -> None:
    """Judge a prediction against truth: pixels, boundaries, objects, roads, confidence.

    PRED is a run's directory, a mask or a vector layer; TRUTH a mask (255 or nodata: unknown), a raster of object
    numbers or a vector layer. Two folders are pairs by name, and give figures with 95 % intervals.
    """
    from geoseg.console import show_report
    from geoseg.evaluation.evaluate import evaluate as judge
    from geoseg.evaluation.subjects import Extras

    extras = Extras(**{name: options[name] for name in ("grid", "within", "confidence", "image")})
    report = judge(prediction, truth, settings=_evaluation_settings(options), extras=extras, page=page)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2, ensure_ascii=False))
    else:
        show_report(report)


@cli.command()
@click.argument("config")
@_output_options("Where the model, its checkpoints and logs go.", "Begin anew, also where another training was.")
@click.option("--device", type=click.Choice(get_args(Device)), default="auto", show_default=True)
@click.option("--devices", type=click.IntRange(min=1), metavar="N", help="How many. [default: all GPUs, or one CPU]")
@click.option("--precision", type=click.Choice(get_args(TrainingPrecision)), default="auto", show_default=True)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    metavar="N",
    help="Processes that draw samples. [default: what fits the machine]",
)
def train(config: str, directory: Path | str, *, quiet: bool, **options: Any) -> None:
    """Train a model from images and labels (masks or polygons), as the file CONFIG says.

    CONFIG is YAML, or Python that defines CONFIG. The same command again resumes a training that was stopped. It writes
    DIR/NAME.card.json, which `geoseg run SCENE --model` takes at once.
    """
    try:
        from geoseg.training.train import train as train_model
    except ModuleNotFoundError as error:
        raise InputError(
            f"training needs the package {error.name}; install geoseg's extra: pip install 'geoseg[train]'"
        ) from None
    if quiet:
        train_model(config, directory, **options)
        return
    from geoseg.console import TrainingLog, show_found, show_trained

    show_trained(train_model(config, directory, report=show_found, progress=TrainingLog(), **options))


def _evaluation_settings(options: dict[str, Any]) -> EvaluationSettings:
    truth = options["truth_classes"]
    return EvaluationSettings(
        classes=tuple(options["classes"].items()),
        truth_classes=None if truth is None else tuple(truth.items()),
        class_field=options["class_field"],
        instances=options["instances"],
        roads=options["roads"],
        boundary_px=options["boundary"],
        relaxed_px=options["relaxed"],
        resamples=options["bootstrap"],
        worst=options["worst"],
    )


def _vector_settings(options: dict[str, Any]) -> VectorSettings:
    return VectorSettings(
        min_area_m2=options["min_area"],
        fill_holes_m2=options["fill_holes"],
        min_width_m=options["min_width"],
        simplify_m=options["simplify"],
        simplify_method=options["simplify_method"],
        smooth=options["smooth"],
        boundaries=options.get("boundaries", ()),
        growth_px=options["growth"],
        formats=options["formats"],
    )


def _run_settings(options: dict[str, Any]) -> RunSettings:
    return RunSettings(
        **{name: options[name] for name in ("classes", "bands", "scale", "halo", "stitch", "refine", "tta")},
        **{name: options[name] for name in ("device", "runtime", "precision")},
        models=options["models"] or None,
        bounds=options["bbox"],
        vector=_vector_settings(options),
    )


def _execution(options: dict[str, Any]) -> Execution:
    return Execution(**{name: options[name] for name in ("chunk", "threads", "workers", "scheduler", "cluster")})


def _progress(*, quiet: bool) -> Any:
    if quiet:
        return None
    from geoseg.console import Bars

    return Bars()


class _Told(NamedTuple):
    """Who sees a run go by, and its end."""

    progress: Any
    end: Callable[[Any], None]


@contextmanager
def _told(how: str, *, quiet: bool) -> Iterator[_Told]:
    """Tells a run in the way asked for; as JSON also its failure, which `main` tells otherwise."""
    if quiet or how == "none":
        yield _Told(None, lambda _: None)
    elif how == "bar":
        from geoseg.console import show_result

        yield _Told(_progress(quiet=False), show_result)
    else:
        from geoseg.events import Events, line_of

        events = Events()
        try:
            with stoppable(line_of):
                yield _Told(events, events.result)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - told, whatever it is
            message, code = _ending(error)
            events.failure(message, code)
            sys.exit(code)


def _ending(error: BaseException) -> tuple[str, int]:
    """The last line of a command that did not succeed, and its exit code."""
    if isinstance(error, (KeyboardInterrupt, click.Abort)) or is_asked_to_stop():
        return STOPPED, CODE
    if isinstance(error, GeosegError):
        return " ".join(str(error).split()), error.exit_code
    if os.environ.get("GEOSEG_DEBUG"):
        raise error
    why = " ".join(f"{type(error).__name__}: {error}".split())
    return f"failed with {why}; finished chunks are kept, GEOSEG_DEBUG=1 shows where", 1


def _line(text: str, *, last: bool) -> str:  # noqa: ARG001 - the last is like the others
    """A line about the program; a bar that stands there is left alone."""
    return f"\ngeoseg: {text}" if sys.stderr.isatty() else f"geoseg: {text}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits.

    Exit codes: 0 done, 2 bad usage or input, 1 some chunk failed or something could not be written, 130 stopped.
    """
    with stoppable(_line):
        _main(arguments)


def _main(arguments: Sequence[str] | None) -> None:
    try:
        cli(args=arguments, prog_name="geoseg", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "geoseg"
        click.echo(f"geoseg: {error.format_message().rstrip('.')}; see `{command} --help`", err=True)
        sys.exit(error.exit_code)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - told, whatever it is
        message, code = _ending(error)
        click.echo(f"geoseg: {message}", err=True)
        sys.exit(code)
