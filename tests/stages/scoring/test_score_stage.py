"""Stage `scoring`: videos of another program, by every kind of file, against a store of clips."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scored_videos import (
    RATE_HZ,
    REJECTED,
    frames_of,
    warped,
    write_array,
    write_frames,
    write_gif,
    write_movie,
    write_store,
)
from small_stores import SIDE, T, run_stage

from model.metrics import MAX_PSNR
from stages.evaluation.numbers import NUMBERS as EVALUATED
from stages.evaluation.scores import (
    CAMERA,
    COPY,
    FRAME,
    FREE,
    MOVING,
    MOVING_CAMERA,
    Cell,
    compare,
    copy_first,
)
from stages.scoring.report import NUMBERS
from stages.scoring.stage import Score
from stages.scoring.videos import read_video_set
from stages.tokenizer.images import moving_mask, rgb_to_images
from storage.stores.key import content_key, parameters
from storage.stores.results import Result


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("scored")
    return root, write_store(root / "workspace")


@pytest.fixture
def score(world):
    """Scores the videos at a place; changes are fields of the stage."""
    root, rows = world

    def run(place: Path, **changes) -> Result:
        stage = Score(
            **{"method": "mine", "videos": read_video_set(place), "rate_hz": RATE_HZ, **changes}
        )
        return run_stage(root / "workspace", stage, rows)

    return run


def table(result: Result, name: str) -> list[dict[str, str]]:
    with result.file(f"tables/{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def values(result: Result) -> dict[tuple[str, Cell], float]:
    """(clip, cell) -> value, of a result without seeds."""
    return {
        (row["clip"], Cell(**{k: row[k] for k in Cell._fields})): float(row["value"])
        for row in table(result, "clips")
    }


def psnr(method: str, region: str = FRAME) -> Cell:
    return Cell(FREE, CAMERA, region, method, "psnr")


def test_warped_copies_score_as_the_evaluation_would(score, tmp_path):
    for row, shift in ((0, 1.0), (1, 4.0)):
        write_movie(tmp_path / f"clip00{row}.mp4", warped(frames_of(row), shift))
    result = score(tmp_path)
    found = values(result)
    for row, shift in ((0, 1.0), (1, 4.0)):
        camera = rgb_to_images(frames_of(row))
        moving = moving_mask(camera, still=camera[:1])
        for method, video in (
            ("mine", rgb_to_images(warped(frames_of(row), shift))),
            (COPY, copy_first(camera)),
        ):
            wanted = compare(video, camera, moving, None)
            for (region, metric), value in wanted.scores.items():
                region = MOVING_CAMERA if region == MOVING else region
                cell = Cell(FREE, CAMERA, region, method, metric)
                assert found[f"clip00{row}", cell] == pytest.approx(value, abs=1e-4), cell
    assert found["clip000", psnr("mine")] > found["clip001", psnr("mine")]
    numbers = result.numbers
    assert numbers["clips"] == numbers["videos"] == 2 and numbers["no_video"] == 1
    mean = np.mean([found[f"clip00{row}", psnr("mine")] for row in (0, 1)])
    assert numbers["psnr_free_camera"] == pytest.approx(mean, abs=1e-3)
    document = json.loads(result.file("metrics.json").read_text())
    assert document["numbers"] == numbers and document["setting"]["no_video"] == ["clip002"]
    page = result.file("metrics.md").read_text()
    assert "# Scores of mine" in page and "16 frames of 32 x 32 px at 2 Hz, uint8" in page
    assert "resampled" not in page and "1 of the 3 clips of split 'val' without a video" in page
    with Image.open(result.file("videos.png")) as picture:
        assert picture.width > 800


def test_every_kind_of_file_gives_the_same_numbers(score, tmp_path):
    frames = warped(frames_of(1), 2.0)
    write_movie(tmp_path / "mp4" / "clip001.mp4", frames)
    write_array(tmp_path / "npz" / "clip001.npz", frames)
    write_array(tmp_path / "chw" / "clip001.npz", frames.transpose(0, 3, 1, 2), name="mine")
    write_frames(tmp_path / "png" / "clip001", frames)
    write_array(tmp_path / "unit" / "clip001.npz", (frames / 255).astype(np.float32))
    write_array(tmp_path / "symmetric" / "clip001.npz", frames / 127.5 - 1)
    ranges = {"unit": (0.0, 1.0), "symmetric": (-1.0, 1.0)}
    results = {
        name: values(score(tmp_path / name, value_range=ranges.get(name)))
        for name in ("mp4", "npz", "chw", "png", "unit", "symmetric")
    }
    for name, found in results.items():
        assert found.keys() == results["mp4"].keys()
        for place, value in found.items():
            assert value == pytest.approx(results["mp4"][place], abs=2e-4), (name, place)
    # A GIF has 256 colours at most
    write_gif(tmp_path / "gif" / "clip001.gif", frames)
    place = ("clip001", psnr("mine"))
    assert values(score(tmp_path / "gif"))[place] == pytest.approx(results["mp4"][place], abs=0.5)


def test_frames_are_matched_by_time(score, tmp_path):
    """A video at 10 Hz whose frames at the clip's times are the clip's is exactly right."""
    frames = frames_of(0)
    faster = np.zeros((T * 5 - 2, SIDE, SIDE, 3), np.uint8)
    faster[::5] = frames  # all others are black
    write_movie(tmp_path / "fast" / "clip000.mp4", faster, rate=10)
    result = score(tmp_path / "fast")
    assert result.numbers["psnr_free_camera"] == MAX_PSNR
    page = result.file("metrics.md").read_text()
    assert "78 frames of 32 x 32 px at 10 Hz, uint8, resampled to the clip's times" in page
    # Half the rate: every other frame is the nearest one for two times, the earlier of two
    write_array(tmp_path / "slow" / "clip000.npz", frames[::2])
    slow = values(score(tmp_path / "slow", video_rate_hz=1.0))
    held = rgb_to_images(frames[[0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14]])
    camera = rgb_to_images(frames)
    wanted = compare(held, camera, moving_mask(camera, still=camera[:1]), None)
    assert slow["clip000", psnr("mine")] == pytest.approx(wanted.scores[FRAME, "psnr"], abs=1e-4)


def test_the_given_rate_is_used_in_place_of_the_files_own(score, tmp_path):
    write_movie(tmp_path / "clip000.mp4", frames_of(0), rate=8)
    with pytest.raises(ValueError, match="one for one: --rate 2"):
        score(tmp_path)
    result = score(tmp_path, video_rate_hz=RATE_HZ)
    assert result.numbers["psnr_free_camera"] == MAX_PSNR
    assert "The rate of 2 Hz was given." in result.file("metrics.md").read_text()


def test_larger_frames_are_shrunk_by_area(score, tmp_path):
    """A frame whose 3 x 3 blocks have the clip's pixels as their means is exactly right."""
    frames = frames_of(0).repeat(3, 1).repeat(3, 2)
    frames[:, ::3, ::3] -= 9
    frames[:, 1::3, 1::3] += 9
    write_movie(tmp_path / "clip000.mp4", frames)
    result = score(tmp_path)
    assert result.numbers["psnr_free_camera"] == MAX_PSNR
    assert "96 x 96 px at 2 Hz" in result.file("metrics.md").read_text()


