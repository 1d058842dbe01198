"""Tiny AGIBOT-World trees with known numbers; each frame shows its number as blocks."""

import json
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

import av
import h5py
import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 48
BLOCK = 8  # px; two rows of eight blocks, black for 0 and white for 1, hold 16 bits
START_NS = 1_700_000_000_000_000_000


@dataclass(frozen=True, kw_only=True)
class FakeEpisode:
    """What to write. Positions, angles and grippers are smooth functions of time."""

    task: int = 327
    episode: int = 648642
    n: int = 270
    rate_hz: float = 30.0
    jitter_ns: int = 0
    hand: bool = False
    n_depth: int = 3
    gop: int = 15
    codec: str = "libx264"

    @property
    def times_ns(self) -> np.ndarray:
        jitter = np.random.default_rng(self.episode).uniform(-1, 1, self.n) * self.jitter_ns
        return START_NS + np.round(np.arange(self.n) * (1e9 / self.rate_hz) + jitter).astype(
            "int64"
        )

    @property
    def seconds(self) -> np.ndarray:
        return (self.times_ns - START_NS) / 1e9

    @property
    def position(self) -> np.ndarray:  # (n, 2, 3)
        t = self.seconds
        left = np.stack([0.5 + 0.1 * np.sin(t), 0.2 + 0.05 * np.cos(t), 0.3 + 0.02 * t], -1)
        return np.stack([left, left * [1, -1, 1]], 1)

    @property
    def quaternion(self) -> np.ndarray:  # (n, 2, 4) xyzw, about z
        half = 0.4 * np.sin(self.seconds)
        q = np.stack([0 * half, 0 * half, np.sin(half), np.cos(half)], -1)
        return np.stack([q, q * [1, 1, -1, 1]], 1)

    @property
    def closed(self) -> np.ndarray:  # (n, 2)
        return np.stack(
            [0.5 - 0.5 * np.cos(self.seconds), 0.5 - 0.5 * np.cos(2 * self.seconds)], -1
        )

    @property
    def videos(self) -> str:
        return f"observations/{self.task}/{self.episode}/videos"

    @property
    def camera(self) -> str:
        return f"parameters/{self.task}/{self.episode}/parameters/camera"

    @property
    def proprio(self) -> str:
        return f"proprio_stats/{self.task}/{self.episode}/proprio_stats.h5"


def write_tree(root: Path, *episodes: FakeEpisode) -> Path:
    """Writes complete episodes in the extracted layout, with task_info."""
    for episode in episodes:
        write_video(root / episode.videos / "head_color.mp4", episode)
        write_depth(root / f"observations/{episode.task}/{episode.episode}/depth", episode)
        write_camera(root / episode.camera, episode)
        write_proprio(root / episode.proprio, episode)
    for task in {e.task for e in episodes}:
        write_task_info(root, task, [info(e) for e in episodes if e.task == task])
    return root


def info(e: FakeEpisode) -> dict:
    segments = [
        {
            "start_frame": 0,
            "end_frame": e.n // 2,
            "action_text": "Pick up the cup.",
            "skill": "Pick",
        },
        {
            "start_frame": e.n // 2,
            "end_frame": e.n,
            "action_text": "Place the cup.",
            "skill": "Place",
        },
    ]
    return {
        "episode_id": e.episode,
        "task_name": "Move a cup",
        "init_scene_text": "A cup on a table.",
        "label_info": {"action_config": segments},
    }


def write_task_info(root: Path, task: int, entries: list[dict]) -> None:
    path = root / f"task_info/task_{task}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries))


def write_video(path: Path, e: FakeEpisode, frames: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(e.codec, rate=int(np.ceil(e.rate_hz)))
        stream.width, stream.height = (WIDTH, HEIGHT) if frames is None else frames.shape[2:0:-1]
        stream.pix_fmt, stream.codec_context.gop_size = "yuv420p", e.gop
        stream.options = {"crf": "18", "preset": "veryfast" if e.codec == "libx264" else "12"}
        for i in range(e.n if frames is None else len(frames)):
            rgb = picture(i) if frames is None else frames[i]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode(None))


