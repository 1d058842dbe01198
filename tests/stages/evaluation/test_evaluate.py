import csv
import json
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageSequence
from small_stores import new_result, opened, write_clips
from small_world import REJECTED, World, add_world_model, make_world

from model.lpips import Lpips
from model.metrics import MAX_PSNR
from model.steadiness import edge_sharpness
from model.value_range import IMAGES
from model.world.cache import FrameTokens
from model.world.config import SamplingConfig
from model.world.sampling import rollout
from stages.base import Resources
from stages.clips.recording_flags import FLAGS as CLIP_FLAGS
from stages.evaluation import predict
from stages.evaluation import stage as evaluation
from stages.evaluation.controls import GAUSSIAN, HELD, MIRRORED, OTHER_CLIP
from stages.evaluation.predict import draw_others
from stages.evaluation.scores import (
    CAMERA,
    CEILING,
    COPY,
    DECODED,
    DETAIL,
    EDGES,
    FRAME,
    FREE,
    MODEL,
    MOVING,
    PREVIOUS,
    PSEUDO_DEPTH,
    STILL,
    TEACHER,
    Cell,
    ClipDepth,
    ClipVideos,
    score_clip,
    score_depth,
)
from stages.evaluation.stage import Evaluate
from stages.evaluation.verdict_lines import control
from stages.lpips_weights import LpipsWeights
from stages.tokenizer.images import images_to_rgb
from storage.stores.key import parameters
from storage.stores.results import Result, open_result, open_writer
from storage.stores.rows import open_rows
from storage.weights.ref import WeightsRef

FILES = {
    "metrics.md",
    "metrics.csv",
    "metrics.json",
    "tables/clips.csv",
    "tables/frames.csv",
    "videos/clip001.mp4",
    "videos/clip005.mp4",
    "videos/clip006.mp4",
    "rollout.png",
    "rollout.gif",
    "rollout.mp4",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("evaluate"))


@pytest.fixture(scope="module")
def evaluated(world) -> Result:
    return world.evaluate()


def table(result: Result, name: str = "metrics.csv") -> list[dict[str, str]]:
    with result.file(name).open(newline="") as file:
        return list(csv.DictReader(file))


def means(result: Result) -> dict[Cell, float]:
    return {Cell(**{k: row[k] for k in Cell._fields}): float(row["value"]) for row in table(result)}


def test_flags_of_the_evaluated_clips_are_counted_and_clips_left_out_by_them(world, evaluated):
    assert (
        "Flags of the evaluated clips: none. Left out for flags: none."
        in evaluated.file("metrics.md").read_text()
    )
    clips = open_rows(world.rows["clip"])
    flags = np.zeros((clips.n, len(CLIP_FLAGS)), bool)
    flags[[1, 2], CLIP_FLAGS.index("count_mismatch")] = True
    flags[5, CLIP_FLAGS.index("action_filled")] = True
    flags[6, CLIP_FLAGS.index("action_absent")] = True
    made = np.flatnonzero(clips.ok)
    arrays: dict[str, np.ndarray] = {"flags": flags}
    for name, spec in clips.specs.items():
        arrays[name] = np.zeros((clips.n, *spec.shape), spec.dtype)
        arrays[name][made] = clips.gather(name, made)
    index, at = world.rows["discover"], {"discover": world.rows["discover"].uri}
    flagged = write_clips(index, "clip", arrays, rejected=(REJECTED,), inputs=at)
    again = replace(world, rows=world.rows | {"clip": flagged})
    result = again.evaluate(drop_flags=("count_mismatch",), n_pictures=1)
    text = result.file("metrics.md").read_text()
    assert "Flags of the evaluated clips: action_filled 1, action_absent 1." in text
    assert "Left out for flags: count_mismatch 2." in text
    assert {row["clip"] for row in table(result, "tables/clips.csv")} == {"clip005", "clip006"}
    with pytest.raises(ValueError, match=r"Name fewer evaluation.drop_flags"):
        again.evaluate(drop_flags=("count_mismatch", "action_filled", "action_absent"))


