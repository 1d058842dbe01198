import csv
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from repository import ROOT, SUPPORT
from small_stores import new_result, opened, square_clips, write_clips, write_index
from small_trainings import (
    FEW,
    GRID,
    REJECTED,
    SPLITS,
    TRAIN_IDS,
    VAL_IDS,
    WORLD,
    Stores,
    attempt,
    log_of,
    make_stores,
    rows_of,
    train_stage,
    world_stage,
)

from model.training.checkpoint import load_model, read_header, save_model
from model.training.loop import NonFiniteLoss, TrainConfig
from model.world.batch import ActionStats
from model.world.config import LossConfig, MaskingConfig, WorldModelConfig
from model.world.dual_branch import DualBranchWorldModel, parameter_counts
from stages.clips.clip_times import substep_rows
from stages.clips.recording_flags import FLAGS as CLIP_FLAGS
from stages.label_noise import SPOILED, DepthNoise, TrackNoise
from stages.training.prepared_rows import PreparedRows
from stages.training.result import NOTE_FILE, PLOT_FILE
from stages.training.states import STATES
from stages.world_model.data import (
    ACTIVE_FILE,
    WORLD_MODEL_FILE,
    card_stats,
    pick_substeps,
    track_shares,
)
from stages.world_model.shuffling import partners
from storage.stores.key import parameters
from storage.stores.records import StoreRef
from storage.stores.results import WORK, Result
from storage.stores.rows import Rows, open_rows
from storage.weights.ref import WeightsRef

FILES = {WORLD_MODEL_FILE, "losses.csv", PLOT_FILE, NOTE_FILE, ACTIVE_FILE, "throughput.md"}
PARTS = ("rgb", "depth", "keypoint", "attention")


@pytest.fixture(scope="module")
def trained(root, stores) -> Result:
    return train_stage(root, world_stage(), stores)


@pytest.fixture(scope="module")
def start(trained) -> WeightsRef:
    return WeightsRef.of(trained.file(WORLD_MODEL_FILE), name="before")


def network(result: Result) -> DualBranchWorldModel:
    return load_model(result.file(WORLD_MODEL_FILE), DualBranchWorldModel, WorldModelConfig)[0]


def card(result: Result) -> dict:
    return read_header(result.file(WORLD_MODEL_FILE))["card"]


def with_store(root: Path, stores: Stores, role: str, arrays: dict[str, np.ndarray]) -> Stores:
    """The same stores, but this one with these arrays, no row rejected."""
    inputs = (
        {"tokenizer": StoreRef.at(str(root), "rgb_tokenizer", "0123456789abcde0").uri}
        if "tokens" in role
        else {}
    )
    return stores | {role: write_clips(stores["discover"], role, arrays, inputs=inputs)}


# -- what it writes --------------------------------------------------------------------------------


def test_it_writes_a_checkpoint_tables_and_a_picture(trained, stores):
    assert set(trained.files) == FILES
    with Image.open(trained.file(PLOT_FILE)) as picture:
        assert picture.width > 600 and len(set(picture.convert("L").tobytes())) > 16
    model = network(trained)
    assert model.config == WORLD
    counts, page = parameter_counts(model), trained.file(NOTE_FILE).read_text()
    assert trained.numbers["parameters"] == counts["total"]
    assert f"| parameters | {counts['total']:,} |" in page
    for part in ("rgb", "depth", "fusion"):
        assert trained.numbers[f"parameters, {part}"] == counts[part] > 0
        assert f"| {part} | {counts[part]:,} |" in page
    assert trained.numbers["steps"] == 5


def test_the_card_says_what_the_weights_need_and_come_from(trained, stores):
    found = card(trained)
    actions = square_clips(8)["clip"]["actions"][
        [0, 2, 5, 6], :, 14:
    ]  # the train split's, the last of each frame's
    expected = ActionStats.measure(torch.from_numpy(actions))
    np.testing.assert_allclose(found["action_mean"], expected.mean, rtol=1e-6)
    np.testing.assert_allclose(found["action_std"], expected.std, rtol=1e-6)
    assert found["data"] == {role: str(stores[role]) for role in world_stage().inputs}
    assert found["tokenizers"] == {
        "rgb_tokens": "rgb_tokenizer/0123456789abcde0",
        "depth_tokens": "depth_tokenizer/0123456789abcde1",
    }  # fmt: skip
    assert (found["started_from"], found["steps_before"]) == ("random weights", 0)
    assert found["training"] == {**found["training"], "steps": 5, "seed": 0, "learning_rate": 3e-3}
    assert found["loss"]["gamma"] == 5.0 and found["masking"]["context"] == "masked"
    assert found["tracks"] == {"n_active": 8, "min_motion": 0.03, "compensate_camera": False}
    assert found["numbers"] == trained.numbers


