"""A saved state of a training that is not finished, as a checkpoint."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_stores import new_result
from small_trainings import Killed, Stores, attempt, kill_at, make_stores, train_stage, world_stage

from model.training.checkpoint import load_model, read_header
from model.training.snapshots import PARTIAL, saved_states
from model.world.config import WorldModelConfig
from model.world.dual_branch import DualBranchWorldModel
from pipeline.cli.checkpoint import write_checkpoint
from pipeline.orchestration.training.retries import working_folder
from stages.training.run import RunConfig
from stages.training.states import STATES
from storage.stores.records import StoreRef
from storage.weights.ref import WeightsRef

STAGE = world_stage(watch=RunConfig(save_every=2, validate_every=2))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("saved_state")


@pytest.fixture(scope="module")
def stores(root: Path) -> Stores:
    return make_stores(root)


@pytest.fixture
def stopped(root: Path, stores: Stores, request: pytest.FixtureRequest) -> StoreRef:
    """Killed in step 5, with saved states of steps 2 and 4."""
    ref = new_result(root, STAGE.name, [request.node.name])
    with pytest.raises(Killed):
        attempt(STAGE, ref, stores, kill_at(4))
    return ref


def test_the_newest_state_becomes_a_checkpoint_that_training_can_start_from(
    stopped, root, stores, tmp_path
):
    file = tmp_path / "now.safetensors"
    half_written = working_folder(stopped) / STATES / f"step-00000006{PARTIAL}"
    half_written.mkdir()  # as by a training that still runs
    assert (
        write_checkpoint(stopped.key, file, str(root), best=False)
        == f"{file}: step 4 of 5, {stopped}"
    )
    assert half_written.exists()
    found, config = load_model(file, DualBranchWorldModel, WorldModelConfig)
    newest, expected = (
        saved_states(working_folder(stopped) / STATES)[-1],
        DualBranchWorldModel(STAGE.model),
    )
    newest.load_weights(expected)
    assert config == STAGE.model
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    # All that generation and another training read is there, as in the finished checkpoint.
    finished = train_stage(root, STAGE, stores, run="whole")
    card = read_header(file)["card"]
    whole = read_header(finished.file("world_model.safetensors"))["card"]
    for name in ("action_mean", "action_std", "data", "tokenizers", "training"):
        assert card[name] == whole[name], name
    assert card["unfinished"] == str(stopped) and card["state"]["step"] == 4
    slower = replace(
        STAGE, start_from=WeightsRef.of(file), training=replace(STAGE.training, learning_rate=1e-5)
    )
    on = read_header(train_stage(root, slower, stores).file("world_model.safetensors"))["card"]
    assert on["steps_before"] == 4 and on["started_from"].startswith("now (SHA-256 ")


def test_the_best_state_is_the_one_with_the_least_held_out_loss(stopped, root, tmp_path):
    states = {
        snapshot.step: snapshot.about["metric"]
        for snapshot in saved_states(working_folder(stopped) / STATES)
    }
    write_checkpoint(stopped.key, tmp_path / "best.safetensors", str(root), best=True)
    chosen = read_header(tmp_path / "best.safetensors")["card"]["state"]
    assert chosen["metric"] == min(states.values()) and states[chosen["step"]] == chosen["metric"]


def test_what_is_no_unfinished_training_is_refused(root, stores, tmp_path):
    done = train_stage(root, STAGE, stores, run="done").ref
    with pytest.raises(LookupError, match="is complete and has its checkpoint"):
        write_checkpoint(done.key, tmp_path / "x.safetensors", str(root), best=False)
    fresh = new_result(root, STAGE.name, ["never begun"])
    with pytest.raises(LookupError, match="has no world model in training on this machine"):
        write_checkpoint(fresh.key, tmp_path / "x.safetensors", str(root), best=False)
    with pytest.raises(Killed):
        attempt(STAGE, fresh, stores, kill_at(1))
    with pytest.raises(LookupError, match=r"has no saved state \(watch\.save_every\) yet"):
        write_checkpoint(fresh.key, tmp_path / "x.safetensors", str(root), best=False)
    assert not (tmp_path / "x.safetensors").exists()


def test_a_damaged_newest_state_is_passed_over_and_named(stopped, root, tmp_path):
    older, newest = saved_states(working_folder(stopped) / STATES)
    (file,) = newest.folder.glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    line = write_checkpoint(stopped.key, tmp_path / "now.safetensors", str(root), best=False)
    assert f"step {older.step} of 5" in line
    assert f"not used: the saved state of step {newest.step} is damaged" in line
    shutil.rmtree(older.folder)
    with pytest.raises(LookupError, match="another SHA-256"):
        write_checkpoint(stopped.key, tmp_path / "none.safetensors", str(root), best=False)
    assert not (tmp_path / "none.safetensors").exists()


def test_a_foreign_training_runs_no_code(stopped, root, tmp_path):
    """Its states may be of the format of earlier versions, which holds a pickle."""
    for state in saved_states(working_folder(stopped) / STATES):
        (state.folder / "about.json").write_text(json.dumps(state.about))
        payload = b"cos\nmkdir\n(S'" + str(tmp_path / "ran").encode() + b"'\ntR."
        (state.folder / ".metadata").write_bytes(payload)
    with pytest.raises(LookupError, match=r"asks for posix.mkdir|asks for os.mkdir"):
        write_checkpoint(stopped.key, tmp_path / "now.safetensors", str(root), best=False)
    assert not (tmp_path / "ran").exists()
