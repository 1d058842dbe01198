"""`roboscape generate`: a world model, a clip's first frame and actions -> a video, by no service.

A checkpoint's card names all that belongs to it: the clips, their tokens, the tokenizers.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from model.training.checkpoint import read_header
from model.training.device import pick_device
from model.world.config import SamplingConfig
from pipeline.cli.inspect import find_row
from pipeline.lineage.graph import find
from pipeline.settings import Settings
from stages.drawing.pictures import png_bytes, write_gif, write_mp4
from stages.evaluation.generate import generate_video, plan_course
from stages.evaluation.generated_video import GeneratedVideo
from stages.evaluation.pictures import animate_generated, draw_generated
from stages.evaluation.predict import Networks, networks_of
from stages.world_model.data import WORLD_MODEL_FILE
from storage.atomic import write_file
from storage.files import sha256_file
from storage.sources.action_file import read_actions
from storage.stores import store
from storage.stores.key import content_key
from storage.stores.records import StoreRef
from storage.stores.results import open_result
from storage.stores.rows import Rows, open_rows

SPEED = 2.0  # the animations run this many times as fast as life, as those of evaluation do


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
    path, root = find_checkpoint(request.checkpoint, settings.stores)
    card = read_header(path)["card"]
    if "data" not in card or "tokenizers" not in card:
        raise ValueError(
            f"{path}: its card names no data and no tokenizers; expected a world model's checkpoint"
        )
    rows = {
        role: open_rows(store_of(card["data"][role], root, path))
        for role in ("discover", "clip", *card["tokenizers"])
    }
    row = find_usable_row(rows, request.clip)
    networks = load(path, card, rows, root, request.device)
    config = networks.world.config
    given = None if request.actions is None else read_actions(request.actions, config.action_dim)
    own = rows["clip"].read(["actions"], row)["actions"]
    course = plan_course(own, given, request.frames, config.action_substeps)
    with Progress(
        TextColumn("[bold]generate"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True), disable=not console.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=None, note="")

        def progress(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=note)

        made = generate_video(networks, rows, row, course, request.sampling, request.seed, progress)
    about = record(request, path, card, made, row, rows)
    folder = request.out or settings.home / "generated" / folder_name(path, about)
    write(made, folder, about, rate_of(rows["clip"]))
    tell(made, folder, rows, row, console)
    return folder


def find_checkpoint(what: str, root: str) -> tuple[Path, str]:
    """The file, and the root of the stores that it was made from: its own store's, or `root` for a
    file elsewhere.
    """
    if Path(what).is_file():
        try:
            return Path(what), find(what, root).root
        except LookupError:
            return Path(what), root
    ref = find(what, root)
    if store.read_manifest(ref).kind != "result" or WORLD_MODEL_FILE not in open_result(ref).files:
        raise LookupError(
            f"{ref} holds no {WORLD_MODEL_FILE}: expected a version of the stage 'world_model', or the path of a "
            "checkpoint; `roboscape status` shows what there is"
        )
    return open_result(ref).file(WORLD_MODEL_FILE), ref.root


def store_of(name: str, root: str, checkpoint: Path) -> StoreRef:
    """The store `stage/key` that a checkpoint names. Raises LookupError if it is not below `root`."""
    stage, _, key = name.partition("/")
    ref = StoreRef.at(root, stage, key)
    if not store.exists(ref):
        raise LookupError(
            f"{checkpoint} belongs with the store {name}, which is not below {root}: set ROBOSCAPE_HOME or "
            "ROBOSCAPE_STORES to where its run left it, or make it anew with the same experiment"
        )
    return ref


def find_usable_row(rows: Mapping[str, Rows], clip: str) -> int:
    """The clip's row; raises ValueError if one of the stores has nothing in it."""
    row = find_row(rows["clip"], clip)
    for part in rows.values():
        if not part.ok[row]:
            why = next(
                (
                    f"{reject.reason}: {reject.detail}"
                    for reject in part.rejected
                    if reject.row == row
                ),
                "rejected",
            )
            usable = np.flatnonzero(np.logical_and.reduce([each.ok for each in rows.values()]))
            raise ValueError(
                f"clip {clip} has no data in {part.ref} ({why}); choose another one, such as row {usable[0]}"
                if len(usable)
                else f"clip {clip} has no data in {part.ref} ({why}), and neither has any other"
            )
    return row


def load(
    path: Path, card: Mapping[str, Any], rows: Mapping[str, Rows], root: str, device: str | None
) -> Networks:
    by_role = {
        tokens.replace("_tokens", "_tokenizer"): name for tokens, name in card["tokenizers"].items()
    }
    tokenizers = {role: open_result(store_of(name, root, path)) for role, name in by_role.items()}
    return networks_of(path, rows, tokenizers, pick_device(device))


def rate_of(clip: Rows) -> float:
    return float(store.read_manifest(clip.ref).parameters.get("rate_hz", 2.0))


def record(
    request: Request,
    path: Path,
    card: Mapping[str, Any],
    made: GeneratedVideo,
    row: int,
    rows: Mapping[str, Rows],
) -> dict[str, Any]:
    """All that it takes to make the same video again."""
    actions = request.actions
    return {
        "checkpoint": {"path": str(path), "sha256": sha256_file(path)},
        "data": card["data"],
        "tokenizers": card["tokenizers"],
        "clip": {"id": made.clip_id, "row": row, "split": split_of(rows, row)},
        "actions": None
        if actions is None
        else {"path": str(actions), "sha256": sha256_file(actions)},
        "frames": len(made.course.actions),
        "last_action_held_from_frame": made.course.n_given if held(made) else None,
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


def held(made: GeneratedVideo) -> bool:
    return made.course.n_given < len(made.course.actions)


def write(made: GeneratedVideo, folder: Path, about: dict[str, Any], rate_hz: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_file(
        folder / "rollout.png", png_bytes(draw_generated(made, rate_hz, "; ".join(notes(made))))
    )
    frames = animate_generated(made, rate_hz)
    write_gif(folder / "rollout.gif", frames, SPEED * rate_hz)
    write_mp4(folder / "rollout.mp4", frames, SPEED * rate_hz)
    write_file(folder / "rollout.json", json.dumps(about, indent=1).encode())


def notes(made: GeneratedVideo) -> list[str]:
    said = ["under its own actions" if made.course.own else "under other actions than its own"]
    if held(made):
        said.append(f"from frame {made.course.n_given} on the last action is held")
    if made.psnr is not None:
        said.append(f"PSNR {made.psnr:.1f} dB against its decoded frames")
    return said


def tell(
    made: GeneratedVideo, folder: Path, rows: Mapping[str, Rows], row: int, console: Console
) -> None:
    split = split_of(rows, row)
    seen = " (the world model was trained on it)" if split == "train" else ""
    console.print(
        f"clip {made.clip_id}, row {row} of split {split}{seen}: {len(made.course.actions)} frames",
        markup=False,
    )
    for note in notes(made):
        console.print(f"  {note}", markup=False)
    for name in ("mp4", "gif", "png", "json"):
        console.print(f"  {folder / f'rollout.{name}'}", markup=False)
