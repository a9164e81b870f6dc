"""Blended tiles: the same bytes however the work is cut, and fewer seams where a network looks at all of its tile."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from safetensors.torch import load_file

import geoseg as package
from geoseg import Execution, RunSettings, VectorSettings
from geoseg.engine.plan import make_plan
from geoseg.errors import OutputError, SettingsError
from geoseg.models import zoo
from geoseg.models.architectures import build
from geoseg.models.card import Card, CardClass, write_model

from .conftest import CORE, HALO, TILE, paint

torch = pytest.importorskip("torch")

SERIAL = Execution(threads=1, chunk=CORE)
needs_extras = pytest.mark.skipif(
    find_spec("openvino") is None or find_spec("onnxruntime") is None, reason="needs the extras openvino and onnx"
)
RUNTIMES = ("torch", pytest.param("openvino", marks=needs_extras), pytest.param("onnx", marks=needs_extras))


@pytest.fixture(scope="session")
def scene(write_scene) -> Path:
    """100 x 150 px with a nodata corner that is more than a core."""
    pixels = paint(100, 150, seed=7) | 1
    pixels[:, :70, :66] = 0
    return write_scene(pixels, "stitched", nodata=0)


@pytest.fixture(scope="session")
def squeeze(tmp_path_factory) -> Card:
    """A small network of random weights with squeeze-excite, whose gates depend much on the rest of the tile."""
    torch.manual_seed(2)
    made = replace(
        zoo.load("town"),
        name="squeeze",
        architecture="unet-mobilenetv3_small_050",
        tile=TILE,
        halo=HALO,
        gsd_range_m=(0.5, 2.0),
        classes=(CardClass(1, "water", (0, 0, 255)), CardClass(2, "road", (255, 0, 0))),
        int8=None,
    )
    network = build(made.architecture, classes=2).eval()
    for name, part in network.named_modules():
        if name.endswith("conv_expand"):
            part.weight.data *= 30
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (made.mean, made.std))
    head = network.segmentation_head[0]
    with torch.no_grad():
        logits = network((torch.from_numpy(paint(320, 384, seed=7)[None]).float() - mean) / std)
        middle = logits.flatten(2).median(dim=2).values[0] - head.bias.data
        head.weight.data *= 60
        head.bias.data = -60 * middle  # so that each class takes about half of the pixels
    return write_model(tmp_path_factory.mktemp("squeeze"), made, network.state_dict())


@pytest.fixture(scope="session")
def settings(squeeze) -> RunSettings:
    return RunSettings(
        models=(str(squeeze.path),), stitch="gaussian", runtime="torch", vector=VectorSettings(min_area_m2=0)
    )


@pytest.fixture(scope="session")
def scheduler():
    """Address of two Dask workers that all tests share, since each takes seconds to start."""
    from geoseg.engine.cluster import connect

    with connect(Execution(workers=2), gpus=0, note=lambda _: None) as cluster:
        yield cluster.client.scheduler.address


@pytest.fixture(scope="session")
def finished(scene, settings, tmp_path_factory):
    """The scene, blended serially with chunks of one core."""
    return package.run(scene, tmp_path_factory.mktemp("stitched") / "layers", settings=settings, execution=SERIAL)


def contents(directory: Path) -> dict[str, bytes]:
    """Vector files byte for byte, rasters pixel by pixel."""
    found = {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix in {".geojson", ".parquet"}}
    for path in directory.glob("*.tif"):
        with rasterio.open(path) as raster:
            found[path.name] = raster.read().tobytes()
    return found


def mask_of(result) -> np.ndarray:
    with rasterio.open(result.directory / "mask.tif") as raster:
        return raster.read(1)


@pytest.mark.parametrize("stitch", ["gaussian", "cosine"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_any_chunks_and_workers_give_the_same_bytes(scene, settings, scheduler, tmp_path, runtime, stitch):
    asked = replace(settings, runtime=runtime, stitch=stitch)
    executions = [
        SERIAL,
        Execution(threads=3, chunk=2 * CORE),
        Execution(threads=1, chunk=5 * CORE),
        *([Execution(scheduler=scheduler, chunk=2 * CORE)] if stitch == "gaussian" else []),
    ]
    found = [
        contents(package.run(scene, tmp_path / str(place), settings=asked, execution=execution).directory)
        for place, execution in enumerate(executions)
    ]
    assert len(np.unique(np.frombuffer(found[0]["mask.tif"], np.uint8))) == 4
    for other in found[1:]:
        assert other == found[0]


@pytest.mark.parametrize("more", [{"tta": "d4"}, {"refine": "guided"}], ids=str)
def test_so_do_averaged_and_refined_scores(finished, scene, settings, tmp_path, more):
    asked = replace(settings, **more)
    found = [
        package.run(scene, tmp_path / str(chunk), settings=asked, execution=Execution(threads=1, chunk=chunk))
        for chunk in (2 * CORE, 5 * CORE)
    ]
    assert contents(found[0].directory) == contents(found[1].directory)
    assert (mask_of(found[0]) != mask_of(finished)).any()


def test_every_valid_pixel_is_labelled_and_no_other(finished, scene):
    with rasterio.open(scene) as raster:
        valid = (raster.read() != 0).any(axis=0)
    np.testing.assert_array_equal(mask_of(finished) != 255, valid)
    with rasterio.open(finished.directory / "confidence.tif") as raster:
        np.testing.assert_array_equal(raster.read(1) != 255, valid)


def test_bounding_box_gives_the_pixels_of_the_whole_run(finished, scene, settings, tmp_path):
    with rasterio.open(finished.directory / "mask.tif") as raster:
        whole, transform, crs = raster.read(1), raster.transform, raster.crs
    for place, (left, top, right, bottom) in enumerate([(68, 10, 125, 50), (66, 62, 149, 98)]):
        box = geopandas.GeoSeries([shapely.box(*(transform @ (left, bottom)), *(transform @ (right, top)))], crs=crs)
        asked = replace(settings, bounds=tuple(box.to_crs(4326).total_bounds))
        result = package.run(scene, tmp_path / str(place), settings=asked, execution=SERIAL)
        with rasterio.open(result.directory / "mask.tif") as raster:
            part = raster.read(1)
            col, row = (round(value) for value in ~transform @ (raster.transform.c, raster.transform.f))
        same = whole[row : row + part.shape[0], col : col + part.shape[1]]
        inside = part != 255
        assert inside.sum() >= (right - left) * (bottom - top) * 0.5
        np.testing.assert_array_equal(part[inside], same[inside])


def test_fewer_labels_change_where_cores_meet(write_scene, settings, tmp_path):
    scene = write_scene(paint(330, 410, seed=7) | 1, "wide")
    excess = {}
    for stitch in ("crop", "gaussian", "cosine"):
        asked = replace(settings, stitch=stitch, classes=("water",))
        mask = mask_of(package.run(scene, tmp_path / stitch, settings=asked, execution=Execution(threads=1)))
        ratios = []
        for axis in (0, 1):
            changed = (np.diff(mask.astype(int), axis=axis) != 0).sum(axis=1 - axis)
            seams = np.arange(CORE - 1, len(changed), CORE)
            ratios.append(changed[seams].mean() / np.delete(changed, seams).mean())
        excess[stitch] = np.mean(ratios) - 1
    assert excess["crop"] > 0.3
    assert max(excess["gaussian"], excess["cosine"]) < excess["crop"] / 3


@needs_extras
def test_an_onnx_file_of_fixed_tiles_is_blended(scene, squeeze, settings, finished, tmp_path):
    from geoseg.models.graphs import logits_graph

    (tmp_path / "net.onnx").write_bytes(logits_graph(squeeze, form="plain"))
    card = replace(squeeze, path=tmp_path / "own.card.json", name="own", weights="net.onnx", checksum="", halo=0)
    card.path.write_text(json.dumps(card.to_item()), encoding="utf-8")
    asked = replace(settings, models=(str(card.path),), runtime="auto")
    [part] = make_plan(str(scene), asked, SERIAL).passes
    assert (part.runtime, part.lattice.core, part.lattice.halo) == ("onnx", CORE, HALO)
    result = package.run(scene, tmp_path / "layers", settings=asked, execution=SERIAL)
    assert (mask_of(result) == mask_of(finished)).mean() >= 0.997


def test_segmenters_of_single_pixels_are_not_blended(scene, squeeze, settings, finished, tmp_path):
    asked = replace(settings, models=(str(squeeze.path), "otsu"))
    result = package.run(scene, tmp_path / "both", settings=asked, execution=SERIAL)
    assert {part.model: part.stitch for part in result.passes} == {"squeeze": "gaussian", "otsu": "crop"}
    with rasterio.open(result.directory / "mask_squeeze.tif") as raster:
        np.testing.assert_array_equal(raster.read(1), mask_of(finished))
    alone = {stitch: replace(settings, models=("otsu",), stitch=stitch) for stitch in ("crop", "cosine")}
    identities = [make_plan(str(scene), asked, SERIAL).identity() for asked in alone.values()]
    assert identities[0] == identities[1]


def test_stitching_is_told_and_another_is_another_run(geoseg, finished, scene, settings, squeeze):
    record = json.loads((finished.directory / "run.json").read_text(encoding="utf-8"))
    assert record["passes"][0]["stitch"] == record["settings"]["stitch"] == "gaussian"
    assert record["passes"][0]["lattice"]["halo"] == HALO
    for other in ("crop", "cosine"):
        with pytest.raises(OutputError, match=r"stitch is .*gaussian.* there, .*" + other):
            package.run(scene, finished.directory, settings=replace(settings, stitch=other), execution=SERIAL)
    how = ("--model", squeeze.path, "--runtime", "torch", "--threads", 1, "--chunk", CORE)
    code, text, _ = geoseg("plan", scene, *how, "--stitch", "cosine")
    assert code == 0
    # of two rows and three columns of tiles each reaches all of the others', but those of the first and last column
    assert "cosine weights; 28 tiles computed, 30.58 x the pixels of the grid" in text
    assert "weights" not in geoseg("plan", scene, *how)[1]


@pytest.fixture(scope="session")
def plain(write_scene) -> str:
    """1200 x 1500 px of nothing, to plan with."""
    return str(write_scene(np.full((3, 1200, 1500), 90, np.uint8), "plain"))


@pytest.mark.parametrize(
    ("tile", "halo", "sides"),
    [
        (256, None, (128, 64)),
        (3072, None, (384, 192)),  # 1024 px at most, of which three quarters fit the scene
        (512, 32, (416, 32)),
        (3072, 64, (768, 64)),
    ],
)
def test_tiles_overlap_by_half_unless_told(plain, squeeze, settings, tmp_path, tile, halo, sides):
    card = write_model(tmp_path, replace(squeeze, tile=tile), load_file(squeeze.weights_path))
    [part] = make_plan(plain, replace(settings, models=(str(card.path),), halo=halo), SERIAL).passes
    assert (part.lattice.core, part.lattice.halo) == sides


def test_chunks_are_large_and_leave_nobody_idle(plain, settings):
    plans = {threads: make_plan(plain, settings, Execution(threads=threads)) for threads in (1, 8)}
    sides = {threads: plan.passes[0].lattice.chunk for threads, plan in plans.items()}
    assert sides[1] == 24 * CORE  # all in one
    assert CORE < sides[8] < sides[1]
    assert plans[1].passes[0].computed_tiles == plans[1].passes[0].tiles == 19 * 24
    assert plans[8].passes[0].computed_tiles < 2 * 19 * 24
    assert plans[1].worker_bytes > replace(plans[1], passes=(replace(plans[1].passes[0], stitch="crop"),)).worker_bytes


def test_what_cannot_be_blended_is_refused_in_one_line(geoseg, scene, squeeze, settings, tmp_path):
    small = write_model(tmp_path, replace(squeeze, tile=64, halo=0), load_file(squeeze.weights_path))
    with pytest.raises(SettingsError, match="tiles of 64 px and a stride of 32, which leaves no room to overlap"):
        make_plan(str(scene), replace(settings, models=(str(small.path),)), SERIAL)
    with pytest.raises(SettingsError, match=r"--halo is 64; .* multiple of its stride 32 below half its tile 128"):
        make_plan(str(scene), replace(settings, halo=64), SERIAL)
    for options, words in ((("cosine", "--halo", 0), "share nothing to blend"), (("sew",), "crop")):
        code, out, err = geoseg("run", scene, "-o", tmp_path / "out", "--model", squeeze.path, "--stitch", *options)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert words in err
    assert not (tmp_path / "out").exists()