def test_flagged_clips_are_dropped_unless_drop_flagged_is_off(tmp_path, stores):
    def flagged(*rows: int) -> dict[str, Rows]:
        flags = np.where(np.isin(np.arange(len(SPLITS)), rows), np.arange(1, 9), 0).astype(np.uint8)
        quality = write_clips(
            stores["discover"], "label_quality", {"flags": flags}, rejected=(REJECTED,)
        )
        return opened(rows_of(world_stage(), stores) | {"label_quality": quality})

    assert world_stage().clips.rows_of(flagged(0, 7), "train").tolist() == [2, 5, 6]
    assert world_stage().clips.rows_of(flagged(0, 7), "val").tolist() == [1]
    assert world_stage(drop_flagged=False).clips.rows_of(flagged(0, 7), "train").tolist() == [
        0,
        2,
        5,
        6,
    ]
    assert "label_quality" not in world_stage(drop_flagged=False).inputs
    with pytest.raises(
        ValueError, match=r"all 2 clips of split val are flagged.*drop_flagged=false"
    ):
        world_stage().clips.rows_of(flagged(1, 7), "val")


def test_clips_are_dropped_by_any_flag_of_recording_and_labels_and_the_page_counts_them(stores):
    flags = np.zeros((len(SPLITS), len(CLIP_FLAGS)), bool)
    flags[[0, 1], CLIP_FLAGS.index("count_mismatch")] = True
    flags[2, CLIP_FLAGS.index("gripper_unverified")] = True
    clip = square_clips(len(SPLITS))["clip"] | {"flags": flags}
    clips = write_clips(stores["discover"], "clip", clip, rejected=(REJECTED,))
    rows = opened(rows_of(world_stage(), stores) | {"clip": clips})
    assert world_stage().clips.rows_of(rows, "train").tolist() == [0, 2, 5, 6]
    assert (
        "4 clips of split 'train' used, their flags: gripper_unverified 1, count_mismatch 1."
        in (world_stage().clips.text(rows))
    )
    stage = world_stage(drop_flags=("count_mismatch",))
    assert stage.clips.rows_of(rows, "train").tolist() == [2, 5, 6]
    assert stage.clips.rows_of(rows, "val").tolist() == [7]
    assert "1 left out for flags: count_mismatch 1." in stage.clips.text(rows)
    quality = np.where(np.arange(len(SPLITS)) == 7, 1, 0).astype(np.uint8)
    labels = write_clips(
        stores["discover"], "label_quality", {"flags": quality}, rejected=(REJECTED,)
    )
    with pytest.raises(ValueError, match=r"all 2 clips of split val.*flicker 1, count_mismatch 1"):
        stage.clips.rows_of(rows | {"label_quality": open_rows(labels)}, "val")
    assert "drop_flags" not in parameters(world_stage()), "keys of older stores stay valid"


def test_losses_csv_holds_every_part_at_every_step(trained):
    with open(trained.file("losses.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == list("012345")
    weights = LossConfig().weights
    for row in log_of(trained)[1:]:
        assert row["total"] == pytest.approx(
            sum(weights[name] * row[name] for name in PARTS), rel=1e-5
        )
        assert row["keypoint"] > 0 and row["attention"] > row["rgb"], "some tracks are active"
        assert row["rgb"] == pytest.approx(
            2 * np.log(512), rel=0.05
        )  # random tokens, a network that knows nothing
    measured = [row["step"] for row in rows if row["val/total"]]
    assert measured == ["0", "5"]
    assert {name for name in rows[0] if name.startswith("val/")} == {
        f"val/{name}" for name in ("total", *PARTS)
    }


def test_held_out_losses_are_those_of_the_checkpoint(trained, stores):
    stage = world_stage()
    held_out = stage.clips.held_out(opened(rows_of(stage, stores)), card_stats(card(trained)))
    found = stage.validate(network(trained), held_out)
    assert {
        f"val/{name}, after": value for name, value in found.items()
    }.items() <= trained.numbers.items()


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"loss": LossConfig(depth=0.0)}, {"rgb", "keypoint", "attention"}),
        ({"loss": LossConfig(keypoint=0.0, attention=0.0)}, {"rgb", "depth"}),
        ({"model": replace(WORLD, depth_branch=False)}, {"rgb", "keypoint", "attention"}),
    ],
    ids=["no-depth-loss", "no-keypoints", "no-depth-branch"],
)
def test_ablations_leave_their_parts_out(root, stores, changes, parts):
    row = log_of(train_stage(root, world_stage(training=replace(FEW, steps=1), **changes), stores))[
        1
    ]
    assert set(row) & set(PARTS) == parts