def test_it_writes_tables_and_pictures(evaluated):
    assert set(evaluated.files) == FILES
    assert {
        "psnr_free",
        "ssim_free",
        "psnr_copy",
        "ssim_copy",
        "psnr_free_moving",
        "psnr_copy_moving",
    } <= set(evaluated.numbers)
    assert {"psnr_teacher", "delta_psnr", "tokenizer_psnr", "abs_rel", "delta1", "delta2"} <= set(
        evaluated.numbers
    )
    assert {evaluated.numbers[f"beats_copy_{name}"] for name in ("psnr", "ssim", "moving")} <= {
        0.0,
        1.0,
    }
    assert {"psnr_free_camera", "ssim_free_camera", "beats_copy_camera_ssim"} <= set(
        evaluated.numbers
    )
    assert len({row["clip"] for row in table(evaluated, "tables/clips.csv")}) == 3
    document = json.loads(evaluated.file("metrics.json").read_text())
    assert document["numbers"] == evaluated.numbers
    with (
        Image.open(evaluated.file("rollout.gif")) as gif,
        av.open(str(evaluated.file("rollout.mp4"))) as movie,
    ):
        n_frames = sum(1 for _ in movie.decode(video=0))
        assert n_frames >= 2 * 16  # two clips, and their last frames held for a while
        assert (
            sum(frame.info["duration"] for frame in ImageSequence.Iterator(gif)) == n_frames * 250
        )
    with Image.open(evaluated.file("rollout.png")) as picture:
        assert picture.width > 800


def test_means_of_the_frames_are_the_clips_scores(evaluated):
    frames = table(evaluated, "tables/frames.csv")
    assert {int(row["frame"]) for row in frames} == set(range(1, 16))
    clips = {
        (row["clip"], *(row[name] for name in Cell._fields)): float(row["value"])
        for row in table(evaluated, "tables/clips.csv")
    }
    by_cell: dict[tuple[str, ...], list[float]] = {}
    for row in frames:
        place = (row["clip"], *(row[name] for name in Cell._fields))
        by_cell.setdefault(place, []).append(float(row["value"]))
    assert {place[3:] for place in by_cell} >= {
        (FRAME, MODEL, "psnr"),
        (FRAME, MODEL, "ssim"),
        (MOVING, COPY, "psnr"),
    }
    for place, values in by_cell.items():
        assert np.mean(values) == pytest.approx(clips[place], abs=1e-4)


def test_clips_are_named_with_their_episodes(world, evaluated):
    index = open_rows(world.rows["discover"])
    for row in table(evaluated, "tables/clips.csv") + table(evaluated, "tables/frames.csv"):
        at = np.array([int(row["clip"].removeprefix("clip"))])
        task, episode = index.gather("task", at)[0], index.gather("episode", at)[0]
        assert row["episode"] == f"{task}/{episode}"


def test_the_videos_show_the_free_running_predictions(world, monkeypatch, without_pictures):
    made = []

    def recorded(*arguments, **options):
        made.extend(predict.predicted_videos(*arguments, **options))
        return made[-len(arguments[2]) :]

    monkeypatch.setattr(evaluation, "predicted_videos", recorded)
    result = world.evaluate(seed=4)
    expected = {clip.clip_id: images_to_rgb(clip.predicted[FREE]) for clip in made}
    assert len(expected) == 3
    for clip_id in expected:
        with av.open(str(result.file(f"videos/{clip_id}.mp4"))) as movie:
            frames = np.array([f.to_ndarray(format="rgb24") for f in movie.decode(video=0)])
            assert movie.streams.video[0].average_rate == 2
        errors = {name: np.abs(frames - np.int16(video)).mean() for name, video in expected.items()}
        assert min(errors, key=lambda name: errors[name]) == clip_id


