"""A model comes with all that belongs to it, and its rollouts are those of `roboscape generate`."""

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from small_stores import opened, square_clips, write_clips, write_index
from small_workspace import make_workspace
from small_world import REJECTED, SPLITS, add_world_model
from typer.testing import CliRunner

import roboscape as rs
from pipeline.cli.app import app
from stages.drawing.pictures import png_bytes
from stages.world_model.data import WORLD_MODEL_FILE
from storage.stores.results import open_result


def movie_frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as movie:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in movie.decode(video=0)])


def test_it_is_found_by_every_name(ws, world, tmp_path):
    ref = world.results["world_model"]
    file = open_result(ref).file(WORLD_MODEL_FILE)
    copy = shutil.copy(file, tmp_path / "mine.safetensors")
    for name in (None, ref.key, str(ref), ref.uri, file, str(copy)):
        model = ws.world_model(name, device="cpu")
        assert model.path.read_bytes() == file.read_bytes()
        assert model.card["data"]["clip"] == str(world.rows["clip"])


def test_it_says_what_it_is(model, world):
    assert (model.device, model.action_dim, model.has_depth) == ("cpu", 16, True)
    assert repr(model).endswith(
        f"0.1 M parameters, 4 x 4 tokens a frame, window of 16 frames, depth branch, on cpu, "
        f"data {world.rows['clip']}>"
    )
    assert model.clips.store == str(world.rows["clip"])
    assert model.clips.stores["depth"] == str(world.rows["depth"])


def test_what_is_no_world_model_is_refused(ws, world, tmp_path):
    with pytest.raises(LookupError, match=r"holds no world_model\.safetensors"):
        ws.world_model("rgb_tokenizer")
    with pytest.raises(LookupError, match="no store 'nonsense' in"):
        ws.world_model("nonsense")
    with pytest.raises(LookupError, match="no complete store of the stage 'world_model'"):
        rs.open(write_index(tmp_path, SPLITS).root).world_model()
    tokenizer = open_result(world.results["rgb_tokenizer"]).path / "tokenizer.safetensors"
    with pytest.raises(ValueError, match="expected a world model's checkpoint"):
        ws.world_model(tokenizer)


def test_a_store_that_is_gone_is_named(world, tmp_path):
    ref = add_world_model(
        tmp_path, world.results, depth_branch=True, data={"discover": "discover/0123456789abcdef"}
    )
    with pytest.raises(LookupError, match="belongs with the store discover/0123456789abcdef"):
        rs.open(tmp_path).world_model(ref.key)


