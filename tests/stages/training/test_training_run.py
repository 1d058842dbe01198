import csv
import os
import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_stores import quiet
from small_trainings import Killed, kill_at, without_seconds
from torch import Tensor, nn

from model.training.checkpoint import save_model
from model.training.device import pick_device, seeded
from model.training.loop import Discriminator, LossSpike, TrainConfig, train
from model.training.snapshots import DAMAGED, Snapshots
from stages.training.log import LOG_FILE, read_log, summary
from stages.training.result import start_card, training_note
from stages.training.run import RunConfig, TrainingRun
from stages.training.states import STATES, set_aside
from stages.training.states import finished as finished_before
from storage.weights.ref import WeightsRef

CONFIG = TrainConfig(steps=7, learning_rate=0.05, warmup_steps=2, ema=0.9)


@dataclass
class Points:
    x: Tensor
    clip_ids: list[str]

    def to(self, device: torch.device) -> "Points":
        return Points(self.x.to(device), self.clip_ids)


def batch_at(i: int) -> Points:
    return Points(torch.randn(4, 3, generator=torch.Generator().manual_seed(i)), [f"clip{i}"])


def error(model: nn.Module, x: Tensor) -> Tensor:
    return (model(x) - x[:, :1].sin()).square().mean()


def loss_fn(model: nn.Module, batch: Points, noise: torch.Generator) -> dict[str, Tensor]:
    found = error(model, batch.x + 0.1 * torch.randn(batch.x.shape, generator=noise))
    return {"total": 2 * found, "error": found}


def make_discriminator() -> Discriminator:
    def loss(discriminator: nn.Module, batch: Points, noise: torch.Generator) -> dict[str, Tensor]:
        return {"total": discriminator(batch.x).square().mean()}

    with seeded(9):
        return Discriminator(module=nn.Linear(3, 1), loss_fn=loss, learning_rate=0.1, start=3)


def new_run(folder: Path, progress: Callable[..., None] = quiet, **changes) -> TrainingRun:
    """With dropout, so that the global generator's state counts too."""
    with seeded(1):
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 1))

    def validate() -> dict[str, float]:
        assert not model.training, "measured with dropout on"
        with torch.no_grad():
            return {"error": error(model, batch_at(10**6).x).item()}

    settings = {
        "model": model, "loss_fn": loss_fn, "batch_at": batch_at, "config": CONFIG,
        "watch": RunConfig(save_every=2), "folder": folder, "progress": progress,
        "validate": validate,
    }  # fmt: skip
    return TrainingRun(**(settings | changes))


def finished(folder: Path, kills: tuple[int, ...] = (), **changes) -> TrainingRun:
    """A run that was killed after these steps; every attempt is a new process's: new objects,
    another random state.
    """
    torch.manual_seed(0)
    for step in kills:
        with pytest.raises(Killed):
            new_run(folder, kill_at(step), **remade(changes)).finish()
        torch.manual_seed(step)
    run = new_run(folder, **remade(changes))
    run.finish()
    return run


def remade(changes: dict) -> dict:
    return changes | (
        {"discriminator": make_discriminator()} if changes.get("discriminator") else {}
    )


def assert_same_run(run: TrainingRun, other: TrainingRun) -> None:
    assert without_seconds(run.log) == without_seconds(other.log)
    for name, value in other.model.state_dict().items():
        assert torch.equal(run.model.state_dict()[name], value), name


@pytest.mark.parametrize("kills", [(1,), (2,), (3,), (6,), (7,), (2, 3, 5, 7)])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "config": replace(CONFIG, ema=None, grad_accum_steps=2),
            "watch": RunConfig(save_every=3, validate_every=2),
        },
        {"discriminator": True, "watch": RunConfig(save_every=1)},
    ],
    ids=["average", "accumulated", "discriminator"],
)
def test_a_killed_run_resumes_bit_for_bit(tmp_path, kills, changes):
    whole, again = (
        finished(tmp_path / "whole", **changes),
        finished(tmp_path / "killed", kills, **changes),
    )
    assert [row["step"] for row in again.log] == list(range(8))
    assert_same_run(again, whole)
    assert without_seconds(read_log(tmp_path / "killed" / LOG_FILE)) == without_seconds(again.log)