def test_every_table_has_one_protocol_and_one_reference(evaluated):
    text = evaluated.file("metrics.md").read_text()
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert len(headings) == len(set(headings)) == 8
    for heading in headings:
        assert sum(protocol in heading.lower() for protocol in (FREE, TEACHER)) == 1
        assert sum(reference in heading for reference in (DECODED, CAMERA, PSEUDO_DEPTH)) == 1
    rows = [line for line in text.splitlines() if line.startswith("| ") and "whole frame" in line]
    assert rows and all(" no weights " in row for row in rows)
    assert len(means(evaluated)) == len(table(evaluated))


GOLDEN = {
    (DECODED, FRAME, MODEL, "psnr"): 28.0300,
    (DECODED, FRAME, MODEL, "ssim"): 0.9684,
    (DECODED, MOVING, MODEL, "psnr"): 27.9241,
    (DECODED, MOVING, COPY, "ssim"): 0.4509,
    (DECODED, FRAME, MODEL, "delta_psnr"): 5.9548,
    (CAMERA, FRAME, CEILING, "psnr"): 39.9419,
    (CAMERA, MOVING, COPY, "psnr"): 15.7661,
}


# What is scored


def moving_clip(seed: int = 0, *, still: bool = False, side: int = 32) -> ClipVideos:
    """Seven frames in which a patch moves to the right, with predictions that are a little wrong
    everywhere.
    """
    noise = torch.Generator().manual_seed(seed)

    def spoiled(video: torch.Tensor, by: float) -> torch.Tensor:
        return (video + by * torch.randn(video.shape, generator=noise)).clamp(-1, 1)

    decoded = (torch.rand(1, 3, side, side, generator=noise) - 0.5).expand(7, -1, -1, -1).clone()
    for t in range(7):
        decoded[t, :, 12:18, 8 + (0 if still else 2 * t) : 12 + (0 if still else 2 * t)] = 0.9
    return ClipVideos(
        clip_id="clip",
        camera=spoiled(decoded, 0.05),
        decoded=decoded,
        predicted={FREE: spoiled(decoded, 0.1), TEACHER: spoiled(decoded, 0.07)},
        depth=None,
        controls={OTHER_CLIP: [spoiled(decoded, 0.2)]},
    )


