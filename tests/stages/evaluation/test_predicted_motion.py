"""Motion in predicted videos: tracks of every method against the true ones, in one evaluation."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from label_clips import square_clip
from small_stores import opened, write_clips, write_index
from small_world import REJECTED, World, make_world

from model.motion_metrics import track_error
from model.spatial_tracker.config import published
from model.world.keypoints import select_active_tracks
from stages.base import Rejected
from stages.evaluation.measure_notes import tracker_warning
from stages.evaluation.motion import MotionScores, active_points, motion_scores
from stages.evaluation.scores import (
    ACTIVE,
    CEILING,
    COPY,
    FREE,
    GRIPPER,
    LINEAR,
    MODEL,
    PREVIOUS,
    PSEUDO_TRACKS,
    TEACHER,
    TRACKED,
    Cell,
    ClipVideos,
)
from stages.evaluation.stage import Evaluate
from stages.keypoints.dense_flow import DenseFlow
from stages.keypoints.lucas_kanade import LucasKanade
from stages.keypoints.spatial_tracker import SpatialTracking
from stages.keypoints.stage import grid_queries
from stages.keypoints.truth import TrueTracking
from stages.tokenizer.images import rgb_to_images
from storage.stores.key import parameters
from storage.stores.rows import open_rows
from storage.weights.ref import WeightsRef

N = 16  # points along each side


@pytest.fixture(scope="module")
def video() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A square that passes (t h w 3), the true tracks of a grid, and where they are visible."""
    rgb, left = square_clip()
    queries = grid_queries(N, rgb.shape[1:3])
    x, y = queries.T
    on = (x > left[0] + 4) & (x < left[0] + 32) & (y > 50) & (y < 78)
    tracks = np.repeat(queries[None], len(rgb), axis=0)
    tracks[:, on, 0] += (left - left[0])[:, None]
    return rgb, tracks.astype(np.float32), np.ones(tracks.shape[:2], bool)


def stores_of(root, rgb, tracks, visible, moving: int | None = None) -> dict:
    """Stores of this clip, whose left gripper is where point `moving` is, or is not known."""
    n = len(rgb)
    # A camera at the origin with a focal length of 1 px sees at z = 1 m what is at these x, y
    pose = np.repeat(np.float32(np.eye(3, 4))[None], n, axis=0)
    states = np.zeros((n, 1, 16), np.float32)
    states[:, :, [6, 14]] = 1
    states[:, :, 2] = 1 - 0.15
    lens = np.float32([1, 1, 0, 0]) if moving is not None else np.full(4, np.nan, np.float32)
    if moving is not None:
        states[:, 0, :2] = tracks[:, moving]
    index = write_index(root, ["val"])
    clip = {"rgb": rgb, "states": states, "intrinsics": lens, "extrinsics": pose}
    stored = {"clip": clip, "keypoints": {"tracks": tracks, "visible": visible}}
    refs = {
        name: write_clips(index, name, {key: array[None] for key, array in arrays.items()})
        for name, arrays in stored.items()
    }
    return opened(refs)


def clip_videos(rgb: np.ndarray) -> ClipVideos:
    camera = rgb_to_images(rgb)
    worse = torch.cat([camera[:1], camera[:-1]])  # a frame late
    return ClipVideos(
        clip_id="clip000", camera=camera, decoded=camera, depth=None,
        predicted={FREE: worse, TEACHER: camera},
    )  # fmt: skip


def test_methods_are_ordered_as_their_motion_is(video, tmp_path):
    rgb, tracks, visible = video
    moving = int(np.ptp(tracks[..., 0], axis=0).argmax())
    rows = stores_of(tmp_path, rgb, tracks, visible, moving)
    scores = MotionScores(rows, LucasKanade(), torch.device("cpu"))(clip_videos(rgb), 0)

    def found(metric: str, region: str = ACTIVE) -> list[float]:
        methods = ((TEACHER, TRACKED), (TEACHER, MODEL), (FREE, MODEL), (FREE, COPY))
        return [scores[Cell(p, PSEUDO_TRACKS, region, method, metric)] for p, method in methods]

    itself, exact, late, copied = found("track_error")
    assert itself == exact < 1 < late < copied
    itself, exact, late, copied = found("track_within")
    assert itself == exact > 0.95 and exact > late >= copied
    itself, exact, late, copied = found("path_ndtw", GRIPPER)
    assert itself == exact > 0.95 and exact > late > 0.9 > 0.5 > copied  # DTW forgives its pace
    methods = {(cell.protocol, cell.method) for cell in scores}
    both = {(protocol, m) for protocol in (FREE, TEACHER) for m in (MODEL, COPY, CEILING, TRACKED)}
    assert methods == both | {(TEACHER, PREVIOUS), (TEACHER, LINEAR)}
    assert {cell.reference for cell in scores} == {PSEUDO_TRACKS}


