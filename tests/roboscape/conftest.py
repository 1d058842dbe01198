"""One small workspace for all tests of the public API. Read only."""

import pytest
from small_workspace import make_workspace
from small_world import World

import roboscape as rs


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="session")
def ws(world: World) -> rs.Workspace:
    return rs.open(world.root)


@pytest.fixture(scope="session")
def clips(ws: rs.Workspace) -> rs.Clips:
    return ws.clips()


@pytest.fixture(scope="session")
def model(ws: rs.Workspace) -> rs.WorldModel:
    return ws.world_model(device="cpu")