def slow_mask(decoded: np.ndarray) -> np.ndarray:
    """Pixels within 2 px of one that differs from frame 0 by more than 0.12 in any channel."""
    n, _, height, width = decoded.shape
    mask = np.zeros((n, height, width), bool)
    for t in range(n):
        for y, x in np.argwhere(abs(decoded[t] - decoded[0]).max(axis=0) > 0.12):
            mask[t, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = True
    return mask


def slow_psnr(video: np.ndarray, target: np.ndarray, mask: np.ndarray) -> float:
    """Mean over the frames after frame 0 in which the mask has pixels."""
    found = []
    for t in range(1, len(video)):
        errors = [
            (video[t, c, y, x] - target[t, c, y, x]) ** 2
            for y, x in np.argwhere(mask[t])
            for c in range(3)
        ]
        if errors:
            found.append(
                min(10 * np.log10(4 / np.mean(errors)), MAX_PSNR) if np.mean(errors) else MAX_PSNR
            )
    return float(np.mean(found))


def test_rows_are_what_a_slow_computation_finds():
    clip = moving_clip()
    scores = score_clip(clip, None).scores
    decoded, camera = clip.decoded.double().numpy(), clip.camera.double().numpy()
    free, other = (
        clip.predicted[FREE].double().numpy(),
        clip.controls[OTHER_CLIP][0].double().numpy(),
    )
    mask = slow_mask(decoded)
    assert 0 < mask.mean() < 0.5
    for region, where in ((FRAME, np.ones_like(mask)), (MOVING, mask)):
        for reference, target in ((DECODED, decoded), (CAMERA, camera)):
            copied = np.repeat(target[:1], 7, axis=0)
            before = np.concatenate([target[:1], target[:-1]])
            expected = {
                (FREE, COPY): slow_psnr(copied, target, where),
                (TEACHER, COPY): slow_psnr(copied, target, where),
                (TEACHER, PREVIOUS): slow_psnr(before, target, where),
                (FREE, MODEL): slow_psnr(free, target, where),
            }
            for (protocol, method), value in expected.items():
                assert scores[Cell(protocol, reference, region, method, "psnr")] == pytest.approx(
                    value, abs=1e-4
                )
            lost = slow_psnr(free, target, where) - slow_psnr(other, target, where)
            assert scores[Cell(FREE, reference, region, MODEL, "delta_psnr")] == pytest.approx(
                lost, abs=1e-4
            )
            assert lost > 0
        ceiling = slow_psnr(decoded, camera, where)
        assert scores[Cell(FREE, CAMERA, region, CEILING, "psnr")] == pytest.approx(
            ceiling, abs=1e-4
        )
    assert (
        Cell(FREE, DECODED, FRAME, PREVIOUS, "psnr") not in scores
    )  # free-running knows no frame but the first


def test_golden_scores():
    """Changed numbers mean a new `Evaluate.version`."""
    t, c, y, x = np.ogrid[:5, :3, :32, :32]
    decoded = torch.from_numpy(0.8 * np.sin(0.2 * (x + 2 * t) + c) * np.cos(0.15 * y)).float()
    predicted = {FREE: decoded.roll(1, 3), TEACHER: decoded * 0.9}
    clip = ClipVideos(
        clip_id="",
        camera=decoded * 0.95,
        decoded=decoded,
        predicted=predicted,
        depth=None,
        controls={OTHER_CLIP: [decoded.roll(2, 3)]},
    )
    scores = score_clip(clip, None).scores
    found = {name: scores[Cell(FREE, *name)] for name in GOLDEN}
    assert found == pytest.approx(GOLDEN, abs=2e-3)


def test_frame_0_is_never_scored():
    clip = moving_clip()
    spoiled = {name: torch.cat([-video[:1], video[1:]]) for name, video in clip.predicted.items()}
    other = replace(
        clip,
        predicted=spoiled,
        controls={
            OTHER_CLIP: [torch.cat([-video[:1], video[1:]]) for video in clip.controls[OTHER_CLIP]]
        },
    )
    assert score_clip(other, None).scores == score_clip(clip, None).scores
    later = replace(
        clip,
        predicted={name: torch.cat([v[:1], -v[1:2], v[2:]]) for name, v in clip.predicted.items()},
    )
    assert score_clip(later, None).scores != score_clip(clip, None).scores


def test_a_still_clip_has_no_moving_region():
    regions = {cell.region for cell in score_clip(moving_clip(still=True), None).scores}
    assert regions == {FRAME, DETAIL, STILL}


def test_flicker_and_edges_are_what_their_metrics_say_of_the_frames_after_frame_0():
    clip = moving_clip()
    edges = torch.zeros(7, 32, 32, dtype=torch.bool)
    edges[:, 11:19, 6:14] = True
    scores = score_clip(replace(clip, edges=edges), None).scores
    still = ~torch.from_numpy(slow_mask(clip.decoded.double().numpy())).any(0)
    free = clip.predicted[FREE]
    change = (free[2:] - free[1:-1]).abs().mean(1)[:, still].mean().item() * 127.5
    at = {cell[1:]: value for cell, value in scores.items() if cell.protocol == FREE}
    assert at[CAMERA, STILL, MODEL, "flicker"] == pytest.approx(change, rel=1e-4)
    assert at[CAMERA, STILL, COPY, "flicker"] == at[CAMERA, STILL, CEILING, "flicker"] == 0
    pair = (free[None, 1:], clip.camera[None, 1:], edges[None, 1:])
    sharpness = edge_sharpness(*pair, value_range=IMAGES).item()
    assert at[CAMERA, EDGES, MODEL, "edge_sharpness"] == pytest.approx(sharpness)
    assert at[CAMERA, EDGES, CEILING, "edge_sharpness"] < 1 < sharpness  # one lacks, one has noise
    assert (DECODED, STILL, MODEL, "flicker") not in at
    edges[1:] = False
    regions = {cell.region for cell in score_clip(replace(clip, edges=edges), None).scores}
    assert EDGES not in regions


def test_lpips_is_of_the_whole_frame_and_0_for_equal_clips():
    torch.manual_seed(0)
    clip = moving_clip()
    exact = replace(clip, predicted=dict.fromkeys((FREE, TEACHER), clip.decoded))
    network = Lpips().requires_grad_(False)
    for head in network.linear:
        head.weight.abs_()
    found = {
        cell: value
        for cell, value in score_clip(exact, network).scores.items()
        if cell.metric == "lpips"
    }
    assert {cell.region for cell in found} == {FRAME}
    assert found[Cell(FREE, DECODED, FRAME, MODEL, "lpips")] == 0
    assert found[Cell(FREE, DECODED, FRAME, COPY, "lpips")] > 0


def depth_of(predicted: torch.Tensor, target: torch.Tensor) -> ClipDepth:
    valid = torch.ones_like(target, dtype=torch.bool)
    valid[:, :4] = False
    return ClipDepth(
        target=target.masked_fill(~valid, 0),
        valid=valid,
        limits=(0.5, 2.0),
        decoded=target,
        predicted={FREE: predicted, TEACHER: target},
    )


@given(scale=st.floats(0.5, 1.5), shift=st.floats(0.1, 0.5), seed=st.integers(0, 99))
def test_aligned_depth_scores_ignore_scale_and_shift(scale, shift, seed):
    target = 0.5 + 1.5 * torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(seed))
    scores = score_depth(depth_of(scale * target + shift, target))
    assert scores[Cell(TEACHER, PSEUDO_DEPTH, FRAME, MODEL, "abs_rel")] == 0
    assert scores[Cell(TEACHER, PSEUDO_DEPTH, FRAME, MODEL, "delta1")] == 1
    assert scores[Cell(FREE, PSEUDO_DEPTH, FRAME, MODEL, "abs_rel_aligned")] == pytest.approx(
        0, abs=1e-4
    )
    inverse, given_depth = target[1:, 4:].double(), (scale * target + shift)[1:, 4:].double()
    raw = (abs(1 / given_depth - 1 / inverse) * inverse).mean().item()
    assert scores[Cell(FREE, PSEUDO_DEPTH, FRAME, MODEL, "abs_rel")] == pytest.approx(raw, abs=1e-4)