@dataclass(frozen=True, kw_only=True)
class Choosy(LucasKanade):
    """Rejects grey videos."""

    def start(self, device: str):
        track = super().start(device)

        def rejecting(clips, queries):
            grey = [np.ptp(clip.arrays["rgb"]) == 0 for clip in clips]
            found = track(clips, queries)
            return [Rejected("grey") if no else one for no, one in zip(grey, found, strict=True)]

        return rejecting


def test_in_a_video_that_the_tracker_rejects_the_points_stay_put(video, tmp_path):
    rgb, tracks, visible = video
    clip = clip_videos(rgb)
    predicted = {FREE: torch.zeros_like(clip.camera), TEACHER: clip.camera}
    rows = stores_of(tmp_path, rgb, tracks, visible)
    scores = MotionScores(rows, Choosy(), torch.device("cpu"))(
        replace(clip, predicted=predicted), 0
    )
    ours, copied = (Cell(FREE, PSEUDO_TRACKS, ACTIVE, m, "track_error") for m in (MODEL, COPY))
    assert scores[ours] == pytest.approx(scores[copied], rel=0.01) and scores[ours] > 10


def test_without_calibration_there_is_no_path_and_without_motion_nothing(video, tmp_path):
    rgb, tracks, visible = video
    device = torch.device("cpu")
    rows = stores_of(tmp_path / "a", rgb, tracks, visible)
    scores = MotionScores(rows, LucasKanade(), device)(clip_videos(rgb), 0)
    assert {cell.metric for cell in scores} == {"track_error", "track_within"}
    still = np.repeat(tracks[:1], len(tracks), axis=0)
    rows = stores_of(tmp_path / "b", rgb, still, visible, 0)
    assert MotionScores(rows, LucasKanade(), device)(clip_videos(rgb), 0) == {}


def test_active_points_are_those_of_training_after_frame_0(video):
    _, tracks, visible = video
    visible = visible.copy()
    visible[3] = False
    counted = active_points(tracks, visible, (128, 128))
    shares = torch.from_numpy((tracks + 0.5) / 128)[None].float()
    chosen = select_active_tracks(shares, torch.from_numpy(visible)[None]).index[0]
    expected = np.zeros(tracks.shape[1], bool)
    expected[[i for i in chosen.tolist() if i >= 0]] = True
    assert 0 < expected.sum() <= 64
    for t in range(len(tracks)):
        assert (counted[t] == (expected & visible[t] & (t > 0))).all()
    found = motion_scores(tracks + 3, tracks, counted, (128, 128))
    pair = (torch.from_numpy(tracks + 3)[None], torch.from_numpy(tracks)[None])
    error = track_error(*pair, torch.from_numpy(counted)[None], (128, 128))
    assert found[ACTIVE, "track_error"] == error.item() == pytest.approx(6 * 2**0.5, rel=1e-4)
    assert motion_scores(tracks, tracks, np.zeros_like(counted), (128, 128)) == {}


def test_a_tracker_that_wants_more_frames_takes_the_clips_own(video, tmp_path):
    rgb, tracks, visible = video
    rows = stores_of(tmp_path, rgb, tracks, visible)
    at_10_hz = DenseFlow(root=str(tmp_path), annotation_rate_hz=10.0)
    scores = MotionScores(rows, at_10_hz, torch.device("cpu"))(clip_videos(rgb), 0)
    plain = MotionScores(rows, DenseFlow(annotation_rate_hz=None), torch.device("cpu"))
    assert scores and scores == plain(clip_videos(rgb), 0)


def test_trackers_that_read_what_is_recorded_are_refused():
    truth = TrueTracking(root="", sample="0")
    with pytest.raises(ValueError, match=r"evaluation.tracker=truth reads discover/task"):
        Evaluate(tracker=truth)
    weights = WeightsRef(name="spatracker", sha256="0" * 64)
    paper = SpatialTracking(weights=weights, model=published(), depth_units="relative")
    with pytest.raises(ValueError, match=r"reads depth, .* dense-flow or lucas-kanade"):
        Evaluate(tracker=paper)


