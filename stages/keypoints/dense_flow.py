"""The annotator `dense-flow`: OpenCV's dense optical flow, a stand-in for SpatialTracker without a
GPU.

Flow between neighbouring frames is chained from the first frame on (dense inverse search: Kroeger
et al. 2016, arXiv:1603.03590). A chain drifts, and it is dragged along by what passes nearby, so
three other things count:

- a point that looks as in the first frame, at its first place, has not moved. Only colours are
  compared, not brightness, since shadows pass over still things;
- a point that moves must look as in the first frame, have flow that runs back again, and be where
  something else is usually seen (the median of the frames: in a panning camera it is like nothing);
- things move as a whole: where few points of a piece of one colour seem to move, such as those of a
  table beside an arm, none does.

A point that fails is hidden. It wants 10 Hz or more: at 2 Hz things move too far between frames.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import cv2
import numpy as np
from annotated_types import Ge, Interval
from jaxtyping import Bool, Float, Float32, Integer, UInt8

from stages.base import ClipInputs, Rejected, Resources
from stages.clip_format import AnnotationRate, ClipFormat
from stages.keypoints.stage import FB_ERROR, KeypointAnnotator, Queries, TrackEstimate
from storage.stores.spec import ArraySpec

Frames = UInt8[np.ndarray, "t h w 3"]
Points = Float32[np.ndarray, "p 2"]
Seen = Bool[np.ndarray, " p"]
Flow = Float32[np.ndarray, "h w 2"]
Look = Float32[np.ndarray, "p 3"]

PATCH_PX = 5  # side of the square whose mean colour is a point's look
SHADES = 16  # so many frames, spread over the clip, give its usual picture
LEAST_LEVEL = 1.5  # colours are uncertain by so much: noise of the darkest pixels
MOST_POINTS = 32_000  # that OpenCV looks up at once
LEAST_SIDE_PX = 12  # of frames: the flow's patches need some
CPU_S = 0.03  # a frame of 256 px, on one core of a 2.6 GHz Xeon


@dataclass(frozen=True, kw_only=True)
class DenseFlow(KeypointAnnotator):
    """Lengths in px are in pictures of 256 px; frames of another size are scaled.

    Defaults were chosen on ten simulated episodes (seed 3), by average Jaccard and by how many of
    the tracks that training would select truly move; only other episodes give an unbiased score.

    Raises ValueError for a rate that no frames can have, or a rate without `root`.
    """

    root: str | None = field(default=None, metadata={"key": False})
    annotation_rate_hz: AnnotationRate = 10.0
    frame_px: Annotated[int, Interval(ge=1, le=4096)] | None = 192
    # Forward and back again must end this near the start
    max_fb_error_px: Annotated[float, Ge(0)] = 3.0
    max_fb_share: Annotated[float, Ge(0)] = 0.1  # of the way, in addition
    max_colour_change: Annotated[float, Ge(0)] = 0.015  # of a still point, see `same_look`
    max_moving_colour_change: Annotated[float, Ge(0)] = 0.08
    # Of the brightness; light may as well be so much brighter
    max_shadow: Annotated[float, Interval(ge=0, le=1)] = 0.5
    quiet_px: Annotated[float, Ge(0)] = 0.3  # flow below is none
    # A point this far from its start for two frames has left it
    away_px: Annotated[float, Ge(0)] = 2.0
    # A point that looks as at the start in this share of the frames to come has not left
    max_still_share: Annotated[float, Interval(ge=0, le=1)] = 0.7
    # Neighbours that differ less are of one piece
    piece_colour_change: Annotated[float, Ge(0)] = 0.02
    # Of a piece's points; if fewer move, none does
    min_moving_share: Annotated[float, Interval(ge=0, le=1)] = 0.4
    clip_format: ClipFormat = field(default=ClipFormat(), metadata={"key": False})
    name: str = field(default="dense-flow", init=False)
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        self.check_rate()
        if self.frame_px is not None and self.frame_px < LEAST_SIDE_PX:
            raise ValueError(
                f"DenseFlow: frame_px={self.frame_px}, expected {LEAST_SIDE_PX} or more, or null "
                "for the clip's own size"
            )

    def resources_for(self, n_points: int) -> Resources:
        n, side = self.frames_seen(self.clip_format), self.side_px(self.clip_format)
        # RGB twice, both flows, and the points' distances from each other
        pictures, pairs = n * side**2 * (2 * 3 + 2 * 8), n_points**2 * 2 * 8
        return Resources(memory_gb=0.5 + (pictures + pairs) / 1e9)

    def attributes_for(self, n_points: int) -> Mapping[str, str]:
        n, side = self.frames_seen(self.clip_format), self.side_px(self.clip_format)
        seconds = n * CPU_S * (side / 256) ** 2
        return {
            "stand_in_for": "SpatialTracker",
            "licence": "Apache-2.0 (OpenCV)",
            "made_by": f"chained dense optical flow, {n} frames a clip of {side} px",
            "expected_cost": f"{n} frames a clip, about {seconds:.1f} CPU s",
        }

    def extra_outputs(self, n_frames: int, n_points: int) -> tuple[ArraySpec, ...]:
        about = "how far flow into this frame and back again ends from its start; "
        about += "0 for a point taken not to have moved or hidden"
        return (
            ArraySpec(FB_ERROR, "float32", ("t", "p"), (n_frames, n_points), "px per frame", about),
        )

    def start(
        self, device: str
    ) -> Callable[[Sequence[ClipInputs], Queries], Sequence[TrackEstimate | Rejected]]:
        return lambda clips, queries: [
            track_points(clip.arrays["rgb"], queries, self) for clip in clips
        ]


def track_points(rgb: Frames, queries: Queries, config: DenseFlow) -> TrackEstimate:
    """Tracks points of the first frame. A hidden point stays where it was last seen."""
    scene = Scene(rgb, queries, config)
    chain = Chain(scene, config)
    for frame in range(1, len(rgb)):
        chain.step(frame)
    moves = chain.left & moves_as_a_whole(scene.look, queries, chain.left, config)
    # From when each of them was last seen at its start
    moved = moves & (np.arange(len(rgb))[:, None] > chain.home_frame)
    tracks = np.where(moved[..., None], np.stack(chain.tracks), queries)
    visible = np.where(moved, np.stack(chain.visible), scene.at_home)
    visible[0] = True
    errors = np.where(visible & moved, np.stack(chain.errors), np.float32(0))
    return TrackEstimate(
        tracks=last_seen(tracks.astype(np.float32), visible),
        visible=visible,
        extras={FB_ERROR: errors},
    )


class Scene:
    """What is seen in a clip, before anything is tracked.

    look: colours of the points in the first frame. at_home: whether they look so at their first
    place. usual: the picture that is mostly seen.
    """

    def __init__(self, rgb: Frames, queries: Queries, config: DenseFlow):
        self.queries, self.config = queries, config
        self.px = rgb.shape[2] / 256  # of this picture for one of 256
        self.size = rgb.shape[1:3]
        self.grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in rgb]
        side = max(1, round(PATCH_PX * self.px))
        self.smooth = [cv2.blur(frame, (side, side)) for frame in rgb]
        shown = np.unique(np.linspace(0, len(rgb) - 1, SHADES).round().astype(int))
        self.usual = np.median([self.smooth[i] for i in shown], axis=0).astype(np.uint8)
        self.look = sample(self.smooth[0], queries)
        limit = config.max_colour_change
        self.at_home = np.stack([self.looks(f, queries, limit) for f in range(len(rgb))])
        self.home_share = share_to_come(self.at_home)

    def looks(self, frame: int, points: Points, limit: float) -> Seen:
        """Whether what is seen at each point looks as the point did in the first frame."""
        here = sample(self.smooth[frame], points)
        return same_look(here, self.look, limit, self.config.max_shadow)

    def is_unusual(self, frame: int, points: Points) -> Seen:
        """Whether each point is on what is not mostly seen there; shadows do not count."""
        here, usual = sample(self.smooth[frame], points), sample(self.usual, points)
        return ~same_look(here, usual, self.config.max_colour_change, self.config.max_shadow)

    def is_inside(self, points: Points) -> Seen:
        height, width = self.size
        inside = (points > -0.5) & (points < (width - 0.5, height - 0.5))
        return inside[:, 0] & inside[:, 1]


class Chain:
    """The points, frame by frame: where flow has carried them, and which have left their start."""

    def __init__(self, scene: Scene, config: DenseFlow):
        n = len(scene.queries)
        self.scene, self.config = scene, config
        self.forward = flow_method(finest=0)
        self.backward = flow_method(finest=1)  # only checks, so a quarter of the cost is enough
        self.alive, self.left = np.ones(n, bool), np.zeros(n, bool)
        self.away = np.zeros(n, int)  # for so many frames
        self.home_frame = np.zeros(n, int)  # when each was last seen at its first place
        self.tracks, self.visible = [scene.queries], [np.ones(n, bool)]
        self.errors = [np.zeros(n, np.float32)]

    def step(self, frame: int) -> None:
        """Carries the points from the frame before to this one."""
        scene, config, home = self.scene, self.config, self.scene.queries
        before, after = scene.grey[frame - 1], scene.grey[frame]
        forward, backward = (
            self.forward.calc(before, after, None),  # type: ignore[call-overload]
            self.backward.calc(after, before, None),  # type: ignore[call-overload]
        )
        way = sample(forward, self.tracks[-1])
        there = self.tracks[-1] + way
        error = np.linalg.norm(way + sample(backward, there), axis=1)
        length = np.linalg.norm(way, axis=1)
        good = error <= config.max_fb_error_px * scene.px + config.max_fb_share * length
        good &= scene.is_inside(there)
        good &= scene.looks(frame, there, config.max_moving_colour_change)
        unusual = scene.is_unusual(frame, there)
        # What lies still may be what is mostly seen there
        good &= unusual | (length < 0.5 * scene.px)
        self.alive &= good | self.left
        self._leave(frame, there, unusual)
        # Points that are at home, and quiet there or lost, begin their chain anew
        at_home = scene.at_home[frame]
        quiet = np.linalg.norm(sample(forward, home), axis=1) < config.quiet_px * scene.px
        again = ~self.left & at_home & (quiet | ~self.alive)
        self.alive |= again
        self.tracks.append(np.where(again[:, None], home, there).astype(np.float32))
        self.visible.append(good)
        self.errors.append(error.astype(np.float32))

    def _leave(self, frame: int, there: Points, unusual: Seen) -> None:
        """Finds the points that have left their start by this frame."""
        scene, config = self.scene, self.config
        at_home = scene.at_home[frame]
        far = np.linalg.norm(there - scene.queries, axis=1) > config.away_px * scene.px
        leaves = ~self.left & self.alive & ~at_home & far & unusual
        leaves &= scene.home_share[frame] < config.max_still_share
        self.away = np.where(leaves, self.away + 1, np.where(at_home, 0, self.away))
        self.left |= leaves & (self.away >= 2)
        self.home_frame = np.where(at_home & ~self.left, frame, self.home_frame)


def flow_method(finest: int) -> cv2.DISOpticalFlow:
    """Dense inverse search. finest: 0 ends at full size, 1 at half of it."""
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    method.setFinestScale(finest)
    return method


def sample(image: np.ndarray, points: Points) -> Float32[np.ndarray, "p c"]:
    """The image's values at each point, bilinear; beyond the edge those of the edge."""
    edge, found = cv2.BORDER_REPLICATE, []
    for part in np.split(points, range(MOST_POINTS, len(points), MOST_POINTS)):
        found.append(cv2.remap(image, part[:, :1], part[:, 1:], cv2.INTER_LINEAR, borderMode=edge))
    return np.concatenate(found)[:, 0].astype(np.float32)


