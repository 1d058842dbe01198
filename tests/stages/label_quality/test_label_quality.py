import base64
import io
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_clips import T, panned_clip, square_clip, still_clip
from PIL import Image
from small_stores import write_clips, write_index

from pipeline.orchestration.clip_worker import Job, Worker
from stages.base import ClipInputs, ClipStage
from stages.drawing.pictures import draw_tracks, png_bytes
from stages.flag_counts import has_any
from stages.flags import flagged
from stages.keypoints.stage import grid_queries
from stages.label_quality.contact_sheet import MAX_POINTS, draw_thinned
from stages.label_quality.measures import (
    FLAGS,
    MEASURES,
    NO_FLAGS,
    all_flags,
    flag_counts,
    flag_names,
    flag_summary,
)
from stages.label_quality.stage import LabelQuality, flicker, still_pixels
from storage.stores import store
from storage.stores.key import content_key, parameters
from storage.stores.records import Manifest, StoreRef
from storage.stores.rows import Rows, open_rows

SIDE, GRID = 64, 8
STAGE = LabelQuality()
Clip = dict[str, np.ndarray]


def good_clip(seed: int = 0) -> Clip:
    """A near square that slides over a farther, slanted ground, with right labels."""
    rgb, left = square_clip(SIDE, box=16, seed=seed)
    rgb = np.roll(rgb, -20, axis=1)  # the square from row 26 on
    x = np.arange(SIDE)
    square = np.zeros((T, SIDE, SIDE), bool)
    square[:, 26:42] = ((x >= left[:, None]) & (x < left[:, None] + 16))[:, None]
    ground = np.broadcast_to(0.5 + 0.5 * np.linspace(0, 1, SIDE)[:, None], (SIDE, SIDE))
    inverse = np.where(square, 2.0, ground).astype(np.float16)
    queries = grid_queries(GRID, (SIDE, SIDE))
    row, column = np.round(queries).astype(int).T[::-1]
    on = square[0, row, column]
    tracks = np.repeat(queries[None], T, axis=0)
    tracks[:, on, 0] += (left - left[0])[:, None]
    fb_error = np.where(on, np.float32(0.1), np.float32(0)) * np.ones((T, 1), np.float32)
    return {
        "rgb": rgb,
        "inverse_depth": inverse,
        "valid": np.ones(inverse.shape, bool),
        "inverse_depth_range": np.array([0.5, 2.0], np.float32),
        "tracks": tracks,
        "visible": np.ones(tracks.shape[:2], bool),
        "fb_error": fb_error,
    }


def noisy_depth(clip: Clip, share: float) -> Clip:
    """Independent noise in every pixel, its standard deviation as a share of the clip's range."""
    low, high = clip["inverse_depth_range"].tolist()
    noise = (
        share * (high - low) * np.random.default_rng(0).standard_normal(clip["inverse_depth"].shape)
    )
    return clip | {"inverse_depth": (clip["inverse_depth"] + noise).astype(np.float16)}


def still_scene() -> Clip:
    """Nothing moves, and labels say so; a camera's noise is in the picture."""
    clip = good_clip()
    first = {
        name: np.repeat(clip[name][:1], T, axis=0)
        for name in ("inverse_depth", "valid", "tracks", "visible")
    }
    noise = np.random.default_rng(1).normal(0, 3, (T, SIDE, SIDE, 3))
    return clip | first | {"rgb": np.clip(still_clip(SIDE) + noise, 0, 255).astype(np.uint8)}


def measured(clip: Clip, stage: LabelQuality = STAGE) -> tuple[dict[str, float], list[str]]:
    """(numbers, names of the flags), as the stage makes them."""
    arrays = stage.start("cpu", {})([ClipInputs(row=0, clip_id="c", arrays=clip)])[0]
    assert isinstance(arrays, dict), arrays
    for spec in stage.outputs:
        spec.check(arrays[spec.name], "c")
    return {m.name: float(arrays[m.name]) for m in MEASURES}, flag_names(int(arrays["flags"]))


