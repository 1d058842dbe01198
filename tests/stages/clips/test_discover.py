import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from agibot_tree import (
    START_NS,
    FakeEpisode,
    info,
    pack,
    write_proprio,
    write_task_info,
    write_tree,
)
from index_store import discover

from stages.clips.clip_times import NS
from stages.clips.discover import Discover, fingerprint, overlapping
from storage.sources.agibot.task_info import EpisodeInfo, Segment
from storage.sources.file_ref import FileRef
from storage.stores.key import parameters

E = FakeEpisode()  # 270 rows at 30 Hz: clips from 0, 0.5 and 1 s


@pytest.fixture
def root(tree: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(tree, tmp_path / "root"))


def test_one_row_for_each_clip_with_all_that_the_next_stages_need(tree, tmp_path):
    rows, clips, left_out, numbers = discover(Discover.of(tree), tmp_path)
    assert left_out == []
    assert [(c.episode, (c.start_ns - START_NS) / NS) for c in clips] == [
        (648642, 0.0), (648642, 0.5), (648642, 1.0), (648649, 0.0), (648649, 0.5), (648649, 1.0)
    ]  # fmt: skip
    first = clips[0]
    assert (first.task, first.camera, first.n_frames, first.rate_hz) == (327, "head_color", 16, 2.0)
    assert (first.effector, first.task_name) == ("gripper", "Move a cup")
    assert first.texts == ("Pick up the cup.", "Place the cup.") and first.skills == (
        "Pick",
        "Place",
    )
    for text in (first.video, first.proprio, first.intrinsics, first.extrinsics):
        assert FileRef.parse(text, tree).read_bytes()
    assert first.depth == "observations/327/648642/depth"
    assert numbers == {
        "clips": 6, "episodes": 2, "episodes_listed": 2, "episodes_without_text": 0, "left_out": 0,
        "clips_train": 3, "clips_val": 3,
    }  # fmt: skip
    assert rows.n == 6 and str(rows.read(("video",), 0)["video"]) == first.video


def test_tars_give_the_same_clips(tree, tmp_path):
    plain = discover(Discover.of(tree), tmp_path / "a")[1]
    packed = pack(tree, tmp_path / "packed")
    inside = discover(Discover.of(packed), tmp_path / "b")[1]
    files = {name: "" for name in ("video", "proprio", "intrinsics", "extrinsics", "depth")}
    assert [replace(c, **files) for c in inside] == [replace(c, **files) for c in plain]
    for one, other in zip(inside, plain, strict=True):
        assert (
            FileRef.parse(one.video, packed).read_bytes()
            == FileRef.parse(other.video, tree).read_bytes()
        )


def test_a_moved_data_set_has_the_same_key_and_index(tree, root, tmp_path):
    here, there = Discover.of(tree), Discover.of(root)
    assert parameters(here) == parameters(there) and here.root != there.root
    assert discover(here, tmp_path / "a")[1] == discover(there, tmp_path / "b")[1]


def test_a_file_mended_in_place_makes_another_data_set(root):
    before = fingerprint(root)
    path = root / E.proprio
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert fingerprint(root) != before


def test_a_data_set_changed_since_planning_is_refused(root, tmp_path):
    stage = Discover.of(root)
    (root / E.proprio).unlink()
    with pytest.raises(ValueError, match="have changed since this run was planned"):
        discover(stage, tmp_path / "stores")


