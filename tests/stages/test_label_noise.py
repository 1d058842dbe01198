"""Labels spoiled on purpose: by as much as asked for, the same each time, and never in silence."""

import numpy as np
import pytest

from stages.label_noise import SPOILED, DepthNoise, TrackNoise
from stages.label_quality.labels import AnnotatorInfo

DEPTH = np.full((4, 60, 80), 0.5, np.float32)
TRACKS = np.tile(np.float32([[10, 20], [30, 5]]), (5, 200, 1))


def test_depth_has_the_noise_and_the_tilt_asked_for():
    noisy = DepthNoise(noise=0.1).spoil(DEPTH, "a")
    assert noisy.std() / 0.5 == pytest.approx(0.1, rel=0.03)
    assert noisy.mean() == pytest.approx(0.5, rel=0.01)
    tilted = DepthNoise(tilt=0.4).spoil(DEPTH, "a")
    assert (tilted[..., 0] < 0.31).all() and (tilted[..., -1] > 0.69).all()
    np.testing.assert_allclose(tilted.mean(axis=2), 0.5, rtol=1e-5)
    assert (DepthNoise(noise=5.0).spoil(DEPTH, "a") >= 0).all()


def test_tracks_have_the_noise_and_the_drift_asked_for_at_any_size():
    noisy = TrackNoise(noise=8.0).spoil(TRACKS, 128, "a") - TRACKS
    assert (noisy[0] == 0).all() and noisy[1:].std() == pytest.approx(4, rel=0.05)
    drift = TrackNoise(drift=6.0).spoil(TRACKS, 256, "a") - TRACKS
    steps = np.linalg.norm(np.diff(drift, axis=0), axis=-1)
    np.testing.assert_allclose(steps, 6, rtol=1e-3)
    assert np.ptp(drift, axis=1).max() < 1e-4, "all points go one way"


def test_nothing_asked_for_changes_nothing():
    np.testing.assert_array_equal(DepthNoise().spoil(DEPTH, "a"), DEPTH)
    np.testing.assert_array_equal(TrackNoise().spoil(TRACKS, 96, "a"), TRACKS)


def test_a_clip_has_the_same_noise_each_time_and_another_clip_another():
    for spoil in (
        lambda clip: DepthNoise(noise=0.1).spoil(DEPTH, clip),
        lambda clip: TrackNoise(noise=1.0, drift=1.0).spoil(TRACKS, 96, clip),
    ):
        np.testing.assert_array_equal(spoil("a"), spoil("a"))
        assert not np.array_equal(spoil("a"), spoil("b"))


def test_reports_say_so():
    said = DepthNoise(noise=0.1).attributes[SPOILED]
    assert AnnotatorInfo("sensor", "1/m", "", "", said).caveat == (
        ", spoiled on purpose: depth: noise 0.1, tilt 0 of the inverse depth"
    )
    assert TrackNoise(drift=2.0).attributes[SPOILED].startswith("tracks: noise 0, drift 2 px")