def slow_flicker(clip: Clip) -> list[float]:
    """Of each pair of frames with still pixels, in plain loops, by the definition in
    `LabelQuality`.
    """
    low, high = clip["inverse_depth_range"].tolist()
    _, height, width, _ = clip["rgb"].shape
    # OpenCV mirrors the picture about its outermost pixels
    wide = np.pad(clip["rgb"].astype(float), ((0, 0), (2, 2), (2, 2), (0, 0)), "reflect")
    pairs = []
    for t in range(T - 1):
        changes = []
        for y in range(height):
            for x in range(width):
                before, after = (wide[i, y : y + 5, x : x + 5].mean((0, 1)) for i in (t, t + 1))
                if (
                    max(abs(after - before)) <= 3
                    and clip["valid"][t, y, x]
                    and clip["valid"][t + 1, y, x]
                ):
                    first, second = (float(clip["inverse_depth"][i, y, x]) for i in (t, t + 1))
                    changes.append(abs(second - first) / (high - low))
        if len(changes) >= 0.2 * height * width:
            kept = sorted(changes)[: round(0.95 * len(changes))]
            pairs.append(sum(kept) / len(kept))
    return pairs


# -- flicker ---------------------------------------------------------------------------------------


def test_flicker_agrees_with_plain_loops():
    clip = noisy_depth(good_clip(), 0.02)
    for name in ("rgb", "inverse_depth", "valid"):
        clip[name] = clip[name][:, 16:48, :40].copy()
    clip["valid"] &= np.random.default_rng(2).random(clip["valid"].shape) > 0.1
    clip["rgb"][9] = 255 - clip["rgb"][9]  # nothing is still from frame 8 to 9, nor from 9 to 10
    slow, (found, _) = slow_flicker(clip), measured(clip)
    assert len(slow) == T - 3
    assert found["flicker"] == pytest.approx(np.mean(slow), rel=1e-4)
    assert found["flicker_peak"] == pytest.approx(np.max(slow), rel=1e-4)


def test_right_labels_do_not_flicker_whatever_moves():
    found, flags = measured(good_clip())
    assert found["flicker"] == found["flicker_peak"] == 0 and not flags


@pytest.mark.parametrize("share", [0.01, 0.03, 0.1])
def test_flicker_is_the_noise_of_the_depth(share: float):
    """As a share of the range. (The mean of |a - b| is 1.13 standard deviations, 1.02 without its
    largest 5 %.)
    """
    for clip in (good_clip(), still_scene()):
        found, flags = measured(noisy_depth(clip, share))
        assert found["flicker"] == pytest.approx(1.02 * share, rel=0.05)
        assert ("flicker" in flags) == (share > 0.02)


@settings(max_examples=20)
@given(scale=st.floats(0.1, 20), shift=st.floats(0, 5))
def test_scale_and_shift_of_the_depth_do_not_count(scale: float, shift: float):
    """So a relative annotator is measured as a metric one is."""
    clip = noisy_depth(good_clip(), 0.03)
    other = clip | {
        "inverse_depth": (scale * clip["inverse_depth"].astype(np.float32) + shift).astype(
            np.float32
        ),
        "inverse_depth_range": (scale * clip["inverse_depth_range"] + shift).astype(np.float32),
    }
    (first, _), (second, _) = measured(clip), measured(other)
    for name in ("flicker", "flicker_peak"):
        assert second[name] == pytest.approx(first[name], rel=1e-3)


def test_one_frame_out_of_scale_is_a_jump_and_no_flicker():
    clip = good_clip()
    clip["inverse_depth"][7] *= np.float16(1.25)
    found, flags = measured(clip)
    assert flags == ["depth_jump"] and found["flicker_peak"] > 5 * found["flicker"]


def test_holes_do_not_flicker():
    clip = good_clip()
    clip["valid"] = np.random.default_rng(0).random(clip["valid"].shape) > 0.1
    clip["inverse_depth"] = np.where(clip["valid"], clip["inverse_depth"], np.float16(0))
    found, flags = measured(clip)
    assert (
        found["flicker"] == 0 and not flags and found["depth_known"] == pytest.approx(0.9, abs=0.01)
    )


def test_a_few_wrong_pixels_are_no_flicker():
    """Edges of depth, and what moves without changing its colour."""
    clip = good_clip()
    wild = np.random.default_rng(0).random(clip["inverse_depth"].shape) < 0.02
    clip["inverse_depth"][wild] = 2.0
    found, flags = measured(clip)
    assert found["flicker"] < 0.002 and not flags
    assert measured(clip, replace(STAGE, trim=0.0))[0]["flicker"] > 0.01


def test_where_all_moves_flicker_is_not_measured_and_not_flagged():
    clip = noisy_depth(good_clip() | {"rgb": panned_clip((3, 1), SIDE)}, 0.5)
    found, flags = measured(clip)
    assert np.isnan(found["flicker"]) and np.isnan(found["flicker_peak"]) and not flags


