from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from label_clips import T, one_clip, panned_clip, square_clip, still_clip, textured, turned_clip

from model.world.keypoints import select_active_tracks
from stages.base import ClipInputs, ClipStage, Rejected, Resources
from stages.keypoints.lucas_kanade import LucasKanade, texture, track_points
from stages.keypoints.stage import (
    KeypointAnnotator,
    Keypoints,
    Queries,
    TrackEstimate,
    depth_under,
    grid_queries,
)
from storage.stores.key import content_key, parameters
from storage.stores.spec import ArraySpec

STAGE = Keypoints(annotator=LucasKanade(), grid=12)
CONFIG = LucasKanade()


def run(rgb: np.ndarray, stage: Keypoints = STAGE, clip_id: str = "clip000"):
    shape = rgb.shape[:3]
    arrays = {
        "rgb": rgb,
        "inverse_depth": np.ones(shape, np.float16),
        "valid": np.ones(shape, bool),
    }
    return stage.start("cpu", {})([ClipInputs(row=0, clip_id=clip_id, arrays=arrays)])[0]


def made(rgb: np.ndarray, stage: Keypoints = STAGE) -> dict[str, np.ndarray]:
    arrays = run(rgb, stage)
    assert isinstance(arrays, dict), arrays
    for spec in stage.outputs:
        spec.check(arrays[spec.name], "clip000")
    return arrays


# -- laws of any tracker ---------------------------------------------------------------------------


def test_a_still_video_gives_still_tracks():
    arrays = made(still_clip())
    np.testing.assert_array_equal(
        arrays["tracks"], np.broadcast_to(arrays["tracks"][0], arrays["tracks"].shape)
    )
    assert arrays["visible"].all() and (arrays["fb_error"] == 0).all()


def test_noise_on_a_plain_still_scene_moves_nothing():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96]
    plain = 120 + 60 * x / 96 + 20 * y / 96  # shading only
    rgb = np.clip(plain[None, ..., None] + rng.normal(0, 3, (T, 96, 96, 3)), 0, 255).astype(
        np.uint8
    )
    arrays = made(rgb)
    assert (
        np.abs(arrays["tracks"] - arrays["tracks"][0]).max() == 0
        and arrays["visible"].mean() > 0.99
    )


@pytest.mark.parametrize("step", [(3, 0), (-2, 2), (0, -5)])
def test_a_translated_video_translates_the_tracks(step: tuple[int, int]):
    arrays = made(panned_clip(step))
    tracks, visible = arrays["tracks"], arrays["visible"]
    true = tracks[0] + np.arange(T)[:, None, None] * np.array(step)
    # Away from borders, where a window has all its pixels
    inside = ((true > 8) & (true < 87)).all(-1)
    inside &= inside[0]
    error = np.linalg.norm(tracks - true, axis=-1)
    assert inside[1:].sum() > 300
    assert np.quantile(error[inside], 0.95) < 0.3 and visible[inside].mean() > 0.97
    gone = ((true < -4) | (true > 100)).any(-1)
    assert gone.any() and visible[gone].mean() < 0.2, (
        "few are found again where there is nothing to find"
    )


def test_the_order_of_queries_does_not_matter():
    rgb, _ = square_clip()
    queries = grid_queries(12, (128, 128))
    order = np.random.default_rng(0).permutation(len(queries))
    one, other = track_points(rgb, queries, CONFIG), track_points(rgb, queries[order], CONFIG)
    np.testing.assert_array_equal(other.tracks, one.tracks[:, order])
    np.testing.assert_array_equal(other.visible, one.visible[:, order])


def test_a_point_does_not_depend_on_the_others():
    rgb, _ = square_clip()
    queries = grid_queries(12, (128, 128))
    alone = track_points(rgb, queries[40:41], CONFIG)
    np.testing.assert_array_equal(
        alone.tracks[:, 0], track_points(rgb, queries, CONFIG).tracks[:, 40]
    )


