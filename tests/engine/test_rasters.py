"""Rasters are written while their chunks are still coming, and appear when all of them are there."""

from __future__ import annotations

import time

import numpy as np
import pytest
import rasterio

from geoseg import Execution, RunSettings, make_plan
from geoseg.engine.rasters import writing_rasters
from geoseg.engine.store import PREDICTED, Store

from .conftest import CORE


@pytest.fixture
def plan(land, small_card):
    return make_plan(str(land), RunSettings(models=(str(small_card),)), Execution(threads=1, chunk=CORE))


@pytest.fixture
def stores(plan, tmp_path):
    """An empty store for the one pass."""
    [part] = plan.passes
    store = Store(tmp_path / "store", "run")
    store.create(chunk=part.lattice.chunk, shape=(part.lattice.height, part.lattice.width), arrays=PREDICTED)
    return {part.name: store}


def predicted(part, store):
    """Fills a store chunk by chunk."""
    for number, chunk in enumerate(part.lattice.chunks()):
        pixels = np.full((chunk.window.height, chunk.window.width), number % 4, np.uint8)
        store.write(chunk, dict.fromkeys(PREDICTED, pixels))
        yield chunk


def test_they_are_there_once_all_chunks_are_settled(plan, stores, tmp_path):
    [part] = plan.passes
    store, home = stores[part.name], tmp_path / "home"
    home.mkdir()
    with writing_rasters(plan, stores, home) as rasters:
        for chunk in predicted(part, store):
            assert not list(home.glob("*.tif")), "it did not wait"
            rasters.settle([part.name], [chunk])
        files = rasters.finish()
    assert {path.name for path in files} == {"mask.tif", "mask.tif.aux.xml", "confidence.tif"}
    for name in PREDICTED:
        with rasterio.open(home / f"{name}.tif") as raster:
            np.testing.assert_array_equal(raster.read(1), store.array(name)[:])


def test_what_failed_is_written_as_it_is_in_the_end(plan, stores, tmp_path):
    [part] = plan.passes
    [*some, last] = predicted(part, stores[part.name])
    with writing_rasters(plan, stores, tmp_path) as rasters:
        rasters.settle([part.name], some)
        time.sleep(0.2)
        stores[part.name].write(last, {"mask": np.full((last.window.height, last.window.width), 255, np.uint8)})
        rasters.settle_rest()
        rasters.finish()
    with rasterio.open(tmp_path / "mask.tif") as raster:
        np.testing.assert_array_equal(raster.read(1), stores[part.name].array("mask")[:])


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_a_run_that_ends_before_leaves_none(plan, stores, tmp_path, error):
    [part] = plan.passes
    home = tmp_path / "home"
    home.mkdir()

    def end_early():
        with writing_rasters(plan, stores, home) as rasters:
            rasters.settle([part.name], list(predicted(part, stores[part.name]))[:-1])
            time.sleep(0.2)
            if error is not None:
                raise error

    if error is None:
        end_early()
    else:
        with pytest.raises(error):
            end_early()
    assert not list(home.iterdir())
