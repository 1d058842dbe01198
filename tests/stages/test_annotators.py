"""Video Depth Anything and SpatialTracker in their stages: files that do not fit, clips that cannot
be annotated.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from label_clips import T, still_clip
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from vda_small import TINIEST as DEPTH

from model.spatial_tracker.config import SpatialTrackerConfig
from model.spatial_tracker.model import SpatialTracker
from model.training.checkpoint import save_model
from model.video_depth.model import VideoDepth
from model.video_depth.video import estimate_depth
from pipeline.experiments.overrides import Overrides
from simulation.dataset import SampleSummary
from stages.base import Arrays, ClipInputs, Rejected
from stages.clip_format import ClipFormat
from stages.depth.stage import PseudoDepth
from stages.depth.video_depth_anything import (
    VideoDepthAnything,
    load_video_depth,
    network_estimate,
)
from stages.keypoints.spatial_tracker import SpatialTracking, held
from stages.keypoints.stage import Keypoints
from storage.errors import WeightsError
from storage.sources.video import Video
from storage.weights.ref import WeightsRef

SIDE = 64
NO_WEIGHTS = Path("no weights are looked for here")
TRACKER = SpatialTrackerConfig(
    window=16, iterations=1, working_height=64, working_width=64, encoder_widths=(8, 8, 8, 8),
    latent=8, motion=12, correlation_levels=2, correlation_radius=1, hidden=16, heads=2, blocks=1,
    support_layers=2, support_heads=2, support_tokens=4,
)  # fmt: skip


def published_file(folder: Path, name: str, network: torch.nn.Module) -> WeightsRef:
    """A pickle of tensors, as the authors publish them."""
    torch.save(network.state_dict(), folder / name)
    return WeightsRef.of(folder / name, name=name.partition(".")[0], licence="CC-BY-NC-4.0")


@pytest.fixture(scope="module")
def depth_weights(tmp_path_factory: pytest.TempPathFactory) -> WeightsRef:
    torch.manual_seed(0)
    return published_file(tmp_path_factory.mktemp("depth"), "vda.pth", VideoDepth(DEPTH))


@pytest.fixture(scope="module")
def tracker_weights(tmp_path_factory: pytest.TempPathFactory) -> WeightsRef:
    torch.manual_seed(0)
    return published_file(
        tmp_path_factory.mktemp("tracker"), "spatracker.pth", SpatialTracker(TRACKER)
    )


def depth_stage(weights: WeightsRef, n_frames: int = T, **changes: Any) -> PseudoDepth:
    clips = ClipFormat(n_frames=n_frames, size=SIDE)
    settings = {"input_size": 42, "windows": "direct", **changes}
    annotator = VideoDepthAnything(
        weights=weights, clip_format=clips, **{"model": DEPTH, **settings}
    )
    return PseudoDepth(annotator=annotator, clip_format=clips)


def keypoint_stage(weights: WeightsRef, **changes: Any) -> Keypoints:
    annotator = SpatialTracking(
        weights=weights, model=TRACKER, depth_units="relative", backward_points=0
    )
    return Keypoints(annotator=replace(annotator, **changes), grid=3)


def changed(stage: PseudoDepth | Keypoints, settings: dict[str, Any]) -> None:
    """The annotator's settings, changed as the command line changes them."""
    Overrides(NO_WEIGHTS).changed(
        stage, {f"annotator.{name}": value for name, value in settings.items()}
    )


def clip(row: int, rgb: np.ndarray) -> ClipInputs:
    inverse = np.tile(np.linspace(0.2, 2, SIDE, dtype=np.float16), (len(rgb), SIDE, 1))
    arrays: Arrays = {"rgb": rgb, "inverse_depth": inverse, "valid": np.ones(inverse.shape, bool)}
    return ClipInputs(row=row, clip_id=f"clip{row}", arrays=arrays)


def black() -> np.ndarray:
    return np.zeros((T, SIDE, SIDE, 3), np.uint8)


def made_by(stage: PseudoDepth | Keypoints, clips: list[ClipInputs]) -> list[Arrays | Rejected]:
    return list(stage.start("cpu", {})(clips))


