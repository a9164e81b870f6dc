"""`geoseg evaluate` as a whole: what it is pointed at, its figures, the page, the words of its refusals."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
import rasterio
from PIL import Image
from scipy import ndimage

from geoseg.errors import InputError
from geoseg.evaluation import judge
from geoseg.evaluation.evaluate import evaluate
from geoseg.evaluation.page import png
from geoseg.evaluation.pixels import count_masks
from geoseg.evaluation.report import summarise
from geoseg.evaluation.subjects import Extras, find_subjects
from geoseg.settings import EvaluationSettings

CODES = {"water": 1, "road": 2, "field": 3}
SETTINGS = EvaluationSettings(classes=tuple(CODES.items()), resamples=200)


@pytest.fixture
def pair(write_raster, make_mask):
    """A prediction and its truth, with unknown ground in both."""
    truth = make_mask(1, unknown=True)
    predicted = np.where(truth == 255, 0, np.roll(truth, (1, 2), (0, 1)))
    predicted[60:100, 20:70] = make_mask(2)[60:100, 20:70]
    return write_raster(predicted, "predicted.tif", nodata=255), write_raster(truth, "truth.tif", nodata=255)


def pixels_of(path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def test_pixel_figures_are_those_of_the_counts(pair):
    report = evaluate(*pair, settings=SETTINGS)
    predicted, truth = map(pixels_of, pair)
    counts = count_masks(predicted, truth, codes=CODES)
    for name, found in report.classes.items():
        one = counts[name]
        assert found["iou"].value == pytest.approx(one.iou)
        assert found["precision"].value == pytest.approx(one.precision)
        assert found["recall"].value == pytest.approx(one.recall)
        assert found["f1"].value == pytest.approx(2 * one.iou / (1 + one.iou))
        assert found["iou"].low is None
    assert sum(map(sum, report.confusion)) == counts["water"].known
    both = (predicted != 255) & (truth != 255)
    assert report.overall["accuracy"].value == pytest.approx(np.mean(predicted[both] == truth[both]))
    assert report.unpredicted == np.sum((predicted == 255) & (truth != 255)) > 0
    assert {"relaxed_f1", "apls", "connected"} <= report.classes["road"].keys()
    assert "apls" not in report.classes["water"]


def test_arrays_have_the_figures_of_files(pair, write_raster):
    sure = np.random.default_rng(0).integers(0, 256, (150, 170)).astype(np.uint8)
    extras = Extras(confidence=str(write_raster(sure, "sure.tif", nodata=255)))
    report = evaluate(*pair, settings=SETTINGS, extras=extras)
    predicted, truth = ((pixels_of(path), None) for path in pair)
    one = judge.tally_arrays("predicted", predicted, truth, SETTINGS, gsd_m=0.5, confidence=sure)
    again = summarise([one], SETTINGS, report.worst)
    assert again == report
    with pytest.raises(InputError, match="give equal"):
        judge.tally_arrays("chip", (truth[0][1:], None), truth, SETTINGS, gsd_m=1)


def test_boundary_and_relaxed_figures_are_those_of_distance_transforms(pair):
    report = evaluate(*pair, settings=SETTINGS)
    predicted, truth = (np.pad(pixels_of(path), 1, constant_values=255) for path in pair)
    unknown = (predicted == 255) | (truth == 255)

    def rim(side: np.ndarray) -> np.ndarray:
        other = ~unknown & ~side
        return side & ~unknown & ndimage.binary_dilation(other)

    def near_figures(one: np.ndarray, other: np.ndarray, radius: int) -> list[float]:
        judged = ndimage.distance_transform_edt(~unknown) > radius
        away = [ndimage.distance_transform_edt(~pixels) for pixels in (other, one)]
        return [np.mean(dist[pixels & judged] <= radius) for pixels, dist in zip((one, other), away, strict=True)]

    for name, code in CODES.items():
        p, r = near_figures(rim(predicted == code), rim(truth == code), 2)
        found = report.classes[name]
        assert found["boundary_precision"].value == pytest.approx(p)
        assert found["boundary_recall"].value == pytest.approx(r)
        assert found["boundary_f1"].value == pytest.approx(2 * p * r / (p + r))
    p, r = near_figures((predicted == 2) & ~unknown, (truth == 2) & ~unknown, 3)
    assert report.classes["road"]["relaxed_f1"].value == pytest.approx(2 * p * r / (p + r))


def test_windows_change_nothing_but_the_ways(pair, monkeypatch):
    whole = evaluate(*pair, settings=SETTINGS)
    monkeypatch.setattr(judge, "WINDOW", 64)
    monkeypatch.setattr(judge, "CELL", 32)
    cut = evaluate(*pair, settings=SETTINGS)
    assert cut.confusion == whole.confusion
    assert cut.counts == whole.counts
    for name, found in whole.classes.items():
        for key, figure in found.items():
            if not key.startswith(("apls", "connected")):
                assert cut.classes[name][key].value == pytest.approx(figure.value), (name, key)
    wrong = [spot.wrong for spot in cut.worst]
    assert wrong == sorted(wrong, reverse=True)
    assert len(whole.worst) == 1
    assert sum(sum(row) - row[place] for place, row in enumerate(whole.confusion)) == whole.worst[0].wrong


def test_truth_against_itself_is_perfect(pair):
    report = evaluate(pair[1], pair[1], settings=SETTINGS)
    for found in report.classes.values():
        ways = {key for key in found if key.startswith(("apls", "connected"))}  # blobs may have none
        assert {figure.value for key, figure in found.items() if key not in ways} == {1.0}
    assert report.worst == ()


def test_polygons_keep_touching_objects_apart(write_boxes, write_raster):
    truth = write_boxes([(5, 5, 10, 10), (5, 15, 10, 10)], **{"class": ["field", "field"]})
    merged = np.zeros((40, 50), np.uint8)
    merged[5:15, 5:25] = 3
    settings = EvaluationSettings(classes=(("field", 3),))
    found = evaluate(write_raster(merged), truth, settings=settings)
    assert found.classes["field"]["iou"].value == 1
    assert found.counts["field"] == {"predicted": 1, "true": 2, "matched": 1}
    assert found.classes["field"]["boundary_recall"].value == pytest.approx(1 - 8 / 72)  # but near the ends
    apart = write_boxes([(5, 5, 10, 10), (5, 15, 10, 10)], "apart.parquet", confidence=[0.9, 0.4])
    found = evaluate(apart, truth, settings=settings, extras=Extras(grid=str(write_raster(merged))))
    assert {figure.value for figure in found.classes["field"].values()} == {1.0}
    with pytest.raises(InputError, match="both vector layers"):
        evaluate(apart, truth, settings=settings)


def test_confidence_of_polygons_ranks_them(write_boxes, write_raster):
    truth = write_boxes([(5, 5, 10, 10)])
    grid = Extras(grid=str(write_raster(np.zeros((40, 50), np.uint8))))
    settings = EvaluationSettings(classes=(("field", 3),))
    boxes = [(5, 5, 10, 10), (25, 5, 10, 10)]
    for scores, expected in (([0.9, 0.2], 1.0), ([0.2, 0.9], 0.5)):
        predicted = write_boxes(boxes, "predicted.gpkg", confidence=scores)
        report = evaluate(predicted, truth, settings=settings, extras=grid)
        assert report.classes["field"]["ap50"].value == pytest.approx(expected)


def test_object_numbers_and_ground_where_truth_is_known(write_boxes, write_raster):
    numbers = np.zeros((40, 50), np.uint16)
    numbers[5:15, 5:15], numbers[5:15, 15:25] = 700, 300
    mask = np.where(numbers > 0, 3, 1).astype(np.uint8)
    paths = write_raster(mask, "mask.tif"), write_raster(numbers, "numbers.tif")
    report = evaluate(*paths, settings=EvaluationSettings(instances="field"))
    assert list(report.classes) == ["field"]
    assert report.counts["field"] == {"predicted": 1, "true": 2, "matched": 1}
    within = write_boxes([(0, 0, 40, 15)], "within.gpkg")
    report = evaluate(*paths, settings=EvaluationSettings(instances="field"), extras=Extras(within=str(within)))
    assert report.counts["field"] == {"predicted": 1, "true": 1, "matched": 1}
    assert sum(map(sum, report.confusion)) == 40 * 15


def test_a_run_is_judged_by_its_mask_its_layers_and_its_confidence(write_boxes, write_raster, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    mask = np.zeros((40, 50), np.uint8)
    mask[5:15, 5:25] = 3
    mask[:, 40:] = 255
    sure = np.full((40, 50), 127, np.uint8)
    for name, pixels in (("mask", mask), ("confidence", sure)):
        write_raster(pixels, f"{name}.tif", nodata=255).rename(run / f"{name}.tif")
    boxes = [(5, 5, 10, 10), (5, 15, 10, 10)]
    write_boxes(boxes, "field.parquet", **{"class": ["field"] * 2}).rename(run / "field.parquet")
    record = {"layers": {"field": {}, "boundary": {}}, "files": ["field.parquet", "mask.tif"], "identity": {}}
    (run / "run.json").write_text(json.dumps(record))
    truth = write_boxes(boxes, **{"class": ["field"] * 2})
    report = evaluate(run, truth)
    assert report.counts["field"] == {"predicted": 2, "true": 2, "matched": 2}
    assert report.classes["field"]["iou"].value == 1
    assert report.overall["ece"].value == pytest.approx(0.5)
    assert report.unpredicted == 400
    assert report.reliability is not None
    assert sum(row[0] for row in report.reliability) == 1600
    (run / "mask.tif").unlink()
    assert evaluate(run, truth, extras=Extras(grid=str(run / "confidence.tif"))).counts == report.counts
    with pytest.raises(InputError, match="has neither a mask nor layers of lake"):
        evaluate(run, truth, settings=EvaluationSettings(classes=(("lake", 1),)))


def test_a_run_of_several_models_is_judged_by_its_layers_on_its_finest_grid(write_boxes, write_raster, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name, shape, gsd_m in (("town", (40, 50), 1.0), ("landscape", (20, 25), 2.0), ("vehicle", (80, 100), 0.5)):
        write_raster(np.zeros(shape, np.uint8), f"{name}.tif", nodata=255, gsd_m=gsd_m).rename(run / f"mask_{name}.tif")
    boxes = [(5, 5, 10, 10), (5, 15, 10, 10)]
    write_boxes(boxes, "field.parquet", **{"class": ["field"] * 2}).rename(run / "field.parquet")
    classes = {"town": ["road"], "landscape": ["field"], "vehicle": ["vehicle"]}
    gsds = {"town": 1.0, "landscape": 2.0, "vehicle": 0.5}
    passes = [{"classes": classes[name], "gsd_m": gsds[name], "mask": f"mask_{name}.tif"} for name in classes]
    (run / "run.json").write_text(json.dumps({"layers": {"field": {}}, "files": ["field.parquet"], "passes": passes}))
    report = evaluate(run, write_boxes(boxes, **{"class": ["field"] * 2}))
    assert report.counts["field"] == {"predicted": 2, "true": 2, "matched": 2}
    assert sum(map(sum, report.confusion)) == 40 * 50  # the grid of town, the finest of those with a judged class


@pytest.fixture
def folders(tmp_path, write_raster, make_mask):
    """Five pairs of masks, of which each prediction is somewhat worse than the last one."""
    for kind in ("predicted", "truth", "image"):
        (tmp_path / kind).mkdir()
    for number in range(5):
        truth = make_mask(number, (60, 70))
        predicted = np.roll(truth, number, axis=1)
        write_raster(truth, f"truth/tile_{number}.tif")
        write_raster(predicted, f"predicted/tile_{number}.tif")
        write_raster(np.stack([truth * 60] * 3), f"image/tile_{number}.tif")
    (tmp_path / "truth" / "README.md").write_text("no pair")
    write_raster(truth, "truth/extra.tif")
    return tmp_path


def test_folders_are_pairs_and_give_intervals(folders):
    report = evaluate(folders / "predicted", folders / "truth", settings=SETTINGS)
    assert report.scenes == tuple(f"tile_{number}" for number in range(5))
    alone = [
        evaluate(*(folders / kind / f"{name}.tif" for kind in ("predicted", "truth")), settings=SETTINGS)
        for name in report.scenes
    ]
    assert np.array_equal(np.sum([one.confusion for one in alone], axis=0), report.confusion)
    for name, found in report.classes.items():
        for key, figure in found.items():
            values = [one.classes[name][key].value for one in alone]
            if figure.value is None:  # too small for ways
                assert key.startswith(("apls", "connected"))
                continue
            assert figure.low <= figure.high, key
            if key in {"iou", "f1", "precision", "recall", "boundary_iou", "object_f1", "pq"}:
                assert min(values) <= figure.low <= figure.value <= figure.high <= max(values), key
    again = evaluate(folders / "predicted", folders / "truth", settings=SETTINGS)
    assert again == report
    with pytest.raises(InputError, match="is a folder and"):
        evaluate(folders / "predicted", folders / "truth" / "extra.tif", settings=SETTINGS)
    with pytest.raises(InputError, match="no name in common"):
        evaluate(folders / "predicted", folders, settings=SETTINGS)
    extras = Extras(image=str(folders / "image"), grid=str(folders / "truth" / "extra.tif"))
    subjects = find_subjects(str(folders / "predicted"), str(folders / "truth"), SETTINGS, extras)
    assert [subject.image.shown.rsplit("/", 1)[1] for subject in subjects] == [f"tile_{n}.tif" for n in range(5)]
    assert {subject.grid.shown.rsplit("/", 1)[1] for subject in subjects} == {"extra.tif"}


def test_the_page_stands_alone(geoseg, folders):
    page = folders / "page.html"
    arguments = ["--classes", "water=1,road=2,field=3", "--page", page, "--worst", 3, "--image", folders / "image"]
    code, out, _ = geoseg("evaluate", folders / "predicted", folders / "truth", *arguments, "--bootstrap", 100)
    assert code == 0
    for word in ("boundary F1", "AP50:95", "APLS", "water", "true objects", "accuracy", "scenes 5", "mean iou"):
        assert word in out
    text = page.read_text()
    assert not re.search(r'(src|href)="(?!data:)', text)
    pictures = [base64.b64decode(data) for data in re.findall(r'base64,([^"]+)"', text)]
    assert len(pictures) == 3 * 4
    assert {Image.open(io.BytesIO(data)).size for data in pictures} == {(70 + 64, 60 + 64)}
    for word in ("tile_4", "95 % intervals", "boundary IoU", "invented"):
        assert word in text
    assert "reliability" not in text


def test_png_is_read_back():
    picture = np.random.default_rng(0).integers(0, 256, (31, 17, 3)).astype(np.uint8)
    assert np.array_equal(np.array(Image.open(io.BytesIO(png(picture)))), picture)


def test_json_is_for_machines(geoseg, pair):
    code, out, err = geoseg("evaluate", *pair, "--json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert report["classes"]["parking"]["iou"]["value"] is None
    assert 0 < report["classes"]["field"]["pq"]["value"] < 1
    assert report["confusion"]["classes"] == ["background", "water", "road", "field", "parking"]
    assert report["worst"][0]["known"] > report["worst"][0]["wrong"] > 0
    assert report["reliability"] is None
    assert report["settings"]["boundary_px"] == 2


def test_bad_input_is_one_line(geoseg, pair, write_raster, write_boxes, tmp_path):
    predicted, truth = pair
    (tmp_path / "empty").mkdir()
    far = write_boxes([(9000, 9000, 5, 5)], "far.gpkg")
    whole = write_raster(np.full((150, 170), 255, np.uint8), "unknown.tif")
    for arguments, words in (
        (("nowhere.tif", truth), "no such file"),
        ((predicted, tmp_path / "empty"), "is a folder"),
        ((predicted, whole), "no pixel has both"),
        ((predicted, truth, "--within", far), "no pixel has both"),
        ((predicted, truth, "--classes", "water=0"), "--classes"),
        ((predicted, truth, "--truth-classes", "water=1"), "--truth-classes: give codes"),
        ((predicted, truth, "--instances", "roof"), "--instances is 'roof'"),
        ((predicted, truth, "--boundary", "0"), "--boundary is 0"),
        ((predicted, truth, "--page", tmp_path / "none" / "page.html"), "there is no folder"),
        ((predicted, truth, "--confidence", write_raster(np.zeros((4, 4), np.float32), "c.tif")), "are bytes"),
    ):
        code, out, err = geoseg("evaluate", *arguments)
        assert (code, out) == (2, ""), arguments
        assert err.count("\n") == 1
        assert words in err, err