@pytest.mark.parametrize("noise", [0, 2, 4])
def test_stillness_withstands_noise_and_sees_what_passes(noise: float):
    rgb, left = square_clip(SIDE, box=16)
    rgb = np.clip(rgb + np.random.default_rng(0).normal(0, noise, rgb.shape), 0, 255).astype(
        np.uint8
    )
    still = still_pixels(rgb, STAGE.still_levels, STAGE.still_window_px)
    assert still[:, :40].mean() > 0.95, "the ground above the square"
    for t in range(T - 1):
        swept = slice(left[t], left[t + 1] + 16)
        assert still[t, 46:62, swept].mean() < 0.2, "a few look alike by chance"


def test_a_single_still_pixel_counts_in_whole():
    depth = np.zeros((2, 3, 3), np.float32)
    depth[1, 1, 1] = 5
    still = np.zeros((1, 3, 3), bool)
    assert flicker(depth, still, 0.01, 0.5).shape == (0,)
    still[0, 1, 1] = True
    assert flicker(depth, still, 0.01, 0.99).tolist() == [5]


# -- the other measures ----------------------------------------------------------------------------


def test_a_flat_scene_is_flagged():
    clip = good_clip()
    clip["inverse_depth_range"] = np.array([0.95, 1.0], np.float32)
    found, flags = measured(clip)
    assert found["depth_range"] == pytest.approx(0.05, rel=1e-4) and flags == ["flat_depth"]


def test_a_range_across_zero_is_not_flat():
    """Relative depth may be negative far away."""
    clip = good_clip() | {"inverse_depth_range": np.array([-0.2, 1.8], np.float32)}
    assert measured(clip)[0]["depth_range"] == pytest.approx(2 / 1.8, rel=1e-5)


def test_holes_are_flagged():
    clip = good_clip()
    clip["valid"][:, :20] = False
    found, flags = measured(clip)
    assert found["depth_known"] == pytest.approx(44 / 64) and flags == ["depth_holes"]


def test_mostly_hidden_tracks_are_flagged():
    clip = good_clip()
    clip["visible"] = np.random.default_rng(0).random(clip["visible"].shape) < 0.3
    clip["visible"][0] = True  # asked for there
    found, flags = measured(clip)
    assert found["visible_share"] == pytest.approx(clip["visible"][1:].mean()) and flags == [
        "tracks_hidden"
    ]


