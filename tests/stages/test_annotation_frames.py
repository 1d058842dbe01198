"""The frames that an annotator sees at its own rate: which, decoded how often, sampled how."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.dataset import SampleSummary
from stages import annotation_frames
from stages.annotation_frames import annotate_frames, frames_of_span
from stages.base import ClipInputs, Inputs, Rejected
from stages.clip_format import AnnotationRate, ClipFormat
from stages.depth.stage import DepthAnnotator, DepthEstimate, PseudoDepth
from storage.sources.file_ref import SourceError
from storage.sources.video import Video

SMALL = ClipFormat(n_frames=3, rate_hz=1.0, size=32)
STEP = 4  # frames of the quick sample, 4 Hz, between two of a clip


@dataclass(frozen=True, kw_only=True)
class Brightness(DepthAnnotator):
    """`Depth` that is a frame's own grey levels, so that it says which frame was seen."""

    root: str | None = field(default=None, metadata={"key": False})
    annotation_rate_hz: AnnotationRate = None
    clip_format: ClipFormat = SMALL
    name: str = field(default="brightness", init=False)
    version: int = field(default=1, init=False)
    calls: list[tuple[int, ...]] = field(default_factory=list, metadata={"key": False})

    units = "relative"

    @property
    def inputs(self) -> Inputs:
        return {"clip": ("rgb",)}

    def start(
        self, device: str
    ) -> Callable[[Sequence[ClipInputs]], Sequence[DepthEstimate | Rejected]]:
        def estimate(clips: Sequence[ClipInputs]) -> list[DepthEstimate | Rejected]:
            self.calls.append(tuple(len(clip.arrays["rgb"]) for clip in clips))
            grey = [1 + clip.arrays["rgb"].mean(axis=3, dtype=np.float32) for clip in clips]
            return [DepthEstimate(inverse_depth=g, valid=np.ones(g.shape, bool)) for g in grey]

        return estimate


def video_of(sample: SampleSummary) -> str:
    path = sorted(Path(sample.root, "observations").rglob("head_color.mp4"))[0]
    return path.relative_to(sample.root).as_posix()


def clip(sample: SampleSummary, start: int, row: int = 0, video: str = "") -> ClipInputs:
    index = start + STEP * np.arange(SMALL.n_frames)
    with Video(sample.root / video_of(sample)) as source:
        rgb = source.frames(index, (SMALL.size, SMALL.size))
    arrays = {
        "rgb": rgb,
        "frame_index": index,
        "frame_time_ns": index * 250_000_000,
        "video": np.array(video or video_of(sample)),
    }
    return ClipInputs(row=row, clip_id=f"clip{row}", arrays=arrays)


def annotated(annotator: Brightness, clips: Sequence[ClipInputs], n: int = 1):
    return annotate_frames(annotator.start("cpu"), clips, annotator, SMALL, n)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=15), st.floats(0.1, 100))
def test_a_clips_own_frames_are_always_among_those_seen(steps: list[int], rate_hz: float):
    index = 7 + np.cumsum([0, *steps])
    times = index * 33_333_333
    for rate in (rate_hz, "native", None):
        span = frames_of_span(index, times, rate)
        np.testing.assert_array_equal(span.rows[span.own], index)
        assert (np.diff(span.rows) > 0).all(), "rising, none twice"
    np.testing.assert_array_equal(frames_of_span(index, times, None).rows, index)
    np.testing.assert_array_equal(
        frames_of_span(index, times, "native").rows, np.arange(index[0], index[-1] + 1)
    )


def test_ten_hertz_are_every_third_frame_of_thirty():
    index = np.arange(16) * 15
    span = frames_of_span(index, np.round(index / 30 * 1e9).astype(np.int64), 10.0)
    np.testing.assert_array_equal(span.rows, np.arange(76) * 3)
    assert ClipFormat().frames_at(10.0) == 76 == len(span.rows)
    assert ClipFormat().frames_at(None) == 16 and ClipFormat().frames_at("native") == 226


def test_a_repeated_frame_adds_none():
    span = frames_of_span(np.array([3, 3, 5]), np.array([0, 1, 2]) * 10**9, "native")
    np.testing.assert_array_equal(span.rows, [3, 4, 5])
    np.testing.assert_array_equal(span.own, [0, 0, 2])