def test_active_tracks_are_counted_for_each_clip(trained, stores):
    with open(trained.file(ACTIVE_FILE), newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["clip"] for row in rows} == TRAIN_IDS
    tracks = square_clips(8)["keypoints"]["tracks"]
    for row in rows:
        steps = np.diff(tracks[int(row["clip"].removeprefix("clip"))], axis=0) / 32
        paths = np.sort(np.linalg.norm(steps, axis=-1).sum(0))[::-1][:8]
        active = paths[paths >= 0.03]  # the six points on the square; all stay inside the frame
        assert int(row["active_tracks"]) == len(active) <= 6
        assert float(row["mean_motion"]) == pytest.approx(active.mean(), abs=1e-4)
        assert float(row["camera_motion"]) == 0


# -- what it reads ---------------------------------------------------------------------------------


def test_it_trains_on_train_and_measures_on_val(stores):
    stage = world_stage()
    rows = opened(rows_of(stage, stores))
    used = np.array([0, 2, 5, 6])
    stats = stage.clips.action_stats(rows["clip"], used)
    batch_at = stage.clips.batches(
        rows, PreparedRows(lambda chosen: stage.clips.prepare(rows, stats, chosen), used), used
    )
    assert {clip_id for i in range(20) for clip_id in batch_at(i).clip_ids} == TRAIN_IDS
    assert {
        clip_id for batch in stage.clips.held_out(rows, stats) for clip_id in batch.clip_ids
    } == VAL_IDS


def test_a_batch_holds_the_arrays_of_the_clips_that_it_names(stores):
    stage = world_stage()
    rows = opened(rows_of(stage, stores))
    stats = ActionStats(mean=torch.zeros(16), std=torch.ones(16))
    batch = stage.clips.held_out(rows, stats)[0]
    assert batch.clip_ids == ["clip001", "clip007"]
    for i, row in enumerate((1, 7)):
        for name in ("rgb_tokens", "depth_tokens"):
            stored = rows[name].read((name,), row)[name]
            np.testing.assert_array_equal(getattr(batch, name)[i], stored)
        tracks = rows["keypoints"].read(("tracks",), row)["tracks"]
        shares = (tracks + 0.5) / 32
        for k in range(8):
            if batch.visible[i, :, k].any():
                same = np.isclose(shares, batch.tracks[i, :, None, k].numpy(), atol=1e-6).all(
                    axis=(0, 2)
                )
                assert same.sum() == 1 and same.argmax() < 6, (
                    "an active track is one of the square's"
                )
    assert batch.visible.any()


def test_the_page_names_labels_that_were_spoiled_on_purpose(stores):
    stage, arrays = world_stage(), square_clips(len(SPLITS))
    depth_noise, track_noise = DepthNoise(noise=0.2).attributes, TrackNoise(drift=2.0).attributes
    index = stores["discover"]
    depth = write_clips(index, "depth", arrays["depth"], attributes=dict(depth_noise))
    tracks = write_clips(index, "keypoints", arrays["keypoints"], attributes=dict(track_noise))
    ids = opened(stores)["depth_tokens"].gather("depth_tokens", np.array([0]))
    tokens = {"depth_tokens": np.repeat(ids, len(SPLITS), axis=0)}
    made = write_clips(index, "depth_tokens", tokens, inputs={"depth": f"depth/{depth.key}"})
    spoiled = rows_of(stage, stores) | {"keypoints": tracks, "depth_tokens": made}
    page = stage.clips.text(opened(spoiled))
    for noise in (depth_noise, track_noise):
        assert f"- **labels spoiled on purpose**: {noise[SPOILED]}" in page
    assert "spoiled" not in stage.clips.text(opened(rows_of(stage, stores)))


