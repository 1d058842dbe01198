"""What all tests share."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from agibot_tree import FakeEpisode, write_tree
from sample_configs import FAULTY, QUICK, SWAYING

from simulation.dataset import SampleSummary, make_sample

if TYPE_CHECKING:
    from small_trainings import Stores

# A property is not wrong because the machine is busy.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tests leave nothing in the user's cache folder."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBOSCAPE_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    """Stages set torch's threads, and the last bit of a sum depends on their number."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    yield
    if torch:
        torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two whole episodes of 9 s at 30 Hz. Read only: a test that spoils a file copies the tree
    first.
    """
    root = tmp_path_factory.mktemp("agibot")
    return write_tree(root, FakeEpisode(), FakeEpisode(episode=648649, task=351, n=260))


@pytest.fixture(scope="session")
def quick_sample(tmp_path_factory: pytest.TempPathFactory) -> SampleSummary:
    """Two short episodes with ground truth, made in this process. Read only."""
    return make_sample(tmp_path_factory.mktemp("quick"), QUICK, workers=1)


@pytest.fixture(scope="session")
def swaying_sample(tmp_path_factory: pytest.TempPathFactory) -> SampleSummary:
    """A short episode with ground truth, seen by a moving camera. Read only."""
    return make_sample(tmp_path_factory.mktemp("swaying"), SWAYING, workers=1)


@pytest.fixture(scope="session")
def faulty_sample(tmp_path_factory: pytest.TempPathFactory) -> SampleSummary:
    """One good episode and one with each fault. Read only."""
    return make_sample(tmp_path_factory.mktemp("faulty"), FAULTY, workers=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the stores of a module's small trainings are."""
    return tmp_path_factory.mktemp("trainings")


@pytest.fixture(scope="module")
def stores(root: Path) -> "Stores":
    """What the small trainings read, see `small_trainings`."""
    from small_trainings import make_stores  # loads torch

    return make_stores(root)