# In the stage


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    """With tracks, and clips that have states and no calibration."""
    world = make_world(tmp_path_factory.mktemp("motion"))
    clips = open_rows(world.rows["clip"])
    made = np.flatnonzero(clips.ok)
    n, t = clips.n, clips.specs["rgb"].shape[0]
    arrays = {
        "states": np.zeros((n, t, 15, 16), np.float32),
        "intrinsics": np.full((n, 4), np.nan, np.float32),
        "extrinsics": np.full((n, t, 3, 4), np.nan, np.float32),
    }
    for name, spec in clips.specs.items():
        arrays[name] = np.zeros((n, *spec.shape), spec.dtype)
        arrays[name][made] = clips.gather(name, made)
    index, at = world.rows["discover"], {"discover": world.rows["discover"].uri}
    ref = write_clips(index, "clip", arrays, rejected=(REJECTED,), inputs=at)
    noise = np.random.default_rng(0)
    tracks = noise.uniform(4, 28, (n, 1, 20, 2)) + np.linspace(0, 8, t)[None, :, None, None]
    keypoints = write_clips(
        index,
        "keypoints",
        {"tracks": tracks.astype(np.float32), "visible": np.ones((n, t, 20), bool)},
        upstream=(REJECTED,),
        inputs={"clip": ref.uri},
    )
    return replace(world, rows=world.rows | {"clip": ref, "keypoints": keypoints})


def test_an_evaluation_with_a_tracker_has_a_table_of_motion(world, monkeypatch):
    monkeypatch.setattr(Evaluate, "draw", lambda *arguments: None)
    result = world.evaluate(tracker=LucasKanade(), n_clips=2)
    assert result.numbers["track_error_free"] > 0 and result.numbers["track_error_copy"] > 0
    assert 0 <= result.numbers["track_within_free"] <= 1
    assert "path_ndtw_free" not in result.numbers
    text = result.file("metrics.md").read_text()
    (heading,) = [
        line
        for line in text.splitlines()
        if line.startswith("## Free-running, against the pseudo tr")
    ]
    assert heading == "## Free-running, against the pseudo tracks (unknown)"
    section = text.split(heading)[1].split("## ")[0]
    assert "error of the tracks (px of 256) ↓" in section and "PSNR" not in section
    assert TRACKED in section and "lpips" not in section.lower()
    assert "tracked through every video by lucas-kanade" in text
    assert "in 0 clips enough tracks go along" in text
    # Here tracks are made up, so that no tracker can find them
    itself, copied = (result.numbers[f"track_error_{who}"] for who in ("itself", "copy"))
    assert itself > 0.5 * copied and "**lucas-kanade is of little use here**" in text


def test_a_tracker_that_finds_the_true_motion_is_not_doubted(video, tmp_path):
    rgb, tracks, visible = video
    rows = stores_of(tmp_path, rgb, tracks, visible)
    means = MotionScores(rows, LucasKanade(), torch.device("cpu"))(clip_videos(rgb), 0)
    assert means and tracker_warning(means, "lucas-kanade") == ""
    itself = Cell(FREE, PSEUDO_TRACKS, ACTIVE, TRACKED, "track_error")
    means[itself] = means[itself._replace(method=COPY)]
    assert "of little use here**: on the camera frames" in tracker_warning(means, "lucas-kanade")
    assert tracker_warning({}, "lucas-kanade") == ""


def test_without_a_tracker_nothing_is_read_and_the_report_says_how(world, monkeypatch):
    monkeypatch.setattr(Evaluate, "draw", lambda *arguments: None)
    without = {role: ref for role, ref in world.rows.items() if role != "keypoints"}
    text = replace(world, rows=without).evaluate(n_clips=1).file("metrics.md").read_text()
    assert "Motion was not measured: `evaluation.tracker=lucas-kanade`" in text
    assert "keypoints" not in Evaluate().inputs
    assert "keypoints" in Evaluate(tracker=LucasKanade()).inputs
    assert "states" in Evaluate(tracker=LucasKanade()).inputs["clip"]
    assert parameters(Evaluate(tracker=None)) == parameters(Evaluate())
    assert parameters(Evaluate(tracker=LucasKanade())) != parameters(Evaluate())
