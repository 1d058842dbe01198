import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from agibot_tree import (
    START_NS,
    FakeEpisode,
    number_of,
    pack,
    picture,
    write_camera,
    write_tree,
    write_video,
)
from index_store import clip_inputs, discover

from stages.base import Arrays, Rejected
from stages.clip_format import ClipFormat
from stages.clips.arm_vectors import ARM_VECTOR
from stages.clips.clip import Clip
from stages.clips.clip_quality import SCORES, Quality, fastest_hand
from stages.clips.discover import Discover
from stages.clips.episode_files import resized_intrinsics
from stages.clips.recording_flags import FLAGS
from stages.clips.shot_cuts import CutRule
from storage.sources.agibot.calibration import Intrinsics

E = FakeEpisode()  # three clips: from 0, 0.5 and 1 s
SIZE = 32


@pytest.fixture
def root(tree: Path, tmp_path: Path) -> Path:
    """A copy with the first episode only, that a test may change."""
    copy = Path(shutil.copytree(tree, tmp_path / "root"))
    for path in copy.glob("*/351"):
        shutil.rmtree(path)
    (copy / "task_info/task_351.json").unlink()
    return copy


Make = Callable[..., list[Arrays | Rejected]]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """All clips of a data set, each checked against what the stage declares."""

    def run(root: Path, calls: int = 1, **parameters) -> list[Arrays | Rejected]:
        stage = Clip(root=str(root), clip_format=ClipFormat(size=SIZE), **parameters)
        rows = discover(Discover.of(root), tmp_path_factory.mktemp("stores"))[0]
        inputs = clip_inputs(rows, stage.inputs["discover"])
        function = stage.start("cpu", {})
        made = [one for part in np.array_split(inputs, calls) for one in function(list(part))]
        for clip, one in zip(inputs, made, strict=True):
            if not isinstance(one, Rejected):
                assert set(one) == {spec.name for spec in stage.outputs}
                for spec in stage.outputs:
                    spec.check(one[spec.name], clip.clip_id)
        return made

    return run


@pytest.fixture(scope="module")
def whole(tree: Path, make: Make) -> list[Arrays | Rejected]:
    """The six clips of the two whole episodes."""
    return make(tree)


def only_reason(made: list[Arrays | Rejected]) -> str:
    assert all(isinstance(one, Rejected) for one in made), made
    (reason,) = {one.reason for one in made if isinstance(one, Rejected)}
    return reason


def details(made: list[Arrays | Rejected]) -> str:
    return "; ".join(one.detail for one in made if isinstance(one, Rejected))


def arrays(made: Arrays | Rejected) -> Arrays:
    assert not isinstance(made, Rejected), made
    return made


def flags(made: Arrays | Rejected) -> set[str]:
    return {name for name, on in zip(FLAGS, arrays(made)["flags"], strict=True) if on}


def test_frames_times_and_numbers_belong_together(whole):
    for i, clip in enumerate(map(arrays, whole[:3])):
        expected = 15 * i + 15 * np.arange(16)
        np.testing.assert_array_equal(clip["frame_index"], expected)
        np.testing.assert_array_equal(clip["frame_time_ns"], E.times_ns[expected])
        assert [number_of(frame) for frame in clip["rgb"]] == expected.tolist()
        np.testing.assert_allclose(clip["extrinsics"][:, 2, 3], 1 + expected / 1000, rtol=1e-6)
        assert flags(clip) == set()