@pytest.mark.parametrize("what", ["depth", "actions"])
def test_shuffled_clips_have_the_depth_or_the_actions_of_another_one(stores, what):
    stage, used = world_stage(shuffled=what), np.array([0, 2, 5, 6])
    rows = opened(rows_of(stage, stores))
    stats = ActionStats(mean=torch.zeros(16), std=torch.ones(16))
    other = partners(used, seed=3)
    assert sorted(other) == sorted(other.values()) == used.tolist()
    assert all(row != partner for row, partner in other.items())
    own = stage.clips.prepare(rows, stats, used)
    theirs = stage.clips.prepare(rows, stats, np.array([other[row] for row in used.tolist()]))
    found = stage.clips.prepare(rows, stats, used, other)
    for name in found:
        expected = theirs if name.startswith(what) else own
        np.testing.assert_array_equal(found[name], expected[name])
    assert f"**the {what} of each training clip are another one's**" in stage.clips.text(rows)
    assert "shuffled" not in parameters(world_stage()), "keys of older stores stay valid"


def test_shuffling_trains_on_others_and_measures_on_true_pairs(root, stores, trained):
    shuffled = train_stage(root, world_stage(shuffled="actions"), stores)
    assert card(shuffled)["action_mean"] == card(trained)["action_mean"]
    assert shuffled.numbers["val/total, before"] == trained.numbers["val/total, before"]
    assert log_of(shuffled)[-1]["rgb"] != log_of(trained)[-1]["rgb"]  # actions enter from step 2 on
    with pytest.raises(ValueError, match="1 training clip, expected 2 or more to shuffle"):
        partners(np.array([4]), 0)


# -- actions ---------------------------------------------------------------------------------------


@given(st.integers(1, 20), st.data())
@settings(deadline=None)
def test_substeps_are_evenly_spaced_and_end_at_the_frame(n_substeps, data):
    count = data.draw(st.integers(1, n_substeps))
    actions = np.broadcast_to(
        np.arange(n_substeps, dtype=np.float32)[None, None, :, None], (2, 3, n_substeps, 4)
    )
    picked = pick_substeps(actions, count)
    assert picked.shape == (2, 3, count, 4)
    places = picked[0, 0, :, 0]
    assert places[-1] == n_substeps - 1
    gaps = np.diff(np.concatenate([[-1], places]))
    assert gaps.min() >= 1 and gaps.max() - gaps.min() <= 1
    assert (picked == places[:, None]).all()


def test_the_one_action_of_a_frame_is_the_last_command_before_it():
    """From the source's rows to the batch: 30 Hz rows, frames each 15 of them, commands numbered by
    their row.
    """
    frame_rows = 20 + 15 * np.arange(16)
    times_ns = np.round(np.arange(300) * 1e9 / 30).astype(np.int64)
    commands = substep_rows(times_ns, frame_rows, 15, 2.0, at_end=False)[None, ..., None].astype(
        np.float32
    )
    np.testing.assert_array_equal(pick_substeps(commands, 1)[0, :, 0, 0], frame_rows - 1)
    three = pick_substeps(commands, 3)[0, :, :, 0]
    np.testing.assert_array_equal(three, frame_rows[:, None] + [-11, -6, -1])
    assert (three[1:] >= frame_rows[:-1, None]).all() and (three < frame_rows[:, None]).all()


@pytest.mark.parametrize("n_substeps", [1, 5, 15])
def test_frame_t_reads_the_normalised_commands_that_lead_into_it(root, stores, n_substeps):
    actions = np.zeros((8, 16, 15, 16), np.float32)
    actions[...] = np.arange(16)[None, :, None, None] + np.arange(15)[None, None, :, None] / 100
    rgb = square_clips(8)["clip"]["rgb"]
    numbered = with_store(root, stores, "clip", {"rgb": rgb, "actions": actions})
    stage = world_stage(model=replace(WORLD, action_substeps=n_substeps))
    stats = ActionStats(mean=torch.full((16,), 3.0), std=torch.full((16,), 2.0))
    found = stage.clips.held_out(opened(rows_of(stage, numbered)), stats)[0].actions
    assert found.shape == (2, 16, n_substeps, 16)
    picked = np.arange(1, n_substeps + 1) * 15 // n_substeps - 1
    expected = (actions[0][:, picked] - 3) / 2
    torch.testing.assert_close(found, torch.from_numpy(expected).expand_as(found))
    assert picked[-1] == 14


