from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from geoseg.errors import ModelError, SettingsError
from geoseg.training.callbacks import Progress
from geoseg.training.fit import FitResult, FitSettings, fit
from geoseg.training.sampler import Sample

SIDE = 16
CLASSES = ("blob", "other")


class Blobs:
    """Bright squares are blobs; the other class is unknown, and labelled wrongly on purpose."""

    def draw(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        image = rng.integers(0, 60, (3, SIDE, SIDE)).astype(np.uint8)
        target = np.ones((2, SIDE, SIDE), np.uint8)
        target[0] = 0
        row, col = rng.integers(0, SIDE // 2, 2)
        place = np.s_[row : row + SIDE // 2, col : col + SIDE // 2]
        image[:, place[0], place[1]] += 180
        target[0][place] = 1
        weight = np.zeros(target.shape, np.float32)
        weight[0] = 1
        return Sample(image, target, weight, "blobs", 1.0)


BLOBS = Blobs()
VALIDATION = [BLOBS.draw(10_000 + index) for index in range(3)]

NOTHING = Sample(VALIDATION[0].image, VALIDATION[0].target, 0 * VALIDATION[0].weight, "nothing known", 1.0)


def small() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential()
    encoder = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout2d(0.2))
    network.add_module("encoder", encoder)
    network.add_module("head", nn.Conv2d(6, 2, 1))
    return network


def settings(**changes: Any) -> FitSettings:
    plain = {"batch": 2, "learning_rate": 0.03, "augment": "none", "validations": 3, "workers": 0, "log_every": 2}
    budget = {} if "minutes" in changes else {"steps": 9}
    return FitSettings(**(plain | budget | {"device": "cpu", "precision": "fp32"} | changes))  # type: ignore[arg-type]


def train(
    directory: Path,
    network: nn.Module | None = None,
    *,
    sampler: Any = BLOBS,
    validation: Any = VALIDATION,
    progress: Callable[[Progress], None] | None = None,
    **changes: Any,
) -> FitResult:
    network = small() if network is None else network
    return fit(network, sampler, validation, settings(**changes), directory, class_names=CLASSES, progress=progress)


def rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "log.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FitResult, list[Progress], nn.Module]:
    """A training that nothing interrupts."""
    directory = tmp_path_factory.mktemp("straight")
    seen: list[Progress] = []
    network = small()
    result = train(directory, network, progress=seen.append, augment="light", steps=12)
    return directory, result, seen, network


def test_it_learns_and_says_so(straight: tuple[Path, FitResult, list[Progress], nn.Module]) -> None:
    _, result, seen, network = straight
    assert seen[-1].loss < 0.8 * seen[0].loss
    assert (seen[-1].step, seen[-1].share, result.steps) == (12, 1.0, 12)
    verdicts = {progress.step: progress.verdict for progress in seen if progress.verdict is not None}
    assert list(verdicts) == [4, 8, 12]
    best = verdicts[result.best_step]
    assert result.mean_iou == best.mean_iou == max(verdict.mean_iou for verdict in verdicts.values()) > 0.6
    assert result.figures == best.classes
    assert result.figures["blob"].iou == result.mean_iou  # nothing is known of the other
    assert result.figures["other"].iou is None
    assert result.seconds == seen[-1].elapsed_s
    for name, value in network.state_dict().items():
        assert torch.equal(value, result.state[name])


def test_it_leaves_a_log_and_pictures(straight: tuple[Path, FitResult, list[Progress], nn.Module]) -> None:
    directory, result, _, _ = straight
    log = rows(directory)
    assert [int(row["step"]) for row in log] == [2, 4, 6, 8, 10, 12]
    assert [row["mean_iou"] != "" for row in log] == [False, True] * 3
    assert float(log[-1]["share"]) == 1.0
    assert all(float(row["ce blob"]) > 0 and float(row["ce other"]) == 0 for row in log)
    assert all(float(row["samples_per_s"]) > 0 for row in log)
    assert max(float(row["iou blob"] or 0) for row in log) == pytest.approx(result.mean_iou, abs=1e-5)
    names = ["best.safetensors", "last.ckpt", "log.csv", "predictions"]
    assert sorted(path.name for path in directory.iterdir() if path.name != "tensorboard") == names
    pictures = sorted((directory / "predictions").iterdir())
    assert [path.name for path in pictures] == [f"step_{step:07d}.png" for step in (4, 8, 12)]
    with Image.open(pictures[0]) as picture:
        assert picture.size == (3 * (SIDE + 4), len(VALIDATION) * (SIDE + 4))


def test_unknown_classes_are_left_alone(straight: tuple[Path, FitResult, list[Progress], nn.Module]) -> None:
    _, result, _, _ = straight
    before = small().state_dict()
    assert torch.equal(result.state["head.bias"][1:], before["head.bias"][1:])
    assert not torch.equal(result.state["head.bias"][:1], before["head.bias"][:1])


def test_killed_and_resumed_is_the_same_as_never_killed(
    straight: tuple[Path, FitResult, list[Progress], nn.Module], tmp_path: Path
) -> None:
    directory, result, _, _ = straight

    def stop_at(step: int) -> Callable[[Progress], None]:
        def stop(progress: Progress) -> None:
            if progress.step >= step:
                raise RuntimeError("killed")

        return stop

    for step in (6, 10):  # the second kill comes after a resume
        with pytest.raises(RuntimeError, match="killed"):
            train(tmp_path, progress=stop_at(step), augment="light", steps=12)
    resumed = train(tmp_path, augment="light", steps=12)
    assert (resumed.steps, resumed.best_step, resumed.figures) == (12, result.best_step, result.figures)
    for name, value in result.state.items():
        assert torch.equal(value, resumed.state[name]), name
    timed = {"seconds", "samples_per_s"}
    plain, again = (
        [{key: value for key, value in row.items() if key not in timed} for row in rows(where)]
        for where in (directory, tmp_path)
    )
    assert plain == again


def test_a_finished_training_is_read_and_others_are_refused(
    straight: tuple[Path, FitResult, list[Progress], nn.Module],
) -> None:
    directory, result, _, _ = straight
    again = train(directory, augment="light", steps=12, log_every=1)  # what changes no result may change
    assert (again.best_step, again.steps, again.seconds) == (result.best_step, 12, result.seconds)
    with pytest.raises(SettingsError, match=r"learning_rate 0\.03, and this one has 0\.5; give another directory"):
        train(directory, augment="light", steps=12, learning_rate=0.5)


def test_frozen_parts_keep_weights_and_statistics(tmp_path: Path) -> None:
    before = small().state_dict()
    # minutes are a budget too, and without validation the last weights count
    result = train(tmp_path, validation=(), frozen=("encoder.0.", "encoder.1."), minutes=0.002)
    assert all(torch.equal(value, before[name]) for name, value in result.state.items() if name.startswith("encoder."))
    assert not torch.equal(result.state["head.weight"], before["head.weight"])
    assert (result.figures, result.mean_iou, result.best_step) == ({}, None, result.steps)
    assert result.seconds >= 0.12
    assert float(rows(tmp_path)[-1]["share"]) == 1.0


def test_patience_ends_a_training_that_gets_no_better(tmp_path: Path) -> None:
    still = {"steps": 40, "learning_rate": 1e-9, "frozen": ("encoder.",), "validations": 10, "patience": 2}
    result = train(tmp_path, **still)
    assert (result.best_step, result.steps) == (4, 12)
    assert train(tmp_path, **still).steps == 12


def test_a_loss_that_is_not_finite_stops_the_training_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    class Poisoned(Blobs):
        def draw(self, index: int) -> Sample:
            sample = super().draw(index)
            if index >= 14:
                sample.weight[0] = np.nan
            return sample

    with pytest.raises(ModelError, match="loss is nan near step 8; lower the learning rate"):
        train(tmp_path, sampler=Poisoned())
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 6
    assert all(torch.isfinite(value).all() for value in saved["state_dict"].values())


def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="remove it to start anew"):
        train(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"steps": 3, "minutes": 1.0}, "exactly one"),
        ({"steps": None}, "exactly one"),
        ({"steps": 0}, "steps is 0; give a number above 0"),
        ({"batch": 0}, "batch is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"average": 1.0}, "less than 1"),
        ({"patience": 0}, "patience is 0"),
        ({"workers": -1}, "0 or more"),
        ({"losses": (("hinge", 1.0),)}, "unknown loss"),
        ({"augment": "wild"}, "none, light, strong"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        settings(**wrong)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"frozen": ("encoder.", "head.")}, "freeze less"),
        ({"class_weight": (1.0,)}, "1 numbers for 2 classes"),
        ({"devices": 2, "batch": 3}, "does not divide among 2 devices"),
        ({"network": nn.Identity()}, "nothing to train"),
        ({"validation": [NOTHING]}, "occurs in the 1 validation samples"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(tmp_path: Path, wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        train(tmp_path, **wrong)
    assert not list(tmp_path.iterdir())


def test_names_bands_and_channels_must_agree(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="2 channels, but the names are blob"):
        fit(small(), BLOBS, (), settings(), tmp_path, class_names=["blob"])
    with pytest.raises(SettingsError, match="3 bands, but mean and std have 4, 4"):
        fit(small(), BLOBS, (), settings(), tmp_path, class_names=CLASSES, mean=[1.0] * 4, std=[1.0] * 4)


def test_the_console_stays_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, steps=1)
    assert capfd.readouterr() == ("", "")
