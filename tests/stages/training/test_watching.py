"""What a training shows while it runs: rollouts, TensorBoard, live page, best checkpoint."""

import csv
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_disk import fill, small_disk
from small_stores import opened, quiet, write_clips
from small_trainings import (
    FEW,
    GRID,
    SPLITS,
    Killed,
    Stores,
    attempt,
    kill_at,
    log_of,
    make_stores,
    rows_of,
    tokenizer_stage,
    train_stage,
    world_stage,
)
from tensorboardX.proto import event_pb2

from model.training.checkpoint import load_model, read_header
from model.world.config import SamplingConfig, WorldModelConfig
from model.world.dual_branch import DualBranchWorldModel
from stages.training import tensorboard
from stages.training.live import live_page
from stages.training.run import ROLLOUTS, RunConfig
from stages.training.tensorboard import EVENTS, EventFile
from stages.world_model.data import WORLD_MODEL_FILE
from stages.world_model.sample_rollout import SampleRollout, decoders_of
from stages.world_model.train import BEST_FILE, TrainWorldModel
from storage.stores.results import Result

WATCHED = RunConfig(save_every=2, validate_every=2, rollout_every=2, tensorboard=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("watching")


@pytest.fixture(scope="module")
def stores(root) -> Stores:
    """As those of the other tests, but the RGB tokens name a tokenizer that is there. Depth's is
    gone.
    """
    stores = make_stores(root)
    tokenizer = train_stage(root, tokenizer_stage(training=replace(FEW, steps=1)), stores)
    ids = np.random.default_rng(7).integers(0, 2**18, (len(SPLITS), 16, *GRID)).astype(np.int32)
    made_by = {"tokenizer": tokenizer.ref.uri}
    return stores | {
        "rgb_tokens": write_clips(
            stores["discover"], "rgb_tokens", {"rgb_tokens": ids}, inputs=made_by
        )
    }


@pytest.fixture(scope="module")
def watched(root, stores) -> Result:
    return train_stage(root, world_stage(watch=WATCHED), stores)


def events_of(folder: Path) -> list[tuple[int, str, float | None]]:
    """(step, tag, scalar) of all event files, the hidden steps of attempts before taken out."""
    found: list[tuple[int, str, float | None]] = []
    for path in sorted(folder.glob("events*")):
        data, place = path.read_bytes(), 0
        while place < len(data):  # a length, its checksum, an event, its checksum
            (length,) = struct.unpack_from("<Q", data, place)
            event = event_pb2.Event.FromString(data[place + 12 : place + 12 + length])
            place += 16 + length
            if event.session_log.status == event_pb2.SessionLog.START:
                found = [one for one in found if one[0] < event.step]
            for value in event.summary.value:
                found.append(
                    (
                        event.step,
                        value.tag,
                        value.simple_value if value.HasField("simple_value") else None,
                    )
                )
    return found


def test_rollouts_are_measured_and_pictured(watched):
    rows = {row["step"]: row for row in log_of(watched)}
    assert [step for step in rows if "rollout/rgb tokens right" in rows[step]] == [2, 4]
    assert 0 <= rows[4]["rollout/depth tokens right"] <= 1 and np.isfinite(
        rows[4]["rollout/rgb psnr"]
    )
    assert "rollout/depth psnr" not in rows[4], "that tokenizer is gone"
    pictures = [name for name in watched.files if name.startswith(f"{ROLLOUTS}/")]
    assert pictures == [f"{ROLLOUTS}/step-00000002.png", f"{ROLLOUTS}/step-00000004.png"]
    with Image.open(watched.file(pictures[-1])) as picture:
        assert picture.width > 600


def test_a_model_that_knows_the_clips_has_all_tokens_right(stores, monkeypatch):
    stage, rows = world_stage(), opened(rows_of(world_stage(), stores))
    batch = stage.clips.held_out(rows, stage.clips.action_stats(rows["clip"], np.array([0, 2])))[0]
    decoders = decoders_of(rows, torch.device("cpu"))
    assert list(decoders) == ["rgb"]
    sample = SampleRollout(batch=batch, decoders=decoders, seed=0, sampling=SamplingConfig())

    def truth(model, prompt, actions, config, noise):
        assert torch.equal(prompt.rgb, batch.rgb_tokens[:, :1]), "frame 0 is given, and no more"
        return replace(prompt, rgb=batch.rgb_tokens, depth=batch.depth_tokens.flip(0))

    monkeypatch.setattr("stages.world_model.sample_rollout.rollout", truth)
    numbers, picture = sample(stage.build(), 7)
    assert numbers["rgb tokens right"] == 1.0 and numbers["depth tokens right"] < 0.1
    assert numbers["rgb psnr"] > 50 and picture is not None and picture.startswith(b"\x89PNG")


def test_the_same_rollout_comes_again(stores):
    """Same weights, same clips, same noise: pictures of two steps differ by the training alone."""
    stage, rows = world_stage(), opened(rows_of(world_stage(), stores))
    batch = stage.clips.held_out(rows, stage.clips.action_stats(rows["clip"], np.array([0, 2])))[0]
    sample = SampleRollout(
        batch=batch, decoders={}, seed=3, sampling=SamplingConfig(temperature=1.0)
    )
    model = stage.build().eval()
    assert sample(model, 1) == sample(model, 2) and sample(model, 1)[1] is None


def test_event_files_hold_every_step_once_also_after_a_kill(root, stores):
    stage = world_stage(watch=WATCHED)
    result = train_stage(root, stage, stores, run="killed", kills=(3,))
    events = events_of(result.file(f"{EVENTS}/{events_name(result)}").parent)
    log = {row["step"]: row for row in log_of(result)}
    totals = {step: value for step, tag, value in events if tag == "total"}
    assert totals == pytest.approx(
        {step: row["total"] for step, row in log.items() if "total" in row}, rel=1e-6
    )
    tags = {tag for _, tag, _ in events}
    assert tags >= {
        "rgb",
        "depth",
        "keypoint",
        "attention",
        "grad_norm",
        "learning_rate",
        "val/total",
        "MFU",
    }
    assert tags >= {"clips/s", "tokens/s", "rollout/rgb_tokens_right", "rollout"}
    assert sorted(step for step, tag, _ in events if tag == "rollout") == [2, 4], "pictures, too"


def events_name(result: Result) -> str:
    return next(name.split("/")[1] for name in result.files if name.startswith(f"{EVENTS}/"))


def test_pictures_of_events_are_the_pngs(tmp_path):
    events, path = EventFile(tmp_path, after_step=0), tmp_path / "picture.png"
    Image.new("RGB", (7, 5), (10, 200, 30)).save(path)
    events.picture(3, "sample", path.read_bytes())
    events.close()
    assert events_of(tmp_path / EVENTS) == [(3, "sample", None)]


@pytest.mark.timeout(30)
def test_events_on_a_full_disk_are_an_error_and_no_endless_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "FLUSH_S", 0.0)
    with small_disk(tmp_path / "disk") as disk:
        events = EventFile(disk, after_step=0)
        fill(disk)
        with pytest.raises(OSError, match="No space left on device"):
            for step in range(10_000):
                events.numbers(step, {"loss": 1.0})