def same_look(one: Look, other: Look, limit: float, max_shadow: float) -> Seen:
    """Whether two colours (RGB, 0-255) are one but for light and shadow.

    limit: of the summed differences of the channels' shares in the brightness. max_shadow: the
    least share of the brightness that is left in a shadow.
    """
    sums = [(colour + 1).sum(axis=1, keepdims=True) for colour in (one, other)]
    change = np.abs((one + 1) / sums[0] - (other + 1) / sums[1]).sum(axis=1)
    darker = np.minimum(*sums)[:, 0]
    share = darker / np.maximum(*sums)[:, 0]
    return (change < limit + LEAST_LEVEL / darker) & (share > max_shadow)


def share_to_come(seen: Bool[np.ndarray, "t p"]) -> Float[np.ndarray, "t p"]:
    """In which share of the frames from each one on a point is seen."""
    return np.cumsum(seen[::-1], axis=0)[::-1] / np.arange(len(seen), 0, -1)[:, None]


def moves_as_a_whole(look: Look, queries: Queries, moves: Seen, config: DenseFlow) -> Seen:
    """Whether each point's piece of one colour has enough points that move."""
    piece = pieces(look, queries, config)
    n_points, n_moving = (np.bincount(piece, weights=w) for w in (None, moves))
    return (n_moving[piece] / n_points[piece]) >= config.min_moving_share