def test_killed_between_table_and_state_the_table_loses_the_steps_that_come_again(
    tmp_path, monkeypatch
):
    save = Snapshots.save

    def killed_at_four(snapshots, state, *about, **more):
        if state.step == 4:
            raise Killed
        save(snapshots, state, *about, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Snapshots, "save", killed_at_four)
        with pytest.raises(Killed):
            new_run(tmp_path / "killed").finish()
    assert read_log(tmp_path / "killed" / LOG_FILE)[-1]["step"] == 4, (
        "the table is ahead of the state"
    )
    assert_same_run(finished(tmp_path / "killed"), finished(tmp_path / "whole"))


def test_a_run_resumes_from_its_last_saved_step(tmp_path):
    asked: list[int] = []

    def watched(i: int) -> Points:
        asked.append(i)
        return batch_at(i)

    with pytest.raises(Killed):
        new_run(tmp_path, kill_at(5)).finish()
    new_run(tmp_path, batch_at=watched).finish()
    assert asked[0] == 4 and 0 not in asked


def test_a_run_killed_after_its_last_step_trains_no_more(tmp_path):
    def never(i: int) -> Points:
        raise AssertionError(f"batch {i} was asked for")

    with pytest.raises(Killed):
        new_run(tmp_path, kill_at(CONFIG.steps)).finish()
    assert len(new_run(tmp_path, batch_at=never).finish()) == CONFIG.steps + 1


@pytest.mark.parametrize(
    "watch", [RunConfig(save_every=1, validate_every=1), RunConfig(save_every=4, validate_every=3)]
)
def test_watching_changes_nothing_that_is_trained(tmp_path, watch):
    plain, watched = finished(tmp_path / "plain"), finished(tmp_path / "watched", watch=watch)
    trained = [
        {name: v for name, v in row.items() if not name.startswith("val/")} for row in watched.log
    ]
    expected = [
        {name: v for name, v in row.items() if not name.startswith("val/")} for row in plain.log
    ]
    assert without_seconds(trained) == without_seconds(expected)
    assert all(
        torch.equal(a, b)
        for a, b in zip(plain.model.parameters(), watched.model.parameters(), strict=True)
    )
    measured = [row["step"] for row in watched.log if "val/error" in row]
    assert measured == [
        step for step in range(8) if step in (0, 7) or step % watch.validate_every == 0
    ]
    assert [row["step"] for row in plain.log if "val/error" in row] == [0, 7]


def test_the_end_is_measured_on_the_averaged_weights(tmp_path):
    run = finished(tmp_path)
    other = new_run(tmp_path / "other")
    with seeded(CONFIG.seed):
        average = train(other.model, loss_fn, batch_at, CONFIG).ema
    assert average is not None
    assert all(torch.equal(value, average[name]) for name, value in run.model.state_dict().items())
    assert not any(
        torch.equal(a, b)
        for a, b in zip(run.model.parameters(), other.model.parameters(), strict=True)
    )
    assert run.log[-1]["val/error"] == run.validate()["error"]
    assert not run.model.training