def test_more_actions_than_the_clips_hold_are_refused(root, stores):
    with pytest.raises(
        ValueError,
        match="action_substeps=16: the clips hold 15 actions between two frames, expected 1 to 15",
    ):
        train_stage(root, world_stage(model=replace(WORLD, action_substeps=16)), stores)


@given(st.integers(1, 500), st.integers(1, 500), st.data())
@settings(deadline=None)
def test_track_shares_are_in_the_frame_just_where_pixels_are(height, width, data):
    """Pixel (0, 0) has its centre at half a pixel; the frame's edge is half a pixel beyond the last
    centre.
    """
    x, y = (data.draw(st.integers(-2, side + 1)) for side in (width, height))
    share = track_shares(np.array([x, y], np.float32).reshape(1, 1, 1, 2), height, width)[0, 0, 0]
    inside = bool(((share >= 0) & (share < 1)).all())
    assert inside == (0 <= x < width and 0 <= y < height)
    np.testing.assert_allclose(share, [(x + 0.5) / width, (y + 0.5) / height], rtol=1e-6)


# -- killed and resumed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kills", "changes"),
    [
        ((1,), {}),
        ((3, 5), {"training": replace(FEW, ema=0.9, grad_accum_steps=2)}),
        (
            (4,),
            {
                "masking": MaskingConfig(context="clean"),
                "model": replace(WORLD, action_conditioning="add"),
            },
        ),
    ],
    ids=["before-the-first-save", "twice", "clean-context"],
)
def test_a_killed_training_ends_as_an_undisturbed_one(root, stores, kills, changes):
    stage = world_stage(**changes)
    whole = train_stage(root, stage, stores, run="whole")
    torch.rand(3)
    again = train_stage(root, stage, stores, run="killed", kills=kills)
    assert log_of(again) == log_of(whole)
    for name in (WORLD_MODEL_FILE, NOTE_FILE, ACTIVE_FILE):
        assert again.files[name] == whole.files[name], f"{name}: other bytes"


