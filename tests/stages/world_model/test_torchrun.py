import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT
from small_stores import new_result
from small_trainings import FEW, Stores, log_of, rows_of, train_stage, world_stage

from model.training.parallel import ALONE, ParallelConfig, Workers
from model.world.config import MaskingConfig
from stages.training.run import RunConfig
from stages.training.working_files import PROGRESS_FILE, STOP_FILE, remove_working_files
from stages.world_model import torchrun
from stages.world_model.data import WORLD_MODEL_FILE
from stages.world_model.torchrun import (
    ProgressFile,
    Stopped,
    TrainingSpec,
    agree_on_folder,
    exit_with,
    record_failure,
    train_together,
)
from stages.world_model.train import TrainWorldModel
from storage.errors import StoreConflict
from storage.stores.results import WORK, Result, open_result
from storage.weights.ref import WeightsRef

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def new_spec(root: Path, stores: Stores, stage: TrainWorldModel, run: str) -> TrainingSpec:
    out = new_result(root, stage.name, [repr(stage), run])
    return TrainingSpec(stage=stage, inputs=rows_of(stage, stores), out=out)


def assert_same_training(result: Result, other: Result) -> None:
    """To the rounding of sums; all else in the checkpoint is the same."""
    for row, expected in zip(log_of(result), log_of(other), strict=True):
        assert row == pytest.approx(expected, rel=1e-5), f"step {row['step']}"
    assert set(result.files) == set(other.files)


def test_a_spec_is_read_as_it_was_written(root, stores, tmp_path):
    (tmp_path / "weights").write_bytes(b"...")
    stage = world_stage(
        training=replace(FEW, ema=0.9, betas=(0.8, 0.9)), masking=MaskingConfig(context="clean"),
        workers=2, start_from=WeightsRef.of(tmp_path / "weights"),
        parallel=ParallelConfig(strategy="fsdp", compile=True),
        watch=RunConfig(save_every=7, tensorboard=True), device=None,
    )  # fmt: skip
    spec = new_spec(root, stores, stage, "written")
    assert TrainingSpec.from_json(spec.to_json()) == spec


def test_a_spec_of_another_version_is_refused(root, stores):
    plain = json.loads(new_spec(root, stores, world_stage(), "other").to_json())
    plain["stage"]["colour"] = "blue"
    with pytest.raises(ValueError, match="TrainWorldModel has no field colour"):
        TrainingSpec.from_json(json.dumps(plain))


def test_alone_it_makes_what_the_stage_makes(root, stores):
    spec = new_spec(root, stores, world_stage(), "alone")
    train_together(spec, ALONE)
    result, expected = open_result(spec.out), train_stage(root, world_stage(), stores)
    assert log_of(result) == log_of(expected)
    assert result.files[WORLD_MODEL_FILE] == expected.files[WORLD_MODEL_FILE]
    assert set(result.files) == set(expected.files), "no working file remains"
    with pytest.raises(StoreConflict, match="complete already"):
        train_together(spec, ALONE)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_torchrun_makes_what_one_process_makes(
    root, stores, tmp_path, strategy, monkeypatch, capsys
):
    """As a user starts it. A second start finds the result."""
    stage = world_stage(
        training=replace(FEW, ema=0.9),
        watch=RunConfig(save_every=2, validate_every=2, rollout_every=2),
    )
    spec = new_spec(
        root,
        stores,
        replace(stage, workers=2, parallel=ParallelConfig(strategy=strategy)),
        strategy,
    )
    (tmp_path / "training.json").write_text(spec.to_json())
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    command += ["-m", "stages.world_model.torchrun", str(tmp_path / "training.json")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    result = open_result(spec.out)
    assert_same_training(result, train_stage(root, stage, stores, run=strategy))
    monkeypatch.setattr(sys, "argv", ["torchrun", str(tmp_path / "training.json")])
    torchrun.main()
    assert "is complete; nothing to do" in capsys.readouterr().out


def test_a_stop_file_of_an_earlier_start_is_ignored(root, stores, tmp_path, monkeypatch):
    """Ctrl-C of a training on Ray leaves a stop file, which torchrun ignores."""
    spec = new_spec(root, stores, world_stage(), "stopped")
    work = Path(spec.out.uri.removeprefix("file://")) / WORK
    work.mkdir()
    (work / STOP_FILE).touch()
    with pytest.raises(Stopped):
        train_together(spec, ALONE)
    (tmp_path / "training.json").write_text(spec.to_json())
    monkeypatch.setattr(sys, "argv", ["torchrun", str(tmp_path / "training.json")])
    torchrun.main()
    assert open_result(spec.out).numbers["steps"] == 5


@dataclass(frozen=True)
class Pretended(Workers):
    """The first of two workers; what the second one says is given."""

    second: Any = None

    def gather(self, thing):
        return [thing, thing if isinstance(thing[0], Path) else self.second]


def test_workers_that_do_not_share_the_folder_are_refused(tmp_path):
    assert agree_on_folder(tmp_path, Pretended(0, 2, ("node7", True))) == tmp_path
    with pytest.raises(
        OSError, match=r"worker 1 on node7 does not see .* several machines need ROBOSCAPE_STORES"
    ):
        agree_on_folder(tmp_path, Pretended(0, 2, ("node7", False)))
    assert not list(tmp_path.iterdir())


def test_progress_is_written_at_intervals_and_at_the_end(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = ProgressFile(tmp_path, ALONE)
    for step in range(1, 11):
        progress(step, 10, f"loss {step}")
        now += 0.07
        found = json.loads((tmp_path / PROGRESS_FILE).read_text())
        assert found == [10, 10, "loss 10"] if step == 10 else 0 <= step - found[0] <= 3
    remove_working_files(tmp_path)
    ProgressFile(tmp_path, Workers(1, 2))(1, 10)
    assert not list(tmp_path.iterdir())


def test_a_process_exits_with_its_parent(monkeypatch):
    ended: list[int] = []
    parents = iter([77, 77, 1])
    monkeypatch.setattr(torchrun.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    monkeypatch.setattr(os, "_exit", ended.append)
    exit_with(77)
    until = time.monotonic() + 20
    while not ended and time.monotonic() < until:
        pass
    assert ended == [1] and next(parents, None) is None


def test_a_failure_is_recorded_with_its_trace(tmp_path):
    try:
        raise ValueError("clip 7 is broken")
    except ValueError as error:
        record_failure(tmp_path / "failures" / "1.json", error)
    note = json.loads((tmp_path / "failures" / "1.json").read_text())
    assert (note["type"], note["message"]) == ("ValueError", "clip 7 is broken")
    assert "test_a_failure_is_recorded" in note["trace"] and note["at"] <= time.time()