def test_what_is_measured_sampled_and_best_is_the_average(tmp_path):
    """At every step, not at the end only; each step's average is taken from a training that nobody
    watches.
    """
    averages: list[dict[str, Tensor]] = []
    with seeded(CONFIG.seed):
        other = new_run(tmp_path / "other")
        train(
            other.model,
            loss_fn,
            batch_at,
            CONFIG,
            on_step=lambda report: averages.append(deepcopy(report.state().ema) or {}),
        )

    def measured(model: nn.Module) -> float:
        with torch.no_grad():
            return error(model, batch_at(10**6).x).item()

    run = new_run(
        tmp_path / "run", watch=RunConfig(save_every=1, keep=1, validate_every=1, rollout_every=1)
    )
    run.validate = lambda: {
        "total": -measured(run.model)
    }  # less is better: the first step's state stays
    run.sample = lambda model, step: ({"error": measured(model)}, None)
    run.finish()
    for average, row in zip(averages, run.log[1:], strict=True):
        other.model.load_state_dict(average)
        expected = measured(other.model.eval())
        assert (row["val/total"], row["rollout/error"]) == (-expected, expected), (
            f"step {row['step']}"
        )
    best = run.best()
    assert best is not None
    best.load_weights(run.model)
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, averages[best.step - 1][name]), name


def test_every_row_holds_the_losses_and_how_they_came_about(tmp_path):
    run = finished(tmp_path, discriminator=True)
    for row in run.log[1:]:
        assert {"step", "total", "error", "learning_rate", "grad_norm", "seconds"} <= row.keys()
        assert ("discriminator/total" in row) == (row["step"] > 3)
        assert row["total"] == pytest.approx(2 * row["error"])
    with open(tmp_path / LOG_FILE, newline="") as file:
        table = list(csv.DictReader(file))
    assert (
        len(table) == 8
        and table[0]["total"] == ""
        and table[7]["val/error"] == str(run.log[-1]["val/error"])
    )


def test_only_the_state_is_cleaned_up(tmp_path):
    run = finished(tmp_path)
    assert set(os.listdir(tmp_path)) == {LOG_FILE, STATES}
    run.clean_up()
    run.clean_up()  # killed just after it
    assert os.listdir(tmp_path) == [LOG_FILE]


def test_a_batch_that_cannot_be_made_ends_the_run_and_its_thread(tmp_path):
    def broken(i: int) -> Points:
        if i == 3:
            raise OSError("shard 1 is damaged")
        return batch_at(i)

    with pytest.raises(OSError, match="shard 1 is damaged"):
        new_run(tmp_path, batch_at=broken).finish()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]
    assert_same_run(finished(tmp_path), finished(tmp_path / "whole"))  # the shard is whole again


def test_every_step_is_reported(tmp_path):
    reported: list[tuple[int, int, str]] = []
    run = new_run(tmp_path, lambda done, total, note="": reported.append((done, total, note)))
    log = run.finish()
    assert reported == [(row["step"], 7, f"loss {row['total']:.3f}") for row in log[1:]]


numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.lists(
        st.fixed_dictionaries({"total": numbers}, optional={"val/total": numbers}),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=30, deadline=None)