def test_a_process_killed_in_a_step_resumes_bit_for_bit(root, stores, trained, tmp_path):
    """SIGKILL during step 4; this process resumes from the state that the other one saved."""
    stage = world_stage()
    ref = new_result(root, stage.name, [repr(stage), "sigkill"])
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, signal, sys, threading
        import torch
        from small_trainings import attempt, world_stage
        from storage.stores.store import StoreRef

        torch.set_num_threads({torch.get_num_threads()})
        uris = { ({role: r.uri for role, r in stores.items()})!r}
        stores = {{role: StoreRef(uri) for role, uri in uris.items()}}

        def progress(done, total, note=""):
            if done == 3:  # ends the process from another thread, shortly after the next step began
                threading.Timer(0.001, os.kill, (os.getpid(), signal.SIGKILL)).start()

        attempt(world_stage(), StoreRef({ref.uri!r}), stores, progress)
        """)
    )
    paths = os.pathsep.join([str(ROOT), str(SUPPORT)])
    dead = subprocess.run(
        [sys.executable, script], env=os.environ | {"PYTHONPATH": paths}, capture_output=True
    )
    assert dead.returncode == -signal.SIGKILL, dead.stderr.decode()
    assert (Path(ref.uri.removeprefix("file://")) / WORK / STATES).exists()
    result = attempt(stage, ref, stores)
    assert log_of(result) == log_of(trained)
    assert result.files[WORLD_MODEL_FILE] == trained.files[WORLD_MODEL_FILE]


# -- starting from a checkpoint --------------------------------------------------------------------


def test_start_from_keeps_weights_and_action_statistics_and_is_named(root, stores, start, trained):
    rgb = square_clips(8)["clip"]["rgb"]
    other_actions = np.random.default_rng(1).normal(5, 3, (8, 16, 15, 16)).astype(np.float32)
    other = with_store(root, stores, "clip", {"rgb": rgb, "actions": other_actions})
    result = train_stage(root, world_stage(start_from=start), other)
    for name in ("action_mean", "action_std"):
        assert card(result)[name] == card(trained)[name]
    assert (
        card(result)["started_from"]
        == f"before (SHA-256 {trained.files[WORLD_MODEL_FILE]['sha256']})"
    )
    assert card(result)["steps_before"] == 5
    assert (
        f"**{card(result)['started_from']}**, after 5 steps elsewhere"
        in result.file(NOTE_FILE).read_text()
    )
    same_data = train_stage(root, world_stage(start_from=start), stores)
    assert same_data.numbers["val/total, before"] == trained.numbers["val/total, after"]


def test_weights_of_another_layout_or_kind_are_refused(root, stores, start, tmp_path):
    wider = replace(WORLD, d_model=32)
    with pytest.raises(
        ValueError, match=r"world_model: .*d_model=16.*the stage asks for .*d_model=32"
    ):
        train_stage(root, world_stage(model=wider, start_from=start), stores)
    save_model(tmp_path / "other.safetensors", torch.nn.Linear(1, 1), FEW)
    with pytest.raises(
        ValueError, match="TrainConfig, expected WorldModelConfig: this is another kind of network"
    ):
        train_stage(
            root, world_stage(start_from=WeightsRef.of(tmp_path / "other.safetensors")), stores
        )


# -- learning, and failing -------------------------------------------------------------------------


def test_it_learns_the_few_clips_it_is_given(root, stores):
    """All four parts of the loss fall, and the page says so. Keypoints weigh more than by default,
    which is little.
    """
    ids, easy = (
        np.broadcast_to(np.arange(16, dtype=np.int32).reshape(1, 1, *GRID) * 999, (8, 16, *GRID)),
        stores,
    )
    for name in ("rgb_tokens", "depth_tokens"):
        easy = with_store(root, easy, name, {name: ids})
    many = TrainConfig(steps=40, learning_rate=1e-2, warmup_steps=5, min_lr_ratio=0.1)
    result = train_stage(root, world_stage(training=many, loss=LossConfig(keypoint=0.3)), easy)
    numbers, page = result.numbers, result.file(NOTE_FILE).read_text()
    for part in ("total", *PARTS):
        first, last = numbers[f"{part}, first steps"], numbers[f"{part}, last steps"]
        before, after = numbers[f"val/{part}, before"], numbers[f"val/{part}, after"]
        assert last < 0.5 * first and after < 0.5 * before, part
        assert (
            f"| {part} | {first:.4g} | {last:.4g} |" in page
            and f"| {part} | {before:.4g} | {after:.4g} |" in page
        )


def test_a_loss_that_is_nan_names_the_clip(root, stores, start):
    """Actions of one training clip that overflow; the statistics are those of the checkpoint."""
    arrays = square_clips(8)["clip"]
    arrays["actions"][5, 7] = 1e38
    broken = with_store(root, stores, "clip", arrays)
    message = (
        r"step \d: loss .*(nan|inf).*; clips clip005\. "
        r".*`roboscape checkpoint` and set world_model\.start_from"
    )
    with pytest.raises(NonFiniteLoss, match=message):
        train_stage(root, world_stage(start_from=start, clips_per_batch=1), broken)


@pytest.mark.parametrize("wrong", [-1, 2**18])
def test_an_invalid_token_names_the_clip_before_any_step(root, stores, wrong):
    """An embedding would read another row for -1; on a GPU the error names nothing."""
    ids = np.random.default_rng(0).integers(0, 2**18, (len(SPLITS), 16, *GRID)).astype(np.int32)
    ids[5, 7, 0, 0] = wrong
    damaged = with_store(root, stores, "depth_tokens", {"depth_tokens": ids})
    with pytest.raises(
        ValueError, match=rf"clip clip005: tokens from .*{wrong}.*, expected 0 to 262143"
    ):
        train_stage(root, world_stage(), damaged)


@pytest.mark.parametrize("context", ["masked", "clean"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": (8, 8)}, r"tokens have a \(4, 4\) grid, the model was made for \(8, 8\)"),
        (
            {"action_dim": 8},
            r"actions have \(1, 16\) = 16 numbers a frame, the model was made for 1 sub-steps x 8",
        ),
        (
            {"n_frames": 8, "time_positions": "learned"},
            "16 frames, but learned time positions end at 8",
        ),
    ],
)
def test_a_model_of_other_sizes_than_the_data_is_refused(root, stores, changes, message, context):
    stage = world_stage(model=replace(WORLD, **changes), masking=MaskingConfig(context=context))
    with pytest.raises(ValueError, match=message):
        train_stage(root, stage, stores)


def test_no_held_out_clip_is_an_error_before_any_step(tmp_path):
    stores = make_stores(tmp_path)
    stores["discover"] = write_index(tmp_path, ["train"] * 8)
    with pytest.raises(ValueError, match=r"no clip of split val has data in .*'train': 8"):
        train_stage(tmp_path, world_stage(), stores)