def test_a_slow_change_of_light_is_not_motion():
    light = np.linspace(1.0, 0.92, T)[:, None, None, None]
    arrays = made((still_clip() * light).astype(np.uint8))
    assert (
        np.abs(arrays["tracks"] - arrays["tracks"][0]).max() == 0
        and arrays["visible"].mean() > 0.95
    )


def test_a_moving_square_takes_its_points_along_and_hides_others():
    rgb, left = square_clip()
    queries = grid_queries(32, (128, 128))
    found = track_points(rgb, queries, CONFIG)
    x, y = queries.T
    on = (x > left[0] + 6) & (x < left[0] + 30) & (y > 52) & (y < 76)
    true = queries[on] + np.stack([left - left[0], 0 * left], 1)[:, None]
    assert np.median(np.linalg.norm(found.tracks[:, on] - true, axis=-1)) < 0.3
    assert found.visible[:, on].mean() > 0.9
    above = y < 40
    assert (
        np.abs(found.tracks[:, above] - queries[above]).max() == 0 and found.visible[:, above].all()
    )
    # Free, covered in the middle of the clip, free again
    row = (y > 52) & (y < 76) & (x > 60) & (x < 66)
    covered = (left < 57) & (left + 36 > 69)
    assert covered.sum() >= 3 and found.visible[covered][:, row].mean() < 0.3
    assert found.visible[0, row].all() and found.visible[-1, row].mean() > 0.9
    seen = found.visible[-1] & row
    assert np.abs(found.tracks[-1, seen] - queries[seen]).max() < 1


# -- the stage -------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(8, 300), st.integers(8, 300))
def test_the_grid_covers_the_frame_evenly(grid: int, height: int, width: int):
    queries = grid_queries(grid, (height, width))
    assert queries.shape == (grid * grid, 2)
    # 1521 numbers summed in float32 miss it by more than the queries do
    middle = queries.mean(0, dtype=np.float64)
    np.testing.assert_allclose(middle, [(width - 1) / 2, (height - 1) / 2], atol=1e-3)
    assert (queries > -0.5).all() and (queries < (width - 0.5, height - 0.5)).all()
    np.testing.assert_allclose(np.diff(queries[:grid, 0]), width / grid, rtol=1e-4)
    assert (queries[:grid, 1] == queries[0, 1]).all(), "row by row"


def test_a_black_clip_is_rejected():
    found = run(np.zeros((T, 64, 64, 3), np.uint8))
    assert isinstance(found, Rejected) and found.reason == "blank_frame"
    assert (
        "frame 0: grey levels have a standard deviation of 0.00, at least 2 is needed"
        in found.detail
    )


def test_one_black_frame_is_named():
    rgb = still_clip(64)
    rgb[7] = 0
    found = run(rgb)
    assert isinstance(found, Rejected) and found.detail.startswith("frame 7:")


def test_a_frozen_frame_is_no_fault():
    rgb = panned_clip((2, 0))
    rgb[8] = rgb[7]
    arrays = made(rgb)
    np.testing.assert_allclose(arrays["tracks"][8], arrays["tracks"][7], atol=0.5)


def test_a_clip_of_15_frames_is_an_error_that_says_what_to_do():
    with pytest.raises(
        ValueError,
        match="clip short: 15 frames, stage 'keypoints' is set to n_frames=16; give stages",
    ):
        run(still_clip(64)[:15], clip_id="short")


def test_one_bad_clip_spoils_no_other():
    good = still_clip(64)
    shape = good.shape[:3]
    rest = {"inverse_depth": np.ones(shape, np.float16), "valid": np.ones(shape, bool)}
    clips = [
        ClipInputs(row=i, clip_id=f"clip{i}", arrays={"rgb": rgb, **rest})
        for i, rgb in enumerate((good, np.zeros_like(good), good))
    ]
    first, second, third = STAGE.start("cpu", {})(clips)
    assert isinstance(second, Rejected) and isinstance(first, dict) and isinstance(third, dict)
    np.testing.assert_array_equal(first["tracks"], third["tracks"])


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="grid=0: expected 1 or more points"):
        replace(STAGE, grid=0)


