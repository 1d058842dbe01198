"""Which clips are fit for training: no shot cut, some motion, and motion that can be followed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from annotated_types import Ge
from jaxtyping import Float32, Float64, Int64

from stages.base import Rejected
from stages.clips.decoded_frames import Reel
from stages.clips.motion import Motion
from stages.clips.shot_cuts import THUMBNAIL, WINDOW, Cut, CutRule, find_cut, maybe_cuts

SCORES = ("fastest_motion", "whole_motion", "unexplained", "fastest_hand_m_s")


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The limits of a clip. They are ours; `stages/clips/motion.py` says what is measured."""

    cut: CutRule = field(default_factory=CutRule)
    min_motion: Annotated[float, Ge(0)] = 0.004  # `Motion.fastest`: below it the clip is `static`
    max_whole_motion: Annotated[float, Ge(0)] = 0.07  # `Motion.whole`: above it `chaotic_motion`
    # `Motion.unexplained`, grey levels: above it `chaotic_motion`
    max_unexplained: Annotated[float, Ge(0)] = 30.0
    # M/s between rows: above it `hand_jump`; real hands reach 0.75
    max_hand_speed: Annotated[float, Ge(0)] = 3.0
    # rad/s between rows: above it `hand_jump`; a wrist's joints turn with 3 or so each
    max_hand_turn: Annotated[float, Ge(0)] = field(default=10.0, metadata={"added": True})
    # Of video frames, rows and extrinsics: above it `count_mismatch`
    max_count_difference: Annotated[int, Ge(0)] = 3
    require_calibration: bool = False


def score(
    motion: Motion,
    times_ns: Int64[np.ndarray, " n"],
    hands: Float64[np.ndarray, "n 2 3"],
    rotations: Float64[np.ndarray, "n 2 4"],
    quality: Quality,
) -> Float32[np.ndarray, "4"]:
    """`SCORES` of a clip, from its motion and its flange poses in all rows that it spans.

    Raises Rejected: `static`, `chaotic_motion`, `hand_jump`.
    """
    reject_motion(motion, quality)
    speed, turn = fastest_hand(times_ns, hands), fastest_turn(times_ns, rotations)
    if speed > quality.max_hand_speed:
        raise Rejected(
            "hand_jump",
            f"a hand at {speed:.2f} m/s between two rows, at most {quality.max_hand_speed:g}",
        )
    if turn > quality.max_hand_turn:
        raise Rejected(
            "hand_jump",
            f"a hand turns by {turn:.2f} rad/s between two rows, at most {quality.max_hand_turn:g}",
        )
    return np.array([motion.fastest, motion.whole, motion.unexplained, speed], "float32")


def reject_motion(motion: Motion, quality: Quality) -> None:
    """Raises Rejected for a clip in which too little moves, or everything."""
    if motion.fastest < quality.min_motion:
        detail = f"the fastest 1 % moves {motion.fastest:.4f} picture widths a frame"
        raise Rejected("static", f"{detail}, at least {quality.min_motion:g}")
    if motion.whole > quality.max_whole_motion:
        detail = f"the whole picture moves {motion.whole:.3f} widths a frame"
        raise Rejected("chaotic_motion", f"{detail}, at most {quality.max_whole_motion:g}")
    if motion.unexplained > quality.max_unexplained:
        detail = f"{motion.unexplained:.1f} grey levels are left unexplained by motion"
        raise Rejected("chaotic_motion", f"{detail}, at most {quality.max_unexplained:g}")


def fastest_hand(times_ns: Int64[np.ndarray, " n"], hands: Float64[np.ndarray, "n 2 3"]) -> float:
    """Greatest speed of a hand between successive known rows, in m/s."""
    return max(
        _fastest(times, np.linalg.norm(np.diff(track, axis=0), axis=-1))
        for times, track in _known_rows(times_ns, hands)
    )


def fastest_turn(
    times_ns: Int64[np.ndarray, " n"], rotations: Float64[np.ndarray, "n 2 4"]
) -> float:
    """Greatest angular speed of a hand between successive known rows, in rad/s."""
    return max(
        # By the chord: the arc cosine of a product near 1 would lose half of its digits
        _fastest(times, 4 * np.arcsin(np.clip(chord / 2, 0, 1)))
        for times, track in _known_rows(times_ns, rotations)
        for chord in [np.linalg.norm(np.diff(track, axis=0), axis=-1)]
    )


def _known_rows(
    times_ns: Int64[np.ndarray, " n"], tracks: Float64[np.ndarray, "n 2 i"]
) -> Iterator[tuple[Int64[np.ndarray, " m"], Float64[np.ndarray, "m i"]]]:
    """Each arm's rows without NaN: beside a hole, the change is that across the hole."""
    for arm in range(2):
        known = np.isfinite(tracks[:, arm]).all(-1)
        yield times_ns[known], tracks[known, arm]


def _fastest(times_ns: Int64[np.ndarray, " n"], steps: Float64[np.ndarray, " m"]) -> float:
    return float((steps / (np.diff(times_ns) / 1e9)).max(initial=0.0))


def find_cuts(reel: Reel, clip_rows: Int64[np.ndarray, "m t"], rule: CutRule) -> dict[int, Cut]:
    """The cuts inside the clips, by the video frame that begins the new shot."""
    cuts: dict[int, Cut] = {}
    for i in maybe_cuts(reel.frames, rule).tolist():  # never the first, which has none before it
        before, at = int(reel.rows[i - 1]), int(reel.rows[i])
        if not ((clip_rows[:, 0] <= before) & (clip_rows[:, -1] >= at)).any():
            continue
        first, end = max(0, before - WINDOW), min(reel.video.n_frames, at + WINDOW + 1)
        dense = reel.video.frames(range(first, end), THUMBNAIL)
        cut = find_cut(dense, rule, among=slice(before - first + 1, at - first + 1))
        if cut is not None:
            cuts[first + cut.frame] = cut
    return cuts


def reject_cut(cuts: Mapping[int, Cut], clip_rows: Int64[np.ndarray, " t"]) -> None:
    """Raises Rejected if a new shot begins after the clip's first frame."""
    for frame, cut in sorted(cuts.items()):
        if clip_rows[0] < frame <= clip_rows[-1]:
            detail = (
                f"frame {frame}: {100 * cut.share:.0f} % of the picture changes, "
                f"by {cut.change:.1f} of 255 on average"
            )
            raise Rejected(
                "shot_cut", f"{detail}, {cut.ratio:.1f} times as much as in the frames around it"
            )