def test_published_files_are_read_and_their_licence_is_reported(
    depth_weights: WeightsRef, tracker_weights: WeightsRef
):
    for stage in (depth_stage(depth_weights), keypoint_stage(tracker_weights)):
        with torch.inference_mode():
            (made,) = made_by(stage, [clip(0, still_clip(SIDE))])
        assert not isinstance(made, Rejected)
        for spec in stage.outputs:
            spec.check(made[spec.name], "clip0")
        assert stage.attributes["licence"] == "CC-BY-NC-4.0"


def test_a_file_of_another_network_names_what_differs(
    depth_weights: WeightsRef, tracker_weights: WeightsRef
):
    with pytest.raises(ValueError, match=r"do not fit.*missing: .*not in this network: "):
        made_by(depth_stage(tracker_weights), [])
    with pytest.raises(ValueError, match=r"do not fit.*missing: .*not in this network: "):
        made_by(keypoint_stage(depth_weights), [])
    with pytest.raises(ValueError, match=r"of another shape: .*expected"):
        made_by(depth_stage(depth_weights, model=replace(DEPTH, position_grid=5)), [])


def test_a_truncated_or_missing_file_is_an_error_that_names_it(
    depth_weights: WeightsRef, tmp_path: Path
):
    whole = Path(depth_weights.path).read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half\.pth: damaged.*Fetch it again"):
        made_by(depth_stage(WeightsRef.of(tmp_path / "half.pth")), [])
    with pytest.raises(WeightsError, match="there is no file"):
        made_by(depth_stage(replace(depth_weights, path=str(tmp_path / "gone.pth"))), [])


def test_black_clips_are_rejected_and_spoil_no_other(
    depth_weights: WeightsRef, tracker_weights: WeightsRef
):
    half_black = still_clip(SIDE)
    half_black[7] = 0
    for stage in (depth_stage(depth_weights), keypoint_stage(tracker_weights)):
        made = made_by(stage, [clip(0, black()), clip(1, still_clip(SIDE)), clip(2, half_black)])
        first, second, third = made
        assert (
            isinstance(first, Rejected)
            and first.reason == "blank_frame"
            and "frame 0" in first.detail
        )
        assert not isinstance(second, Rejected)
        assert (
            isinstance(third, Rejected)
            and third.reason == "blank_frame"
            and "frame 7" in third.detail
        )


@pytest.mark.parametrize("n_frames", [15, 17])
def test_a_clip_of_another_length_is_an_error_that_names_it(
    depth_weights: WeightsRef, tracker_weights: WeightsRef, n_frames: int
):
    rgb = np.repeat(still_clip(SIDE)[:1], n_frames, axis=0)
    for stage in (depth_stage(depth_weights), keypoint_stage(tracker_weights)):
        with pytest.raises(
            ValueError,
            match=rf"clip clip0: {n_frames} frames, stage '{stage.name}' is set to n_frames=16",
        ):
            made_by(stage, [clip(0, rgb)])


@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_a_clip_of_floats_is_an_error_that_names_it(
    depth_weights: WeightsRef, tracker_weights: WeightsRef, value: float
):
    rgb = np.full((T, SIDE, SIDE, 3), value, np.float32)
    for stage in (depth_stage(depth_weights), keypoint_stage(tracker_weights)):
        with pytest.raises(
            ValueError, match=f"clip clip0: frames of float32, stage '{stage.name}' expects uint8"
        ):
            made_by(stage, [clip(0, rgb)])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_before_any_clip(tmp_path: Path, bad: float):
    """Published or ours: every clip would be rejected for what is wrong with the file."""
    depth, tracker = VideoDepth(DEPTH), SpatialTracker(TRACKER)
    with torch.no_grad():
        depth.head.scratch.output_conv2[2].bias[0] = bad
        tracker.updateformer.flow_head[-1].bias[1] = bad
    for network, config, stage, name in (
        (depth, DEPTH, depth_stage, "head.scratch.output_conv2.2.bias"),
        (tracker, TRACKER, keypoint_stage, r"updateformer.flow_head.\d.bias"),
    ):
        with pytest.raises(
            ValueError, match=rf"x\.pth: {name} has 1 of \d+ values that are NaN or infinite"
        ):
            made_by(stage(published_file(tmp_path, "x.pth", network)), [])
        save_model(tmp_path / "own.safetensors", network, config)
        own = WeightsRef.of(tmp_path / "own.safetensors")
        with pytest.raises(
            ValueError, match=rf"own\.safetensors: {name} has 1 of \d+ values that are NaN"
        ):
            made_by(stage(own), [])