def test_a_rollout_is_what_the_command_line_makes(world, model, tmp_path, monkeypatch):
    """The same pictures from the same clip, actions, frames and sampling."""
    monkeypatch.setenv("ROBOSCAPE_HOME", str(world.root))
    actions = model.clips[1].actions[:6] + np.float32(0.5)
    np.save(tmp_path / "actions.npy", actions)
    command = [
        "generate",
        "world_model",
        "1",
        "--actions",
        str(tmp_path / "actions.npy"),
        "--frames",
        "8",
    ]
    command += ["--steps", "3", "--temperature", "0.7", "--top-k", "5", "--order", "confidence"]
    command += ["--seed", "4", "--device", "cpu", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    video = model.rollout(
        1, actions, 8, seed=4, steps=3, temperature=0.7, top_k=5, order="confidence"
    )
    for suffix in ("png", "gif"):
        saved = video.save(tmp_path / f"mine.{suffix}")
        assert saved.read_bytes() == (tmp_path / f"rollout.{suffix}").read_bytes(), suffix
    mine, theirs = (
        movie_frames(path) for path in (video.save(tmp_path / "mine.mp4"), tmp_path / "rollout.mp4")
    )
    assert mine.shape == theirs.shape, "two encodings of the same frames may differ"
    assert json.loads((tmp_path / "rollout.json").read_text())["last_action_held_from_frame"] == 6


def test_a_rollout_has_frames_depth_and_tokens(model, clips):
    clip = clips[1]
    video = model.rollout(clip)
    assert len(video) == 16 and video.clip_id == "clip001" and video.rate_hz == 2.0
    assert (
        video.rgb.shape == video.true_rgb.shape == (16, 32, 32, 3) and video.rgb.dtype == np.uint8
    )
    np.testing.assert_array_equal(video.rgb[0], video.true_rgb[0])
    assert {name: ids.shape for name, ids in video.tokens.items()} == {
        "rgb": (16, 4, 4),
        "depth": (16, 4, 4),
    }
    np.testing.assert_array_equal(video.tokens["rgb"][0], clip["rgb_tokens"][0])
    assert video.depth is not None and video.depth.shape == (16, 32, 32)
    low, high = clip["depth/inverse_depth_range"]
    assert low - 1e-5 <= video.depth.min() < video.depth.max() <= high + 1e-5
    assert video.depth_store == clips.stores["depth"] and video.n_given_actions == 16
    np.testing.assert_array_equal(video.actions, clip.actions[:, -1:])


@pytest.mark.parametrize("shape", [(5, 16), (5, 1, 16), (5, 15, 16)])
def test_actions_take_the_place_of_the_clips_own(model, clips, shape):
    own = clips[1].actions
    actions = np.broadcast_to(own[:5, -1:] if len(shape) == 3 else own[:5, -1], shape)
    video = model.rollout(clips[1], actions)
    np.testing.assert_array_equal(video.rgb, model.rollout(1, n_frames=5).rgb)
    np.testing.assert_array_equal(video.actions, own[:5, -1:])
    other = model.rollout(1, (actions + 20).tolist(), 7)
    assert not np.array_equal(other.rgb[:5], video.rgb) and other.n_given_actions == 5
    assert "under other actions than its own; from frame 5 on the last action is held" in repr(
        other
    )


def test_a_seed_draws_the_same_noise(model):
    videos = [
        model.rollout(1, n_frames=4, temperature=1.0, seed=seed).tokens["rgb"] for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(videos[0], videos[1])
    assert not np.array_equal(videos[0], videos[2])


def test_impossible_rollouts_are_refused(model, clips):
    for arguments, message in (
        (
            {"actions": np.zeros((4, 7))},
            r"actions: found an array of shape \(4, 7\), expected \(frames, 16\)",
        ),
        ({"actions": np.full((4, 16), np.nan)}, "actions: frame 0 has a value that is NaN"),
        ({"n_frames": 1}, "expected 2 or more"),
        ({"temperature": -1}, "temperature=-1.0: expected 0 or more"),
        ({"steps": 0}, "expected 1 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            model.rollout(1, **arguments)
    with pytest.raises(
        rs.RejectedClip, match=r"clip 3 has no data in clip/\w+ \(test: \); choose another"
    ):
        model.rollout(clips[REJECTED])
    with pytest.raises(IndexError, match="none at 77"):
        model.rollout(77)


def test_clips_of_another_store_are_encoded(model, world, tmp_path):
    """Those that are the model's own in all but the store give the same video."""
    index, arrays = write_index(tmp_path, SPLITS), square_clips(len(SPLITS))
    arrays["clip"]["actions"][0] += 1  # another store
    clip = write_clips(index, "clip", arrays["clip"])
    clips = rs.open(tmp_path).clips()
    assert clips.store != str(world.rows["clip"])
    with pytest.raises(LookupError, match="no complete store 'depth' is made from"):
        model.rollout(clips[1], n_frames=4)
    depth = write_clips(index, "depth", arrays["depth"], inputs={"clip": clip.uri})
    video, own = (
        model.rollout(rs.open(tmp_path).clips()[1], n_frames=4),
        model.rollout(1, n_frames=4),
    )
    np.testing.assert_array_equal(video.rgb, own.rgb)
    np.testing.assert_array_equal(video.depth, own.depth)
    assert video.depth_store == str(depth)


def test_clips_of_another_size_are_refused(model, tmp_path):
    index, arrays = write_index(tmp_path, SPLITS), square_clips(len(SPLITS))
    arrays["clip"]["rgb"] = arrays["clip"]["rgb"].repeat(2, axis=2).repeat(2, axis=3)
    clip = write_clips(index, "clip", arrays["clip"])
    write_clips(index, "depth", arrays["depth"], inputs={"clip": clip.uri})
    with pytest.raises(ValueError, match=r"rgb frames of \(64, 64\) px: .* make clips of size 32"):
        model.rollout(rs.open(tmp_path).clips()[1])


def test_a_model_without_a_depth_branch_has_no_depth(tmp_path):
    world = make_workspace(tmp_path)
    data = {
        role: str(ref)
        for role, ref in world.rows.items()
        if role in ("discover", "clip", "rgb_tokens", "depth_tokens")
    }
    ref = add_world_model(tmp_path, world.results, depth_branch=False, data=data)
    model = rs.open(tmp_path).world_model(ref.key, device="cpu")
    video = model.rollout(1, n_frames=3)
    assert (
        video.depth is None and list(video.tokens) == ["rgb"] and "no depth branch" in repr(model)
    )
    assert "with depth" not in repr(video) and video.depth_store is None
    scores = rs.metrics.compare(video, model.clips[1])
    assert "abs_rel" not in scores and "no depth branch" in scores.missing["abs_rel"]


def test_without_the_store_behind_its_tokens_depth_has_no_units(tmp_path):
    world = make_workspace(tmp_path)
    shutil.rmtree(world.rows["depth"].uri)
    video = rs.open(tmp_path).world_model(device="cpu").rollout(1, n_frames=3)
    with pytest.raises(LookupError, match="the units of the predicted depth are unknown"):
        video.depth  # noqa: B018
    assert video.picture().ndim == 3, "drawn all the same"


# Videos


def test_a_video_is_saved_in_each_form(model, tmp_path):
    video = model.rollout(1, n_frames=5)
    with Image.open(video.save(tmp_path / "new" / "out.png")) as picture:
        np.testing.assert_array_equal(np.array(picture), video.picture())
    with Image.open(video.save(tmp_path / "plain.png", plain=True)) as picture:
        np.testing.assert_array_equal(np.array(picture), np.concatenate(video.rgb, axis=1))
    with Image.open(video.save(tmp_path / "out.gif", fps=10)) as gif:
        assert gif.n_frames >= 5 and gif.info["duration"] == 100
    path = video.save(str(tmp_path / "out.mp4"), plain=True, fps=3)
    with av.open(str(path)) as movie:
        assert movie.streams.video[0].average_rate == 3
    saved, drawn = movie_frames(path), video.rgb
    assert saved.shape == drawn.shape
    grey = [frames.mean(axis=3).ravel() for frames in (saved, drawn)]
    assert np.corrcoef(*grey)[0, 1] > 0.8, "but for compression"
    with pytest.raises(ValueError, match=r"a video is saved as \.mp4, \.gif, \.png"):
        video.save(tmp_path / "out.avi")
    assert isinstance(path, Path)


def test_a_notebook_shows_it(model):
    video = model.rollout(1, n_frames=3)
    assert video._repr_png_() == png_bytes(video.picture())
    assert video._repr_html_().startswith(
        '<video controls loop autoplay muted src="data:video/mp4;base64,AAAA'
    )
    assert repr(video).startswith(
        "<Video of clip clip001: 3 frames of 32 x 32 px at 2 Hz, with depth; 2 MaskGIT steps"
    )


def test_rollouts_do_not_change_the_random_state(model):
    before = torch.random.get_rng_state()
    model.rollout(1, n_frames=3, temperature=1.0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_tokens_in_the_store_are_those_of_the_model(model, world):
    rows = opened({"rgb_tokens": world.rows["rgb_tokens"]})["rgb_tokens"]
    np.testing.assert_array_equal(
        model.clips[1]["rgb_tokens"], rows.read(["rgb_tokens"], 1)["rgb_tokens"]
    )
