"""Reads the cameras' calibration and the head camera's depth pictures."""

import io
import json
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64
from PIL import Image

from storage.sources.file_ref import FileRef, SourceError, faults_as

MAX_PIXELS = 1 << 25  # of a depth picture; a damaged header claims up to 2**31 x 2**31
MAX_TYPICAL_M = 10.0  # of a camera from its robot's base, in most frames; in mm it is some 1000
NO_READING = np.iinfo("uint16").max  # of a sensor that is saturated or away


@dataclass(frozen=True, kw_only=True)
class Intrinsics:
    """Focal lengths and centre in pixels of the stored video.

    fx differs from fy: the 16:9 picture was squeezed to 4:3. distortion: Brown's k1, k2, k3, p1,
    p2; 0 if absent.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)


def read_intrinsics(ref: FileRef) -> Intrinsics:
    """`<camera>_intrinsic_params.json`.

    Raises SourceError (`corrupt_calibration`, `missing_file`).
    """
    expected = "{'intrinsic': {fx, fy, ppx, ppy, ...}}"
    with faults_as("corrupt_calibration", ref, expected):
        found = _json(ref)["intrinsic"]
        fx, fy, cx, cy = (float(found[name]) for name in ("fx", "fy", "ppx", "ppy"))
        names = ("k1", "k2", "k3", "p1", "p2")
        k1, k2, k3, p1, p2 = (float(found.get(name, 0.0)) for name in names)
    if not (fx > 0 and fy > 0 and np.isfinite([fx, fy, cx, cy]).all()):
        what = f"fx={fx}, fy={fy}, ppx={cx}, ppy={cy}"
        raise SourceError("corrupt_calibration", ref, what, "finite, fx and fy > 0")
    return Intrinsics(fx=fx, fy=fy, cx=cx, cy=cy, distortion=(k1, k2, k3, p1, p2))


def read_extrinsics(ref: FileRef) -> Float64[np.ndarray, "n 3 4"]:
    """`<camera>_extrinsic_params_aligned.json`: [R | t] from camera to base per video frame, in m.

    The camera's axes are OpenCV's (x right, y down, z forward): a point p of the base frame is at
    R^T (p - t). Raises SourceError (`corrupt_calibration`, `implausible_units`, `missing_file`).
    """
    expected = "a list of {'extrinsic': {rotation_matrix, translation_vector}}"
    with faults_as("corrupt_calibration", ref, expected):
        found = _json(ref)
        if not isinstance(found, list) or not found:
            raise TypeError(f"a {type(found).__name__}, or an empty one")
        entries = [entry["extrinsic"] for entry in found]
        rotation = np.array([e["rotation_matrix"] for e in entries], float).reshape(-1, 3, 3)
        translation = np.array([e["translation_vector"] for e in entries], float)
        pose = np.concatenate([rotation, translation.reshape(-1, 3, 1)], axis=2)
    if not np.isfinite(translation).all():
        what = "NaN or infinity among the translations"
        raise SourceError("corrupt_calibration", ref, what, "finite numbers")
    typical = float(np.median(np.linalg.norm(translation, axis=1)))
    if typical > MAX_TYPICAL_M:
        what = f"a camera {typical:.4g} from the base in most frames"
        raise SourceError("implausible_units", ref, what, f"m, at most {MAX_TYPICAL_M:g}")
    skew = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max(initial=0.0)
    if not skew < 1e-2:
        raise SourceError(
            "corrupt_calibration", ref, f"R R^T - 1 up to {skew:.3g}", "rotation matrices"
        )
    return pose


def read_depth_png(ref: FileRef) -> Float32[np.ndarray, "h w"]:
    """Depth along the optical axis in m, from AGIBOT's 16-bit millimetres; NaN where the sensor has
    no reading: 0, no return, and 65535.

    Raises SourceError (`corrupt_depth`, `missing_file`).
    """
    data = io.BytesIO(ref.read_bytes())
    readable = faults_as("corrupt_depth", ref, "a 16-bit PNG")
    with readable, Image.open(data, formats=("PNG",)) as image:
        if image.width * image.height > MAX_PIXELS:
            found = f"{image.width}x{image.height} px"
            raise SourceError("corrupt_depth", ref, found, f"at most {MAX_PIXELS} pixels")
        depth_mm = np.asarray(image)
    dtype = depth_mm.dtype
    if depth_mm.ndim != 2 or dtype.kind not in "iu" or dtype.itemsize < 2:
        found = f"{dtype}{list(depth_mm.shape)}"
        raise SourceError("corrupt_depth", ref, found, "one channel of 16 bits, in millimetres")
    depth_m = depth_mm.astype("float32") / np.float32(1000.0)
    return np.where((depth_mm == 0) | (depth_mm == NO_READING), np.float32(np.nan), depth_m)


def _json(ref: FileRef):
    return json.loads(ref.read_bytes())
