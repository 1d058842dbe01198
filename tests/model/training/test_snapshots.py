import json
import os
import pickle
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_disk import fill, make_room, small_disk
from torch import nn
from torch.distributed.checkpoint.state_dict_saver import save as save_as_torch_does

from model.training import snapshots as module
from model.training.loop import TrainState, tensors_of
from model.training.snapshots import ABOUT, DAMAGED, Snapshots, best_of, saved_states
from model.training.state_files import DamagedState


def state(step: int, **changes) -> TrainState:
    """A state whose numbers are all the step, except the generator's."""
    tensors = {
        "model": {"a.weight": torch.full((3, 2), float(step)), "n": torch.tensor(step)},
        "optimizer": {
            "0": {"step": torch.tensor(float(step)), "exp_avg": torch.full((3, 2), float(step))}
        },
        "ema": {"a.weight": torch.full((3, 2), float(step)), "n": torch.tensor(step)},
        "rng": {"cpu": torch.get_rng_state()},
    }
    return TrainState(step=step, **(tensors | changes))


def numbers(found: TrainState) -> set[float]:
    """All numbers in a state, except the generator's."""
    parts = [found.model, found.ema, *found.optimizer.values()]
    return {
        value
        for part in parts
        if part
        for tensor in part.values()
        for value in tensor.flatten().tolist()
    }


def saved(
    folder: Path, *steps: int, metrics: dict[int, float] | None = None, keep: int = 2
) -> Snapshots:
    found = Snapshots(folder, keep=keep)
    for step in steps:
        found.save(state(step), next_batch=3 * step, metric=(metrics or {}).get(step))
    found.wait()
    return found


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_state_is_read_into_existing_tensors(tmp_path):
    torch.manual_seed(4)
    snapshot = saved(tmp_path, 7).latest()
    expected = torch.rand(3)
    live = state(1)
    weight = live.model["a.weight"]
    assert snapshot is not None and snapshot.fill(live) == 7
    assert numbers(live) == {7.0} and weight.eq(7).all()
    torch.set_rng_state(live.rng["cpu"])
    assert torch.equal(torch.rand(3), expected)
    assert snapshot.about == {"step": 7, "next_batch": 21, "workers": 1, "metric": None}


def test_a_discriminator_keeps_its_first_name_on_disk(tmp_path):
    """Trainings that were stopped before the field was renamed resume."""
    of_seven = {"w": torch.tensor(7.0)}
    found = Snapshots(tmp_path)
    found.save(
        state(7, discriminator=of_seven, discriminator_optimizer={"0": of_seven}), next_batch=7
    )
    found.close()
    snapshot = found.latest()
    assert snapshot is not None
    assert {"critic.w", "critic_optimizer.0.w"} <= snapshot.record["tensors"].keys()
    live = state(
        0,
        discriminator={"w": torch.zeros(())},
        discriminator_optimizer={"0": {"w": torch.zeros(())}},
    )
    snapshot.fill(live)
    assert live.discriminator == {"w": 7} and live.discriminator_optimizer == {"0": {"w": 7}}


def test_weights_are_read_into_a_plain_module(tmp_path):
    """The averaged weights, if an average is kept."""
    net, average, other = (nn.Linear(2, 3) for _ in range(3))
    weights, averaged = dict(net.state_dict()), dict(average.state_dict())
    for step, ema, expected in ((2, None, net), (3, averaged, average)):
        found = Snapshots(tmp_path)
        found.save(state(step, model=weights, ema=ema), next_batch=step)
        found.close()
        snapshot = found.latest()
        assert snapshot is not None and snapshot.step == step
        snapshot.load_weights(other)
        assert torch.equal(other.weight, expected.weight) and torch.equal(other.bias, expected.bias)


def test_the_newest_and_the_best_are_kept(tmp_path):
    found = saved(tmp_path, 1, 2, 3, 4, 5, metrics={1: 0.9, 2: 0.4, 4: 0.6})
    assert names(tmp_path) == ["step-00000002", "step-00000004", "step-00000005"]
    best, latest = found.best(), found.latest()
    assert best is not None and best.step == 2 and latest is not None and latest.step == 5
    assert saved(tmp_path / "unmeasured", 1, 2, 3, keep=1).best() is None
    assert names(tmp_path / "unmeasured") == ["step-00000003"]


def test_a_state_is_that_of_the_moment_it_was_saved(tmp_path):
    """The training continues while the state is written."""
    live, found = state(1), Snapshots(tmp_path)
    found.save(live, next_batch=1)
    for part in (live.model, live.ema, *live.optimizer.values()):
        for tensor in (part or {}).values():
            tensor.add_(100)
    found.close()
    snapshot, again = found.latest(), state(0)
    assert snapshot is not None
    snapshot.fill(again)
    assert numbers(again) == {1.0}


