"""The frames that an annotator sees: those of a clip's span, at the annotator's own rate.

Trackers and depth networks are made for 10 to 30 Hz, and the paper annotates videos before it cuts
them; a clip has 2 Hz. In: a clip's frame numbers and times. Out: more frames of the same span,
among them the clip's own, and what the annotator says of these. Who decodes and who samples is said
here alone: an annotator gets plain arrays, whatever the rate.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Int64

from stages.annotator import Annotator
from stages.base import ClipInputs, Inputs, Rejected, Resources
from stages.clip_format import AnnotationRate, ClipFormat
from stages.clips.decoded_frames import Reel
from storage.sources.file_ref import FileRef, SourceError
from storage.sources.video import Video

# Decoded frames of one episode that are in memory at once. An episode with more, at AGIBOT's 30 Hz
# and 256 px one of over 90 s, is decoded in several passes.
MAX_BYTES = 512_000_000
CLIP_FRAMES = "clip_frames"  # array for the annotator: which of the frames are the clip's own


@runtime_checkable
class Sampled(Protocol):
    """An annotator's result for all frames that it saw; `sampled` gives it for some."""

    def sampled(self, frames: Int64[np.ndarray, " t"]) -> Any: ...


Estimate = TypeVar("Estimate", bound=Sampled)


@dataclass(frozen=True)
class Span:
    """rows: frames of the video, rising. own: which of them are the clip's; rows[own] is exact."""

    rows: Int64[np.ndarray, " n"]
    own: Int64[np.ndarray, " t"]


def frames_of_span(
    frame_index: Int64[np.ndarray, " t"],
    frame_time_ns: Int64[np.ndarray, " t"],
    rate_hz: AnnotationRate,
) -> Span:
    """The clip's frames, and between each two of them others at about `rate_hz`, evenly spaced.

    As many as the rate asks for, rounded, and no frame twice: a slower source gives all that it
    has. None adds none.
    """
    steps = np.diff(frame_index)
    if rate_hz is None:
        parts = np.minimum(steps, 1)
    elif rate_hz == "native":
        parts = steps
    else:
        wanted = np.round(np.diff(frame_time_ns) * (rate_hz / 1e9)).astype(np.int64)
        parts = np.clip(wanted, np.minimum(steps, 1), steps)
    rows = [frame_index[:1]]
    for first, step, n in zip(frame_index, steps, parts, strict=False):
        rows.append(first + np.round(np.arange(1, n + 1) * (step / max(n, 1))).astype(np.int64))
    return Span(rows=np.concatenate(rows), own=np.concatenate([[0], np.cumsum(parts)]))


def frame_inputs(annotator: Annotator, inputs: Inputs) -> Inputs:
    """The arrays that a stage reads, with those that lead to the frames of the annotator's rate."""
    if annotator.annotation_rate_hz is None:
        return inputs
    more = {"discover": ("video",), "clip": ("frame_index", "frame_time_ns")}
    return merged(inputs, more)


def merged(inputs: Inputs, more: Inputs) -> Inputs:
    """Both, each array once."""
    roles = dict.fromkeys((*inputs, *more))
    return {
        role: tuple(dict.fromkeys((*inputs.get(role, ()), *more.get(role, ())))) for role in roles
    }


def frame_resources(annotator: Annotator, own: Resources, clip_format: ClipFormat) -> Resources:
    """`own`, for whole shards at once, so that clips of one episode share its decoded frames."""
    if annotator.annotation_rate_hz is None:
        return own
    side, n_frames = annotator.side_px(clip_format), annotator.frames_seen(clip_format)
    # Twice: as they are decoded, and stacked
    decoded = 2 * min(MAX_BYTES, own.clips_per_shard * n_frames * side**2 * 3)
    return Resources(
        cpus=own.cpus,
        gpus=own.gpus,
        memory_gb=own.memory_gb + decoded / 1e9,
        clips_per_shard=own.clips_per_shard,
        clips_per_call=own.clips_per_shard,
    )