def test_watching_changes_nothing_that_is_trained(root, stores, watched):
    plain = train_stage(root, world_stage(), stores, run="plain")
    models = [
        load_model(result.file(WORLD_MODEL_FILE), DualBranchWorldModel, WorldModelConfig)[0]
        for result in (plain, watched)
    ]
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_best_weights_are_written_beside_the_last(root, stores, monkeypatch):
    """Held-out losses that rise from the first measurement on; three more follow."""
    seen: list[dict[str, torch.Tensor]] = []

    def rising(stage, model, batches):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"total": float(len(seen))}

    monkeypatch.setattr(TrainWorldModel, "validate", rising)
    result = train_stage(root, world_stage(watch=WATCHED, training=replace(FEW, steps=8)), stores)
    about = read_header(result.file(BEST_FILE))["card"]
    assert about["best"] == {"step": 2, "next_batch": 2, "workers": 1, "metric": 2.0}
    assert about["action_mean"] == read_header(result.file(WORLD_MODEL_FILE))["card"]["action_mean"]
    best = load_model(result.file(BEST_FILE), DualBranchWorldModel, WorldModelConfig)[
        0
    ].state_dict()
    assert all(torch.equal(value, seen[1][name]) for name, value in best.items())


def test_a_training_ended_all_but_its_seal_is_not_done_again(root, stores):
    """Killed when the states were gone and the result was not yet sealed."""
    from small_stores import new_result

    from storage.stores.results import open_writer

    stage = world_stage(training=replace(FEW, steps=3))
    ref = new_result(root, stage.name, "unsealed")
    with open_writer(ref) as writer:
        numbers = stage.run(opened(rows_of(stage, stores)), {}, writer, quiet)
    with open_writer(ref) as writer:
        assert stage.run(opened(rows_of(stage, stores)), {}, writer, kill_at(1)) == numbers


def test_the_live_page_shows_what_there_is_so_far(root, stores, tmp_path):
    from small_stores import new_result

    from storage.stores.results import WORK

    stage = world_stage(watch=WATCHED)
    assert stage.live_page(tmp_path) is None, "nothing yet"
    ref = new_result(root, stage.name, "live")
    with pytest.raises(Killed):
        attempt(stage, ref, stores, kill_at(4))
    page = stage.live_page(Path(ref.uri) / WORK)
    assert page is not None and page.text.startswith("# World model: step 4\n")
    for name in (
        "| total |",
        "| keypoint |",
        "| grad norm |",
        "| learning rate |",
        "| val/total |",
        "| MFU |",
    ):
        assert name in page.text
    assert set(page.pictures) == {"losses", "sample rollout"}
    assert all(png.startswith(b"\x89PNG") for png in page.pictures.values())


def test_the_live_page_takes_the_newest_value_of_every_column(tmp_path):
    with open(tmp_path / "losses.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["step", "total", "val/total"])
        writer.writeheader()
        writer.writerows(
            [{"step": 0, "val/total": 9.0}, {"step": 1, "total": 3.0}, {"step": 2, "total": 2.0}]
        )
    page = live_page(tmp_path, "A net")
    assert page is not None and "| total | 2 |" in page.text and "| val/total | 9 |" in page.text