def test_saving_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    may_end, write_whole = threading.Event(), module.write_whole

    def slow(path, content):
        assert may_end.wait(60)
        write_whole(path, content)

    monkeypatch.setattr(module, "write_whole", slow)
    found = Snapshots(tmp_path)
    found.save(state(1), next_batch=1)  # comes back at once
    assert found.latest() is None
    may_end.set()
    found.close()
    assert names(tmp_path) == ["step-00000001"]


def test_an_incomplete_state_is_ignored_and_deleted(tmp_path, monkeypatch):
    saved(tmp_path, 3).close()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_whole", killed)
        found = Snapshots(tmp_path)
        found.save(state(4), next_batch=4)
        with pytest.raises(KeyboardInterrupt):
            found.close()
    assert names(tmp_path) == ["step-00000003", "step-00000004.partial"]
    again = Snapshots(tmp_path)
    assert names(tmp_path) == ["step-00000003"]
    latest = again.latest()
    assert latest is not None and latest.step == 3


def test_half_deleted_states_are_ignored(tmp_path, monkeypatch):
    found, rmtree = saved(tmp_path, 1, 2), shutil.rmtree

    def killed(folder, *_):
        (Path(folder) / ABOUT).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        found.save(state(3), next_batch=3)
        with pytest.raises(KeyboardInterrupt):
            found.wait()
    assert shutil.rmtree is rmtree
    assert [snapshot.step for snapshot in saved_states(tmp_path)] == [2, 3]


def test_the_same_step_can_be_saved_again(tmp_path):
    saved(tmp_path, 1, 2).close()
    found = Snapshots(tmp_path)
    found.save(replace(state(9), step=2), next_batch=2)
    found.close()
    snapshot, live = found.latest(), state(0)
    assert snapshot is not None and snapshot.fill(live) == 2 and numbers(live) == {9.0}