@dataclass(frozen=True, kw_only=True)
class Drift(KeypointAnnotator):
    """Another annotator, as a network would be one, with an array of its own."""

    spoilt: bool = False
    name: str = field(default="drift", init=False)
    version: int = field(default=3, init=False)

    def attributes_for(self, n_points: int) -> Mapping[str, str]:
        return {"licence": "none"}

    def resources_for(self, n_points: int) -> Resources:
        return Resources(gpus=0.25)

    def extra_outputs(self, n_frames: int, n_points: int) -> tuple[ArraySpec, ...]:
        return (
            ArraySpec(
                "visibility", "float32", ("t", "p"), (n_frames, n_points), "1", "probability"
            ),
        )

    def start(
        self, device: str
    ) -> Callable[[Sequence[ClipInputs], Queries], Sequence[TrackEstimate | Rejected]]:
        def track(clips: Sequence[ClipInputs], queries: Queries) -> list[TrackEstimate | Rejected]:
            steps = np.arange(T, dtype=np.float32)[:, None, None]
            tracks = queries + steps * np.float32(np.nan if self.spoilt else 1)
            probability = np.full(tracks.shape[:2], 0.75, np.float32)
            return [
                TrackEstimate(
                    tracks=tracks, visible=probability > 0.5, extras={"visibility": probability}
                )
            ] * len(clips)

        return track


def test_another_annotator_is_another_field():
    other = replace(STAGE, annotator=Drift())
    assert isinstance(other, ClipStage) and isinstance(STAGE, ClipStage)
    common = ["tracks", "visible", "point_inverse_depth"]
    assert [s.name for s in STAGE.outputs] == [*common, "fb_error"]
    assert [s.name for s in other.outputs] == [*common, "visibility", "fb_error"]
    arrays = made(still_clip(64), other)
    assert np.isnan(arrays["fb_error"]).all(), (
        "what it does not measure is in every store, and says so"
    )
    np.testing.assert_allclose(np.diff(arrays["tracks"], axis=0), 1, atol=1e-4)
    assert (
        other.attributes == {"annotator": "drift", "licence": "none"}
        and other.resources.gpus == 0.25
    )
    assert content_key(other) != content_key(STAGE)
    assert parameters(other)["annotator"] == {"spoilt": False, "name": "drift", "version": 3}


def test_tracks_that_are_not_numbers_are_rejected():
    found = run(still_clip(64), replace(STAGE, annotator=Drift(spoilt=True)))
    assert isinstance(found, Rejected) and found.reason == "nan_tracks"


def test_the_annotator_is_named_in_what_reports_show():
    assert (
        STAGE.attributes["annotator"] == "lucas-kanade"
        and STAGE.attributes["stand_in_for"] == "SpatialTracker"
    )


# -- depth under the points ------------------------------------------------------------------------


def test_depth_is_that_of_the_pixel_under_the_point():
    rng = np.random.default_rng(0)
    inverse = rng.random((T, 20, 30)).astype(np.float16)
    valid = rng.random(inverse.shape) > 0.3
    tracks = rng.uniform(-3, 33, (T, 50, 2)).astype(np.float32)
    visible = rng.random((T, 50)) > 0.2
    found = depth_under(tracks, visible, inverse, valid)
    for t in range(T):
        for p in range(50):
            x, y = (int(np.round(v)) for v in tracks[t, p])
            inside = 0 <= x < 30 and 0 <= y < 20
            known = visible[t, p] and inside and valid[t, y, x]
            assert found[t, p] == (inverse[t, y, x] if known else 0)


