"""A death among Ray's processes is named at once, and nobody waits for what will not come."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.orchestration import ray_health
from pipeline.orchestration.ray_health import (
    HEAD,
    RayDied,
    RayProcess,
    RayWatch,
    end_rest,
    ray_processes,
    watching,
)
from storage.processes import process_start

IDLE = "import time; time.sleep(100)"
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process that does nothing, under the name of one of Ray's."""
    started: list[subprocess.Popen[bytes]] = []

    def named(*words: str, code: str = IDLE, **environment: str) -> subprocess.Popen[bytes]:
        command = [words[0], "-I", "-c", code] if len(words) == 1 else [*words]
        process = subprocess.Popen(
            command, executable=sys.executable, env=os.environ | environment, stdout=subprocess.PIPE
        )
        while process_words(process.pid)[0] != words[0]:  # not yet replaced by its program
            time.sleep(0.01)
        started.append(process)
        return process

    yield named
    for process in started:
        with suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def process_words(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def named(role: str, process: subprocess.Popen[bytes]) -> RayProcess:
    return RayProcess(role, process.pid, process_start(process.pid))


def kill(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()


def test_rays_processes_are_found_by_their_programs(start: Start, tmp_path: Path):
    script = tmp_path / "dashboard.py"
    script.write_text(IDLE)
    gcs, raylet = start("/ray/core/gcs_server"), start("/ray/core/raylet")
    dashboard = start("python", "-u", str(script))
    start("gcs_server_of_another_name")
    found = ray_processes(os.getpid(), head=True)
    assert {(p.role, p.pid) for p in found} == {
        (HEAD, os.getpid()),
        ("control process gcs_server", gcs.pid),
        ("raylet", raylet.pid),
        ("dashboard", dashboard.pid),
    }
    assert all(p.runs for p in found)


@pytest.mark.parametrize("role", ray_health.FATAL)
def test_a_death_is_named_with_what_is_kept_and_how_to_resume(
    start: Start, tmp_path: Path, role: str
):
    process, log = start("one-of-rays"), tmp_path / "ray.log"
    log.touch()
    with watching([named(role, process)], str(log)):
        ray_health.check()
        kill(process)
        with pytest.raises(RayDied) as died:
            ray_health.check()
    text = str(died.value)
    assert f"Ray's {role} (process {process.pid}) on this machine has ended" in text
    assert "everything that was finished is kept" in text.lower() and "same command" in text
    assert f"Its log: {log}." in text
    ray_health.check()  # of nothing: that Ray is left


def test_a_process_that_got_the_id_of_a_dead_one_is_not_it():
    me = RayProcess("raylet", os.getpid(), process_start(os.getpid()))
    RayWatch([me]).check()
    with pytest.raises(RayDied):
        RayWatch([replace(me, start="1")]).check()


def test_the_first_to_die_is_the_cause(start: Start, monkeypatch: pytest.MonkeyPatch):
    """Ray's head ends all others a second after any of them."""
    dashboard, gcs, raylet = start("d"), start("g"), start("r")
    watch = RayWatch(
        [
            named("raylet", raylet),
            named("control process gcs_server", gcs),
            named("dashboard", dashboard),
        ]
    )
    with watch:
        kill(dashboard)
        until = time.monotonic() + 10
        while not watch.deaths and time.monotonic() < until:
            time.sleep(0.01)
        watch.check()  # Ray goes on without it, if its head lets it
        kill(gcs, raylet)
        with pytest.raises(RayDied, match=rf"Ray's dashboard \(process {dashboard.pid}\)"):
            watch.check()
        monkeypatch.setattr(ray_health, "CAUSE_S", 0.0)  # then it died too long before
        assert {p.pid for p in watch.cause} == {gcs.pid, raylet.pid}


def test_of_those_who_were_found_dead_together_the_heads_log_names_the_first(
    start: Start, tmp_path: Path
):
    head, gcs, raylet = start("h"), start("g"), start("r")
    log = tmp_path / "ray.log"
    log.write_text("  raylet [exit code=-9]\n")  # of an earlier Ray
    processes = [
        named(HEAD, head),
        named("control process gcs_server", gcs),
        named("raylet", raylet),
    ]
    watch = RayWatch(processes, str(log))
    kill(head, gcs, raylet)
    assert [p.role for p in watch.cause] == [HEAD], "nothing is noted: all ended with it"
    with log.open("a") as out:
        out.write("\x1b[31m\x1b[1mgcs_server\x1b[22m\x1b[0m\x1b[2m [exit code=-9]\x1b[22m\n")
    assert [p.role for p in watch.cause] == ["control process gcs_server"]
    assert [p.role for p in RayWatch(processes).cause] == [HEAD]


def test_a_call_that_never_returns_ends_with_ray(start: Start, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray_health, "WAIT_S", 0.05)
    gcs, over = start("g"), threading.Event()
    with watching([named("control process gcs_server", gcs)]):
        assert ray_health.call(lambda: 7) == 7
        with pytest.raises(LookupError, match="its own"):
            ray_health.call(lambda: (_ for _ in ()).throw(LookupError("its own error")))
        threading.Timer(0.3, gcs.kill).start()
        began = time.monotonic()
        with pytest.raises(RayDied):
            ray_health.call(over.wait)
        assert time.monotonic() - began < 5
    over.set()


def test_a_training_does_not_wait_for_the_workers_of_a_dead_ray(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """As it does on Ctrl-C, when they end their step."""
    from pipeline.orchestration.training import ray_train

    monkeypatch.setattr(ray_train, "POLL_S", 0.05)
    raylet, over = start("r"), threading.Event()
    trainer, began = SimpleNamespace(fit=over.wait), time.monotonic()
    with watching([named("raylet", raylet)]), pytest.raises(RayDied):
        ray_train.fit_watched(trainer, lambda: kill(raylet), tmp_path / "stop")
    assert time.monotonic() - began < ray_train.STOP_S / 2
    over.set()


def test_a_training_that_failed_with_ray_is_explained_by_its_death(start: Start, tmp_path: Path):
    from pipeline.orchestration.training import ray_train

    gcs = start("g")

    def fit() -> None:
        kill(gcs)
        raise ConnectionError("rpc error 14")

    with watching([named("control process gcs_server", gcs)]), pytest.raises(RayDied):
        ray_train.fit_watched(SimpleNamespace(fit=fit), lambda: None, tmp_path / "stop")


def test_what_is_left_of_ray_is_ended_with_its_children(start: Start):
    parent = "import subprocess as s; p = s.Popen(['sleep', '100']); print(p.pid, flush=True); "
    parent += "p.wait()"
    gcs, dashboard = start("g", code=parent), start("d")
    child = int(gcs.stdout.readline())  # type: ignore[union-attr]
    raylet = start("r")
    of_dead = named("raylet", raylet)
    worker = start("w", RAY_RAYLET_PID=str(raylet.pid))
    stranger = start("s", RAY_RAYLET_PID=f"{raylet.pid}0")
    kill(raylet)
    end_rest([named("control process gcs_server", gcs), of_dead])
    assert gcs.wait(10) == worker.wait(10) == -signal.SIGKILL
    assert not process_start(child)
    assert dashboard.poll() is None and stranger.poll() is None


def test_the_command_ends_with_code_3_although_rays_exit_handler_waits():
    code = (
        "import atexit, time\n"
        "from pipeline.cli.console import failures_explained\n"
        "from pipeline.orchestration.ray_health import RayDied\n"
        "atexit.register(time.sleep, 100)\n"
        "with failures_explained(): raise RayDied('the raylet [1] has ended')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "Service: the raylet [1] has ended\n"