def test_golden_clip(whole):
    """Tied to `Clip.version`: other numbers here mean a new version. Loose where FFmpeg and OpenCV
    may differ.
    """
    clip = arrays(whole[1])
    expected = np.stack(
        [
            cv2.resize(picture(15 * i), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
            for i in range(1, 17)
        ]
    )
    error = np.abs(clip["rgb"].astype(int) - expected)
    assert error.mean() < 4 and np.percentile(error, 99) < 40
    np.testing.assert_allclose(clip["rgb"].mean((0, 1, 2)), expected.mean((0, 1, 2)), atol=2)
    np.testing.assert_allclose(clip["intrinsics"], [16.1, 28.6, 15.95, 16.033], atol=1e-3)
    named = dict(zip(ARM_VECTOR, clip["actions"][3, 5], strict=True))
    at = FakeEpisode()
    row = 15 * 3 + 5  # frame 3 of the clip from row 15 is row 60; its span begins at row 45
    np.testing.assert_allclose(
        [named["left_x"], named["left_y"]], at.position[row, 0, :2] + 0.01, rtol=1e-6
    )
    np.testing.assert_allclose(named["right_closed"], at.closed[row, 1], atol=1e-6)
    np.testing.assert_allclose(clip["scores"], GOLDEN_SCORES, rtol=0.15)


GOLDEN_SCORES = [0.157, 0.0278, 11.2, 0.102]


def test_actions_lead_into_the_frame_and_states_end_with_it(whole):
    clip = arrays(whole[1])  # from row 15
    rows = 15 + 15 * np.arange(16)
    position = E.position.reshape(-1, 6)
    xyz = [ARM_VECTOR.index(f"{arm}_{axis}") for arm in ("left", "right") for axis in "xyz"]
    np.testing.assert_allclose(clip["states"][:, -1][:, xyz], position[rows], rtol=1e-6)
    np.testing.assert_allclose(clip["actions"][:, 0][:, xyz], position[rows - 15] + 0.01, rtol=1e-6)
    np.testing.assert_allclose(clip["actions"][:, -1][:, xyz], position[rows - 1] + 0.01, rtol=1e-6)
    first = arrays(whole[0])  # nothing leads into the episode's first row
    np.testing.assert_array_equal(first["actions"][0], np.tile(first["actions"][0, :1], (15, 1)))


def test_one_call_or_many_and_tars_give_the_same_arrays(tree, whole, make, tmp_path):
    apart, packed = make(tree, calls=4), make(pack(tree, tmp_path / "packed"))
    assert len(whole) == 6
    for one, other, third in zip(
        map(arrays, whole), map(arrays, apart), map(arrays, packed), strict=True
    ):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
            np.testing.assert_array_equal(one[name], third[name])


@pytest.mark.parametrize("rate", [5.0, 10.0, 15.0, 29.986])
def test_other_rates_give_the_same_motion(tmp_path, make, rate):
    e = FakeEpisode(n=int(8.2 * rate), rate_hz=rate, jitter_ns=int(0.1e9 / rate))
    root = write_tree(tmp_path / "root", e)
    clip = arrays(make(root)[0])
    wanted = START_NS + np.arange(16) * 500_000_000
    assert np.abs(clip["frame_time_ns"] - wanted).max() < 0.65e9 / rate
    assert [number_of(frame) for frame in clip["rgb"]] == clip["frame_index"].tolist()
    # States against the functions of time that they were written from; the last sub-step is the
    # frame's own row.
    before = np.concatenate([[0], clip["frame_time_ns"][:-1] - START_NS])
    span = clip["frame_time_ns"] - START_NS - before
    t = (before[1:, None] + span[1:, None] * np.arange(1, 16) / 15) / 1e9
    x, closed = clip["states"][1:, :, 0], clip["states"][1:, :, ARM_VECTOR.index("left_closed")]
    # At 30 Hz rows are taken as they are, jitter and all; between fewer rows interpolation cuts the
    # corners.
    late, bent = 0.2 / rate, 1 / (8 * rate**2) * 1.5
    np.testing.assert_allclose(x, 0.5 + 0.1 * np.sin(t), atol=0.1 * (late * (rate > 20) + bent))
    np.testing.assert_allclose(
        closed, 0.5 - 0.5 * np.cos(t), atol=0.5 * (late * (rate > 20) + bent)
    )


def test_a_picture_is_squeezed_and_the_intrinsics_with_it():
    camera = Intrinsics(fx=322.0, fy=429.0, cx=323.0, cy=240.0)
    fx, fy, cx, cy = resized_intrinsics(camera, (480, 640), (256, 256))
    assert (fx, fy) == pytest.approx((322 * 0.4, 429 * 256 / 480))
    # A point's place in the small picture: by the new intrinsics, and by resizing its old place.
    x, y = 0.3, -0.2
    old = np.array([322 * x + 323, 429 * y + 240])
    np.testing.assert_allclose(
        [fx * x + cx, fy * y + cy], (old + 0.5) * [0.4, 256 / 480] - 0.5, rtol=1e-6
    )


def test_missing_calibration_is_flagged_or_rejected(root, make):
    shutil.rmtree(root / "parameters")
    made = make(root)
    assert flags(made[0]) == {"no_intrinsics", "no_extrinsics"}
    assert (
        np.isnan(arrays(made[0])["intrinsics"]).all()
        and np.isnan(arrays(made[0])["extrinsics"]).all()
    )
    assert only_reason(make(root, quality=Quality(require_calibration=True))) == "no_calibration"


@pytest.mark.parametrize("extra", [-2, 1, 3])
def test_a_few_frames_more_or_less_are_dropped_and_flagged(root, make, extra):
    write_video(root / E.videos / "head_color.mp4", replace(E, n=E.n + extra))
    made = make(root)
    assert flags(made[0]) == {"count_mismatch"}
    np.testing.assert_array_equal(arrays(made[0])["frame_index"], 15 * np.arange(16))


@pytest.mark.parametrize("what", ["video", "extrinsics"])
def test_many_frames_more_or_less_are_a_rejection(root, make, what):
    if what == "video":
        write_video(root / E.videos / "head_color.mp4", replace(E, n=E.n - 10))
    else:
        write_camera(root / E.camera, replace(E, n=E.n - 10))
    made = make(root)
    assert only_reason(made) == "count_mismatch"
    assert "260 " in details(made) and "270 rows" in details(made) and "at most 3" in details(made)


def test_a_clip_past_the_last_usable_frame_is_rejected(tmp_path, make):
    e = FakeEpisode(n=226)
    root = write_tree(tmp_path / "root", e)
    write_video(root / e.videos / "head_color.mp4", replace(e, n=223))
    made = make(root)
    assert only_reason(
        made
    ) == "time_gap" and "100 ms from its time; 223 frames can be used" in details(made)


def rewrite(root: Path, frames: np.ndarray) -> None:
    write_video(root / E.videos / "head_color.mp4", E, frames)


def test_a_shot_cut_rejects_the_clips_that_span_it(root, make):
    frames = np.stack([picture(i) for i in range(E.n)])
    # Another scene until row 30, where the third clip begins
    frames[:30] = frames[:30, ::-1, :, ::-1] // 3
    rewrite(root, frames)
    first, second, third = make(root)
    for made in (first, second):
        assert isinstance(made, Rejected) and made.reason == "shot_cut"
        assert made.detail.startswith("frame 30: ") and "% of the picture" in made.detail
    assert number_of(arrays(third)["rgb"][0]) == 30


def test_a_still_clip_is_rejected_with_the_number_that_decided(root, make):
    rewrite(root, np.stack([picture(0)] * E.n))
    made = make(root)
    assert only_reason(made) == "static" and "at least 0.004" in details(made)
    assert not isinstance(make(root, quality=Quality(min_motion=0.0))[0], Rejected)


def test_flicker_and_a_shaken_camera_are_chaotic(root, make):
    rng = np.random.default_rng(0)
    still = cv2.resize(
        rng.integers(0, 255, (6, 8, 3), dtype="uint8"), (64, 48), interpolation=cv2.INTER_CUBIC
    )
    no_cuts = Quality(cut=CutRule(share=2.0))
    light = np.where(np.arange(E.n) // 15 % 2, 0.2, 1.0)[:, None, None, None]
    rewrite(root, (still[None] * light).astype("uint8"))
    made = make(root, quality=no_cuts)
    assert only_reason(made) == "chaotic_motion" and "unexplained by motion" in details(made)
    places = rng.integers(-8, 9, (E.n, 2))
    rewrite(root, np.stack([np.roll(still, place, (0, 1)) for place in places]))
    made = make(root, quality=replace(no_cuts, max_unexplained=300.0))
    assert only_reason(made) == "chaotic_motion" and "the whole picture moves" in details(made)


def edit(root: Path, change: Callable[[h5py.File], None]) -> None:
    with h5py.File(root / E.proprio, "r+") as file:
        change(file)


def test_a_hand_that_jumps_and_nan_are_rejected(root, make):
    def jump(file):
        file["state/end/position"][20:22, 1, 0] = 2.0

    edit(root, jump)
    first, second, third = make(root)
    assert (
        isinstance(first, Rejected) and first.reason == "hand_jump" and "at most 3" in first.detail
    )
    assert isinstance(second, Rejected) and second.reason == "hand_jump"
    assert not isinstance(third, Rejected)  # begins after it

    def nan(file):
        file["state/end/position"][20, 1, 0] = np.nan

    edit(root, nan)
    first = make(root)[0]
    assert (
        isinstance(first, Rejected)
        and first.reason == "nan_proprio"
        and "1 of 3840 numbers in states" in first.detail
    )


def test_the_fastest_hand_agrees_with_the_slow_way():
    rng = np.random.default_rng(0)
    times, hands = np.cumsum(rng.integers(2e7, 5e7, 20)), rng.normal(size=(20, 2, 3))
    speeds = [
        np.linalg.norm(hands[i + 1, arm] - hands[i, arm]) / ((times[i + 1] - times[i]) / 1e9)
        for i in range(19)
        for arm in range(2)
    ]
    assert fastest_hand(times, hands) == pytest.approx(max(speeds))
    assert fastest_hand(times[:1], hands[:1]) == 0


def damage_end_of_video(root: Path) -> None:
    """Spoils the last group of pictures, which only the third clip needs."""
    path = root / E.videos / "head_color.mp4"
    data = bytearray(path.read_bytes())
    end = data.index(b"moov")
    for i in range(end - 900, end - 200, 3):
        data[i] ^= 0xFF
    path.write_bytes(data)


def test_damage_rejects_only_the_clips_that_need_those_frames(root, make):
    damage_end_of_video(root)
    made = make(root)
    reasons = [one.reason if isinstance(one, Rejected) else "" for one in made]
    assert reasons[0] == "" and reasons[-1] == "corrupt_video"
    assert "head_color.mp4" in details(made)


FAULTS: dict[str, Callable[[Path], object]] = {
    "corrupt_video": lambda root: (root / E.videos / "head_color.mp4").write_bytes(b"no video"),
    "missing_file": lambda root: (root / E.videos / "head_color.mp4").unlink(),
    "corrupt_proprio": lambda root: (root / E.proprio).write_bytes(b"no HDF5"),
    "missing_proprio_key": lambda root: edit(root, lambda file: file.pop("state/end/orientation")),
    "corrupt_calibration": lambda root: (root / E.camera / "head_intrinsic_params.json").write_text(
        "{"
    ),
}


@pytest.mark.parametrize("reason", FAULTS)
def test_a_file_that_went_bad_after_the_index_was_made(root, tmp_path, reason):
    stage = Clip(root=str(root), clip_format=ClipFormat(size=SIZE))
    inputs = clip_inputs(
        discover(Discover.of(root), tmp_path / "stores")[0], stage.inputs["discover"]
    )
    FAULTS[reason](root)
    made = stage.start("cpu", {})(inputs)
    assert only_reason(list(made)) == reason
    assert "found" in details(list(made)) and "expected" in details(list(made))


def test_one_bad_episode_does_not_touch_its_neighbours(tree, tmp_path, make):
    root = Path(shutil.copytree(tree, tmp_path / "root"))
    (root / E.videos / "head_color.mp4").write_bytes(b"")
    made = make(root)
    assert [isinstance(one, Rejected) for one in made] == [True] * 3 + [False] * 3


def test_irregular_actions_are_flagged(root, make):
    def short(file):
        for name in ("joint/position", "end/position", "end/orientation", "effector/position"):
            values = file[f"action/{name}"][:]
            del file[f"action/{name}"]
            file[f"action/{name}"] = values[24:]
        for group in ("joint", "end", "effector"):
            del file[f"action/{group}/index"]
            file[f"action/{group}/index"] = np.arange(24, E.n)

    edit(root, short)
    made = make(root)
    assert flags(made[0]) == {"action_filled"}
    actions, states = arrays(made[1])["actions"], arrays(made[1])["states"]  # from row 15
    np.testing.assert_array_equal(actions[1, 1:9], states[1, :8])  # rows 16..23 were never sent
    np.testing.assert_allclose(actions[1, 9:, 0], E.position[24:30, 0, 0] + 0.01, rtol=1e-6)


def test_hands_are_flagged(tmp_path, make):
    root = write_tree(tmp_path / "root", FakeEpisode(hand=True, n=230))
    assert flags(make(root)[0]) == {"hand_effector"}


def test_an_index_for_other_clips_is_refused(tree, tmp_path):
    rows = discover(Discover.of(tree), tmp_path)[0]
    stage = Clip(root=str(tree), clip_format=ClipFormat(n_frames=8))
    with pytest.raises(
        ValueError,
        match="made for 16 frames at 2 Hz, stage 'clip' is set to 8 frames of 256 px at 2 Hz",
    ):
        stage.start("cpu", {})(clip_inputs(rows, stage.inputs["discover"]))


def test_specs_say_what_the_numbers_are():
    specs = {spec.name: spec for spec in Clip(root="").outputs}
    assert specs["rgb"].shape == (16, 256, 256, 3) and specs["actions"].shape == (16, 15, 16)
    for name, words in (("actions", ARM_VECTOR), ("flags", FLAGS), ("scores", SCORES)):
        assert all(word in specs[name].about for word in words)
    json.dumps([spec.about for spec in specs.values()])