# The stage


@pytest.fixture
def without_pictures(monkeypatch):
    """They take most of a small evaluation's time."""
    monkeypatch.setattr(Evaluate, "draw", lambda *arguments: None)


def always_right(model, true, actions, controls, *rest) -> predict.PredictedTokens:
    wrong = FrameTokens(true.rgb.flip(1), None)
    return predict.PredictedTokens(
        by_protocol={FREE: true, TEACHER: true}, controls={OTHER_CLIP: [wrong]}
    )


def test_a_perfect_model_beats_the_copy_baseline(world, monkeypatch, without_pictures):
    monkeypatch.setattr(predict, "predict_tokens", always_right)
    result = world.evaluate(seed=1)
    numbers, found = result.numbers, means(result)
    assert (
        numbers["psnr_free"] == numbers["psnr_teacher"] == numbers["psnr_free_moving"] == MAX_PSNR
    )
    assert numbers["ssim_free"] == pytest.approx(1)
    assert {numbers[f"beats_copy_{name}"] for name in ("psnr", "ssim", "moving")} == {1.0}
    assert numbers["delta_psnr"] > 0
    assert numbers["psnr_free_camera"] == numbers["tokenizer_psnr"] < MAX_PSNR
    assert numbers["abs_rel"] == numbers["abs_rel_tokenizer"]
    assert (
        found[Cell(TEACHER, CAMERA, FRAME, MODEL, "ssim")]
        == found[Cell(TEACHER, CAMERA, FRAME, CEILING, "ssim")]
    )
    text = result.file("metrics.md").read_text()
    assert (
        "against the decoded true tokens, the world model **beats copying that frame** in PSNR "
        "(100.00 against"
        in text
        and "better in 3 of 3 clips" in text
    )
    assert "under another clip's actions +" in text and "the actions steer it" in text