def test_points_know_the_depth_of_what_they_are_on():
    rgb, left = square_clip()
    x = np.arange(128)
    on = (x >= left[:, None]) & (x < left[:, None] + 36)  # (t, w)
    inverse = np.where(on[:, None], 2.0, 0.5).astype(np.float16)
    inverse = np.repeat(inverse, 128, axis=1)
    clip = one_clip(rgb=rgb, inverse_depth=inverse, valid=np.ones(inverse.shape, bool))
    arrays = Keypoints(annotator=LucasKanade(), grid=16).start("cpu", {})([clip])[0]
    assert isinstance(arrays, dict)
    x0, y0 = arrays["tracks"][0].T
    square = (x0 > left[0] + 6) & (x0 < left[0] + 30) & (y0 > 52) & (y0 < 76)
    seen = arrays["visible"][:, square]
    assert (arrays["point_inverse_depth"][:, square][seen] == 2).mean() > 0.95
    assert (arrays["point_inverse_depth"][~arrays["visible"]] == 0).all()


# -- Lucas-Kanade ----------------------------------------------------------------------------------


def test_texture_is_high_at_corners_and_low_on_plains_and_edges():
    image = np.full((64, 64), 60, np.uint8)
    image[32:, 32:] = 200
    corner, edge, plain = texture(image, np.float32([[32, 32], [32, 54], [10, 10]]), 11)
    assert corner > CONFIG.min_texture and edge < CONFIG.min_texture and plain == 0


@pytest.mark.parametrize("pan", [0.01, 0.02, 0.03])
def test_a_turning_camera_makes_hardly_any_track_active(pan: float):
    """Of true tracks none is selected (`tests/model/world/test_active_tracks.py`); a few of these
    are mistaken.
    """
    rgb, square = turned_clip(pan), textured(30, 30, 9)
    for t, x in enumerate(
        np.linspace(20, 80, T).astype(int)
    ):  # over the picture, whatever the camera does
        rgb[t, 90:120, x : x + 30] = square
    queries = grid_queries(32, rgb.shape[1:3])
    found = track_points(rgb, queries, CONFIG)
    shares = torch.from_numpy((found.tracks + np.float32(0.5)) / 128)[None]
    chosen = {}
    for compensated in (False, True):
        selected = select_active_tracks(
            shares,
            torch.from_numpy(found.visible)[None],
            k=len(queries),
            compensate_camera=compensated,
        )
        chosen[compensated] = selected.index[0][selected.index[0] >= 0].numpy()
    x, y = queries.T
    on = (x > 18) & (x < 52) & (y > 88) & (y < 122)
    assert (~on[chosen[False]]).mean() > 0.8, "uncompensated it is the scene that looks active"
    assert (~on[chosen[True]]).sum() < 0.02 * len(queries) and on[chosen[True]].sum() > 30


def test_forward_backward_error_is_within_its_bound():
    arrays = made(panned_clip((3, 1)))
    moved = (arrays["tracks"] != arrays["tracks"][0]).any(-1) & arrays["visible"]
    assert moved.any() and (arrays["fb_error"][moved] > 0).any()
    assert arrays["fb_error"].max() <= CONFIG.max_fb_error_px


def test_golden_tracks():
    """Tied to `Keypoints.version` and `LucasKanade.version`: other numbers mean a new version.
    OpenCV's builds differ in the last bits, hence the tolerance.
    """
    rgb, _ = square_clip()
    arrays = made(rgb, Keypoints(annotator=LucasKanade(), grid=12))
    np.testing.assert_allclose(arrays["tracks"][-1, [61, 62, 63, 64]], GOLDEN_ENDS, atol=0.05)
    assert abs(int(arrays["visible"].sum()) - GOLDEN_VISIBLE) <= 3


GOLDEN_ENDS = [
    [91.505, 58.167],
    [102.166, 58.167],
    [112.844, 58.167],
    [47.5, 58.167],
]  # three on the square
GOLDEN_VISIBLE = 2082