def spoil_times(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["timestamp"][5] = 0


FAULTS = {
    "no_proprio": lambda root: (root / E.proprio).unlink(),
    "no_video": lambda root: shutil.rmtree(root / E.videos),
    "corrupt_proprio": lambda root: (root / E.proprio).write_bytes(b"no HDF5"),
    "missing_proprio_key": lambda root: h5py.File(root / E.proprio, "w").close(),
    "bad_timestamps": lambda root: spoil_times(root / E.proprio),
    "too_short": lambda root: write_proprio(root / E.proprio, replace(E, n=212)),
    "too_slow": lambda root: write_proprio(root / E.proprio, replace(E, n=30, rate_hz=1.5)),
    "no_files": lambda root: write_task_info(root, 327, [info(E), info(FakeEpisode(episode=7))]),
    "corrupt_task_info": lambda root: (root / "task_info/task_327.json").write_text("{"),
}


@pytest.mark.parametrize("reason", FAULTS)
def test_what_is_left_out_is_a_row_and_a_count(root, tmp_path, reason):
    FAULTS[reason](root)
    _, clips, left_out, numbers = discover(Discover.of(root), tmp_path / "stores")
    assert [row.reason for row in left_out] == [reason]
    assert numbers[f"left_out_{reason}"] == 1 == numbers["left_out"]
    (row,) = left_out
    assert row.found and row.expected and str(tmp_path) not in f"{row}"
    spared = {"no_files", "corrupt_task_info"}  # the episode's own files are whole
    assert {c.episode for c in clips} == ({648642, 648649} if reason in spared else {648649})
    if reason == "too_short":
        assert (
            row.found == "212 rows at 30 Hz cover 7.03 s"
            and row.expected == "7.5 s for 16 frames at 2 Hz"
        )
    if reason == "corrupt_task_info":
        assert numbers["episodes_without_text"] == 1


def test_rows_missing_in_the_middle_cost_the_clips_that_need_them(tmp_path):
    long = FakeEpisode(n=700)
    root = write_tree(tmp_path / "root", long)
    with h5py.File(root / long.proprio, "r+") as file:
        times = file["timestamp"][:]
        times[310:] += 3 * NS  # a pause in the recording
        file["timestamp"][:] = times
    _, clips, left_out, _ = discover(Discover.of(root), tmp_path / "stores")
    assert clips and {row.reason for row in left_out} == {"time_gap"}
    all_starts = sorted(
        [c.start_ns for c in clips] + [row.start_ns for row in left_out if row.start_ns]
    )
    assert np.diff(all_starts).max() == NS // 2  # none is lost without a word
    pause = START_NS + np.array([310 / 30, 310 / 30 + 3]) * NS
    for clip in clips:
        assert clip.start_ns + 7.5 * NS < pause[0] + NS / 15 or clip.start_ns > pause[1] - NS / 15


def test_a_limit_spreads_clips_over_the_episode(tmp_path):
    root = write_tree(tmp_path / "root", FakeEpisode(n=900))
    stage = Discover.of(root, max_clips_per_episode=3, hop_s=0.5)
    _, clips, left_out, _ = discover(stage, tmp_path / "stores")
    assert [(c.start_ns - START_NS) / NS for c in clips] == [0, 11, 22]
    assert [(row.reason, row.found) for row in left_out] == [("clip_limit", "45 clips")]


def test_several_cameras(root, tmp_path):
    shutil.copy(root / E.videos / "head_color.mp4", root / E.videos / "hand_left_color.mp4")
    stage = Discover.of(root, cameras=("head_color", "hand_left_color"))
    _, clips, left_out, _ = discover(stage, tmp_path / "stores")
    assert Counter((c.episode, c.camera) for c in clips) == {
        (648642, "head_color"): 3, (648642, "hand_left_color"): 3, (648649, "head_color"): 3
    }  # fmt: skip
    assert [(row.reason, row.camera, row.episode) for row in left_out] == [
        ("no_video", "hand_left_color", 648649)
    ]
    hand = next(c for c in clips if c.camera == "hand_left_color")
    assert hand.depth == "" == hand.intrinsics and len({c.clip_id for c in clips}) == 9


def test_splits_go_by_episode(tmp_path):
    root = write_tree(
        tmp_path / "root", *(FakeEpisode(episode=700_000 + i, n=245) for i in range(6))
    )
    _, clips, _, numbers = discover(
        Discover.of(root, val_share=0.3, test_share=0.2), tmp_path / "stores"
    )
    by_episode = {(c.episode, c.split) for c in clips}
    assert len(by_episode) == 6 and {split for _, split in by_episode} == {"train", "val", "test"}
    assert numbers["clips_train"] + numbers["clips_val"] + numbers["clips_test"] == 12


def test_hands_are_in_the_index(tmp_path):
    root = write_tree(tmp_path / "root", FakeEpisode(hand=True, n=240))
    assert discover(Discover.of(root), tmp_path / "stores")[1][0].effector == "hand"


def test_no_clip_at_all_is_an_error_that_counts_the_reasons(tmp_path):
    root = write_tree(tmp_path / "root", FakeEpisode(n=100), FakeEpisode(episode=5, n=90))
    with pytest.raises(ValueError, match=r"no clip can be cut from .*'too_short': 2"):
        discover(Discover.of(root), tmp_path / "stores")


def test_segments_are_half_open():
    given = EpisodeInfo(
        task_name="", scene="", segments=(Segment(0, 100, "a", "A"), Segment(100, 200, "b", "B"))
    )
    assert overlapping(given, 0, 100) == (("a",), ("A",))
    assert overlapping(given, 99, 101) == (("a", "b"), ("A", "B"))
    assert overlapping(given, 100, 150) == (("b",), ("B",))
    assert overlapping(given, 200, 300) == ((), ())
    assert overlapping(None, 0, 100) == ((), ())


@pytest.mark.parametrize(
    "bad", [{"hop_s": 0.0}, {"max_clips_per_episode": -1}, {"val_share": 0.5, "test_share": 0.5}]
)
def test_senseless_settings_are_refused(bad):
    with pytest.raises(ValueError, match="expected"):
        Discover(root="", source="", **bad)
