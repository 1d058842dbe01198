"""Videos as other programs write them, of the clips of `small_stores`."""

from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image
from small_stores import SIDE, T, square_clips, write_clips, write_index

from storage.stores.records import StoreRef

SPLITS = ["val", "val", "val", "train", "val"]
REJECTED = 4
RATE_HZ = 2.0


def write_store(root: Path) -> dict[str, StoreRef]:
    """A store of clips and its index, by role; row REJECTED has no data."""
    index = write_index(root, SPLITS)
    arrays = square_clips(len(SPLITS))["clip"]
    arrays["frame_index"] = np.tile(np.arange(T), (len(SPLITS), 1))
    clip = write_clips(index, "clip", arrays, rejected=(REJECTED,), inputs={"discover": index.uri})
    return {"discover": index, "clip": clip}


def frames_of(row: int) -> np.ndarray:
    """(t, h, w, 3) uint8."""
    return square_clips(len(SPLITS))["clip"]["rgb"][row]


def warped(frames: np.ndarray, shift_px: float) -> np.ndarray:
    """What a poor model shows: all frames but the given one, shifted by OpenCV."""
    matrix = np.float32([[1, 0, shift_px], [0, 1, shift_px]])
    moved = [
        cv2.warpAffine(frame, matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT)
        for frame in frames[1:]
    ]
    return np.stack([frames[0], *moved])


def write_movie(path: Path, frames: np.ndarray, rate: int = 2) -> Path:
    """H.264 without loss but for the conversion of colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=rate, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "rgb24"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_gif(path: Path, frames: np.ndarray, frame_ms: int = 500) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=others, duration=frame_ms)
    return path


def write_frames(folder: Path, frames: np.ndarray, name: str = "{}.png") -> Path:
    folder.mkdir(parents=True)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / name.format(i))
    return folder


def write_array(path: Path, frames: np.ndarray, name: str = "video") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: frames})
    return path
