"""Writes a simulated episode in AGIBOT-World's layout (Beta, gripper robot, head camera).

As in the real data set: video and depth, calibration, and `proprio_stats.h5` with every group of a
real file, the empty ones too. Quaternions are xyzw. What only a simulation has (ground truth,
success) is not written here.
"""

import json
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import h5py
import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8, UInt16

from simulation.episode import Trajectory
from simulation.policies import Task
from simulation.scene import CAMERA_PITCH_DEG, Camera

CRF = 18  # H.264 quality; visually almost lossless at these sizes
GOP = 15  # frames of 2 Hz clips of a 30 fps video are key frames
# Standard deviation of the simulated depth sensor at 1 m; grows with the square of the depth
DEPTH_NOISE_M = 0.001
DEPTH_LIMIT_M = 5.0  # no return beyond, written as 0
START_NS = 1_735_000_000_000_000_000  # of episode 0; real time stamps are Unix time too

EMPTY = (
    "state/joint/velocity", "state/joint/effort", "state/end/velocity", "state/end/angular",
    "state/end/wrench", "state/effector/force", "state/robot/position", "state/robot/orientation",
    "state/robot/position_drift", "state/robot/orientation_drift", "action/joint/effort",
    "action/joint/velocity", "action/effector/force", "action/robot/position",
    "action/robot/orientation", "action/robot/angular",
)  # fmt: skip


def observation_folder(task_id: int, episode_id: int) -> Path:
    return Path("observations", str(task_id), str(episode_id))


def video_path(task_id: int, episode_id: int) -> Path:
    return observation_folder(task_id, episode_id) / "videos" / "head_color.mp4"


def camera_folder(task_id: int, episode_id: int) -> Path:
    return Path("parameters", str(task_id), str(episode_id), "parameters", "camera")


def proprio_folder(task_id: int, episode_id: int) -> Path:
    return Path("proprio_stats", str(task_id), str(episode_id))


