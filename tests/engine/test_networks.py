"""Which networks stay loaded in a process."""

from __future__ import annotations

import pytest

from geoseg.engine import prediction


@pytest.fixture
def loaded(monkeypatch):
    networks = dict.fromkeys("abcd")
    monkeypatch.setattr(prediction, "_networks", networks)
    return networks


@pytest.mark.parametrize(
    ("but", "spare", "kept"),
    [((), 0, ""), (("b",), 0, "b"), (("b",), 1, "bd"), (("d",), 2, "bcd"), (("a",), 9, "abcd")],
)
def test_those_of_this_job_and_the_last_of_others(loaded, but, spare, kept):
    prediction.forget_networks(but, spare)
    assert "".join(loaded) == kept