def test_a_point_outside_the_frame_is_not_visible_whatever_the_annotator_says():
    clip = good_clip()
    clip["tracks"][1:, : GRID * GRID // 4] = [SIDE - 0.5, 10]
    assert measured(clip)[0]["visible_share"] == pytest.approx(0.75)
    clip["tracks"][1:, : GRID * GRID // 4] = [SIDE - 0.51, -0.5]
    assert measured(clip)[0]["visible_share"] == 1


def test_fb_error_is_of_points_that_are_seen_and_were_followed():
    clip = good_clip()
    assert measured(clip)[0]["fb_error"] == pytest.approx(0.1 / SIDE), (
        "zeros stand for points that stayed"
    )
    clip["visible"][:, 1] = False
    clip["fb_error"][:, 1] = 9
    assert measured(clip)[0]["fb_error"] == pytest.approx(0.1 / SIDE)
    clip["fb_error"] = np.where(clip["fb_error"] > 0, np.float32(0.8), np.float32(0))
    found, flags = measured(clip)
    assert found["fb_error"] == pytest.approx(0.8 / SIDE) and flags == ["fb_error"]


@pytest.mark.parametrize("nothing", [np.nan, 0.0])
def test_where_no_fb_error_was_measured_there_is_none(nothing: float):
    clip = good_clip()
    clip["fb_error"][:] = nothing
    found, flags = measured(clip)
    assert np.isnan(found["fb_error"]) and not flags


def test_a_frozen_picture_is_flagged():
    clip = good_clip()
    clip["rgb"][6] = clip["rgb"][5]
    found, flags = measured(clip)
    assert found["repeated_frames"] == 1 and flags == ["repeated_frames"]
    noise = np.random.default_rng(0).random(clip["rgb"].shape) < 0.05  # what coding it again leaves
    found, flags = measured(clip | {"rgb": clip["rgb"] ^ noise.astype(np.uint8)})
    assert found["repeated_frames"] == 1 and flags == ["repeated_frames"]


def test_a_frozen_depth_camera_is_flagged():
    clip = good_clip()
    clip["inverse_depth"][6:9] = clip["inverse_depth"][5]
    found, flags = measured(clip)
    assert found["repeated_frames"] == 3 and "repeated_frames" in flags


def test_a_still_scene_is_no_frozen_one():
    """A camera's noise, and a depth estimate's, are never twice the same."""
    found, flags = measured(noisy_depth(still_scene(), 0.001))
    assert found["repeated_frames"] == 0 and not flags


# -- flags -----------------------------------------------------------------------------------------

VALUES = {
    "flicker": 0.001, "flicker_peak": 0.002, "depth_range": 0.8, "depth_known": 0.98,
    "visible_share": 0.9, "fb_error": 0.002, "repeated_frames": 0.0,
}  # fmt: skip


@pytest.mark.parametrize("bit", range(len(MEASURES)))
def test_each_measure_has_its_flag_past_its_limit_and_not_at_it(bit: int):
    measure = MEASURES[bit]
    limit = float(getattr(STAGE, measure.limit))
    beyond = limit + (1e-6 if measure.limit.startswith("max_") else -1e-6)
    assert STAGE.flags(VALUES) == 0
    assert STAGE.flags(VALUES | {measure.name: limit}) == 0
    assert STAGE.flags(VALUES | {measure.name: beyond}) == 1 << bit
    assert flag_names(1 << bit) == [measure.flag]
    assert STAGE.flags(VALUES | {measure.name: np.nan}) == 0


def test_flags_add_up():
    worst = {m.name: 1e3 if m.limit.startswith("max_") else -1.0 for m in MEASURES}
    assert STAGE.flags(worst) == 2 ** len(FLAGS) - 1 < NO_FLAGS
    assert flag_names(STAGE.flags(worst)) == list(FLAGS)
    counts = flag_counts(np.array([0, 1, 3, 2 ** len(FLAGS) - 1], np.uint8))
    assert counts["flicker"] == 3 and counts["depth_jump"] == 2 and counts["repeated_frames"] == 1
    assert flag_counts(np.zeros(5, np.uint8)) == {}


def test_limits_are_parameters():
    clip = noisy_depth(good_clip(), 0.03)
    assert measured(clip)[1] == ["flicker"]
    lenient = replace(STAGE, max_flicker=0.05)
    assert measured(clip, lenient)[1] == [] and content_key(lenient) != content_key(STAGE)
    assert {m.limit for m in MEASURES} <= set(parameters(STAGE))
    with pytest.raises(ValueError, match=r"trim=1\.0, min_still=0\.2"):
        LabelQuality(trim=1.0)


def test_golden_numbers():
    """Tied to `LabelQuality.version`: other numbers here mean a new version."""
    clip = noisy_depth(good_clip(seed=3), 0.02)
    clip["visible"][4:, 5:20] = False
    found, flags = measured(clip)
    golden = [0.020221, 0.020607, 0.75, 1.0, 0.8125, 0.1 / SIDE, 0.0]
    np.testing.assert_allclose([found[m.name] for m in MEASURES], golden, rtol=2e-4)
    assert flags == ["flicker"]


# -- the store -------------------------------------------------------------------------------------


def run(
    root: Path, clips: list[Clip], rejected: tuple[int, ...] = ()
) -> tuple[Rows, dict[str, Rows]]:
    """The stage as a worker runs it, on real stores: (its rows, those of its inputs)."""
    index = write_index(root, ["train"] * len(clips))
    refs = {}
    for role, names in STAGE.inputs.items():
        arrays = {name: np.stack([clip[name] for clip in clips]) for name in names}
        refs[role] = write_clips(index, role, arrays, rejected if role == "depth" else ())
    out = StoreRef.at(index.root, STAGE.name, "0" * 16)
    manifest = Manifest(
        stage=STAGE.name, key=out.key, kind="clips", version=1, parameters=parameters(STAGE),
        inputs={role: ref.uri for role, ref in refs.items()}, specs=STAGE.outputs,
        n_clips=len(clips), clips_per_shard=2, index_uri=index.uri,
    )  # fmt: skip
    store.create(out, manifest)
    worker = Worker(Job(stage=STAGE, inputs=refs, out=out))
    for shard in range(manifest.n_shards):
        store.commit(out, worker.make_shard(shard))
    store.seal(out)
    return open_rows(out), {role: open_rows(ref) for role, ref in refs.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Rows, dict[str, Rows]]:
    """Five clips: good, flickering, without depth (rejected upstream), with hidden tracks, good."""
    hidden = good_clip(3)
    hidden["visible"][1:] = False
    hidden["fb_error"][:] = 0
    clips = [good_clip(0), noisy_depth(good_clip(1), 0.2), good_clip(2), hidden, good_clip(4)]
    return run(tmp_path_factory.mktemp("quality"), clips, rejected=(2,))


def test_flags_lie_in_the_store_and_tell_what_to_leave_out(made):
    quality, _ = made
    assert isinstance(STAGE, ClipStage)
    assert quality.ok.tolist() == [True, True, False, True, True]
    found = flagged(quality, np.array([4, 3, 1, 0]))
    assert found["tracks_hidden"].tolist() == [False, True, False, False]
    assert np.logical_or.reduce(list(found.values())).tolist() == [False, True, True, False]
    assert has_any(flagged(quality, np.zeros(0, int)), found, 0).shape == (0,)
    assert [flag_names(int(f)) for f in all_flags(quality)] == [
        [],
        ["flicker", "depth_jump"],
        ["tracks_hidden"],
        [],
    ]
    assert (
        flag_summary(quality)
        == "4 clips, 2 of them flagged: flicker 1, depth_jump 1, tracks_hidden 1"
    )


def test_numbers_are_read_as_they_were_measured(made):
    quality, _ = made
    values, _ = measured(noisy_depth(good_clip(1), 0.2))
    found = quality.read([m.name for m in MEASURES], 1)
    assert {name: float(value) for name, value in found.items()} == values
    assert np.isnan(quality.gather("fb_error", np.array([3]))).all(), "not measured is data"


def test_the_store_says_what_its_bits_mean(made):
    about = made[0].spec("flags").about
    for bit, flag in enumerate(FLAGS):
        assert f"{1 << bit} {flag}" in about
    assert made[0].spec("fb_error").units == "1" and made[0].spec("flags").fill == NO_FLAGS


# -- the contact sheet -----------------------------------------------------------------------------


def test_the_contact_sheet_shows_frames_depth_and_tracks_of_each_clip(made):
    quality, inputs = made
    sheets = [STAGE.preview(quality, inputs, picks) for picks in ([1], [0, 1, 3], [0, 1, 3, 4])]
    assert sheets[0].shape[0] == sheets[1].shape[0] < sheets[2].shape[0], "three clips side by side"
    assert sheets[0].shape[1] < sheets[1].shape[1] == sheets[2].shape[1]
    height, width = sheets[1].shape[:2]
    assert 3 * 112 < height < 0.75 * width
    frame = cv2.resize(
        inputs["clip"].read(("rgb",), 3)["rgb"][0], (112, 112), interpolation=cv2.INTER_CUBIC
    )
    windows = np.lib.stride_tricks.sliding_window_view(sheets[1][..., 0], frame.shape[:2])
    assert (windows[:, :, ::16, ::16] == frame[::16, ::16, 0]).all((2, 3)).any(), (
        "the third clip's first frame is there"
    )


def test_the_sheet_of_a_full_page_fits_the_lineage_page(made):
    from pipeline.lineage.page import PICTURE_BYTES, PICTURES, thumbnail

    quality, inputs = made
    picks = [0, 1, 3, 4, 0, 1]
    assert len(picks) == STAGE.preview_clips
    png = png_bytes(STAGE.preview(quality, inputs, picks))
    with Image.open(io.BytesIO(png)) as page:
        assert page.height <= 0.75 * page.width, "nothing of it is cut off"
    shown = thumbnail(png, PICTURES * PICTURE_BYTES)
    assert len(shown) < 300_000
    with Image.open(io.BytesIO(base64.b64decode(shown.partition(",")[2]))) as page:
        assert page.width == 880, "as wide as the page"


def test_many_tracks_are_thinned_evenly_and_few_are_not():
    rgb = np.zeros((2, 64, 64, 3), np.uint8)
    tracks = np.repeat(grid_queries(32, (64, 64))[None], 2, axis=0)
    drawn = draw_thinned(rgb, tracks, np.ones((2, 1024), bool))[0].any(-1)
    assert drawn.any(0).reshape(32, 4).any(1).all() and drawn.any(1).reshape(32, 4).any(1).all(), (
        "every row and column"
    )
    assert drawn.sum() < 0.5 * draw_tracks(rgb, tracks, np.ones((2, 1024), bool))[0].any(-1).sum()
    few = tracks[:, :MAX_POINTS]
    seen = np.ones(few.shape[:2], bool)
    np.testing.assert_array_equal(draw_thinned(rgb, few, seen), draw_tracks(rgb, few, seen))