def write_video(
    path: Path,
    frames: Iterable[UInt8[np.ndarray, "h w 3"]],
    *,
    size: tuple[int, int],
    rate_hz: float,
) -> None:
    """Writes H.264, yuv420p, with a key frame every `GOP` frames; size: (width, height).

    The same frames give the same bytes: with one encoder thread, and without x264's macroblock
    tree, which reads memory that it has not set.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = Fraction(rate_hz).limit_denominator(1001)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=rate)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = GOP, 0
        stream.codec_context.thread_count = 1
        exact_gop = dict(sc_threshold="0", keyint_min=str(GOP))
        stream.options = dict(crf=str(CRF), preset="medium", mbtree="0", **exact_gop)
        stream.width, stream.height = size
        for rgb in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        out.mux(stream.encode())


def sense_depth(
    depth_m: Float32[np.ndarray, "h w"], rng: np.random.Generator
) -> UInt16[np.ndarray, "h w"]:
    """What a depth camera would return, in millimetres, with a little noise.

    0 (no return) beyond `DEPTH_LIMIT_M` and in some pixels along depth edges, where a stereo camera
    cannot match.
    """
    noise = rng.standard_normal(depth_m.shape, dtype=np.float32)
    noisy = depth_m + DEPTH_NOISE_M * depth_m**2 * noise
    near, far = cv2.erode(depth_m, np.ones((3, 3))), cv2.dilate(depth_m, np.ones((3, 3)))
    lost = (far - near > 0.06) & (rng.random(depth_m.shape, dtype=np.float32) < 0.4)
    return np.where(lost | (depth_m > DEPTH_LIMIT_M), 0, np.round(noisy * 1000)).astype(np.uint16)


def write_depth(folder: Path, frame: int, depth_mm: UInt16[np.ndarray, "h w"]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # Not `imwrite`: it says of no error what it was
    done, png = cv2.imencode(".png", depth_mm, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    assert done, depth_mm.shape
    (folder / f"head_depth_{frame:06d}.png").write_bytes(png.tobytes())


def write_camera(folder: Path, cameras: Sequence[Camera]) -> None:
    """Writes intrinsics (AGIBOT's names) and a camera-to-base pose per frame, OpenCV axes.

    cameras: of each frame; the first one's pose is the one that stands alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    camera = cameras[0]
    intrinsic = {"fx": camera.fx, "fy": camera.fy, "ppx": camera.cx, "ppy": camera.cy}
    intrinsic |= {name: 0.0 for name in ("k1", "k2", "k3", "p1", "p2")}
    poses = [
        {"rotation_matrix": c.rotation.tolist(), "translation_vector": c.position_m.tolist()}
        for c in cameras
    ]
    for name, text in (
        ("intrinsic_params", json.dumps({"intrinsic": intrinsic}, indent=1)),
        ("extrinsic_params", json.dumps({"extrinsic": poses[0]}, indent=1)),
        ("extrinsic_params_aligned", json.dumps([{"extrinsic": pose} for pose in poses])),
    ):
        (folder / f"head_{name}.json").write_text(text)


def timestamps_ns(
    episode_id: int, n_frames: int, rate_hz: float, rng: np.random.Generator
) -> Int64[np.ndarray, " t"]:
    """Frame times, like the real ones irregular by up to 0.3 ms."""
    start = START_NS + (episode_id % 10**6) * 60 * 10**9
    jitter = rng.integers(-300_000, 300_001, n_frames)
    regular = np.round(np.arange(n_frames) * 1e9 / rate_hz).astype(np.int64)
    return (start + regular + jitter).astype(np.int64)


def gripper_reading(closed: Float[np.ndarray, "t 2"]) -> Float[np.ndarray, "t 2"]:
    """AGIBOT's `state/effector`: about 35 when open, 120 when closed."""
    return 35 + 85 * closed


def quaternions_xyzw(axes: Float[np.ndarray, "t 2 3 3"]) -> Float[np.ndarray, "t 2 4"]:
    """Rotation matrices -> unit quaternions, without sign changes from frame to frame."""
    squares = np.stack([  # four times each component squared
        1 + axes[..., 0, 0] - axes[..., 1, 1] - axes[..., 2, 2],
        1 - axes[..., 0, 0] + axes[..., 1, 1] - axes[..., 2, 2],
        1 - axes[..., 0, 0] - axes[..., 1, 1] + axes[..., 2, 2],
        1 + axes[..., 0, 0] + axes[..., 1, 1] + axes[..., 2, 2],
    ], axis=-1)  # fmt: skip
    sums, diffs = axes + np.swapaxes(axes, -1, -2), axes - np.swapaxes(axes, -1, -2)
    xy, xz, yz = sums[..., 0, 1], sums[..., 0, 2], sums[..., 1, 2]
    wx, wy, wz = diffs[..., 2, 1], diffs[..., 0, 2], diffs[..., 1, 0]
    x2, y2, z2, w2 = np.moveaxis(squares, -1, 0)
    rows = np.stack([  # row i: four times component i times each component
        np.stack([x2, xy, xz, wx], -1), np.stack([xy, y2, yz, wy], -1),
        np.stack([xz, yz, z2, wz], -1), np.stack([wx, wy, wz, w2], -1),
    ], axis=-2)  # fmt: skip
    best = squares.argmax(axis=-1)  # divide by the largest component, for accuracy
    q = np.take_along_axis(rows, best[..., None, None], axis=-2)[..., 0, :]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    flips = np.cumprod(np.where((q[1:] * q[:-1]).sum(axis=-1) < 0, -1, 1), axis=0)
    return np.concatenate([q[:1], q[1:] * flips[..., None]])


def proprio_arrays(trajectory: Trajectory, times: Int64[np.ndarray, " t"]) -> dict[str, np.ndarray]:
    """Every data set of `proprio_stats.h5` by its path in the file."""
    t, n = trajectory, len(times)
    head = np.tile([0.0, np.radians(CAMERA_PITCH_DEG)], (n, 1))
    waist = np.tile([0.52, 0.27], (n, 1))
    arrays: dict[str, np.ndarray] = {
        "timestamp": times,
        "state/joint/position": t.joints,
        "state/joint/current_value": t.torque,
        "state/end/position": t.flange_position,
        "state/end/orientation": quaternions_xyzw(t.flange_axes),
        "state/effector/position": gripper_reading(t.closed),
        "state/head/position": head,
        "state/waist/position": waist,
        "action/joint/position": t.joints_command,
        "action/end/position": t.flange_position_command,
        "action/end/orientation": quaternions_xyzw(t.flange_axes_command),
        "action/effector/position": t.closed_command,
        "action/head/position": head,
        "action/waist/position": waist,
        "action/robot/velocity": np.zeros((n, 2)),
    }
    groups = ("joint", "end", "effector", "head", "waist", "robot")
    arrays |= {f"action/{group}/index": np.arange(n, dtype=np.int64) for group in groups}
    return arrays | {name: np.zeros(0, np.float32) for name in EMPTY}


def write_proprio(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / "proprio_stats.h5", "w", track_order=False) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, track_times=False)


def task_info_entry(episode_id: int, task: Task, trajectory: Trajectory, scene_text: str) -> dict:
    """An episode's object in `task_info/task_<id>.json`.

    Frame numbers are rows of the video and of the h5; a segment ends where the next one starts.
    """
    n = len(trajectory.qpos)
    begun = sorted(trajectory.segments, key=lambda s: s.start_s)
    starts = [0, *(min(round(s.start_s * trajectory.rate_hz), n - 1) for s in begun[1:]), n]
    config = [
        {"start_frame": a, "end_frame": b, "action_text": s.text, "skill": s.skill}
        for s, a, b in zip(begun, starts, starts[1:], strict=False)
        if b > a
    ]
    return {
        "episode_id": episode_id,
        "task_id": task.id,
        "task_name": task.name,
        "init_scene_text": scene_text,
        "label_info": {"action_config": config},
    }