def annotate_frames(
    estimate: Callable[[Sequence[ClipInputs]], Sequence[Estimate | Rejected]],
    clips: Sequence[ClipInputs],
    annotator: Annotator,
    clip_format: ClipFormat,
    clips_per_call: int,
) -> list[Estimate | Rejected]:
    """What the annotator says of the clips' own frames, in their order.

    It sees `rgb` at its own rate and size, and `clip_frames`; all other arrays are as they were. A
    clip whose video is damaged is rejected with the source's reason. Raises SourceError for a video
    that is not there.
    """
    if not clips or annotator.annotation_rate_hz is None:
        return list(estimate(clips)) if clips else []
    made: dict[int, Estimate | Rejected] = {}
    side = annotator.side_px(clip_format)
    for group in groups_in_memory(clips, annotator, side):
        for batch in batches(decoded(group, annotator, side, made), clips_per_call):
            for clip, found in zip(batch, estimate(batch), strict=True):
                keep = isinstance(found, Rejected)
                made[clip.row] = found if keep else found.sampled(clip.arrays[CLIP_FRAMES])
    return [made[clip.row] for clip in clips]


def span_of(clip: ClipInputs, annotator: Annotator) -> Span:
    index, times = clip.arrays["frame_index"], clip.arrays["frame_time_ns"]
    return frames_of_span(index, times, annotator.annotation_rate_hz)


def groups_in_memory(
    clips: Sequence[ClipInputs], annotator: Annotator, side_px: int
) -> Iterator[list[ClipInputs]]:
    """Neighbouring clips of one video whose frames together take at most `MAX_BYTES`."""
    for _, same in groupby(clips, lambda clip: str(clip.arrays["video"])):
        group: list[ClipInputs] = []
        rows: Int64[np.ndarray, " n"] = np.zeros(0, np.int64)
        for clip in same:
            together = np.union1d(rows, own := span_of(clip, annotator).rows)
            if group and len(together) * side_px**2 * 3 > MAX_BYTES:
                yield group
                group, together = [], own
            group.append(clip)
            rows = together
        yield group


def decoded(
    group: Sequence[ClipInputs], annotator: Annotator, side_px: int, rejected: dict
) -> Iterator[ClipInputs]:
    """The clips of one video with their frames, decoded in one pass; the others go to `rejected`.

    If that fails each clip is tried by itself, since the damage may be in one of them only.
    """
    spans = [span_of(clip, annotator) for clip in group]
    try:
        reel = read_frames(group[0], spans, annotator, side_px)
    except SourceError as fault:
        if fault.reason == "missing_file":
            raise  # stage `clip` has read this video: it is this machine that cannot
        if len(group) > 1:
            for clip in group:
                yield from decoded([clip], annotator, side_px, rejected)
            return
        detail = f"{fault.item}: found {fault.found}; expected {fault.expected}"
        rejected[group[0].row] = Rejected(fault.reason, detail)
        return
    for clip, span in zip(group, spans, strict=True):
        seen: Mapping[str, np.ndarray] = {"rgb": reel.rgb(span.rows), CLIP_FRAMES: span.own}
        yield ClipInputs(row=clip.row, clip_id=clip.clip_id, arrays={**clip.arrays, **seen})


def read_frames(
    clip: ClipInputs, spans: Sequence[Span], annotator: Annotator, side_px: int
) -> Reel:
    """The frames of all spans, resized as stage `clip` does. Raises SourceError."""
    assert annotator.root is not None, "checked where the annotator is built"
    rows = np.concatenate([span.rows for span in spans])
    with Video(FileRef.parse(str(clip.arrays["video"]), Path(annotator.root))) as video:
        return Reel(video, rows, (side_px, side_px))


def batches(clips: Iterator[ClipInputs], size: int) -> Iterator[list[ClipInputs]]:
    """Of `size`, the last one of fewer; the frames of later ones are not copied yet."""
    batch: list[ClipInputs] = []
    for clip in clips:
        batch.append(clip)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
