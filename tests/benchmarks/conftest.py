import dataclasses

import numpy as np
import pytest
from shapely.geometry import box

from hertzmap.benchmarks import worlds
from hertzmap.benchmarks.worlds import World, WorldKey, world_of
from hertzmap.core.grid import Grid
from hertzmap.core.types import Scene


@pytest.fixture(scope="session")
def scene() -> Scene:
    houses = (box(6.0, 6.0, 14.0, 20.0), box(20.0, 10.0, 27.0, 26.0))
    return Scene(
        houses,
        np.array([9.0, 12.0]),
        ("height", "height"),
        ("way/1", "way/2"),
        (0.0, 0.0, 32.0, 32.0),
    )


@pytest.fixture(scope="session")
def world(scene) -> World:
    return world_of(WorldKey("cities", "heidelberg", 0), scene, Grid(32, 32))


@pytest.fixture
def tiny(world, monkeypatch):
    """Every key leads to the tiny world."""
    monkeypatch.setattr(worlds, "load", lambda key: dataclasses.replace(world, key=key))