def test_networks_that_give_nan_reject_the_clip(tmp_path: Path, tracker_weights: WeightsRef):
    """Weights are as large as float32 allows: finite, but what they give is not."""
    torch.manual_seed(0)
    broken, largest = VideoDepth(DEPTH), torch.finfo(torch.float32).max
    torch.nn.init.constant_(broken.head.scratch.output_conv2[2].weight, largest)
    torch.nn.init.constant_(broken.head.scratch.output_conv2[2].bias, largest)
    (made,) = made_by(
        depth_stage(published_file(tmp_path, "large.pth", broken)), [clip(0, still_clip(SIDE))]
    )
    assert isinstance(made, Rejected) and made.reason == "nan_depth" and "NaN" in made.detail
    tracker = SpatialTracker(TRACKER)
    torch.nn.init.constant_(tracker.updateformer.flow_head[-1].weight, largest)
    torch.nn.init.constant_(tracker.updateformer.flow_head[-1].bias, largest)
    (made,) = made_by(
        keypoint_stage(published_file(tmp_path, "large_t.pth", tracker)),
        [clip(0, still_clip(SIDE))],
    )
    assert isinstance(made, Rejected) and made.reason == "nan_tracks"


def test_depth_without_any_range_is_rejected_by_the_tracker(tracker_weights: WeightsRef):
    flat = clip(0, still_clip(SIDE))
    flat.arrays["inverse_depth"] = np.full_like(flat.arrays["inverse_depth"], 1)
    made = made_by(keypoint_stage(tracker_weights), [flat, clip(1, still_clip(SIDE))])
    assert isinstance(made[0], Rejected) and made[0].reason == "flat_depth"
    assert not isinstance(made[1], Rejected)


def test_a_metric_network_gives_the_inverse_of_metres(tmp_path: Path):
    torch.manual_seed(0)
    config = replace(DEPTH, metric=True)
    weights = published_file(tmp_path, "metric.pth", VideoDepth(config))
    relative, metric = (depth_stage(weights, model=c) for c in (DEPTH, config))
    assert (relative.annotator.units, metric.annotator.units) == ("relative", "1/m")
    metres, inverse = (
        made_by(stage, [clip(0, still_clip(SIDE))])[0] for stage in (relative, metric)
    )
    assert not isinstance(metres, Rejected) and not isinstance(inverse, Rejected)
    far = metres["inverse_depth"].astype(np.float32) > 0.06  # nearer than that counts as 5 cm
    assert far.any()
    np.testing.assert_allclose(
        inverse["inverse_depth"][far],
        1 / metres["inverse_depth"].astype(np.float32)[far],
        rtol=2e-3,
    )


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_depth_that_is_not_finite_rejects_the_clip(
    depth_weights: WeightsRef, metric: bool, bad: float
):
    depth = np.linspace(0, 3, 2 * SIDE * SIDE, dtype=np.float32).reshape(2, SIDE, SIDE)
    sound = network_estimate(depth, metric)
    assert np.isfinite(sound.inverse_depth).all() and sound.valid.all()
    depth[1, 5, 7] = bad
    estimate = network_estimate(depth, metric)
    assert (
        np.isnan(estimate.inverse_depth[1, 5, 7])
        and np.isfinite(estimate.inverse_depth).sum() == depth.size - 1
    )
    rejected = depth_stage(depth_weights).checked(estimate, "clip")
    assert (
        isinstance(rejected, Rejected)
        and rejected.reason == "nan_depth"
        and rejected.detail.startswith("1 of ")
    )