def test_a_disk_error_is_raised_at_the_next_save(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    found = saved(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_whole", full)
        found.save(state(2), next_batch=2)
        with pytest.raises(OSError, match="No space"):
            found.save(state(3), next_batch=3)
    latest = found.latest()
    assert latest is not None and latest.step == 1, "the old state is whole"


@pytest.mark.parametrize("leave", [0, 3000])
def test_a_state_on_a_full_disk_is_one_error_and_leaves_nothing(tmp_path, leave):
    with small_disk(tmp_path / "disk") as disk:
        found = saved(disk / "states", 1)
        fill(disk, leave=leave)
        found.save(replace(state(2), model={"w": torch.ones(100, 100)}), next_batch=2)
        with pytest.raises(OSError, match="No space left on device") as raised:
            found.wait()
        named = Path(raised.value.filename)
        assert raised.value.errno == 28 and named.parent == disk / "states/step-00000002.partial"
        assert "\n" not in str(raised.value)
        assert names(disk / "states") == ["step-00000001"]
        make_room(disk)
        found.save(state(2), next_batch=2)
        found.close()
        latest = found.latest()
        assert latest is not None and latest.step == 2 and not latest.problems()


def test_a_state_of_another_kind_is_refused(tmp_path):
    snapshot = saved(tmp_path, 2).latest()
    assert snapshot is not None
    with pytest.raises(ValueError, match="saved state of step 2 has averaged weights"):
        snapshot.fill(state(0, ema=None))
    with pytest.raises(ValueError, match="saved state of step 2 lacks a discriminator"):
        snapshot.fill(state(0, discriminator={"w": torch.zeros(1)}))


def test_a_generator_that_was_not_saved_is_not_changed(tmp_path):
    """Saved on a CPU, read on a GPU."""
    snapshot, there = saved(tmp_path, 2).latest(), torch.arange(4, dtype=torch.uint8)
    live = state(0, rng={"cpu": torch.get_rng_state(), "cuda": there.clone()})
    assert snapshot is not None and snapshot.fill(live) == 2
    assert torch.equal(live.rng["cuda"], there)


def test_about_is_plain_json(tmp_path):
    saved(tmp_path, 1, metrics={1: 0.5}).close()
    assert json.loads((tmp_path / "step-00000001" / ABOUT).read_text())["metric"] == 0.5


# Damage

FILE = "worker-00000.safetensors"


def newest_of(folder: Path, file: str) -> Path:
    return saved_states(folder)[-1].folder / file


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


DAMAGES = {
    "a bit of a number": lambda folder: flip(newest_of(folder, FILE), 8 * 700),
    "the last bit": lambda folder: flip(
        newest_of(folder, FILE), 8 * newest_of(folder, FILE).stat().st_size - 1
    ),
    "a bit of the record": lambda folder: flip(newest_of(folder, ABOUT), 8 * 8),
    "cut": lambda folder: os.truncate(newest_of(folder, FILE), 400),
    "empty": lambda folder: newest_of(folder, FILE).write_bytes(b""),
    "gone": lambda folder: newest_of(folder, FILE).unlink(),
    "record empty": lambda folder: newest_of(folder, ABOUT).write_bytes(b""),
    "record gone": lambda folder: newest_of(folder, ABOUT).unlink(),
    "record of another kind": lambda folder: newest_of(folder, ABOUT).write_text("[]"),
    "of the state before": lambda folder: shutil.copy(
        saved_states(folder)[0].folder / FILE, newest_of(folder, FILE)
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_set_aside_and_the_one_before_is_used(tmp_path, damage):
    saved(tmp_path, 1, 2).close()
    DAMAGES[damage](tmp_path)
    found = Snapshots(tmp_path)
    with pytest.warns(UserWarning, match="step-00000002 is damaged .* resumes from step 1"):
        snapshot = found.latest()
    live = state(0)
    assert snapshot is not None and snapshot.fill(live) == 1 and numbers(live) == {1.0}
    assert names(tmp_path) == ["step-00000001", f"step-00000002{DAMAGED}"]
    found.save(state(2), next_batch=6)
    found.close()
    assert saved_states(tmp_path)[-1].step == 2, "the step can be saved again"


def test_without_a_sound_state_the_training_stops_and_says_what_to_delete(tmp_path):
    saved(tmp_path, 1).close()
    DAMAGES["a bit of a number"](tmp_path)
    for _ in range(2):  # it does not start from the first step the next time
        with pytest.raises(DamagedState, match=f"another SHA-256.*delete the folder {tmp_path}"):
            Snapshots(tmp_path).latest()


def test_weights_of_a_damaged_state_are_not_read(tmp_path):
    net = nn.Linear(2, 3)
    found = Snapshots(tmp_path)
    found.save(state(3, model=dict(net.state_dict()), ema=None), next_batch=3, metric=0.5)
    found.close()
    snapshot = found.best()
    DAMAGES["a bit of a number"](tmp_path)
    assert snapshot is not None
    with pytest.raises(DamagedState, match=r"Delete the folder .*step-00000003 to go on"):
        snapshot.load_weights(net)


def test_a_damaged_record_does_not_stop_a_training_that_runs(tmp_path):
    found = saved(tmp_path, 1, 2, metrics={1: 0.4, 2: 0.5})
    (tmp_path / "step-00000001" / ABOUT).write_text("{")
    with pytest.warns(UserWarning, match="not compared with the other saved states"):
        best = best_of(saved_states(tmp_path))
    assert best is not None and best.step == 2
    with pytest.warns(UserWarning, match="not compared"):
        found.save(state(3), next_batch=9)
        found.wait()


def test_tensors_that_share_their_memory_are_saved(tmp_path):
    tied = torch.full((3, 2), 7.0)
    found = Snapshots(tmp_path)
    found.save(state(7, model={"a": tied, "b": tied, "part": tied[1:]}), next_batch=7)
    found.close()
    live = state(
        0, model={name: torch.zeros(n, 2) for name, n in (("a", 3), ("b", 3), ("part", 2))}
    )
    snapshot = found.latest()
    assert snapshot is not None and snapshot.fill(live) == 7 and numbers(live) == {7.0}


# States of earlier versions


def old_state(folder: Path, step: int) -> Path:
    """As PyTorch's distributed checkpoint writes it, and version 1 of this code did."""
    path = folder / f"step-{step:08d}"
    save_as_torch_does(dict(tensors_of(state(step).parts())), checkpoint_id=path, no_dist=True)
    about = {"step": step, "next_batch": 3 * step, "workers": 1, "metric": None}
    (path / ABOUT).write_text(json.dumps(about))
    return path


def test_a_state_of_an_earlier_version_is_read_and_said_to_have_no_digests(tmp_path):
    old_state(tmp_path, 4)
    with pytest.warns(UserWarning, match="step-00000004 is of an earlier version"):
        snapshot = Snapshots(tmp_path).latest()
    live = state(0)
    assert snapshot is not None and snapshot.fill(live) == 4 and numbers(live) == {4.0}
    assert snapshot.about["next_batch"] == 12


@pytest.mark.parametrize("file", [".metadata", "__0_0.distcp"])
def test_a_cut_state_of_an_earlier_version_is_set_aside(tmp_path, file):
    old_state(tmp_path, 4)
    os.truncate(old_state(tmp_path, 5) / file, 300)
    with pytest.warns(UserWarning, match="step-00000005 is damaged"):
        snapshot = Snapshots(tmp_path).latest()
    assert snapshot is not None and snapshot.step == 4


class Exploit:
    """Unpickling it runs code: it makes a folder."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("file", [".metadata", "__0_0.distcp"])
def test_reading_a_foreign_state_runs_no_code(tmp_path, file):
    path, marker = old_state(tmp_path / "states", 4) / file, tmp_path / "ran"
    size = path.stat().st_size
    path.write_bytes(pickle.dumps(Exploit(marker)).ljust(size, b"."))
    for use in (
        lambda: Snapshots(tmp_path / "states").latest().fill(state(0)),  # type: ignore[union-attr]
        lambda: saved_states(tmp_path / "states")[0].load_weights(nn.Linear(2, 3)),
    ):
        with pytest.raises((DamagedState, pickle.UnpicklingError)):
            use()
    assert not marker.exists()
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickle.dumps(Exploit(tmp_path / "none" / "ran")))  # the exploit is a real one
