"""The annotator `lucas-kanade`: OpenCV's optical flow, a stand-in for SpatialTracker without a GPU.

At 2 Hz things move far between frames, so each point has several candidates in every frame: flow
from the frame before, flow from the first frame, and not having moved. The candidate that looks
most like the point in the first frame is taken; if even that one looks different, the point is
hidden. Points on plain surfaces give flow nothing to track (Shi and Tomasi 1994): they only stay or
hide. See Lucas and Kanade 1981; Bouguet 2001 (pyramids).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated

import cv2
import numpy as np
from annotated_types import Ge, Interval
from jaxtyping import Bool, Float32, UInt8

from stages.base import ClipInputs, Rejected, Resources
from stages.clip_format import AnnotationRate, ClipFormat
from stages.keypoints.stage import FB_ERROR, KeypointAnnotator, Queries, TrackEstimate
from storage.stores.spec import ArraySpec

Image = UInt8[np.ndarray, "h w"]
Points = Float32[np.ndarray, "p 2"]


@dataclass(frozen=True, kw_only=True)
class LucasKanade(KeypointAnnotator):
    """Defaults are for clips of 256 px. They were chosen on eight simulated episodes (seed 3), by
    average Jaccard and by how many of the tracks that training would select truly move; only other
    episodes give an unbiased score.

    Patches are compared by their mean absolute difference in grey levels. A change of brightness as
    a whole counts only `brightness_weight`, since shadows pass over still things. A candidate that
    has not moved is preferred, since plain surfaces and noise match anywhere: its difference counts
    `still_factor` times, less `still_bonus`.
    """

    window_px: Annotated[int, Interval(ge=3, le=255)] = 11
    levels: Annotated[int, Interval(ge=0, le=16)] = 4  # of the pyramid, above the picture itself
    blur_px: Annotated[float, Ge(0)] = 0.7  # standard deviation; takes out what compression adds
    # Forward and back again must end this near the start
    max_fb_error_px: Annotated[float, Ge(0)] = 1.0
    patch_px: Annotated[int, Interval(ge=1, le=255)] = 7
    # Of a plain point that never moved, less its patch's contrast; above it is hidden
    max_difference: Annotated[float, Ge(0)] = 50.0
    # The least of that, and the limit of points that moved, which always match somewhere
    min_max_difference: Annotated[float, Ge(0)] = 12.0
    brightness_weight: Annotated[float, Interval(ge=0, le=1)] = 0.5
    # Of a point that may move: `texture` in the first frame
    min_texture: Annotated[float, Ge(0)] = 40.0
    still_factor: Annotated[float, Ge(0)] = 0.5
    still_bonus: Annotated[float, Ge(0)] = 2.0
    root: str | None = field(default=None, metadata={"key": False})
    # More does not help, since each step is small and drift adds up: see docs/annotators.md
    annotation_rate_hz: AnnotationRate = field(default=None, metadata={"added": True})
    clip_format: ClipFormat = field(default=ClipFormat(), metadata={"key": False})
    name: str = field(default="lucas-kanade", init=False)
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        self.check_rate()

    def resources_for(self, n_points: int) -> Resources:
        return Resources(memory_gb=0.5)

    def attributes_for(self, n_points: int) -> Mapping[str, str]:
        return {
            "stand_in_for": "SpatialTracker",
            "licence": "Apache-2.0 (OpenCV)",
            "made_by": "pyramidal optical flow with a forward-backward check",
        }

    def extra_outputs(self, n_frames: int, n_points: int) -> tuple[ArraySpec, ...]:
        about = "how far forward and backward flow end from the start; "
        about += "0 for a point taken not to have moved or hidden"
        return (ArraySpec(FB_ERROR, "float32", ("t", "p"), (n_frames, n_points), "px", about),)

    def start(
        self, device: str
    ) -> Callable[[Sequence[ClipInputs], Queries], Sequence[TrackEstimate | Rejected]]:
        return lambda clips, queries: [
            track_points(clip.arrays["rgb"], queries, self) for clip in clips
        ]


def track_points(
    rgb: UInt8[np.ndarray, "t h w 3"], queries: Queries, config: LucasKanade
) -> TrackEstimate:
    """Tracks points of the first frame. A hidden point stays where it was last seen."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in rgb]
    frames = [cv2.GaussianBlur(g, (0, 0), config.blur_px).astype(np.uint8) for g in grey]
    # What the first frame says of each point: its patch, and how easily that is recognised
    looks = patches(frames[0], queries, config.patch_px)
    movable = texture(frames[0], queries, config.window_px) >= config.min_texture
    contrast = np.abs(looks - looks.mean(axis=1, keepdims=True)).mean(axis=1)
    home_limit = np.maximum(config.max_difference - contrast, config.min_max_difference)
    at = np.arange(len(queries))
    tracks, seen = [queries], [np.ones(len(queries), bool)]
    errors = [np.zeros(len(queries), np.float32)]
    for before, frame in pairwise(frames):
        last = tracks[-1]
        places, fb_error = candidate_places(
            frames[0], before, frame, queries, last, movable, config
        )
        unlike = np.stack([difference(frame, place, looks, config) for place in places])
        # A candidate must be in the frame, have flow that runs back, and look like the point
        moved = (places != queries).any(axis=2) | (last != queries).any(axis=1)
        usable = np.stack([is_inside(place, frame.shape) for place in places])
        usable &= fb_error <= config.max_fb_error_px
        usable &= unlike <= np.where(moved, config.min_max_difference, home_limit)
        # Flow from where a point was last seen would now track what hides it
        usable[0] &= seen[-1]
        # Take the best one; the point is hidden if there is none
        unlike[2:] = unlike[2:] * config.still_factor - config.still_bonus
        best = np.where(usable, unlike, np.inf).argmin(axis=0)
        shown: Bool[np.ndarray, " p"] = np.any(usable, axis=0)
        tracks.append(np.where(shown[:, None], places[best, at], last))
        seen.append(shown)
        errors.append(np.where(shown, fb_error[best, at], np.float32(0)))
    return TrackEstimate(
        tracks=np.stack(tracks), visible=np.stack(seen), extras={FB_ERROR: np.stack(errors)}
    )