@pytest.mark.parametrize(
    ("windows", "n_frames"), [("official", 16), ("official", 45), ("direct", 16)]
)
def test_the_reported_cost_of_depth_is_what_is_counted(
    depth_weights: WeightsRef, windows: Any, n_frames: int
):
    annotator = depth_stage(depth_weights, windows=windows, n_frames=n_frames).annotator
    assert isinstance(annotator, VideoDepthAnything)
    frames = np.zeros((1, n_frames, SIDE, SIDE, 3), np.uint8)
    with FlopCounterMode(display=False) as counter:
        estimate_depth(VideoDepth(DEPTH), frames, input_size=42, windows=windows)
    counted = counter.get_total_flops() / 1e9
    # The CPU's fused attention is not counted
    assert annotator.gflops_per_clip == pytest.approx(counted, rel=0.02)
    assert f"{annotator.gflops_per_clip:.0f} GFLOP a clip" in annotator.attributes["expected_cost"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"precision": "fp16"},
            "precision='fp16'[:,] expected .*float32.*bfloat16.*float16",
        ),
        ({"windows": "offical"}, "windows='offical'[:,] expected .*official.*direct"),
        (
            {"input_size": 0},
            "input_size=0[:,] expected .* 14",
        ),
        (
            {"input_size": 500},
            "input_size=500, expected a multiple of 14, the side of a patch, such as 504",
        ),
        ({"clips_per_call": 0}, "clips_per_call=0[:,] expected .*1"),
        (
            {"n_frames": 33},
            "33 frames a clip with windows=direct, .* at most 32, .* take windows=official",
        ),
        ({"gpus": -1.0}, "gpus=-1(.0)?[:,] expected .*0"),
        (
            {"precision": "float16"},
            "precision='float16' with gpus=0, but half precision is for GPUs: set gpus too",
        ),
    ],
)
def test_settings_that_fit_no_clip_are_refused_where_depth_is_configured(
    depth_weights: WeightsRef,
    settings: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
):
    # Annotations are checked in tests only
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    stage = depth_stage(depth_weights)
    with pytest.raises(ValueError, match=message):
        depth_stage(depth_weights, **settings)
    if "n_frames" in settings:
        depth_stage(depth_weights, n_frames=33, windows="official")
        return
    with pytest.raises(ValueError, match=message):  # as `--set depth.annotator.precision=fp16` does
        changed(stage, settings)
    changed(stage, {"gpus": 0.5, "precision": "float16", "input_size": 518})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"precision": "fp16"},
            "annotator.precision='fp16': expected 'float32' or 'float16' or 'bfloat16'",
        ),
        ({"depth_units": "m"}, "depth_units='m': expected 'relative' or '1/m'"),
        ({"inverse_floor": 0.0}, "inverse_floor=0.0: expected a finite number > 0 and < 1"),
        ({"inverse_floor": 1.0}, "inverse_floor=1.0: expected"),
        ({"visible_above": 1.5}, "visible_above=1.5: expected a finite number >= 0 and <= 1"),
        ({"visible_above": float("nan")}, "visible_above=nan: expected"),
        ({"backward_points": -1}, "backward_points=-1: expected an integer >= 0$"),
        ({"clips_per_call": 0}, "clips_per_call=0: expected an integer >= 1$"),
        (
            {"model.window": 32},
            "n_frames=16, model.window=32: clip of 16 frames: more than half a window of 32",
        ),
        (
            {"clip_format.n_frames": 8},
            "n_frames=8, model.window=16: clip of 8 frames: more than half a window of 16",
        ),
        (
            {"precision": "bfloat16"},
            "precision='bfloat16' with gpus=0, but half precision is for GPUs",
        ),
    ],
)
def test_settings_that_fit_no_clip_are_refused_where_tracks_are_configured(
    tracker_weights: WeightsRef,
    settings: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    stage = keypoint_stage(tracker_weights)
    with pytest.raises(ValueError, match=message):
        changed(stage, settings)
    changed(stage, {"gpus": 0.5, "precision": "bfloat16", "visible_above": 1})
    Overrides(NO_WEIGHTS).changed(stage.annotator, {"clip_format.n_frames": 9, "model.window": 8})


@pytest.mark.parametrize("backward_points", [0, 4, 64])
def test_the_reported_cost_of_tracks_is_what_is_counted(
    tracker_weights: WeightsRef, backward_points: int
):
    """Points that are tracked back again included, at most as many as there are."""
    stage = keypoint_stage(tracker_weights, backward_points=backward_points, clips_per_call=2)
    track = stage.start("cpu", {})
    with (
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
    ):  # fused attention is not counted
        track([clip(i, still_clip(SIDE)) for i in range(2)])
    annotator = stage.annotator
    assert isinstance(annotator, SpatialTracking)
    assert annotator.cost(9).flops == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_official_windows_cost_twice_as_much_and_both_are_named(depth_weights: WeightsRef):
    official, direct = (
        depth_stage(depth_weights, windows=w).annotator for w in ("official", "direct")
    )
    assert isinstance(official, VideoDepthAnything) and isinstance(direct, VideoDepthAnything)
    assert official.gflops_per_clip == pytest.approx(2 * direct.gflops_per_clip, rel=0.05)
    assert (
        official.peak_bytes > direct.peak_bytes
        and official.resources.memory_gb > direct.resources.memory_gb
    )
    assert (
        "official windows" in official.attributes["made_by"]
        and "direct windows" in direct.attributes["made_by"]
    )


@pytest.fixture(scope="module")
def long_clip(quick_sample: SampleSummary) -> ClipInputs:
    """5 frames at 2 Hz of the sample's first video, which has 4 Hz."""
    path = sorted(quick_sample.root.glob("observations/*/*/videos/head_color.mp4"))[0]
    index = np.arange(5) * 2
    with Video(path) as video:
        short = clip(0, video.frames(index, (SIDE, SIDE)))
    more = {
        "frame_index": index,
        "frame_time_ns": index * 250_000_000,
        "video": np.array(path.relative_to(quick_sample.root).as_posix()),
    }
    return ClipInputs(row=0, clip_id="clip0", arrays={**short.arrays, **more})


def test_networks_run_over_the_frames_of_their_rate(
    depth_weights: WeightsRef,
    tracker_weights: WeightsRef,
    quick_sample: SampleSummary,
    long_clip: ClipInputs,
):
    source = {"root": str(quick_sample.root), "annotation_rate_hz": 4.0}
    with Video(quick_sample.root / str(long_clip.arrays["video"])) as video:
        frames = video.frames(np.arange(9), (SIDE, SIDE))
    clips = ClipFormat(n_frames=5, size=SIDE)
    depth = depth_stage(depth_weights, n_frames=5, **source)
    (made,) = made_by(depth, [long_clip])
    network = load_video_depth(Path(depth_weights.path), DEPTH)
    whole = estimate_depth(network, frames[None], input_size=42, windows="direct")[0]
    assert isinstance(made, dict)
    np.testing.assert_allclose(made["inverse_depth"], whole[::2], rtol=2e-3)
    tracker = SpatialTracking(
        weights=tracker_weights, model=replace(TRACKER, window=8), depth_units="relative",
        backward_points=2, clip_format=clips, **source,
    )  # fmt: skip
    stage = Keypoints(annotator=tracker, grid=3, clip_format=clips)
    (tracked,) = made_by(stage, [long_clip])
    assert isinstance(tracked, dict)
    for spec in stage.outputs:
        spec.check(tracked[spec.name], "clip0")


def test_a_frame_without_depth_has_that_of_the_nearest_clip_frame():
    depth = np.arange(3, dtype=np.float32)[:, None, None] + np.zeros((3, 2, 2), np.float32)
    found = held(depth, np.array([0, 3, 7]))
    np.testing.assert_array_equal(found[:, 0, 0], [0, 0, 1, 1, 1, 1, 2, 2])
    assert held(depth, None) is depth


def test_the_cost_grows_with_the_rate(depth_weights: WeightsRef, tracker_weights: WeightsRef):
    rates: list[Any] = [None, 4.0, 10.0, "native"]
    official = {"windows": "official", "root": "x"}
    depth = [
        depth_stage(depth_weights, **official, annotation_rate_hz=rate).annotator for rate in rates
    ]
    gflops = [a.gflops_per_clip for a in depth if isinstance(a, VideoDepthAnything)]
    assert gflops[0] < gflops[1] < gflops[2] < gflops[3]
    assert gflops[2] / gflops[0] == pytest.approx(4), "windows of 32 frames every 22 of 76"
    tracks = [
        keypoint_stage(tracker_weights, root="x", annotation_rate_hz=rate).annotator
        for rate in rates
    ]
    flops = [a.cost(9).flops for a in tracks if isinstance(a, SpatialTracking)]
    assert flops[0] < flops[1] < flops[2] < flops[3]
    assert "76 frames a clip" in tracks[2].attributes_for(9)["made_by"]
    assert "nearest of the clip's own frames" in tracks[2].attributes_for(9)["depth_given"]
