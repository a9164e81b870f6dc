"""The measured halo: a network whose reach is known, and the command line."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from geoseg.codes import NODATA
from geoseg.engine import halo as halos
from geoseg.engine.halo import count_differing, cuttings, measure_halo, spread_windows, tiles_over
from geoseg.errors import ModelError, SceneError, SettingsError
from geoseg.lattice import Lattice, Window
from geoseg.models import graphs, reach, runtime_torch
from geoseg.models.card import Card
from geoseg.settings import RunSettings

from .conftest import paint

torch = pytest.importorskip("torch")

REACH = 40  # px to each side, so 64 is the first multiple of the stride that is enough


def give(patch, network):
    """Gives every card this network, whatever runs it and whatever graphs were kept."""
    patch.setattr(graphs, "_kept", lambda card, what, make: make()[0])
    for module in (runtime_torch, halos):
        patch.setattr(module, "load_network", lambda card: network)


@pytest.fixture
def near(monkeypatch):
    """Gives every card a network that looks exactly `REACH` px far, to all sides with about the same weight."""
    torch.manual_seed(0)
    wide = (torch.nn.Conv2d(4, 4, 5, dilation=step, padding=2 * step, groups=4) for step in (4, 16))
    layers = [torch.nn.Conv2d(3, 4, 1), *wide]
    network = torch.nn.Sequential(*layers)
    with torch.no_grad():
        for layer in layers[1:]:
            layer.weight.fill_(0.04)  # a mean, but for the zeros beyond the tile
            layer.bias.zero_()
        layers[0].weight.normal_()
        layers[0].bias.fill_(0.3)
    give(monkeypatch, network)
    monkeypatch.setattr(reach, "_LENGTH", 512)
    monkeypatch.setattr(reach, "_BREADTH", 32)
    return network


def rows_of(measured):
    return {row.halo: row.differing for row in measured.rows}


def test_exact_from_half_the_receptive_field_on(near, small_card, land):
    measured = measure_halo(str(small_card), [str(land)], RunSettings(), rate=1)
    # tiles of 128 px: 32 is the largest halo below 64, and not enough
    assert set(rows_of(measured)) == {0, 32}
    assert rows_of(measured)[0] > rows_of(measured)[32] > 0
    assert measured.halo is None
    assert "looks 64 px far, farther than half its tile" in measured.notes[-1]
    with pytest.raises(ModelError, match="no halo of model small below half its tile 128 reaches the rate 1"):
        measured.write()


def test_halo_is_written_and_all_else_stays(near, write_card, land, write_scene):
    path = write_card("wide", tile=192)
    before = json.loads(path.read_text())
    scenes = [str(land), str(write_scene(paint(300, 150, seed=5), "strip"))]
    measured = measure_halo(str(path), scenes, RunSettings(), rate=1, window_px=96)
    shares = rows_of(measured)
    assert list(shares) == [0, 32, 64]
    assert shares[0] > shares[32] > shares[64] == 0
    assert (measured.halo, measured.windows, measured.window_px, measured.whole_px) == (64, 6, 96, 96 + 128)
    assert [row.cost for row in measured.rows] == pytest.approx([1, (192 / 128) ** 2, 9])
    assert measured.rows[1].low <= shares[32] <= measured.rows[1].high <= measured.rows[1].worst
    assert replace(measured, rate=1 - shares[32]).halo == 32
    card = measured.write()
    after = json.loads(path.read_text())
    assert card == replace(Card.read(path), halo=64)
    assert card.digest == measured.card.digest
    assert [row["halo"] for row in card.halo_measured] == [0, 32, 64]
    assert card.halo_measured[-1] | {"pixels": 0} == {
        "halo": 64, "differing": 0, "low": 0, "high": 0, "worst": 0, "pixels": 0, "scenes": 2, "tile": 192,
        "runtime": measured.runtime, "precision": measured.precision,
    }  # fmt: skip
    for name in ("geoseg:halo", "geoseg:halo_measured"):
        before["properties"].pop(name), after["properties"].pop(name)
    assert before == after


def test_all_cuttings_together_are_what_runs_give():
    """One set of tiles for all halos counts as literal lattices of each halo do, over all pixels they may begin at."""
    side, stride, window = 32, 4, Window(8, 4, 44, 36)
    whole = np.random.default_rng(0).integers(0, 3, (window.height, window.width)).astype(np.uint8)
    whole[5:9, 7:20] = NODATA

    def label(outer: Window) -> np.ndarray:
        """The label at a pixel depends on where in its tile it lies."""
        row, col = np.mgrid[:side, :side]
        near_edge = np.minimum.reduce([row, col, side - 1 - row, side - 1 - col])
        world = (row + outer.row_off) * 7 + (col + outer.col_off) * 3
        return np.where(near_edge < 9, world % 3, 0).astype(np.uint8)

    steps = range(0, side, stride)
    outers = [tile for shift in product(steps, steps) for tile in tiles_over(window, side, shift)]
    counts = count_differing(window, whole, outers, (0, 4, 12), label)
    for (differing, compared), halo in zip(counts, (0, 4, 12), strict=True):
        lattice = Lattice(200, 200, core=side - 2 * halo, halo=halo, chunk=side - 2 * halo)
        literal = np.zeros(2, int)
        begins = range(0, lattice.core, stride)
        for d_row, d_col, tile in product(
            begins, begins, [lattice.tile_at(*at) for at in np.ndindex(lattice.tile_shape)]
        ):
            core = tile.core.shift(d_row - 96, d_col - 96).intersection(window)
            if core is None:
                continue
            outer = tile.outer.shift(d_row - 96, d_col - 96)
            there = whole[core.slices(window)]
            known = there != NODATA
            literal += (known & (label(outer)[core.slices(outer)] != there)).sum(), known.sum()
        assert compared == literal[1]
        assert differing == literal[0]


def test_cuttings_are_multiples_of_the_stride_and_spread():
    shifts = cuttings(1536, 32, 6)
    assert len(set(shifts)) == 6
    assert all(by % 32 == 0 and 0 <= by < 1536 for shift in shifts for by in shift)
    for axis in (0, 1):
        assert np.diff(sorted(shift[axis] for shift in shifts)).max() < 1536 / 2
    assert cuttings(64, 64, 2) == [(0, 0), (0, 0)]


@pytest.mark.parametrize("size", [(100, 90), (1000, 500), (257, 2000)])
def test_windows_reach_from_corner_to_corner(size):
    windows = spread_windows(*size, 256, 32, 3)
    assert all(window.row_off % 32 == window.col_off % 32 == 0 for window in windows)
    assert (windows[0].row_off, windows[0].col_off) == (0, 0)
    assert (windows[-1].row_stop, windows[-1].col_stop) == size
    assert all(0 < side <= 256 for window in windows for side in (window.height, window.width))
    assert len(windows) == (1 if max(size) <= 256 else 3)


def test_a_network_that_sees_everything_is_measured_and_told(near, small_card, land):
    class Everywhere(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.near = near

        def forward(self, pixels):
            return self.near(pixels - pixels.mean(dim=(2, 3), keepdim=True))

    everywhere = Everywhere().eval()
    with pytest.MonkeyPatch.context() as patch:
        give(patch, everywhere)
        measured = measure_halo(str(small_card), [str(land)], RunSettings(), windows=1)
    assert "never exact, with no halo: every pixel depends on all of the tile" in measured.notes[-1]
    assert all(row.differing > 0 for row in measured.rows)


def test_an_onnx_file_is_measured_as_the_network_in_it_is(near, write_card, land, tmp_path):
    pytest.importorskip("onnxruntime")
    known = write_card("near")
    moving = {"tiles": {2: "rows", 3: "cols"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = torch.zeros(1, 3, 64, 64)
        torch.onnx.export(
            near, (example,), tmp_path / "near.onnx", input_names=["tiles"], dynamic_axes=moving, dynamo=False
        )
    item = json.loads(known.read_text())
    item["assets"]["weights"] = {"href": "near.onnx"}
    (tmp_path / "file.card.json").write_text(json.dumps(item))
    found = measure_halo(str(tmp_path / "file.card.json"), [str(land)], RunSettings(), windows=1)
    expected = measure_halo(str(known), [str(land)], RunSettings(runtime="onnx"), windows=1)
    assert (found.runtime, expected.runtime) == ("onnx", "onnx")
    assert "how far an ONNX file looks is not known" in found.notes[-1]
    # nothing is wider than half a tile here, so both compare with the same windows
    assert rows_of(found) == {halo: share for halo, share in rows_of(expected).items() if halo in rows_of(found)}


def test_bad_input_is_refused(near, small_card, land, write_scene):
    with pytest.raises(ModelError, match="model ndwi decides every pixel alone: its halo is 0"):
        measure_halo("ndwi", [str(land)], RunSettings())
    for wrong, words in (
        ({"rate": 2}, "--rate is 2"),
        ({"window_px": 8}, "--window is 8"),
        ({"windows": 0}, "--windows"),
    ):
        with pytest.raises(SettingsError, match=words):
            measure_halo(str(small_card), [str(land)], RunSettings(), **wrong)
    with pytest.raises(SettingsError, match="no scene"):
        measure_halo(str(small_card), [], RunSettings())
    empty = write_scene(np.zeros((3, 64, 64), np.uint8), "empty", nodata=0)
    with pytest.raises(SceneError, match=r"labels everything alike in .*empty\.tif"):
        measure_halo(str(small_card), [str(empty)], RunSettings())


def test_command_line(near, write_card, land, geoseg):
    path = write_card("told", tile=192)
    code, out, err = geoseg("halo", path, land, "--window", 96, "--windows", 2, "--write")
    assert code == 0, err
    assert "the smallest halo that reaches 0.9999 is 64 px; the card has 32" in out
    assert "2 windows of up to 96 px of 1 scene, each labelled within 224 px at once" in out
    assert "100 %" in out
    assert f"written to {path}" in err
    code, out, _ = geoseg("models", path)
    assert "100 % of labels as of the whole image, on 1 scene" in out
    code, out, _ = geoseg("halo", path, land, "--window", 96, "--windows", 1, "--json")
    facts = json.loads(out)
    assert (facts["halo"], facts["card_halo"], facts["rows"][0]["low"]) == (64, 64, None)
    assert math.isclose(facts["rows"][-1]["cost"], 9)
    code, out, err = geoseg("halo", "ndvi", land)
    assert (code, out, err.count("\n")) == (2, "", 1)