def always_frame_0(model, true, actions, controls, *rest) -> predict.PredictedTokens:
    def copies(ids):
        return ids[:, :1].expand_as(ids)

    copied = FrameTokens(copies(true.rgb), copies(true.depth))
    return predict.PredictedTokens(
        by_protocol={FREE: copied, TEACHER: copied}, controls={OTHER_CLIP: [copied]}
    )


def test_a_model_that_copies_does_not_beat_the_copy_baseline(world, monkeypatch, without_pictures):
    monkeypatch.setattr(predict, "predict_tokens", always_frame_0)
    result = world.evaluate(seed=2)
    numbers = result.numbers
    for ours, copied in (
        ("psnr_free", "psnr_copy"),
        ("ssim_free", "ssim_copy"),
        ("abs_rel", "abs_rel_copy"),
    ):
        assert numbers[ours] == numbers[copied]
    assert {numbers[f"beats_copy_{name}"] for name in ("psnr", "ssim", "moving")} == {0.0}
    assert numbers["delta_psnr"] == 0
    text = result.file("metrics.md").read_text()
    assert "**does not beat copying that frame**" in text and "do **not** steer it" in text


def test_delta_psnr_swaps_the_actions_and_nothing_else(world, monkeypatch, without_pictures):
    calls = []

    def recorded(model, prompt, actions, config, generator):
        calls.append((prompt.rgb, actions, generator.initial_seed()))
        return rollout(model, prompt, actions, config, generator)

    monkeypatch.setattr(predict, "rollout", recorded)
    result = world.evaluate(seed=3)
    (prompt, true, noise), (other_prompt, other, other_noise) = calls
    assert (
        noise == other_noise and torch.equal(prompt, other_prompt) and not torch.equal(true, other)
    )
    pairs = {row["clip"]: row["other_clip"] for row in table(result, "tables/clips.csv")}
    assert all(clip != another for clip, another in pairs.items())
    every = opened({"clip": world.rows["clip"]})["clip"]
    for which, clips in ((true, pairs.keys()), (other, pairs.values())):
        rows = np.array([int(clip.removeprefix("clip")) for clip in clips])
        expected = (every.gather("actions", rows)[:, :, -1:] - 16) / 8
        np.testing.assert_allclose(which.numpy(), expected, rtol=1e-6)


def test_the_same_actions_lose_nothing(world, monkeypatch, without_pictures):
    monkeypatch.setattr("stages.evaluation.stage.draw_others", lambda usable, chosen, seed: chosen)
    numbers = world.evaluate(seed=4, sampling=SamplingConfig(temperature=1.0)).numbers
    assert numbers["delta_psnr"] == numbers["delta_psnr_moving"] == 0


def test_forms_of_delta_psnr_are_named_apart_and_off_unless_asked_for(
    world, monkeypatch, without_pictures
):
    calls = []

    def recorded(model, prompt, actions, config, generator):
        calls.append((actions, generator.initial_seed()))
        return rollout(model, prompt, actions, config, generator)

    monkeypatch.setattr(predict, "rollout", recorded)
    result = world.evaluate(seed=7, gaussian_draws=2, held_actions=True, mirrored_actions=True)
    (true, noise), (other, _), (first, _), (second, _), (held, _), (back, _) = calls
    assert {seed for _, seed in calls} == {noise}
    assert torch.equal(held, true[:, :1, -1:].expand_as(true))
    assert not torch.equal(back, true) and torch.equal(back[..., 7], true[..., 7])
    assert not torch.equal(first, second) and not torch.equal(other, first)
    found = means(result)
    for form in (OTHER_CLIP, GAUSSIAN, HELD, MIRRORED):
        assert found[Cell(FREE, CAMERA, FRAME, MODEL, form)] != 0
        in_table = found[Cell(FREE, DECODED, FRAME, MODEL, form)]
        assert result.numbers[form] == pytest.approx(in_table, abs=1e-5)
    text = result.file("metrics.md").read_text()
    for heading in (
        "another clip's actions",
        "Gaussian actions",
        "actions held",
        "mirrored movements",
    ):
        assert f"| ΔPSNR, {heading} (dB) ↑" in text
    assert "mean PSNR of 2 draws" in text and "Other forms" not in text
    plain = world.evaluate(seed=7).file("metrics.md").read_text()
    assert "Gaussian actions" not in plain and "ΔPSNR, actions held" not in plain
    fields = ("gaussian_draws=5", "held_actions=true", "mirrored_actions=true")
    assert "Other forms: " + ", ".join(f"`evaluation.{field}`" for field in fields) in plain
    assert parameters(Evaluate(gaussian_draws=0)) == parameters(Evaluate())
    assert parameters(Evaluate(held_actions=True)) != parameters(Evaluate())


