from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from geoseg.errors import ModelError, SettingsError
from geoseg.models.architectures import build
from geoseg.training.loop import Batch, Progress, Trainer, TrainSettings, learning_rate_factor, normalise


class Blobs:
    """Bright squares are class 0; the other classes are unknown, and labelled wrongly on purpose."""

    def __init__(self, size: int = 32, classes: int = 4) -> None:
        self.rng = np.random.default_rng(0)
        self.size, self.classes = size, classes

    def batch(self, count: int) -> Batch:
        images = self.rng.integers(0, 60, (count, 3, self.size, self.size)).astype(np.uint8)
        target = np.ones((count, self.classes, self.size, self.size), np.uint8)
        target[:, 0] = 0
        for index in range(count):
            row, col = self.rng.integers(0, self.size // 2, 2)
            place = np.s_[row : row + self.size // 2, col : col + self.size // 2]
            images[index][:, place[0], place[1]] += 180
            target[index, 0][place] = 1
        weight = np.zeros(target.shape, np.float32)
        weight[:, 0] = 1
        return images, target, weight


def small(classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential()
    network.add_module("encoder", nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()))
    network.add_module("head", nn.Conv2d(6, classes, 1))
    return network


def test_a_few_steps_lower_the_loss_of_the_real_network() -> None:
    torch.manual_seed(0)
    trainer = Trainer(
        build("unet-tf_efficientnet_lite0", classes=4), TrainSettings(steps=14, batch=2, encoder_share=1.0)
    )
    one = Blobs(64).batch(2)
    losses = [float(trainer.train_step(one).total) for _ in range(14)]
    assert np.mean(losses[-3:]) < 0.75 * losses[0]


def test_run_reports_every_step_learns_and_ignores_unknown_classes() -> None:
    network = small()
    head = network.get_submodule("head")
    assert isinstance(head, nn.Conv2d)
    before = head.weight.detach().clone()
    seen: list[Progress] = []
    settings = TrainSettings(steps=40, batch=4, learning_rate=0.05, weight_decay=0.0)
    Trainer(network, settings).run(Blobs(), report=seen.append)
    assert [progress.step for progress in seen] == list(range(1, 41))
    assert seen[-1].share == 1.0
    assert seen[-1].loss < 0.5 * seen[0].loss
    assert seen[0].bce[1:] == (0.0, 0.0, 0.0)
    assert torch.equal(head.weight[1:], before[1:])
    assert not torch.equal(head.weight[:1], before[:1])


def test_frozen_parts_keep_weights_and_statistics() -> None:
    network = small()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    trainer = Trainer(network, TrainSettings(steps=3, batch=2, frozen=("encoder.0.", "encoder.1.")))
    trainer.run(Blobs())
    after = network.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before if k.startswith("encoder."))
    assert not torch.equal(after["head.weight"], before["head.weight"])
    with pytest.raises(SettingsError, match="freeze less"):
        Trainer(small(), TrainSettings(steps=3, frozen=("encoder.", "head.")))


def test_resumed_training_is_the_same_as_uninterrupted(tmp_path: Path) -> None:
    settings = TrainSettings(steps=6, batch=2, learning_rate=0.01)
    blobs = Blobs()
    batches = [blobs.batch(2) for _ in range(6)]
    straight = Trainer(small(), settings)
    for batch in batches:
        straight.train_step(batch)
    first = Trainer(small(), settings)
    for batch in batches[:3]:
        first.train_step(batch)
    first.save(tmp_path / "half.pt")
    second = Trainer(small(), settings)
    second.resume(tmp_path / "half.pt")
    assert second.step == 3
    for batch in batches[3:]:
        second.train_step(batch)
    for name, value in straight.averaged.state_dict().items():
        assert torch.equal(value, second.averaged.state_dict()[name]), name
    assert [path.name for path in tmp_path.iterdir()] == ["half.pt"]


def test_new_phase_starts_from_averaged_weights(tmp_path: Path) -> None:
    first = Trainer(small(), TrainSettings(steps=4, batch=2, learning_rate=0.05))
    first.run(Blobs(), checkpoint=tmp_path / "one.pt")
    second = Trainer(small(), TrainSettings(steps=4, batch=2))
    second.resume(tmp_path / "one.pt", weights_only=True)
    assert second.step == 0
    for name, value in first.averaged.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name])


def test_checkpoints_of_other_networks_are_refused(tmp_path: Path) -> None:
    Trainer(small(3), TrainSettings(steps=1)).save(tmp_path / "other.pt")
    trainer = Trainer(small(4), TrainSettings(steps=1))
    with pytest.raises(ModelError, match="does not continue"):
        trainer.resume(tmp_path / "other.pt")
    with pytest.raises(ModelError, match="does not continue"):
        trainer.resume(tmp_path / "missing.pt")


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    network = small()
    head = network.get_submodule("head")
    assert isinstance(head, nn.Conv2d)
    with torch.no_grad():
        head.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="lower the learning rate"):
        Trainer(network, TrainSettings(steps=2, batch=2)).run(Blobs())


def test_minutes_are_a_budget_too() -> None:
    seen: list[Progress] = []
    Trainer(small(), TrainSettings(minutes=0.003, batch=1)).run(Blobs(), report=seen.append)
    assert seen[-1].elapsed_s >= 0.18
    assert seen[-1].share == 1.0


def test_learning_rate_rises_then_falls() -> None:
    factors = [learning_rate_factor(share / 100, warmup=0.1) for share in range(101)]
    assert max(factors) == factors[10] == pytest.approx(1.0)
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] == pytest.approx(0.01)


@pytest.mark.parametrize(
    "wrong",
    [{}, {"steps": 3, "minutes": 1.0}, {"steps": 0}, {"steps": 3, "batch": 0}, {"steps": 3, "average": 1.0}],
)
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        TrainSettings(**wrong)  # type: ignore[arg-type]


def test_normalise_takes_imagenet_statistics() -> None:
    image = torch.tensor([124, 116, 104], dtype=torch.uint8).view(1, 3, 1, 1)
    assert normalise(image).abs().max() < 0.02