@pytest.mark.parametrize("rate", [4.0, 2.0, "native", 0.5])
def test_what_is_said_of_the_clips_frames_is_what_is_said_of_all(
    quick_sample: SampleSummary, rate: AnnotationRate
):
    annotator = Brightness(root=str(quick_sample.root), annotation_rate_hz=rate)
    given_clip = clip(quick_sample, 1)
    (found,) = annotated(annotator, [given_clip])
    (at_clip_rate,) = annotated(Brightness(), [given_clip])
    np.testing.assert_array_equal(found.inverse_depth, at_clip_rate.inverse_depth)
    n = {4.0: 9, 2.0: 5, "native": 9, 0.5: 3}[rate]
    assert annotator.calls == [(n,)]


def test_no_rate_is_the_clip_as_it_is_without_any_video(quick_sample: SampleSummary):
    annotator = Brightness()
    given_clip = clip(quick_sample, 0)
    stage = PseudoDepth(annotator=annotator, clip_format=SMALL)
    assert stage.inputs == {"clip": ("rgb",)} and stage.resources.clips_per_call == 1
    only_rgb = ClipInputs(row=0, clip_id="a", arrays={"rgb": given_clip.arrays["rgb"]})
    (made,) = stage.start("cpu", {})([only_rgb])
    assert isinstance(made, dict) and annotator.calls == [(3,)]


def test_a_rate_asks_for_the_videos_and_for_whole_shards(quick_sample: SampleSummary):
    annotator = Brightness(root=str(quick_sample.root), annotation_rate_hz=4.0)
    stage = PseudoDepth(annotator=annotator, clip_format=SMALL)
    assert stage.inputs == {
        "clip": ("rgb", "frame_index", "frame_time_ns"),
        "discover": ("video",),
    }
    assert stage.resources.clips_per_call == stage.resources.clips_per_shard
    assert stage.resources.memory_gb > Brightness().resources.memory_gb
    (made,) = stage.start("cpu", {})([clip(quick_sample, 0)])
    assert isinstance(made, dict)
    for spec in stage.outputs:
        spec.check(made[spec.name], "clip0")


def test_an_episode_is_decoded_once_for_all_its_clips(
    quick_sample: SampleSummary, monkeypatch: pytest.MonkeyPatch
):
    asked: list[int] = []
    frames = Video.frames

    def counted(self, indices, size=None):
        asked.append(len(set(map(int, indices))))
        return frames(self, indices, size)

    clips = [clip(quick_sample, start, row=start) for start in (0, 1, 2)]
    monkeypatch.setattr(Video, "frames", counted)
    annotator = Brightness(root=str(quick_sample.root), annotation_rate_hz="native")
    found = annotated(annotator, clips, n=2)
    assert asked == [11] and annotator.calls == [(9, 9), (9,)]
    # With less memory the same, in several passes
    asked.clear()
    monkeypatch.setattr(annotation_frames, "MAX_BYTES", 10 * 32 * 32 * 3)
    again = annotated(annotator, clips)
    assert asked == [10, 9]
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one.inverse_depth, other.inverse_depth)


def test_a_clip_whose_video_is_bad_is_rejected_with_the_reason(quick_sample: SampleSummary):
    annotator = Brightness(root=str(quick_sample.root), annotation_rate_hz=4.0)
    good, late = clip(quick_sample, 0, row=0), clip(quick_sample, 0, row=2)
    late.arrays["frame_index"] = late.arrays["frame_index"] + 1000
    found = annotated(annotator, [good, late])
    assert isinstance(found[0], DepthEstimate)
    assert [one.reason for one in found[1:]] == ["short_video"]


def test_a_video_that_this_machine_cannot_see_is_an_error_and_no_rejection(
    quick_sample: SampleSummary,
):
    """Stage `clip` has read it; a rejection would be sealed into the store for all machines."""
    annotator = Brightness(root=str(quick_sample.root), annotation_rate_hz=4.0)
    with pytest.raises(SourceError, match=r"gone\.mp4: missing_file"):
        annotated(annotator, [clip(quick_sample, 0, row=1, video="gone.mp4")])