def test_delta_psnr_takes_the_mean_psnr_of_its_draws():
    clip = moving_clip()
    draws = [clip.predicted[TEACHER], clip.decoded * 0.5, clip.decoded.roll(1, 3)]
    scores = score_clip(replace(clip, controls={GAUSSIAN: draws}), None).scores
    decoded, where = clip.decoded.double().numpy(), np.ones((7, 32, 32), bool)
    true = slow_psnr(clip.predicted[FREE].double().numpy(), decoded, where)
    others = [slow_psnr(video.double().numpy(), decoded, where) for video in draws]
    assert scores[Cell(FREE, DECODED, FRAME, MODEL, GAUSSIAN)] == pytest.approx(
        true - sum(others) / 3, abs=1e-4
    )
    assert OTHER_CLIP not in {cell.metric for cell in scores}
    by_frame = score_clip(replace(clip, controls={GAUSSIAN: draws}), None).by_frame
    for frame, found in enumerate(by_frame[Cell(FREE, DECODED, FRAME, MODEL, GAUSSIAN)], start=1):
        of = [
            slow_psnr(video.double().numpy()[[0, frame]], decoded[[0, frame]], where[:2])
            for video in (clip.predicted[FREE], *draws)
        ]
        assert found == pytest.approx(of[0] - sum(of[1:]) / 3, abs=1e-4)


def test_control_is_weak_under_two_db():
    assert "weak control" in control(1.99) and "weak control" in control(0.01)
    assert control(2.0) == "the actions steer it."
    assert "do **not** steer" in control(0.0) and "do **not** steer" in control(-1.0)


@given(n=st.integers(2, 30), seed=st.integers(0, 50), data=st.data())
def test_others_are_other_usable_clips(n, seed, data):
    usable = np.arange(n) * 3 + 1
    chosen = usable[np.sort(data.draw(st.lists(st.integers(0, n - 1), min_size=1, unique=True)))]
    others = draw_others(usable, chosen, seed)
    assert set(others.tolist()) <= set(usable.tolist()) and (others != chosen).all()
    np.testing.assert_array_equal(others, draw_others(usable, chosen, seed))


def test_the_seed_decides_everything(world, evaluated):
    again = world.evaluate(resources=Resources(cpus=1.0))  # not part of the key
    for name in FILES:
        assert again.files[name] == evaluated.files[name], name
    assert again.numbers == evaluated.numbers
    other = world.evaluate(seed=5, n_pictures=1)
    assert other.file("metrics.csv").read_bytes() != evaluated.file("metrics.csv").read_bytes()


def test_without_a_depth_branch_there_are_no_depth_scores(world):
    rgb_only = add_world_model(world.root, world.results, depth_branch=False)
    result = replace(world, results={**world.results, "world_model": rgb_only}).evaluate(
        n_pictures=1
    )
    assert not [name for name in result.numbers if name.startswith(("abs_rel", "delta1", "delta2"))]
    assert PSEUDO_DEPTH not in {cell.reference for cell in means(result)}
    text = result.file("metrics.md").read_text()
    assert "no depth branch" in text and "AbsRel" not in text
    assert result.numbers["edge_sharpness_free"] > 0  # by the labels' depth
    assert set(result.files) == FILES


def test_one_held_out_clip_has_no_other_actions(world, without_pictures):
    result = world.evaluate(split="test")
    assert result.numbers["clips"] == 1 and "delta_psnr" not in result.numbers
    text = result.file("metrics.md").read_text()
    assert "was not measured: it takes two" in text and "| ΔPSNR" not in text


