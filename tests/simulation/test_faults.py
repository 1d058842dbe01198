"""Each fault is in the files, and the stages that read them report or handle it."""

import json
from collections.abc import Callable

import av
import h5py
import numpy as np
import pytest
from index_store import clip_inputs, discover
from sample_configs import FAULTY

from simulation.dataset import SampleSummary
from simulation.faults import FAULTS, SHORT_S
from simulation.recording import FIRST_EPISODE_ID, simulate_episode
from stages.base import Arrays, ClipInputs, Rejected
from stages.clip_format import ClipFormat
from stages.clips.clip import Clip
from stages.clips.clip_quality import Quality
from stages.clips.discover import Discover
from stages.clips.recording_flags import FLAGS
from stages.clips.shot_cuts import CutRule, find_cut
from stages.depth.sensor import SensorDepth
from stages.depth.stage import DepthEstimate
from storage.sources.agibot.tree import Episode, depth_frames, list_episodes
from storage.stores.index import ClipRow, LeftOut

GOOD = FIRST_EPISODE_ID
N = FAULTY.n_frames
END_ROWS = ("action/joint/position", "action/end/position", "action/end/orientation")


@pytest.fixture(scope="module")
def episodes(faulty_sample: SampleSummary) -> dict[str, Episode]:
    """Kind of fault ("good": none) -> what the reader lists."""
    found = {e.episode: e for e in list_episodes(faulty_sample.root).episodes}
    return {kind: found[number] for number, kind in kinds(faulty_sample).items()}


def kinds(sample: SampleSummary) -> dict[int, str]:
    return {GOOD: "good", **sample.faults}


def h5(episode: Episode) -> h5py.File:
    assert episode.proprio is not None
    return h5py.File(episode.proprio.path, "r")


def read(file: h5py.File, name: str) -> np.ndarray:
    return np.asarray(file[name])


def pictures(episode: Episode) -> np.ndarray:
    with av.open(str(episode.videos["head_color"].path)) as video:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])


def commands(number: int) -> np.ndarray:
    return simulate_episode(FAULTY, number - FIRST_EPISODE_ID).trajectory.flange_position_command


# What is in the files


def test_the_good_episode_has_no_fault(episodes: dict[str, Episode]):
    good = episodes["good"]
    assert good.n_depth == N == len(pictures(good)) and good.info is not None
    assert all(good.calibration("head_color"))
    with h5(good) as file:
        assert {
            len(read(file, name)) for name in ("timestamp", "state/end/position", *END_ROWS)
        } == {N}
        for name in ("state/end/orientation", "action/end/orientation"):
            q = read(file, name)
            assert ((q[1:] * q[:-1]).sum(-1) > 0).all()


def test_the_sample_names_every_fault(faulty_sample: SampleSummary):
    noted = json.loads((faulty_sample.root / "sample.json").read_text())["faults"]
    assert {int(number): kind for number, kind in noted.items()} == faulty_sample.faults
    assert sorted(noted.values()) == sorted(FAULTS) and GOOD not in faulty_sample.faults


def test_short_actions_are_at_the_rows_of_the_index(episodes: dict[str, Episode]):
    episode = episodes["short_actions"]
    with h5(episode) as file:
        rows = read(file, "action/joint/index")
        assert rows[0] > 0 and rows[-1] < N - 1 and len(read(file, "action/end/index")) == 0
        assert {len(read(file, name)) for name in END_ROWS} == {len(rows)}
        np.testing.assert_array_equal(
            read(file, "action/end/position"), commands(episode.episode)[rows]
        )


def test_long_actions_have_more_rows_than_there_are_times(episodes: dict[str, Episode]):
    with h5(episodes["long_actions"]) as file:
        assert all(len(read(file, name)) > len(read(file, "timestamp")) for name in END_ROWS)


def test_flipped_quaternions_are_the_same_rotations(episodes: dict[str, Episode]):
    with h5(episodes["quaternion_flips"]) as file:
        q = read(file, "state/end/orientation")
    steps = (q[1:] * q[:-1]).sum(-1)
    assert (steps < 0).sum() >= 3 and (steps < 0).any(axis=0).all()  # both arms
    assert np.abs(steps).min() > 0.9  # no rotation is far from the one before


def test_a_missing_key_and_a_truncated_video(episodes: dict[str, Episode]):
    with h5(episodes["missing_key"]) as file:
        assert "state/end" in file and "state/end/position" not in file
    with pytest.raises(av.error.FFmpegError):
        pictures(episodes["truncated_video"])
    sizes = [
        episodes[kind].videos["head_color"].path.stat().st_size
        for kind in ("truncated_video", "short_actions")
    ]
    assert 0.2 < sizes[0] / sizes[1] < 1


def test_a_short_video_and_a_shot_cut(episodes: dict[str, Episode]):
    assert len(pictures(episodes["short_video"])) == N * 7 // 10
    frames = pictures(episodes["shot_cut"])
    cut = find_cut(frames, CutRule())
    assert len(frames) == N and cut is not None and cut.frame == N // 2
    assert find_cut(pictures(episodes["good"]), CutRule()) is None


def test_missing_depth_and_calibration(episodes: dict[str, Episode]):
    depth = episodes["depth_off_by_one"].depth
    assert depth is not None and list(depth_frames(depth)) == list(range(N - 1))
    assert episodes["no_calibration"].calibration("head_color") == (None, None)
    assert episodes["no_calibration"].videos


