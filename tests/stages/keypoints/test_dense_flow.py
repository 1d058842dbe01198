"""Tracks by chained dense flow: still things stay, moving ones are followed or hidden."""

import numpy as np
import pytest
from label_clips import one_clip, square_clip, still_clip

from simulation.config import SampleConfig
from simulation.dataset import make_sample
from simulation.ground_truth import read_ground_truth
from stages.exact_labels import true_tracks
from stages.keypoints.dense_flow import DenseFlow, pieces, same_look, track_points
from stages.keypoints.stage import Keypoints, grid_queries
from stages.label_quality.truth_scores import long_paths, score_track_labels
from storage.sources.video import Video

CONFIG = DenseFlow(annotation_rate_hz=None)


def test_a_still_video_gives_still_tracks():
    stage = Keypoints(annotator=CONFIG, grid=12)
    rgb = still_clip()
    depth = {"inverse_depth": np.ones(rgb.shape[:3], np.float16), "valid": rgb[..., 0] >= 0}
    (arrays,) = stage.start("cpu", {})([one_clip(rgb=rgb, **depth)])
    assert isinstance(arrays, dict)
    for spec in stage.outputs:
        spec.check(arrays[spec.name], "clip000")
    assert np.ptp(arrays["tracks"], axis=0).max() == 0 and arrays["visible"].all()
    assert (arrays["fb_error"] == 0).all()


def test_shadows_do_not_move_what_they_pass():
    rgb = still_clip(128).astype(np.float32)
    for t in range(len(rgb)):
        rgb[t, 40:80, 6 * t : 6 * t + 30] *= 0.65
    queries = grid_queries(12, (128, 128))
    found = track_points(rgb.astype(np.uint8), queries, CONFIG)
    assert np.abs(found.tracks - queries).max() == 0 and found.visible.mean() > 0.97


def test_a_moving_square_takes_its_points_along_and_hides_others():
    rgb, left = square_clip()
    tint = np.array([1.0, 0.6, 0.3])
    for t, x in enumerate(left):  # the square is red
        rgb[t, 46:82, x : x + 36] = rgb[t, 46:82, x : x + 36] * tint
    queries = grid_queries(32, (128, 128))
    found = track_points(rgb, queries, CONFIG)
    x, y = queries.T
    on = (x > left[0] + 6) & (x < left[0] + 30) & (y > 52) & (y < 76)
    true = queries[on] + np.stack([left - left[0], 0 * left], 1)[:, None]
    error = np.linalg.norm(found.tracks[:, on] - true, axis=-1)[found.visible[:, on]]
    assert np.median(error) < 0.5 and found.visible[:, on].mean() > 0.7
    above = y < 40
    assert np.abs(found.tracks[:, above] - queries[above]).max() == 0
    row = (y > 52) & (y < 76) & (x > 60) & (x < 66)
    covered = (left < 57) & (left + 36 > 69)
    assert covered.sum() >= 3 and found.visible[covered][:, row].mean() < 0.3
    assert found.visible[-1, row].mean() > 0.9, "seen again at its place"


def test_light_changes_a_colour_less_than_paint():
    grey = np.array([[90.0, 90, 90]], np.float32)
    assert same_look(grey, 0.6 * grey, 0.015, 0.5).all(), "a shadow"
    assert not same_look(grey, 0.3 * grey, 0.015, 0.5).any(), "something dark"
    assert not same_look(grey, np.array([[110.0, 90, 70]], np.float32), 0.015, 0.5).any()


def test_a_piece_is_what_hangs_together():
    queries = grid_queries(4, (64, 64))
    look = np.full((16, 3), 100, np.float32)
    look[[1, 5, 9, 13], 0] = 200  # a red column
    piece = pieces(look, queries, CONFIG).reshape(4, 4)
    assert [len(set(piece[:, i])) for i in range(4)] == [1, 1, 1, 1]
    assert len(set(piece[0])) == 3 and piece[0, 2] == piece[0, 3], "left, red, right"


def test_on_simulated_episodes_it_beats_nothing_moves_clearly(tmp_path):
    sample = SampleConfig(
        n_episodes=1, seed=5, rate_hz=10.0, duration_s=8.0, width=256, height=192, share_random=0.0
    )
    make_sample(tmp_path, sample, workers=1)
    (path,) = tmp_path.glob("observations/*/*/videos/head_color.mp4")
    (folder,) = tmp_path.glob("ground_truth/*/*")
    frames, side = np.arange(76), (192, 192)
    with Video(path) as video:
        rgb = video.frames(frames, side)
    queries, own = grid_queries(32, side), np.arange(0, 76, 5)
    found = track_points(rgb, queries, DenseFlow(root="unused")).sampled(own)
    truth = true_tracks(read_ground_truth(folder), frames[own], queries, side)
    moving = long_paths(truth.tracks, truth.known, side)
    ours = score_track_labels(found.tracks, found.visible, truth, side, among=moving)
    still = np.broadcast_to(queries, found.tracks.shape).copy(), np.ones_like(found.visible)
    nothing = score_track_labels(*still, truth, side, among=moving)
    assert ours["average_jaccard"] > nothing["average_jaccard"] + 0.1
    assert ours["position_accuracy"] > nothing["position_accuracy"] + 0.15
    everything = score_track_labels(found.tracks, found.visible, truth, side)
    assert everything["average_jaccard"] > 0.8
    said = np.ptp(found.tracks, axis=0).max(axis=1) > 8
    assert moving[said].mean() > 0.75, "few still points are said to move"


def test_a_rate_needs_the_folder_of_the_episodes():
    with pytest.raises(ValueError, match=r"annotation_rate_hz=10.0 without `root`"):
        DenseFlow()
    for rate in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"expected a rate above 0, 'native'"):
            DenseFlow(root="x", annotation_rate_hz=rate)