def test_a_table_is_read_as_it_was_written(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("log")
    run = new_run(folder)
    run.log = [{"step": i, **row} for i, row in enumerate(rows)]
    run._write_log()
    assert read_log(folder / LOG_FILE) == run.log


@given(
    st.lists(numbers.filter(lambda x: abs(x) < 1e9), min_size=1, max_size=40), st.integers(1, 12)
)
@settings(deadline=None)
def test_summary_is_the_mean_of_both_ends(losses, n_mean):
    log = [
        {"step": 0, "val/total": 9.0},
        *({"step": i + 1, "total": x} for i, x in enumerate(losses)),
    ]
    log[-1] |= {"val/total": 3.0}
    found = summary(log, n_mean)
    assert found.keys() == {
        "steps", "total, first steps", "total, last steps", "val/total, before", "val/total, after"
    }  # fmt: skip
    assert found["total, first steps"] == pytest.approx(float(np.mean(losses[:n_mean])))
    assert found["total, last steps"] == pytest.approx(float(np.mean(losses[-n_mean:])))
    assert (found["steps"], found["val/total, before"], found["val/total, after"]) == (
        len(losses),
        9.0,
        3.0,
    )


def test_cards_and_notes_count_the_steps_of_all_trainings_before(tmp_path):
    path, start = tmp_path / "net.safetensors", None
    for i in range(3):
        card = start_card(start)
        assert card["steps_before"] == 7 * i
        save_model(path, nn.Linear(1, 1), CONFIG, card={**card, "training": {"steps": 7}, "i": i})
        start = WeightsRef.of(path, name="net")
    assert start is not None and start_card(None) == {
        "started_from": "random weights",
        "steps_before": 0,
    }
    assert start_card(start)["started_from"] == f"net (SHA-256 {start.sha256})"
    numbers = {"steps": 5.0, "val/total, before": 2.0, "val/total, after": 1.25}
    note = training_note("A net", start, numbers)
    assert (
        f"**net (SHA-256 {start.sha256})**, after 21 steps elsewhere; trained 5 steps here" in note
    )
    assert "| total | 2 | 1.25 |" in note
    assert "**random weights**; trained 5 steps here" in training_note("A net", None, numbers)


def test_the_page_says_which_clips_were_used_and_which_states_were_damaged(tmp_path):
    numbers = {"steps": 5.0, "val/total, before": 2.0, "val/total, after": 1.25}
    assert set_aside(tmp_path) == [] and "damaged" not in training_note("A net", None, numbers)
    for step in (20, 10):
        (tmp_path / STATES / f"step-000000{step}{DAMAGED}").mkdir(parents=True)
    (tmp_path / STATES / "step-00000030").mkdir()
    found = set_aside(tmp_path)
    note = training_note("A net", None, numbers, "- 3 clips used", found)
    assert "**2 saved states were damaged** and set aside: step-00000010, step-00000020." in note
    assert "- 3 clips used" in note


def test_seeded_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with seeded(5):
        first = torch.rand(2)
    with seeded(5):
        assert torch.equal(torch.rand(2), first)
    assert torch.equal(torch.rand(2), expected)


def test_the_device_is_the_one_asked_for():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_spike_stops_before_the_step_also_after_a_resumption(tmp_path):
    """Step 64's batch is broken. The limit is the same whether the steps before it ran in this
    process or another.
    """
    config = replace(CONFIG, steps=70, learning_rate=1e-3)

    def broken(model: nn.Module, batch: Points, noise: torch.Generator) -> dict[str, Tensor]:
        scale = 1e6 if batch.clip_ids == ["clip64"] else 1.0
        return {name: scale * value for name, value in loss_fn(model, batch, noise).items()}

    changes = {
        "config": config,
        "loss_fn": broken,
        "watch": RunConfig(save_every=20, spike_deviations=15.0),
    }
    errors = []
    for folder, kills in ((tmp_path / "whole", ()), (tmp_path / "killed", (61,))):
        with pytest.raises(
            LossSpike, match=r"step 64: .* deviations above the median .*clips clip64\."
        ) as error:
            finished(folder, kills, **changes)
        errors.append(str(error.value))
        assert Snapshots(folder / STATES).latest().step == 60
    assert errors[0] == errors[1]
    finished(tmp_path / "off", **(changes | {"watch": RunConfig()}))


@pytest.mark.parametrize(
    "wrong", [{"save_every": 0}, {"keep": 0}, {"validate_every": -1}, {"spike_deviations": -1.0}]
)
def test_impossible_watching_is_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        RunConfig(**wrong)


def test_a_training_killed_while_its_states_were_deleted_is_finished_before(tmp_path):
    save_model(
        tmp_path / "net.safetensors", nn.Linear(2, 2), Layout(), card={"numbers": {"steps": 3.0}}
    )
    (tmp_path / STATES / "step-00000003").mkdir(parents=True)
    assert finished_before(tmp_path, "net.safetensors") is None, (
        "states are there: it may have more to write"
    )
    (tmp_path / STATES).rename(tmp_path / f"{STATES}.gone")
    assert finished_before(tmp_path, "net.safetensors") == {"steps": 3.0}
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"], (
        "what was half deleted is gone"
    )
    assert finished_before(tmp_path, "other.safetensors") is None


@dataclass(frozen=True)
class Layout:
    width: int = 2
