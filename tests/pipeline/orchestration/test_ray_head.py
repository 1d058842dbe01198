"""The Ray that `up` starts: for this machine only, and with a token."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from listening import beyond_loopback, family, listening

from pipeline.orchestration import services
from pipeline.settings import Settings

pytestmark = pytest.mark.slow
DRIVER = """
import os, sys
from pathlib import Path
from listening import family, listening, beyond_loopback
from pipeline.orchestration.ray_session import connect_ray
from pipeline.settings import Settings, apply_environment
settings = Settings(home=Path(sys.argv[1]))
apply_environment(settings)
with connect_ray(settings):
    import ray
    @ray.remote(num_cpus=0.1)
    class Worker:
        def look(self): return os.getpid()
    worker = Worker.remote()
    pid = ray.get(worker.look.remote(), timeout=60)
    me = family(os.getpid()) | {pid}
    assert len({found[0] for found in listening(me)}) > 1, "neither driver nor worker listens"
    print("open:", beyond_loopback(me))
"""


def environment(home: Path) -> dict[str, str]:
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "RAY_", "ROBOSCAPE_"))
    }
    return kept | {"ROBOSCAPE_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}


def python(code: str, home: Path, **more: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, str(home)],
        env=environment(home) | more, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A workspace with a Ray head, started in a process whose environment is a user's."""
    settings = Settings(home=tmp_path_factory.mktemp("home"), prefect_url=None, external_ray=None)
    code = (
        "import sys; from pathlib import Path; from pipeline.settings import *\n"
        "from pipeline.orchestration import services\n"
        "settings = Settings(home=Path(sys.argv[1])); settings.services.mkdir()\n"
        "services.ensure_token(settings); apply_environment(settings)\n"
        "services.wait_for([services.start_ray(settings, print)], settings, print)"
    )
    python(code, settings.home)
    yield settings
    services.down(settings, print)


def test_no_process_of_it_listens_beyond_loopback(settings: Settings):
    head = services.read_services(settings)["ray"]
    assert len(listening(family(head.pid))) >= 5  # GCS, raylet, agents, client server
    assert beyond_loopback(family(head.pid)) == []


def test_neither_do_drivers_and_workers(settings: Settings):
    assert python(DRIVER, settings.home).strip() == "open: []"
    assert beyond_loopback(family(services.read_services(settings)["ray"].pid)) == []


def test_a_ray_that_a_run_starts_by_itself_does_not_either(tmp_path: Path):
    (tmp_path / "services").mkdir()
    services.ensure_token(Settings(home=tmp_path))
    assert python(DRIVER, tmp_path).strip() == "open: []"


def test_the_check_sees_what_listens_beyond_loopback():
    with (
        socket.create_server(("0.0.0.0", 0)) as wide,
        socket.create_server(("127.0.0.1", 0)) as own,
    ):
        found = {port for _, _, port in listening({os.getpid()})}
        assert {wide.getsockname()[1], own.getsockname()[1]} <= found
        beyond = {port for _, _, port in beyond_loopback({os.getpid()})}
        assert wide.getsockname()[1] in beyond and own.getsockname()[1] not in beyond
