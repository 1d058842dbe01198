"""Ray's processes and a training's worker are killed in the middle of the user's command."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from store_digests import digests_of
from user_command import UserCommand, wait_until

from pipeline.orchestration.journal import journals
from pipeline.orchestration.ray_health import ROLES, ray_processes
from pipeline.orchestration.services import Service, read_services
from pipeline.settings import Settings
from storage.processes import all_processes, children_of
from storage.stores.records import StoreRef

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1200)]
GCS, RAYLET = ROLES["gcs_server"], ROLES["raylet"]
LIMIT_S = 20.0  # from the death to the command's end: about 4 s, where nothing else runs


@pytest.fixture(scope="module")
def roboscape(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UserCommand]:
    """A workspace with a complete run of the smallest experiment."""
    command = UserCommand.at(tmp_path_factory.mktemp("workspace"))
    command("run", "smoke", "--backend", "serial")
    yield command
    command("down")


def head_of(roboscape: UserCommand) -> Service | None:
    settings = Settings(home=roboscape.home, prefect_port=roboscape.port, external_ray=None)
    return read_services(settings).get("ray")


def pids_of(role: str, head: Service) -> list[int]:
    return [p.pid for p in ray_processes(head.pid, head=True) if p.role == role]


def workers(title: str, head: Service | None) -> list[int]:
    """Ray's workers whose title begins so."""
    raylets = pids_of(RAYLET, head) if head else []
    return [pid for raylet in raylets for pid in children_of(raylet) if has_title(pid, title)]


def has_title(pid: int, title: str) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().startswith(title)
    except OSError:  # ended meanwhile
        return False


def of_session(pid: int) -> list[int]:
    """What still runs of the session that this process has led."""
    found = []
    for other, folder in all_processes():
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z" and fields[3] == str(pid):
            found.append(other)
    return found


def stage_digests(roboscape: UserCommand, stage: str) -> dict[str, str]:
    return digests_of(StoreRef(roboscape.entry(stage)["uri"]))


def killed(
    roboscape: UserCommand, words: list[str], role: str, ready: Callable[[], object]
) -> tuple[str, int]:
    """Kills one of Ray's processes when it is time; what the command then says, and who died."""
    run = roboscape.start(*words)
    wait_until(ready, run)
    head = head_of(roboscape)
    assert head is not None
    (pid,) = pids_of(role, head)
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    out, err = run.communicate(timeout=100)
    assert time.monotonic() - began < LIMIT_S, f"{out}\n{err}"
    assert run.returncode == 3, f"{out}\n{err}"
    assert of_session(head.pid) == [], "no process of this Ray is left"
    return err, pid


def assert_explained(err: str, role: str, pid: int) -> None:
    last = err.rstrip().rpartition("Service: ")[2]
    assert last.startswith(f"Ray's {role} (process {pid}) on this machine has ended"), err
    assert "Everything that was finished is kept" in last
    assert last.endswith("the same command starts Ray again and resumes") and "\n" not in last
    assert "Traceback" not in err


def test_the_control_process_dies_while_clips_are_made(roboscape: UserCommand):
    before = stage_digests(roboscape, "keypoints")
    words = ["rerun", "keypoints", "--force", "--backend", "ray"]
    err, pid = killed(
        roboscape, words, GCS, lambda: workers("ray::Worker.make_shard", head_of(roboscape))
    )
    assert_explained(err, GCS, pid)
    entry = roboscape.entry("keypoints", code=1)
    assert entry["state"] == "failed" and f"{GCS} (process {pid})" in entry["note"]
    assert roboscape.status(code=1)["state"] == "failed"
    roboscape("rerun", "keypoints", "--backend", "ray")
    assert roboscape.entry("keypoints")["state"] == "completed"
    assert stage_digests(roboscape, "keypoints") == before


def training(seed: int, workers: int, steps: int = 150) -> list[str]:
    settings = {
        "training.seed": seed, "training.steps": steps, "workers": workers, "watch.save_every": 20
    }  # fmt: skip
    words = ["run", "smoke", "--backend", "ray"]
    return words + [
        word
        for name, value in settings.items()
        for word in ("--set", f"world_model.{name}={value}")
    ]


def saved(roboscape: UserCommand) -> list[Path]:
    """The states that an unfinished training of a world model has saved."""
    return list(roboscape.home.glob("stores/world_model/*/work/states/step-*/about.json"))


def undisturbed(roboscape: UserCommand) -> dict[str, str]:
    """The same training again, from its start, without Ray."""
    key = StoreRef(roboscape.entry("world_model")["uri"]).key
    roboscape("delete", key, "--and-after")
    roboscape("rerun", "world_model", "--backend", "serial")
    return stage_digests(roboscape, "world_model")


@pytest.mark.parametrize(("role", "n"), [(RAYLET, 1), (GCS, 2)])
def test_a_process_of_ray_dies_while_a_world_model_is_trained(
    roboscape: UserCommand, role: str, n: int
):
    err, pid = killed(roboscape, training(n, n), role, lambda: saved(roboscape))
    assert_explained(err, role, pid)
    assert roboscape.entry("world_model", code=1)["state"] == "failed"
    assert saved(roboscape), "its states are kept"
    roboscape("rerun", "world_model")
    resumed = stage_digests(roboscape, "world_model")
    assert resumed == undisturbed(roboscape)


def test_a_worker_of_a_training_dies(roboscape: UserCommand):
    """The command says so within seconds, resumes by itself, and the result is the same."""
    run = roboscape.start(*training(3, 2))
    wait_until(lambda: saved(roboscape), run)
    os.kill(workers("ray::RayTrainWorker", head_of(roboscape))[0], signal.SIGKILL)
    out, err = run.communicate(timeout=400)
    assert run.returncode == 0, f"{out}\n{err}"
    (line,) = [line for line in err.splitlines() if line.startswith("world_model: worker ")]
    assert "was lost" in line and "Starting again, from the state of step " in line
    resumed = stage_digests(roboscape, "world_model")
    assert resumed == undisturbed(roboscape)


def test_a_second_run_of_the_same_experiment_waits_and_says_for_whom(roboscape: UserCommand):
    first = roboscape.start("rerun", "keypoints", "--force", "--backend", "serial")
    makes = lambda: any(  # noqa: E731
        journal.pid == first.pid and journal.entry("keypoints").state == "running"
        for journal in journals(roboscape.home / "runs")
    )
    wait_until(makes, first)
    first.send_signal(signal.SIGSTOP)  # until the other one has come
    second = roboscape.start("rerun", "keypoints", "--backend", "serial")
    assert second.stderr is not None
    said = next(line for line in second.stderr if "waiting until it is done" in line)
    first.send_signal(signal.SIGCONT)
    for run in (first, second):
        out, err = run.communicate(timeout=300)
        assert run.returncode == 0, f"{out}\n{err}"
    assert said.startswith("keypoints/") and f"(process {first.pid} on " in said
    assert roboscape.entry("keypoints")["state"] == "cached"
