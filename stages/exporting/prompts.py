"""Clips as prompts for other models: first frame, actions, text, camera, in a plain layout.

README.txt            what everything is
index.csv             a row for each clip, with the paths below
images/<clip>.png     the given first frame
actions/<clip>.npz    actions, their names and units, and the camera where it is known
actions/<clip>.csv    the same actions, a row for each command
texts/<clip>.txt      the task, and what is done in the clip
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int

from stages.base import Progress
from stages.clips.arm_vectors import ARM_VECTOR
from stages.drawing.csv_table import csv_table
from stages.drawing.pictures import png_bytes
from storage.atomic import write_file
from storage.stores.rows import ClipRows

COLUMNS = (
    "clip_id", "split", "task", "episode", "camera", "text", "n_frames", "rate_hz", "width",
    "height", "commands_per_frame", "image", "actions_npz", "actions_csv", "text_file",
)  # fmt: skip
OF_INDEX = ("split", "task", "episode", "camera", "task_name", "texts")
CAMERA = ("intrinsics", "extrinsics")
README = """Prompts of {n} clips from {store}

For each clip: predict {n_frames} frames at {rate_hz:g} Hz ({seconds:g} s) from the first frame and
the actions (or the text). Save each video as CLIP_ID.mp4 in one folder; frame 0 must be the given
one. Then:

    roboscape score FOLDER --clips {store} --name MODEL

A video at another rate or size is resampled: only its first frame and its times count.

index.csv           a row for each clip, with the paths of its files
images/CLIP.png     the first frame, {width} x {height} px, RGB. The whole picture of the camera is
                    squeezed to this size.
actions/CLIP.npz    actions (frame, command, value) float32; names, units (of the values); rate_hz.
                    intrinsics fx, fy, cx, cy in px of the first frame; extrinsics (frame, 3, 4),
                    camera to base in m: where they are known.
actions/CLIP.csv    the same actions to six decimals: frame, command, time_s, then the values
texts/CLIP.txt      the task, and what is done in the clip

Actions of frame t lead into frame t: its {n_commands} commands are evenly spaced in time from
frame t-1 to frame t, the last one just before frame t. Those of frame 0 come before the given
frame. time_s is counted from frame 0.
{meaning}
"""
MEANING = """Values: for each arm the flange's position x, y, z in m and its orientation as a unit
quaternion x, y, z, w, both in the robot's base frame, and the gripper, 0 open to 1 closed."""


def write_prompts(
    folder: Path, clips: ClipRows, rows: Int[np.ndarray, " n"], progress: Progress
) -> None:
    """Writes the prompts of these rows; progress counts clips."""
    about = clips.index
    of_index = {name: about.gather(name, rows) for name in OF_INDEX if name in about.specs}
    lines = []
    for i, row in enumerate(rows.tolist()):
        facts = {name: values[i] for name, values in of_index.items()}
        lines.append(write_prompt(folder, clips, row, facts))
        progress(i + 1, len(rows), f"clip {clips.clip_ids[row]}")
    write_file(folder / "index.csv", csv_table(COLUMNS, lines))
    write_file(folder / "README.txt", readme(clips, len(rows)).encode())


def write_prompt(
    folder: Path, clips: ClipRows, row: int, facts: Mapping[str, object]
) -> tuple[object, ...]:
    """Writes one clip's files, and returns its line of the index."""
    clip_id = clips.clip_ids[row]
    known = [name for name in CAMERA if name in clips.specs]
    arrays = clips.read(["rgb", "actions", *known], row)
    actions, first = arrays["actions"], arrays["rgb"][0]
    names, units = columns_of(actions.shape[-1])
    text = text_of(str(facts.get("task_name", "")), facts.get("texts", ()))
    files = {
        "image": f"images/{clip_id}.png",
        "actions_npz": f"actions/{clip_id}.npz",
        "actions_csv": f"actions/{clip_id}.csv",
        "text_file": f"texts/{clip_id}.txt",
    }
    camera = {name: arrays[name] for name in known if np.isfinite(arrays[name]).all()}
    write_file(folder / files["image"], png_bytes(first))
    content = npz_bytes(actions=actions, names=names, units=units, rate_hz=clips.rate_hz, **camera)
    write_file(folder / files["actions_npz"], content)
    write_file(folder / files["actions_csv"], actions_csv(actions, names, units, clips.rate_hz))
    write_file(folder / files["text_file"], (text + "\n").encode())
    (height, width), where = first.shape[:2], ("split", "task", "episode", "camera")
    return (
        clip_id, *(facts.get(name, "") for name in where), text, len(arrays["rgb"]),
        f"{clips.rate_hz:g}", width, height, actions.shape[1], *files.values(),
    )  # fmt: skip


def columns_of(n: int) -> tuple[list[str], list[str]]:
    """Names and units of an action's values."""
    if n != len(ARM_VECTOR):
        return [f"action_{i}" for i in range(n)], [""] * n
    units = ["m" if name.rpartition("_")[2] in ("x", "y", "z") else "1" for name in ARM_VECTOR]
    return list(ARM_VECTOR), units


def text_of(task_name: str, texts: object) -> str:
    """The task, then what the segments of the clip say, each once, as sentences."""
    parts = [task_name, *(str(text) for text in np.atleast_1d(np.asarray(texts, object)))]
    sentences = dict.fromkeys(part.strip().rstrip(".") for part in parts)
    return " ".join(f"{sentence}." for sentence in sentences if sentence)


def actions_csv(
    actions: Float32[np.ndarray, "t i a"],
    names: Sequence[str],
    units: Sequence[str],
    rate_hz: float,
) -> bytes:
    n_commands = actions.shape[1]
    headings = [
        f"{n} ({u})" if u not in ("", "1") else n for n, u in zip(names, units, strict=True)
    ]
    rows = (
        (t, i, (t - 1 + i / n_commands) / rate_hz, *map(float, command))
        for t, commands in enumerate(actions)
        for i, command in enumerate(commands)
    )
    return csv_table(("frame", "command", "time_s", *headings), rows)


def npz_bytes(**arrays: object) -> bytes:
    sink = io.BytesIO()
    np.savez(sink, **{name: np.asarray(x) for name, x in arrays.items()})  # type: ignore[arg-type]
    return sink.getvalue()


def readme(clips: ClipRows, n: int) -> str:
    t, height, width, _ = clips.spec("rgb").shape
    _, n_commands, n_values = clips.spec("actions").shape
    return README.format(
        n=n,
        store=clips.ref,
        n_frames=t,
        rate_hz=clips.rate_hz,
        seconds=(t - 1) / clips.rate_hz,
        width=width,
        height=height,
        n_commands=n_commands,
        meaning=MEANING if n_values == len(ARM_VECTOR) else "",
    )