def test_frame_0_is_never_scored_and_a_wrong_one_is_doubted(score, tmp_path):
    frames = frames_of(0).copy()
    frames[0] = 255 - frames[0]
    write_movie(tmp_path / "clip000.mp4", frames)
    result = score(tmp_path)
    assert result.numbers["psnr_free_camera"] == MAX_PSNR
    page = result.file("metrics.md").read_text()
    assert "**In 1 videos it has less than 20 dB** (clip000.mp4)" in page
    frames_scored = {row["frame"] for row in table(result, "frames")}
    assert frames_scored == {str(t) for t in range(1, T)}


def test_tables_have_the_columns_of_the_evaluation(score, tmp_path):
    write_movie(tmp_path / "clip001.mp4", warped(frames_of(1), 2.0))
    result = score(tmp_path)
    cells, frames = table(result, "clips"), table(result, "frames")
    names = ["clip", "episode", "other_clip", *Cell._fields, "value", "seed"]
    assert list(cells[0]) == names and cells[0]["episode"] == "327/648601"
    assert list(frames[0]) == ["clip", "episode", *Cell._fields, "frame", "value", "seed"]
    for metric in ("psnr", "ssim"):
        of_clip = next(
            float(row["value"])
            for row in cells
            if (row["region"], row["method"], row["metric"]) == (FRAME, "mine", metric)
        )
        by_frame = [
            float(row["value"])
            for row in frames
            if (row["region"], row["method"], row["metric"]) == (FRAME, "mine", metric)
        ]
        assert len(by_frame) == T - 1 and np.mean(by_frame) == pytest.approx(of_clip, abs=1e-4)


