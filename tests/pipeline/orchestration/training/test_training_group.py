"""Several workers as the pipeline starts them: killed ones resume, their errors end the stage."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
from listening import listening
from small_trainings import FEW, Stores, log_of, rows_of, train_stage, world_stage

from pipeline.cli.train_spec import write_spec
from pipeline.orchestration import dataset_stage
from pipeline.orchestration import stage_task as run_stage
from pipeline.orchestration.errors import StageFailed
from pipeline.orchestration.journal import start_journal
from pipeline.orchestration.recipe import describe, output_ref
from pipeline.orchestration.stage_task import RunContext
from pipeline.orchestration.training import group as training_group
from pipeline.orchestration.training import local_processes as processes
from pipeline.orchestration.training import ray_train as ray_training
from pipeline.orchestration.training.errors import WorkerDied
from pipeline.orchestration.training.group import report_progress, run_group
from pipeline.orchestration.training.retries import last_saved, working_folder
from pipeline.settings import Settings
from stages.base import Resources
from stages.training.run import RunConfig
from stages.training.states import STATES
from stages.world_model.torchrun import TrainingSpec
from stages.world_model.train import TrainWorldModel
from storage.stores import store
from storage.stores.records import StoreRef
from storage.stores.results import Result, open_result, open_writer

STEPS = 60
SMALL = Resources(cpus=1.0, memory_gb=0.5)


def two_workers(**changes) -> TrainWorldModel:
    settings = {"workers": 2, "watch": RunConfig(save_every=5), "resources": SMALL}
    return world_stage(**(settings | {"training": replace(FEW, steps=STEPS, ema=0.9)} | changes))


def created(
    stage: TrainWorldModel, stores: Stores, root: Path
) -> tuple[dict[str, StoreRef], StoreRef]:
    inputs = rows_of(stage, stores)
    out = output_ref(stage, inputs, str(root))
    store.create(out, describe(stage, inputs, out))
    return inputs, out


def children(name: str) -> list[int]:
    """Processes of this one that run the named program, at any depth."""
    lines = subprocess.check_output(["ps", "-eo", "pid=,ppid=,args="], text=True).splitlines()
    table = [
        (int(pid), int(parent), args)
        for pid, parent, args in (line.split(None, 2) for line in lines)
    ]
    ours, more = {os.getpid()}, True
    while more:  # process ids wrap around, so a child's may be the smaller one
        more = {pid for pid, parent, _ in table if parent in ours} - ours
        ours |= more
    return [pid for pid, _, args in table if pid in ours and name in args]


def random_step() -> int:
    return random.randrange(3, STEPS - 10)


def killing(name: str, after: int) -> tuple[Callable[..., None], list[int]]:
    """Progress that kills one of two workers after this step; and the step where it did."""
    kills: list[int] = []

    def progress(done: int, total: int, note: str = "") -> None:
        if not kills and done >= after:
            workers = children(name)
            assert len(workers) == 2, workers
            kills.append(done)
            os.kill(random.choice(workers), 9)

    return progress, kills


def assert_same_training(result: Result, other: Result) -> None:
    assert [row["step"] for row in log_of(result)] == list(range(STEPS + 1)), (
        "no step repeated, none left out"
    )
    for row, expected in zip(log_of(result), log_of(other), strict=True):
        assert row == pytest.approx(expected, rel=1e-4), f"step {row['step']}"


@pytest.mark.slow
def test_only_this_machine_reaches_the_workers_of_a_training(root, stores, monkeypatch):
    monkeypatch.setattr(processes, "POLL_S", 0.05)
    seen: set[tuple[int, str]] = set()

    def look(done: int, total: int, note: str = "") -> None:
        pids = {os.getpid(), *children("stages.world_model.torchrun")}
        seen.update((pid, str(address)) for pid, address, _ in listening(pids))

    stage = two_workers(training=replace(FEW, steps=STEPS, seed=9))  # a result of its own
    inputs, out = created(stage, stores, root)
    run_group(stage, inputs, out, look, "serial")
    assert {address for _, address in seen} == {"127.0.0.1"}
    assert len({pid for pid, _ in seen}) == 3, "the launcher and two workers"


@pytest.mark.slow
def test_killed_processes_resume_and_end_as_if_undisturbed(root, stores, monkeypatch):
    """One of two workers is killed after a random step; one process trains undisturbed."""
    monkeypatch.setattr(processes, "POLL_S", 0.05)
    stage = two_workers()
    progress, kills = killing("stages.world_model.torchrun", random_step())
    inputs, out = created(stage, stores, root)
    numbers = run_group(stage, inputs, out, progress, "serial")
    assert len(kills) == 1 and numbers["steps"] == STEPS
    result = open_result(out)
    assert_same_training(result, train_stage(root, replace(stage, workers=1), stores))
    assert not any(name.startswith((STATES, "progress", ".")) for name in result.files)
    assert children("stages.world_model.torchrun") == []


@pytest.mark.slow
@pytest.mark.long
def test_killed_ray_workers_resume(root, stores, ray_cluster, monkeypatch):
    monkeypatch.setattr(ray_training, "POLL_S", 0.05)
    stage = two_workers(n_val_clips=1)  # another result than the processes'
    progress, kills = killing("RayTrainWorker", random_step())
    inputs, out = created(stage, stores, root)
    run_group(stage, inputs, out, progress, "ray")
    assert len(kills) == 1
    assert_same_training(open_result(out), train_stage(root, replace(stage, workers=1), stores))
    assert not (working_folder(out).parent / "ray-train").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "name"),
    [
        ("serial", "stages.world_model.torchrun"),
        pytest.param("ray", "RayTrainWorker", marks=pytest.mark.long),
    ],
)
def test_on_ctrl_c_the_workers_end_and_the_next_run_resumes(
    root, stores, ray_cluster, monkeypatch, backend, name
):
    """No worker trains on, or holds the store."""
    monkeypatch.setattr(ray_training, "POLL_S", 0.05)
    monkeypatch.setattr(processes, "POLL_S", 0.05)
    seed = {"serial": 5, "ray": 6}[backend]  # results of their own
    stage = two_workers(training=replace(FEW, steps=STEPS, ema=0.9, seed=seed))
    inputs, out = created(stage, stores, root)
    pressed: list[int] = []

    def progress(done: int, total: int, note: str = "") -> None:
        if not pressed and done >= 12:
            assert len(children(name)) == 2
            pressed.append(done)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_group(stage, inputs, out, progress, backend)
    assert pressed and not store.is_complete(out)
    deadline = time.monotonic() + 20
    while children(name) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert children(name) == []
    assert 5 <= last_saved(out) < STEPS
    run_group(stage, inputs, out, lambda *_: None, backend)
    assert_same_training(open_result(out), train_stage(root, replace(stage, workers=1), stores))


@pytest.mark.slow
def test_too_many_workers_for_the_cluster_fail_at_once(root, stores, ray_cluster):
    stage = two_workers(clips_per_batch=8, workers=8, n_val_clips=2)
    with pytest.raises(StageFailed, match=r"has room for \d workers of .*, 8 are asked for"):
        run_group(stage, *created(stage, stores, root), lambda *_: None, "ray")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "seed"), [("serial", 0), pytest.param("ray", 1, marks=pytest.mark.long)]
)
def test_an_error_of_a_worker_ends_the_stage_and_is_not_tried_again(
    root, stores, request, monkeypatch, backend, seed
):
    """A learning rate that gives NaN. The error names the step and all clips of its batch."""
    if backend == "ray":
        request.getfixturevalue("ray_cluster")
    launches, started = [], training_group.launcher

    def counted(backend: Literal["ray", "serial"]):
        launch = started(backend)
        return lambda *arguments: (launches.append(1), launch(*arguments))

    monkeypatch.setattr(training_group, "launcher", counted)
    stage = two_workers(training=replace(FEW, learning_rate=1e30, seed=seed))
    with pytest.raises(
        StageFailed, match=r"NonFiniteLoss: step \d: loss .*nan.*; clips clip00\d, clip00\d\."
    ):
        run_group(stage, *created(stage, stores, root), lambda *_: None, backend)
    assert len(launches) == 1 and children("stages.world_model.torchrun") == []


def dying(deaths: int, saved_steps: list[int], out: StoreRef):
    """A launch whose workers die so many times, after saving the next of these steps."""
    calls = []

    def launch(spec, watch):
        calls.append(1)
        if saved_steps:
            (working_folder(out) / STATES / f"step-{saved_steps.pop(0):08d}").mkdir(parents=True)
        if len(calls) <= deaths:
            raise WorkerDied("worker 1 was ended by SIGKILL")
        store_result(spec.out)

    return launch, calls


def store_result(out: StoreRef) -> None:
    with open_writer(out) as writer:
        writer.finish({"steps": 3.0})


def test_workers_that_die_without_progress_end_the_stage(root, stores, monkeypatch, capsys):
    stage = two_workers(n_val_clips=3)
    inputs, out = created(stage, stores, root)
    launch, calls = dying(99, [], out)
    monkeypatch.setattr(training_group, "launcher", lambda backend: launch)
    with pytest.raises(
        StageFailed,
        match=r"its workers were started 3 times and died before any state was saved\. .*SIGKILL",
    ):
        run_group(stage, inputs, out, lambda *_: None, "serial")
    assert len(calls) == 3
    said = capsys.readouterr().err
    assert said.count("worker 1 was ended by SIGKILL. Starting again, from the first step") == 2


def test_workers_that_die_but_make_progress_are_restarted_without_limit(
    root, stores, monkeypatch, capsys
):
    stage = two_workers(n_val_clips=4)
    inputs, out = created(stage, stores, root)
    launch, calls = dying(9, list(range(1, 10)), out)
    monkeypatch.setattr(training_group, "launcher", lambda backend: launch)
    assert run_group(stage, inputs, out, lambda *_: None, "serial") == {"steps": 3.0}
    assert len(calls) == 10
    assert capsys.readouterr().err.splitlines() == [
        f"world_model: worker 1 was ended by SIGKILL. Starting again, from the state of step {step}"
        for step in range(1, 10)
    ]


@pytest.mark.parametrize(("saved_steps", "starts"), [([], 3), ([5, 10, 15, 20], 6)])
def test_a_ray_training_of_one_worker_is_restarted_while_it_makes_progress(
    tmp_path, monkeypatch, saved_steps, starts
):
    """Its third death with no newer state in between is the last."""
    import ray
    from ray.exceptions import RayActorError

    out = StoreRef.at(str(tmp_path), "world_model", "0123456789abcdef")
    started, last = [], (saved_steps or [None])[-1]

    def dies(worker, progress):
        if saved_steps:
            (working_folder(out) / STATES / f"step-{saved_steps.pop(0):08d}").mkdir(parents=True)
        raise RayActorError

    actor = SimpleNamespace(remote=lambda *arguments: started.append(arguments))
    monkeypatch.setattr(ray, "remote", lambda **options: lambda kind: actor)
    monkeypatch.setattr(ray, "kill", lambda worker: None)
    monkeypatch.setattr(dataset_stage, "worker_capacity", lambda *_: 1)
    monkeypatch.setattr(dataset_stage, "watched", dies)
    since = "any state" if last is None else f"a newer state than that of step {last}"
    with pytest.raises(
        StageFailed, match=f"its worker was started 3 times and died before {since} was saved"
    ):
        dataset_stage.run_dataset_ray(two_workers(workers=1), {}, out, lambda *_: None)
    assert len(started) == starts


def test_a_batch_that_workers_cannot_share_is_refused_before_anything_starts(
    root, stores, monkeypatch
):
    monkeypatch.setattr(training_group, "launcher", None)
    stage = two_workers(clips_per_batch=3)
    with pytest.raises(ValueError, match=r"2 workers cannot share clips_per_batch=3 evenly"):
        run_group(stage, *created(stage, stores, root), lambda *_: None, "serial")


def test_progress_is_reported_where_its_file_is_seen(tmp_path):
    out, reports = StoreRef.at(str(tmp_path), "world_model", "0123456789abcdef"), []

    def progress(done: int, total: int, note: str = "") -> None:
        reports.append((done, total, note))

    report_progress(out, progress)
    folder = working_folder(out)
    folder.mkdir(parents=True)
    (folder / "progress.json").write_text("[3, ")  # on a shared disk, perhaps half written
    report_progress(out, progress)
    (folder / "progress.json").write_text('[3, 10, "loss 2.5"]')
    report_progress(out, progress)
    assert reports == [(3, 10, "loss 2.5")]


def test_the_newest_saved_state_is_found(tmp_path):
    out = StoreRef.at(str(tmp_path), "world_model", "0123456789abcdef")
    assert last_saved(out) == -1
    for name in ("step-00000005", "step-00000040", "step-00000045.partial", "step-00000001.gone"):
        (working_folder(out) / STATES / name).mkdir(parents=True)
    assert last_saved(out) == 40


@pytest.mark.parametrize("workers", [1, 2])
def test_the_pipeline_makes_a_group_of_a_stage_that_asks_for_one(
    root, stores, tmp_path, monkeypatch, workers
):
    stage, started = two_workers(workers=workers), []

    def run(name: str):
        return lambda *_: started.append(name) or {"steps": 1.0}

    monkeypatch.setattr(run_stage, "run_group", run("group"))
    monkeypatch.setattr(dataset_stage, "run_dataset", run("one"))
    inputs, out = created(stage, stores, root)
    context = RunContext(root=str(root), journal=start_journal(tmp_path, {}))
    assert run_stage.make(stage, inputs, out, context) == "steps 1"
    assert started == (["group"] if workers == 2 else ["one"])


def test_a_spec_for_torchrun_names_the_stores_and_makes_the_result_ready(
    root, stores, tmp_path, monkeypatch
):
    stage = two_workers(n_val_clips=5)
    inputs = rows_of(stage, stores)
    out = output_ref(stage, inputs, str(root))
    planned = {"world_model": (stage, inputs, out)}
    monkeypatch.setattr(
        "pipeline.cli.train_spec.planned",
        lambda request, settings: SimpleNamespace(planned=planned),
    )
    settings = Settings(home=tmp_path)
    spec = write_spec({}, settings, tmp_path / "training.json")
    assert TrainingSpec.from_json((tmp_path / "training.json").read_text()) == spec
    assert (spec.inputs, spec.out) == (inputs, out)
    assert store.read_manifest(out).parameters["clips_per_batch"] == stage.clips_per_batch
    unmade = inputs | {"clip": StoreRef.at(str(root), "clip", "0123456789abcdef")}
    planned["world_model"] = (stage, unmade, out)
    with pytest.raises(StageFailed, match="needs clip/0123456789abcdef, not complete"):
        write_spec({}, settings, tmp_path / "other.json")
    del planned["world_model"]
    with pytest.raises(LookupError, match="experiment 'vda-tiny' trains no world model"):
        write_spec({"experiment": "vda-tiny"}, settings, tmp_path / "other.json")
    assert not (tmp_path / "other.json").exists()