def pieces(look: Look, queries: Queries, config: DenseFlow) -> Integer[np.ndarray, " p"]:
    """A number for each point, the same for neighbours of one colour and thus for a whole piece.

    Neighbours are the nearest points: on a grid those to the left and right, above and below.
    """
    if len(queries) == 1:
        return np.zeros(1, int)
    distance = np.linalg.norm(queries[:, None] - queries[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    one, other = np.nonzero(distance <= 1.01 * distance.min(axis=1, keepdims=True))
    alike = same_look(look[one], look[other], config.piece_colour_change, 0.8)
    one, other = one[alike], other[alike]
    piece = np.arange(len(queries))
    while True:  # the smallest number spreads over the piece
        before = piece.copy()
        np.minimum.at(piece, one, piece[other])
        np.minimum.at(piece, other, piece[one])
        piece = piece[piece]
        if (piece == before).all():
            return piece


def last_seen(
    tracks: Float32[np.ndarray, "t p 2"], visible: Bool[np.ndarray, "t p"]
) -> Float32[np.ndarray, "t p 2"]:
    """The tracks, with hidden points where they were last seen."""
    frame = np.where(visible, np.arange(len(visible))[:, None], 0)
    latest = np.maximum.accumulate(frame, axis=0)
    return np.take_along_axis(tracks, latest[..., None], axis=0)
