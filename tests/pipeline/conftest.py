from collections.abc import Iterator
from pathlib import Path

import pytest
from machinery import Machinery
from repository import SUPPORT


@pytest.fixture
def machinery(tmp_path: Path) -> Machinery:
    return Machinery(root=str(tmp_path / "stores_root"), faults=tmp_path / "faults")


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A local Ray for the whole test session."""
    from pipeline.orchestration.services import ensure_token
    from pipeline.settings import Settings, apply_environment

    settings = Settings(home=tmp_path_factory.mktemp("ray"))
    settings.services.mkdir()
    ensure_token(settings)
    apply_environment(settings)
    import ray

    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        address="local", runtime_env={"env_vars": {"PYTHONPATH": str(SUPPORT)}},
    )  # fmt: skip
    yield
    ray.shutdown()