def test_progress_is_reported(world, without_pictures):
    reported = []
    writer = open_writer(new_result(world.root, "evaluation", "progress"))
    results = {role: open_result(ref) for role, ref in world.results.items()}
    Evaluate(n_clips=2).run(
        opened(world.rows),
        results,
        writer,
        lambda done, total, note="": reported.append((done, total)),
    )
    writer.close()
    assert reported[0] == (0, 2) and reported[-1] == (2, 2)


def test_bfloat16_is_that_of_all_networks_and_of_no_score(
    world, evaluated, without_pictures, monkeypatch
):
    casts: dict[str, set[bool]] = {"predict_tokens": set(), "scored": set()}

    def watched(module, name: str):
        plain = getattr(module, name)

        def call(*arguments):
            casts[name].add(torch.is_autocast_enabled("cpu"))
            return plain(*arguments)

        monkeypatch.setattr(module, name, call)

    watched(predict, "predict_tokens")
    watched(evaluation, "scored")
    result = world.evaluate(precision="bfloat16")
    assert casts == {"predict_tokens": {True}, "scored": {False}}
    for name in ("tokenizer_psnr", "abs_rel_tokenizer"):  # of the true tokens: decoding alone
        rounded, exact = result.numbers[name], evaluated.numbers[name]
        assert rounded != exact and rounded == pytest.approx(exact, rel=0.02)
    assert "bfloat16" in result.file("metrics.md").read_text()
    assert ", float32, seed" in evaluated.file("metrics.md").read_text()


def test_lpips_weights_fill_the_column(world, tmp_path, without_pictures):
    torch.manual_seed(0)
    state = Lpips().state_dict()
    parts = {
        "trunk": {name: value for name, value in state.items() if name.startswith("features.")}
    }
    parts["linear"] = {
        f"lin{i}.model.1.weight": state[f"linear.{i}.weight"].abs() for i in range(5)
    }
    for name, part in parts.items():
        torch.save(part, tmp_path / f"{name}.pth")
    weights = LpipsWeights(**{name: WeightsRef.of(tmp_path / f"{name}.pth") for name in parts})
    result = world.evaluate(n_clips=1, lpips=weights)
    assert result.numbers["lpips_free"] > 0 and result.numbers["lpips_copy"] > 0
    text = result.file("metrics.md").read_text()
    assert "LPIPS: no weights" not in text and f"{result.numbers['lpips_free']:.4f}" in text


# Bad input


def test_no_held_out_clip_is_an_error(world):
    clips = open_rows(world.rows["clip"])
    arrays = {name: np.zeros((clips.n, *s.shape), s.dtype) for name, s in clips.specs.items()}
    index, at = world.rows["discover"], {"discover": world.rows["discover"].uri}
    test_row = 0  # the only one of that split
    rejected = write_clips(index, "clip", arrays, rejected=(test_row, REJECTED), inputs=at)
    with pytest.raises(
        ValueError, match=r"no clip of split test has data in .*7 clips in the index"
    ):
        replace(world, rows=world.rows | {"clip": rejected}).evaluate(split="test")


def test_tokenizers_must_be_those_of_the_world_model(world):
    made_by = {
        "rgb_tokens": "rgb_tokenizer/0123456789abcdef",
        "depth_tokens": str(world.results["depth_tokenizer"]),
    }
    other = add_world_model(world.root, world.results, depth_branch=True, tokenizers=made_by)
    with pytest.raises(
        ValueError, match=r"the world model was trained on those of rgb_tokenizer/0123456789abcdef"
    ):
        replace(world, results={**world.results, "world_model": other}).evaluate(seed=6)


@pytest.mark.parametrize("wrong", [{"n_clips": 0}, {"n_pictures": 0}])
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Evaluate(**wrong)


def test_where_it_runs_is_not_in_its_key():
    moved = Evaluate(device="cpu", resources=Resources(cpus=7.0))
    assert parameters(moved) == parameters(Evaluate()) != parameters(Evaluate(seed=1))
