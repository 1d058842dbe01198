"""Public reports of data that were read wrongly, each made small, through both stages."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from agibot_tree import FakeEpisode, info, number_of, write_proprio, write_task_info, write_tree
from index_store import clip_inputs, discover
from odd_videos import write_numbers

from stages.base import Rejected
from stages.clip_format import ClipFormat
from stages.clips.arm_vectors import ARM_VECTOR
from stages.clips.clip import Clip
from stages.clips.clip_quality import fastest_hand, fastest_turn
from stages.clips.discover import Discover
from storage.stores.index import ClipRow, LeftOut

E = FakeEpisode()  # three clips
GOOD = FakeEpisode(episode=648649, task=351, n=260)
NS = 1_000_000_000


@pytest.fixture
def root(tree: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tree, tmp_path / "root"))


def run(root: Path, tmp_path: Path) -> tuple[list[tuple[ClipRow, object]], list[LeftOut]]:
    rows, clips, left_out, _ = discover(Discover.of(root), tmp_path / "stores")
    stage = Clip(root=str(root), clip_format=ClipFormat(size=32))
    made = stage.start("cpu", {})(clip_inputs(rows, stage.inputs["discover"]))
    return list(zip(clips, made, strict=True)), left_out


def outcomes(made: list[tuple[ClipRow, object]], episode: int) -> list[str]:
    """Reasons, empty for a clip, whose frames and readings must be those of its rows."""
    found = []
    for row, one in made:
        if row.episode != episode:
            continue
        if isinstance(one, Rejected):
            found.append(one.reason)
            continue
        assert isinstance(one, dict)
        rows = one["frame_index"]
        assert [number_of(frame) for frame in one["rgb"]] == rows.tolist()
        at = E.closed[rows]
        for arm, name in enumerate(("left_closed", "right_closed")):
            closed = one["states"][:, -1, ARM_VECTOR.index(name)]
            np.testing.assert_allclose(closed, at[:, arm], atol=1e-6)
        found.append("")
    return found


def edited(root: Path, change: Callable[[h5py.File], object], e: FakeEpisode = E) -> Path:
    with h5py.File(root / e.proprio, "r+") as file:
        change(file)
    return root


def put(file: h5py.File, name: str, values: np.ndarray) -> None:
    del file[name]
    file[name] = values


# -- one reading decides nothing -------------------------------------------------------------------


def one_reading(value: float, scale: float = 1.0, offset: float = 0.0) -> Callable:
    def change(file: h5py.File) -> None:
        raw = (file["state/effector/position"][:] - offset) * scale
        raw[8] = value
        put(file, "state/effector/position", raw)

    return change


ODD = {
    "a zero among 35..120": one_reading(0.0),
    "NaN": one_reading(np.nan),
    "a spike among 35..120": one_reading(4095.0),
    "a spike among fractions": one_reading(255.0, 1 / 85, 35.0),
    "NaN in an inverted gripper": one_reading(np.nan, -1.0, 155.0),
}


@pytest.mark.parametrize("what", ODD)
def test_one_odd_reading_of_a_gripper_costs_the_clips_that_need_it(root, tmp_path, what):
    made, _ = run(edited(root, ODD[what]), tmp_path)
    assert outcomes(made, E.episode) == ["nan_proprio", "nan_proprio", ""] or outcomes(
        made, E.episode
    ) == ["nan_proprio", "", ""]


def test_a_rotation_that_was_lost_is_no_pose(root, tmp_path):
    def lose(file):
        file["state/end/orientation"][8] = 0

    made, _ = run(edited(root, lose), tmp_path)
    assert outcomes(made, E.episode)[0] == "nan_proprio"


def test_a_hand_that_turns_in_no_time_is_rejected(root, tmp_path):
    def turn(file):
        file["state/end/orientation"][100:, 0] = [0.0, 0.0, 1.0, 0.0]

    made, _ = run(edited(root, turn), tmp_path)
    assert set(outcomes(made, E.episode)) == {"hand_jump"}
    detail = next(one.detail for _, one in made if isinstance(one, Rejected))
    assert "rad/s between two rows, at most 10" in detail


def test_a_jump_beside_a_hole_is_seen():
    times = np.arange(5) * NS // 30
    hands = np.zeros((5, 2, 3))
    hands[2, 0], hands[3:, 0, 0] = np.nan, 1.0
    assert fastest_hand(times, hands) == pytest.approx(15, rel=1e-6)
    rotations = np.tile([0.0, 0.0, 0.0, 1.0], (5, 2, 1))
    rotations[2, 1], rotations[3:, 1] = np.nan, [0.0, 0.0, 1.0, 0.0]
    assert fastest_turn(times, rotations) == pytest.approx(15 * np.pi, rel=1e-6)
    assert fastest_turn(times[:1], rotations[:1]) == 0


@pytest.mark.parametrize("group", ["position", "effector"])
def test_another_unit_is_refused(root, tmp_path, group):
    name, factor = {"position": ("end/position", 1000), "effector": ("effector/position", 50)}[
        group
    ]
    made, _ = run(
        edited(root, lambda f: put(f, f"state/{name}", f[f"state/{name}"][:] * factor)), tmp_path
    )
    assert set(outcomes(made, E.episode)) == {"implausible_units"}
    assert set(outcomes(made, GOOD.episode)) == {""}


# -- frames, rows and times ------------------------------------------------------------------------


def test_frames_lost_in_the_middle_are_not_taken_for_the_last_ones(tmp_path):
    e = FakeEpisode(n=500)
    root = write_tree(tmp_path / "root", e)
    kept = [i for i in range(500) if i not in (250, 251, 252)]
    write_numbers(root / e.videos / "head_color.mp4", kept, kept)
    made, _ = run(root, tmp_path)
    for row, one in made:
        last = round((row.start_ns - e.times_ns[0]) / NS * 30) + 225
        assert isinstance(one, Rejected) == (last >= 250)
        if isinstance(one, Rejected):
            assert one.reason == "lost_frames" and "before number 250 3 frames" in one.detail
        elif isinstance(one, dict):
            assert [number_of(f) for f in one["rgb"]] == one["frame_index"].tolist()


@pytest.mark.parametrize("seconds", [3600, 90 * 86400, 55 * 365 * 86400])
def test_a_clock_that_is_set_sizes_nothing(tmp_path, seconds):
    e = FakeEpisode(n=600)
    root = write_tree(tmp_path / "root", e)
    times = e.times_ns + (np.arange(600) >= 300) * seconds * NS
    edited(root, lambda file: put(file, "timestamp", times), e)
    made, left_out = run(root, tmp_path)
    starts = [round((row.start_ns - e.times_ns[0]) / NS, 3) for row, _ in made]
    assert [s for s in starts if s < 100] == [0, 0.5, 1.0, 1.5, 2.0]
    assert len(starts) in (9, 10)  # and those behind
    assert [(row.reason, row.found) for row in left_out] == [
        ("time_gap", f"{seconds + 1 / 30:.1f} s from row 299 to the next")
    ]


# -- whose file is it ------------------------------------------------------------------------------


def test_episodes_of_two_tasks_with_one_number_stay_two(tmp_path):
    both = [FakeEpisode(task=task, episode=1) for task in (1, 2)]
    strangers = FakeEpisode(task=3, episode=5), FakeEpisode(task=4, episode=5)
    root = write_tree(tmp_path / "root", *both, *strangers)
    (root / strangers[0].proprio).unlink()
    shutil.rmtree(root / strangers[1].videos)
    shutil.rmtree(root / f"observations/{4}/{5}/depth")
    write_numbers(root / both[1].videos / "head_color.mp4", [1000 + i for i in range(E.n)])
    made, left_out = run(root, tmp_path)
    assert len({row.clip_id for row, _ in made}) == len(made) == 6
    for row, one in made:
        assert isinstance(one, dict)
        assert row.proprio == f"proprio_stats/{row.task}/1/proprio_stats.h5"
        shown = [number_of(frame) for frame in one["rgb"]]
        assert shown == (one["frame_index"] + 1000 * (row.task - 1)).tolist()
    assert [(row.item, row.reason) for row in left_out] == [
        ("episode 3/5", "no_proprio"), ("episode 4/5", "no_video")
    ]  # fmt: skip


# -- one bad file never ends the run ---------------------------------------------------------------


def damaged(root: Path, seed: int) -> None:
    path = root / E.proprio
    data = bytearray(path.read_bytes())
    at = np.random.default_rng(seed).integers(8, 12_000, 40)
    for i in at.tolist():
        data[i] ^= 0x5A
    path.write_bytes(data)


def external(root: Path) -> None:
    with h5py.File(root / "other.h5", "w") as file:
        file["position"] = E.position
    edited(root, lambda f: f.__delitem__("state/end/position"))
    edited(root, lambda f: f["state/end"].__setitem__(
        "position", h5py.ExternalLink(str(root / "other.h5"), "/position")))  # fmt: skip


def huge(root: Path) -> None:
    def claim(file: h5py.File) -> None:
        del file["timestamp"]
        file.create_dataset("timestamp", shape=(10**12,), dtype="int64", chunks=(1024,))

    edited(root, claim)


def circle(root: Path) -> None:
    (root / "observations/327/again").symlink_to(root / "observations")


def entries(*more: object) -> Callable[[Path], None]:
    return lambda root: write_task_info(root, 327, [info(E), *more])  # type: ignore[list-item]


def nested(root: Path) -> None:
    (root / "task_info/task_9.json").write_text("[" * 100_000 + "]" * 100_000)


def named(path: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")

    return write


def dangling(root: Path) -> None:
    (root / E.videos / "hand_left_color.mp4").symlink_to(root / "gone.mp4")


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "external link": (external, "foreign_data"),
    "a claim of 8 TB": (huge, "bad_timestamps"),
    "link loop": (circle, "unreadable_file"),
    "dangling link": (dangling, "unreadable_file"),
    "a list for a dict": (entries({"episode_id": 1, "label_info": [3]}), "corrupt_task_info"),
    "an infinite id": (entries({"episode_id": float("inf")}), "corrupt_task_info"),
    "an id of 30 digits": (entries({"episode_id": 10**30}), "corrupt_task_info"),
    "nested JSON": (nested, "corrupt_task_info"),
    "²": (named("observations/²/²/videos/a.mp4"), "not_understood"),
    "compressed": (named("observations/327/1-2.tar.gz"), "not_understood"),
    "a part": (named("observations/327/1-2.tar.part003"), "not_understood"),
    "capitals": (named(f"{E.videos}/hand_left_color.MP4"), "not_understood"),
    "a date": (named("observations/2025-01-01/videos/a.mp4"), "not_understood"),
}


@pytest.mark.parametrize("what", BAD)
def test_one_bad_file_is_one_row_and_the_run_goes_on(root, tmp_path, what):
    spoil, reason = BAD[what]
    spoil(root)
    _, clips, left_out, _ = discover(Discover.of(root), tmp_path / "stores")
    assert reason in [row.reason for row in left_out]
    assert all(row.found and row.expected for row in left_out)
    assert {row.episode for row in clips} >= {GOOD.episode}


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_h5_spoils_its_own_episode_at_most(root, tmp_path, seed):
    damaged(root, seed)
    made, left_out = run(root, tmp_path)
    assert outcomes(made, GOOD.episode) == [""] * 3
    assert all(row.episode == E.episode for row in left_out)


def test_names_and_texts_that_are_no_utf_8(root, tmp_path):
    name = os.fsencode(root / E.videos) + b"/hand_\xff_color.mp4"
    Path(os.fsdecode(name)).write_bytes(b"x")
    entry = info(E) | {"task_name": "half a pair: \ud800"}
    (root / "task_info/task_327.json").write_text(json.dumps([entry]))
    _, clips, left_out, _ = discover(Discover.of(root), tmp_path / "stores")
    assert [row.reason for row in left_out] == ["bad_name"]
    assert clips[0].task_name == "half a pair: ?"


def test_whatever_a_library_raises_is_a_row(root, tmp_path, monkeypatch):
    def broken(ref):
        raise RuntimeError("Unable to get group info")

    monkeypatch.setattr("stages.clips.discover.read_proprio_header", broken)
    stage = Discover.of(root)
    with pytest.raises(ValueError, match="'unreadable_episode': 2"):
        discover(stage, tmp_path / "stores")


def test_a_file_of_other_numbers_is_not_needed(root, tmp_path):
    write_proprio(root / "proprio_stats/327/648642-648700/648642/proprio_stats.h5", E)
    _, clips, left_out, _ = discover(Discover.of(root), tmp_path / "stores")
    assert len(clips) == 6 and left_out == []  # the same bytes twice