def candidate_places(
    first: Image,
    before: Image,
    frame: Image,
    queries: Queries,
    last: Points,
    movable: Bool[np.ndarray, " p"],
    config: LucasKanade,
) -> tuple[Float32[np.ndarray, "4 p 2"], Float32[np.ndarray, "4 p"]]:
    """Where each point may be in `frame`, and each candidate's forward-backward error in px.

    In order: by flow from the frame before, by flow from the first frame, where it was last seen,
    where it began.
    """
    places = np.stack([last, last, last, queries])
    errors = np.zeros(places.shape[:2], np.float32)
    errors[:2] = np.inf
    guess = last[movable]
    places[0, movable], errors[0, movable] = flow(before, frame, guess, guess, config)
    places[1, movable], errors[1, movable] = flow(first, frame, queries[movable], guess, config)
    return places, errors


def flow(
    before: Image, after: Image, points: Points, guess: Points, config: LucasKanade
) -> tuple[Points, Float32[np.ndarray, " p"]]:
    """(places in `after`, forward-backward error in px; infinite where the flow was lost)."""
    if len(points) == 0:  # OpenCV raises an error for none
        return points, np.zeros(0, np.float32)
    setting = {
        "winSize": (config.window_px, config.window_px),
        "maxLevel": config.levels,
        "criteria": (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 0.01),
        "flags": cv2.OPTFLOW_USE_INITIAL_FLOW,
    }
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, after, points, guess.copy(), **setting)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(after, before, there, points.copy(), **setting)
    ok = np.isfinite(there).all(1)
    for status in (found, found_back):
        ok &= np.asarray(status)[:, 0] == 1
    error = np.where(ok, np.linalg.norm(back - points, axis=1), np.inf).astype(np.float32)
    return np.where(ok[:, None], there, points), error


def texture(image: Image, points: Points, side_px: int) -> Float32[np.ndarray, " p"]:
    """How well flow can be measured at each point; near 0 on plain surfaces and straight edges.

    The smaller eigenvalue of the summed gradient matrix there, in OpenCV's scale.
    """
    eigenvalue = cv2.cornerMinEigenVal(image.astype(np.float32), side_px, ksize=3)
    at = cv2.remap(
        eigenvalue, points[:, :1], points[:, 1:], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return at[:, 0].astype(np.float32)


def patches(image: Image, points: Points, side_px: int) -> Float32[np.ndarray, "p k"]:
    """Grey levels of a square around each point, bilinear; the picture's edge is repeated."""
    offsets = np.arange(side_px, dtype=np.float32) - (side_px - 1) / 2
    dx, dy = np.meshgrid(offsets, offsets)
    x, y = points[:, :1] + dx.reshape(1, -1), points[:, 1:] + dy.reshape(1, -1)
    sampled = cv2.remap(
        image.astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return sampled.astype(np.float32)


def difference(
    image: Image, points: Points, looks: Float32[np.ndarray, "p k"], config: LucasKanade
) -> Float32[np.ndarray, " p"]:
    """How different each point looks from the first frame, in grey levels."""
    change = patches(image, points, config.patch_px) - looks
    brightness = change.mean(axis=1, keepdims=True)
    return np.abs(change - (1 - config.brightness_weight) * brightness).mean(axis=1)


def is_inside(points: Points, size: tuple[int, ...]) -> Bool[np.ndarray, " p"]:
    height, width = size
    return (points > -0.5).all(1) & (points[:, 0] < width - 0.5) & (points[:, 1] < height - 0.5)