def test_too_short_and_static(episodes: dict[str, Episode]):
    with h5(episodes["too_short"]) as file:
        assert np.ptp(read(file, "timestamp")) / 1e9 < SHORT_S
    with h5(episodes["static"]) as file:
        for name in (
            "state/joint/position",
            "state/end/position",
            "state/effector/position",
            *END_ROWS,
        ):
            assert (np.ptp(read(file, name), axis=0) == 0).all()
    frames = pictures(episodes["static"]).astype(int)
    assert len(frames) == N and np.abs(frames[-1] - frames[0]).mean() < 2  # noise only


def test_task_info_and_files_may_disagree(
    faulty_sample: SampleSummary, episodes: dict[str, Episode]
):
    assert episodes["no_files"].info is not None and not episodes["no_files"].has_files
    assert episodes["not_listed"].info is None and episodes["not_listed"].has_files
    number = str(episodes["no_files"].episode)
    assert not [path for path in faulty_sample.root.glob("*/*/*") if path.name == number]


# What the stages report

Found = dict[str, list[tuple[ClipRow, ClipInputs]]]


@pytest.fixture(scope="module")
def index(
    faulty_sample: SampleSummary, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Found, list[LeftOut]]:
    """(clips of each kind, what was left out)."""
    rows, clips, left_out, _ = discover(
        Discover.of(faulty_sample.root), tmp_path_factory.mktemp("stores")
    )
    names, found = kinds(faulty_sample), {}
    for row, inputs in zip(
        clips, clip_inputs(rows, ("depth", *Clip.inputs["discover"])), strict=True
    ):
        found.setdefault(names[row.episode], []).append((row, inputs))
    return found, left_out


@pytest.fixture(scope="module")
def make(
    faulty_sample: SampleSummary, index: tuple[Found, list[LeftOut]]
) -> Callable[..., list[Arrays | Rejected]]:
    """The clips of one kind of episode, made by the stage."""

    def run(kind: str, quality: Quality | None = None) -> list[Arrays | Rejected]:
        stage = Clip(
            root=str(faulty_sample.root),
            clip_format=ClipFormat(size=64),
            quality=quality or Quality(),
        )
        return list(stage.start("cpu", {})([inputs for _, inputs in index[0][kind]]))

    return run


def flags(made: Arrays | Rejected) -> set[str]:
    assert not isinstance(made, Rejected), made
    return {name for name, on in zip(FLAGS, made["flags"], strict=True) if on}


LEFT_OUT = {
    "long_actions": "corrupt_proprio",
    "missing_key": "missing_proprio_key",
    "too_short": "too_short",
    "no_files": "no_files",
}
REJECTED = {
    "truncated_video": "corrupt_video",
    "short_video": "count_mismatch",
    "shot_cut": "shot_cut",
    "static": "static",
}
SURVIVES = {
    "good": set(),
    "short_actions": {"action_filled"},
    "quaternion_flips": set(),
    "depth_off_by_one": set(),
    "no_calibration": {"no_intrinsics", "no_extrinsics"},
    "not_listed": set(),
}


def test_every_kind_has_an_expected_outcome():
    assert sorted([*LEFT_OUT, *REJECTED, *SURVIVES]) == sorted([*FAULTS, "good"])


def test_what_the_index_leaves_out(
    faulty_sample: SampleSummary, index: tuple[Found, list[LeftOut]]
):
    names = kinds(faulty_sample)
    assert {
        names[row.episode]: row.reason for row in index[1] if row.episode is not None
    } == LEFT_OUT
    assert len(index[1]) == len(LEFT_OUT) and index[0].keys() == REJECTED.keys() | SURVIVES.keys()


@pytest.mark.parametrize("kind", REJECTED)
def test_what_clips_are_rejected_for(make: Callable, kind: str):
    made = make(kind)
    assert len(made) == 2 and {one.reason for one in made} == {REJECTED[kind]}


@pytest.mark.parametrize("kind", SURVIVES)
def test_faults_that_are_handled(make: Callable, kind: str):
    made = make(kind)
    assert len(made) == 2
    for one in made:
        assert flags(one) == SURVIVES[kind]
        assert np.isfinite(one["actions"]).all() and np.isfinite(one["states"]).all()
        steps = np.diff(one["states"].reshape(-1, 2, 8)[..., 3:7], axis=0)
        assert np.abs(steps).max() < 0.3  # quaternions do not jump


def test_missing_calibration_can_be_a_rejection(make: Callable):
    assert {one.reason for one in make("no_calibration", Quality(require_calibration=True))} == {
        "no_calibration"
    }
    assert flags(make("good", Quality(require_calibration=True))[0]) == set()


def test_an_unlisted_episode_has_no_texts(index: tuple[Found, list[LeftOut]]):
    row, listed = index[0]["not_listed"][0][0], index[0]["good"][0][0]
    assert (row.task_name, row.texts) == ("", ()) and listed.task_name and listed.texts


def test_a_missing_depth_picture_costs_the_clip_that_needs_it(
    faulty_sample: SampleSummary, index: tuple[Found, list[LeftOut]], make: Callable
):
    estimate = SensorDepth(root=str(faulty_sample.root), clip_format=ClipFormat(size=96)).start(
        "cpu"
    )
    found = []
    for (_, inputs), made in zip(
        index[0]["depth_off_by_one"], make("depth_off_by_one"), strict=True
    ):
        frames = made["frame_index"]
        files = {name: inputs.arrays[name] for name in ("depth", "proprio")}
        arrays = {**files, "frame_index": frames}
        found.append(
            (N - 1 in frames, estimate([ClipInputs(row=0, clip_id="c", arrays=arrays)])[0])
        )
    (first_needs, first), (last_needs, last) = found
    assert not first_needs and isinstance(first, DepthEstimate) and first.valid.mean() > 0.8
    assert last_needs and isinstance(last, Rejected) and last.reason == "missing_depth"
    assert f"none for frames [{N - 1}]" in last.detail