def picture(number: int) -> np.ndarray:
    """The frame's number in blocks above (in Gray code: one changes at a time), a square that moves
    below.
    """
    code = number ^ number >> 1
    rgb = np.full((HEIGHT, WIDTH, 3), (90, 120, 150), "uint8")
    for bit in range(16):
        y, x = divmod(bit, 8)
        rgb[BLOCK * y : BLOCK * (y + 1), BLOCK * x : BLOCK * (x + 1)] = 255 * (code >> bit & 1)
    x, y = int(24 + 20 * np.sin(number / 20)), int(24 + 6 * np.cos(number / 15))
    rgb[y : y + 14, x : x + 16] = (200, 60, 40)
    return rgb


def number_of(rgb: np.ndarray) -> int:
    """The number in a frame of any size."""
    h, w = rgb.shape[0] / HEIGHT, rgb.shape[1] / WIDTH
    centres = [
        (int(h * (BLOCK * (bit // 8) + 4)), int(w * (BLOCK * (bit % 8) + 4))) for bit in range(16)
    ]
    number = code = sum(int(rgb[y, x].mean() > 128) << bit for bit, (y, x) in enumerate(centres))
    while code := code >> 1:
        number ^= code
    return number


def write_depth(folder: Path, e: FakeEpisode) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for frame in range(e.n_depth):
        millimetres = np.full((HEIGHT, WIDTH), 500 + frame, "uint16")
        millimetres[0] = 0  # no return
        Image.fromarray(millimetres).save(folder / f"head_depth_{frame:06d}.png")


def write_camera(folder: Path, e: FakeEpisode) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    intrinsic = {
        "fx": 32.2,
        "fy": 42.9,
        "ppx": 32.4,
        "ppy": 24.3,
        "k1": 0.1,
        "k2": 0,
        "k3": 0,
        "p1": 0,
        "p2": 0,
    }
    (folder / "head_intrinsic_params.json").write_text(json.dumps({"intrinsic": intrinsic}))
    rotation = [[0, -0.8, 0.6], [-1, 0, 0], [0, -0.6, -0.8]]
    pose = {"rotation_matrix": rotation, "translation_vector": [0.4, 0, 1.0]}
    poses = [
        {"extrinsic": pose | {"translation_vector": [0.4, 0, 1.0 + i / 1000]}} for i in range(e.n)
    ]
    (folder / "head_extrinsic_params_aligned.json").write_text(json.dumps(poses))


def write_proprio(path: Path, e: FakeEpisode) -> None:
    """As in a Beta file: state and action alike but for 1 cm in the commanded position."""
    path.parent.mkdir(parents=True, exist_ok=True)
    joint = np.tile(np.sin(e.seconds)[:, None], (1, 14))
    fingers = np.repeat(e.closed, 6, axis=1) * np.pi / 2
    with h5py.File(path, "w") as file:
        file["timestamp"] = e.times_ns
        for group in ("state", "action"):
            file[f"{group}/joint/position"] = joint
            file[f"{group}/end/position"] = e.position + (0.01 if group == "action" else 0.0)
            file[f"{group}/end/orientation"] = e.quaternion
            file[f"{group}/head/position"] = np.zeros((e.n, 2))
            file[f"{group}/waist/position"] = np.zeros((e.n, 2))
            file[f"{group}/end/velocity"] = np.zeros(0, "float32")
        file["state/effector/position"] = fingers if e.hand else 35 + 85 * e.closed
        file["action/effector/position"] = fingers if e.hand else e.closed
        for group in ("joint", "end", "effector", "head", "waist"):
            file[f"action/{group}/index"] = np.arange(e.n)


def pack(root: Path, packed: Path) -> Path:
    """The same tree as the hub has it: a tar per task of observations, one of parameters, one of
    proprio_stats.
    """
    shutil.copytree(root / "task_info", packed / "task_info")
    for task in sorted((root / "observations").iterdir()):
        ids = sorted(int(path.name) for path in task.iterdir())
        target = packed / f"observations/{task.name}/{ids[0]}-{ids[-1]}.tar"
        _tar(target, {path: path.name for path in sorted(task.iterdir())})
    for kind in ("parameters", "proprio_stats"):
        ids = sorted(int(path.name) for path in (root / kind).glob("*/*"))
        target = packed / f"{kind}/{ids[0]}-{ids[-1]}.tar"
        _tar(target, {path: path.name for path in sorted((root / kind).iterdir())})
    return packed


def _tar(target: Path, names: dict[Path, str]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(target, "w") as tar:
        for path, name in names.items():
            tar.add(path, arcname=name)
