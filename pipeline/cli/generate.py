"""`roboscape generate`: a world model, a first frame and actions -> a video. No service runs.

A checkpoint's card names everything that belongs to it: the clips, their tokens, the tokenizers.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from model.training.device import pick_device
from model.world.config import SamplingConfig
from pipeline.cli.progress_bar import progress_bar
from pipeline.lineage.checkpoint import find_checkpoint
from pipeline.settings import Settings
from stages.drawing.pictures import png_bytes, write_gif, write_mp4
from stages.evaluation.checkpoint import Checkpoint, require_usable
from stages.evaluation.generated_video import GeneratedVideo
from stages.evaluation.pictures import SPEED, animate_generated, draw_generated
from stages.evaluation.predict import read_tokens
from stages.evaluation.video_generation import generate_video, plan_course
from storage.atomic import write_file
from storage.files import sha256_file
from storage.sources.action_file import read_actions
from storage.stores.key import content_key
from storage.stores.rows import ClipRows, Rows, find_row


@dataclass(frozen=True, kw_only=True)
class Request:
    """Arguments of the command. None: the clip's actions, as many frames, a folder of its own."""

    checkpoint: str
    clip: str
    actions: Path | None = None
    frames: int | None = None
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = 0
    out: Path | None = None
    device: str | None = None


def generate(request: Request, settings: Settings, console: Console) -> Path:
    """Writes `rollout.mp4`, `rollout.gif`, `rollout.png` and `rollout.json`, and returns their
    folder.

    Raises LookupError for a checkpoint, store or clip that is not there, ValueError for what does
    not fit together.
    """
    checkpoint = find_checkpoint(request.checkpoint, settings.stores)
    rows = checkpoint.rows()
    clips = rows["clip"]
    assert isinstance(clips, ClipRows), clips
    row = find_row(clips, request.clip)
    require_usable(rows, row)
    networks = checkpoint.networks(rows, pick_device(request.device))
    config = networks.world.config
    given = None if request.actions is None else read_actions(request.actions, config.action_dim)
    own = clips.read(["actions"], row)["actions"]
    course = plan_course(own, given, request.frames, config.action_substeps)
    with progress_bar("generate", console) as progress:
        true, clip_id = read_tokens(rows, np.array([row]), networks), clips.clip_ids[row]
        made = generate_video(
            networks, clip_id, true, course, request.sampling, request.seed, progress
        )
    about = record(request, checkpoint, made, row, rows)
    folder = request.out or settings.home / "generated" / folder_name(checkpoint.path, about)
    write(made, folder, about, clips.rate_hz)
    print_files(made, folder, rows, row, console)
    return folder


def record(
    request: Request,
    checkpoint: Checkpoint,
    made: GeneratedVideo,
    row: int,
    rows: Mapping[str, Rows],
) -> dict[str, Any]:
    """Everything that is needed to make the same video again."""
    actions, path = request.actions, checkpoint.path
    return {
        "checkpoint": {"path": str(path), "sha256": sha256_file(path)},
        "data": checkpoint.card["data"],
        "tokenizers": checkpoint.card["tokenizers"],
        "clip": {"id": made.clip_id, "row": row, "split": split_of(rows, row)},
        "actions": None
        if actions is None
        else {"path": str(actions), "sha256": sha256_file(actions)},
        "frames": len(made.course.actions),
        "last_action_held_from_frame": made.course.n_given if made.held else None,
        "sampling": asdict(request.sampling),
        "seed": request.seed,
        "psnr": made.psnr,
    }


def folder_name(checkpoint: Path, about: Mapping[str, Any]) -> str:
    """Distinct for each checkpoint, clip, actions, number of frames, sampling and seed."""
    actions = about["actions"] and about["actions"]["sha256"]
    how = content_key(
        {"actions": actions, **{name: about[name] for name in ("frames", "sampling", "seed")}}
    )
    return (
        f"{checkpoint.stem}-{about['checkpoint']['sha256'][:8]}-row{about['clip']['row']}-{how[:8]}"
    )


def split_of(rows: Mapping[str, Rows], row: int) -> str:
    return str(rows["discover"].gather("split", np.array([row]))[0])


def write(made: GeneratedVideo, folder: Path, about: dict[str, Any], rate_hz: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_file(
        folder / "rollout.png", png_bytes(draw_generated(made, rate_hz, "; ".join(made.notes)))
    )
    frames = animate_generated(made, rate_hz)
    write_gif(folder / "rollout.gif", frames, SPEED * rate_hz)
    write_mp4(folder / "rollout.mp4", frames, SPEED * rate_hz)
    write_file(folder / "rollout.json", json.dumps(about, indent=1).encode())


def print_files(
    made: GeneratedVideo, folder: Path, rows: Mapping[str, Rows], row: int, console: Console
) -> None:
    split = split_of(rows, row)
    seen = " (the world model was trained on it)" if split == "train" else ""
    console.print(
        f"clip {made.clip_id}, row {row} of split {split}{seen}: {len(made.course.actions)} frames",
        markup=False,
    )
    for note in made.notes:
        console.print(f"  {note}", markup=False)
    for name in ("mp4", "gif", "png", "json"):
        console.print(f"  {folder / f'rollout.{name}'}", markup=False)
