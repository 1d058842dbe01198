"""Simulated episodes that several tests read. (That this file is here also puts `tests/stages/` on the path.)"""

import pytest
from sample_configs import FAULTY, QUICK

from stages.simulation.dataset import SampleSummary, make_sample


@pytest.fixture(scope="session")
def quick_sample(tmp_path_factory: pytest.TempPathFactory) -> SampleSummary:
    """Two short episodes with ground truth, made in this process. Read only."""
    return make_sample(tmp_path_factory.mktemp("quick"), QUICK, workers=1)


@pytest.fixture(scope="session")
def faulty_sample(tmp_path_factory: pytest.TempPathFactory) -> SampleSummary:
    """One good episode and one with each fault. Read only."""
    return make_sample(tmp_path_factory.mktemp("faulty"), FAULTY, workers=2)
