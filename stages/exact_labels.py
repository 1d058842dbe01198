"""Exact depth and point tracks of a simulated clip, in the clip's own pixels.

The scoring of labels, the training of annotators and the annotators named `truth` use them. A world
model sees them only where a run asks for `truth` by name, and then every page says so.

In: an episode's `GroundTruth` and the source frames that the clip is made of. Both pictures cover
the same view, so their pixels are related as a resize relates them.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Integer, UInt8

from simulation.ground_truth import BACKGROUND, NOTHING, GroundTruth
from simulation.scene import Camera
from stages.resizing import nearest_pixels

# Aligned inverse depths at or below 1 / this count as this far; the simulation sees no farther
FARTHEST_M = 20.0
SURFACE_M = 0.01  # a point up to this far behind what is seen at its pixel is on that surface


@dataclass(frozen=True, kw_only=True)
class TrueTracks:
    """known: points on a surface; the others have no truth. (0, 0): the top-left pixel's centre."""

    tracks: Float32[np.ndarray, "t p 2"]
    depth_m: Float32[np.ndarray, "t p"]  # of the point along the optical axis, also while hidden
    visible: Bool[np.ndarray, "t p"]
    places_m: Float64[np.ndarray, "t p 3"]  # in the base frame, which stays where it is
    geom: UInt8[np.ndarray, " p"]  # NOTHING where a point is not known
    known: Bool[np.ndarray, " p"]


def true_depth(
    truth: GroundTruth, frames: Integer[np.ndarray, " t"], size: tuple[int, int]
) -> tuple[Float32[np.ndarray, "t h w"], Bool[np.ndarray, "t h w"]]:
    """Depth in m along the optical axis at (height, width) `size`, and where anything is seen."""
    source = truth.depth_m.shape[1:]
    rows, columns = (nearest_pixels(n, m) for n, m in zip(source, size, strict=True))
    picked = np.ix_(frames, rows, columns)
    return truth.depth_m[picked].astype(np.float32), truth.geom[picked] != NOTHING


def true_tracks(
    truth: GroundTruth,
    frames: Integer[np.ndarray, " t"],
    queries: Float32[np.ndarray, "p 2"],
    size: tuple[int, int],
) -> TrueTracks:
    """Where the surface points seen at `queries` (x, y in the first frame, clip pixels) are later.

    Each point is fixed to the geom under its query and moves as that geom does. It is visible while
    it is in the frame and what is seen there, within a pixel, is the same geom at the same depth.
    """
    first = int(frames[0])
    height, width = truth.geom.shape[1:]
    to_source = np.array([width / size[1], height / size[0]])
    # The geom under each query, and the point's place on that geom
    pixels = (queries.astype(np.float64) + 0.5) * to_source - 0.5
    geom, depth = _look_up(truth, first, pixels)
    known = geom != NOTHING
    on = np.where(known, geom, 0)
    offset = _lift(truth.cameras[first], pixels, depth) - truth.geom_position_m[first, on]
    local = np.einsum("pji,pj->pi", truth.geom_axes[first, on], offset)
    # That place in each frame, and whether it is seen there
    tracks, depths, visible, places_m = [], [], [], []
    for frame in frames.tolist():
        offset = np.einsum("pij,pj->pi", truth.geom_axes[frame, on], local)
        place = truth.geom_position_m[frame, on] + offset
        there, z = _project(truth.cameras[frame], place)
        tracks.append((there + 0.5) / to_source - 0.5)
        depths.append(z)
        places_m.append(place)
        visible.append(_is_seen(truth, frame, there, z, on))
    shown = np.stack(visible) & known
    shown[0] = known  # the query is a point that is seen
    places, depth_m = np.stack(tracks).astype(np.float32), np.stack(depths).astype(np.float32)
    return TrueTracks(
        tracks=places,
        depth_m=depth_m,
        visible=shown,
        places_m=np.stack(places_m),
        geom=geom,
        known=known,
    )


def seen_without_sway(
    truth: GroundTruth,
    frame: int,
    places_m: Float64[np.ndarray, "t p 3"],
    size: tuple[int, int],
) -> Float32[np.ndarray, "t p 2"]:
    """Where a camera that stays as it is in `frame` would see these places, in clip pixels."""
    height, width = truth.geom.shape[1:]
    to_source = np.array([width / size[1], height / size[0]])
    pixels = np.stack([_project(truth.cameras[frame], places)[0] for places in places_m])
    return ((pixels + 0.5) / to_source - 0.5).astype(np.float32)


def on_background(truth: GroundTruth, points: TrueTracks) -> Bool[np.ndarray, " p"]:
    """Points on what never moves in the world."""
    still = np.array([body in BACKGROUND for body in truth.geom_body])
    return points.known & still[np.where(points.known, points.geom, 0)]


def _look_up(truth: GroundTruth, frame: int, pixels: Float64[np.ndarray, "p 2"]):
    """Geom id and depth (m) at the nearest source pixels."""
    x, y = np.round(pixels).astype(int).T
    inside = (np.clip(y, 0, truth.geom.shape[1] - 1), np.clip(x, 0, truth.geom.shape[2] - 1))
    return truth.geom[frame][inside], truth.depth_m[frame][inside].astype(np.float64)


def _lift(
    camera: Camera, pixels: Float64[np.ndarray, "p 2"], depth: Float64[np.ndarray, " p"]
) -> Float64[np.ndarray, "p 3"]:
    """Points in the base frame, from source pixels and their depth."""
    x, y = ((pixels - (camera.cx, camera.cy)) / (camera.fx, camera.fy)).T
    rays = np.stack([x, y, np.ones(len(pixels))], axis=1)
    return camera.position_m + (rays * depth[:, None]) @ camera.rotation.T


def _project(
    camera: Camera, points: Float64[np.ndarray, "p 3"]
) -> tuple[Float64[np.ndarray, "p 2"], Float64[np.ndarray, " p"]]:
    """Source pixels and depth (m) of points in the base frame."""
    x, y, z = ((points - camera.position_m) @ camera.rotation).T
    return np.stack([camera.cx + camera.fx * x / z, camera.cy + camera.fy * y / z], axis=1), z


def _is_seen(
    truth: GroundTruth,
    frame: int,
    pixels: Float64[np.ndarray, "p 2"],
    z: Float64[np.ndarray, " p"],
    on: Integer[np.ndarray, " p"],
) -> Bool[np.ndarray, " p"]:
    """In the frame, and one of the 3 x 3 pixels around it shows the point's geom, not nearer."""
    height, width = truth.geom.shape[1:]
    x, y = np.round(pixels).astype(int).T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (z > 0)
    seen = np.zeros(len(pixels), bool)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            at = (np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1))
            behind = z < truth.depth_m[frame][at].astype(np.float64) + SURFACE_M
            seen |= (truth.geom[frame][at] == on) & behind
    return inside & seen