def test_seeds_are_averaged_and_variants_are_methods(score, tmp_path):
    lines = ["clip_id,path,seed,variant"]
    for row, seed, variant, shift in (
        (0, 1, "long", 1.0), (0, 2, "long", 4.0), (1, 1, "long", 2.0), (0, 1, "short", 6.0),
    ):  # fmt: skip
        name = f"videos/{row}_{seed}_{variant}.mp4"
        write_movie(tmp_path / name, warped(frames_of(row), shift))
        lines.append(f"clip00{row},{name},{seed},{variant}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    result = score(tmp_path / "list.csv")
    assert result.numbers["clips"] == 2 and result.numbers["videos"] == 4
    rows = [r for r in table(result, "clips") if (r["region"], r["metric"]) == (FRAME, "psnr")]
    by_seed = {
        (r["clip"], r["method"], r["seed"]): float(r["value"]) for r in rows if r["method"] != COPY
    }
    assert set(by_seed) == {
        ("clip000", "mine, long", "1"), ("clip000", "mine, long", "2"),
        ("clip001", "mine, long", "1"), ("clip000", "mine, short", "1"),
    }  # fmt: skip
    assert len([r for r in rows if r["method"] == COPY]) == 2, "the copy stands once for a clip"
    seeds = [by_seed["clip000", "mine, long", seed] for seed in "12"]
    mean = np.mean([np.mean(seeds), by_seed["clip001", "mine, long", "1"]])
    assert result.numbers["psnr_free_camera long"] == pytest.approx(mean, abs=1e-4)
    assert result.numbers["psnr_free_camera short"] == pytest.approx(
        by_seed["clip000", "mine, short", "1"], abs=1e-4
    )
    page = result.file("metrics.md").read_text()
    assert "(mine, long 2, mine, short 1)" in page and "on 1 clips and against" in page


def test_what_has_no_counterpart_is_counted_and_named(score, tmp_path):
    for name in ("clip000", "clip009", f"clip00{REJECTED}"):
        write_movie(tmp_path / f"{name}.mp4", frames_of(0))
    (tmp_path / "notes.txt").write_text("no video")
    result = score(tmp_path)
    numbers = result.numbers
    assert (numbers["clips"], numbers["no_clip"], numbers["no_video"]) == (1, 2, 2)
    page = result.file("metrics.md").read_text()
    assert "clip009.mp4: no such clip" in page
    assert "clip004.mp4: the clip was left out (test: )" in page
    assert "2 of the 3 clips of split 'val' without a video: clip001; clip002" in page


def test_floats_whose_dark_pixels_vanish_as_they_shrink_are_in_the_range_that_was_said(
    score, tmp_path
):
    bright = np.full((16, 64, 64, 3), 0.9, np.float32)
    bright[:, ::2, ::2] = -0.5  # of 2 x 2 px one, so that every mean is 0.55
    write_array(tmp_path / "clip000.npz", bright)
    numbers = score(tmp_path, value_range=(-1.0, 1.0)).numbers
    write_array(tmp_path / "clip000.npz", (bright + 1) / 2)
    same = score(tmp_path, value_range=(0.0, 1.0)).numbers
    assert numbers["psnr_free_camera"] == pytest.approx(same["psnr_free_camera"], abs=1e-3)


def test_numbers_of_the_evaluations_names_mean_the_same(score, tmp_path):
    write_movie(tmp_path / "clip000.mp4", warped(frames_of(0), 2.0))
    numbers = score(tmp_path).numbers
    assert {"psnr_free_moving_of_camera", "psnr_copy_moving_of_camera"} <= numbers.keys()
    for name, (region, metric) in NUMBERS.items():
        if name in EVALUATED:
            there = EVALUATED[name]
            assert (there.reference, there.region, there.metric) == (CAMERA, region, metric)


def test_the_key_is_of_what_is_in_the_videos(tmp_path):
    def key(place: Path, **changes) -> str:
        stage = Score(method="mine", videos=read_video_set(place), rate_hz=RATE_HZ)
        return content_key(parameters(replace(stage, **changes)))

    array = frames_of(0).repeat(8, 1).repeat(8, 2)  # 3 MB: digests of source files sample such
    write_array(tmp_path / "a" / "clip000.npz", array)
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "clip000.npz").rename(tmp_path / "b" / "clip000.npz")
    first = key(tmp_path / "b")
    write_array(tmp_path / "a" / "clip000.npz", array)
    assert key(tmp_path / "a") == first, "where they are does not count"
    assert key(tmp_path / "a", root="/elsewhere", device="cpu") == first
    assert key(tmp_path / "a", method="other") != first
    others = set()
    for place in ((0, 0, 0, 0), (7, 100, 100, 1), (15, -1, -1, 2)):
        changed = array.copy()
        changed[place] ^= 1
        write_array(tmp_path / "a" / "clip000.npz", changed)
        others.add(key(tmp_path / "a"))
    (tmp_path / "b" / "clip000.npz").rename(tmp_path / "b" / "clip001.npz")
    others.add(key(tmp_path / "b"))
    assert len(others | {first}) == 5


def test_lpips_stands_in_the_table_where_its_weights_are(score, tmp_path, monkeypatch):
    from model.lpips import Lpips
    from stages.lpips_weights import LpipsWeights
    from storage.weights.ref import WeightsRef

    torch.manual_seed(0)
    network = Lpips().eval()
    monkeypatch.setattr(LpipsWeights, "load", lambda self, device: network)
    videos = tmp_path / "videos"
    write_movie(videos / "clip000.mp4", warped(frames_of(0), 2.0).repeat(2, 1).repeat(2, 2))
    assert "no weights" in score(videos).file("metrics.md").read_text()
    (tmp_path / "w").write_bytes(b"x")
    ref = WeightsRef.of(tmp_path / "w")
    result = score(videos, lpips=LpipsWeights(trunk=ref, linear=ref))
    assert result.numbers["lpips_free_camera"] > 0 and result.numbers["lpips_copy_camera"] > 0
