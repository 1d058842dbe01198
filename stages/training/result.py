"""What every finished training writes: the checkpoint with its card, the loss plot and a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from model.training.checkpoint import read_header, save_model
from stages.drawing.loss_plot import plot_losses
from stages.drawing.markdown import markdown_table
from stages.training.log import LogRow
from stages.training.states import set_aside
from storage.atomic import write_file
from storage.stores.key import parameters
from storage.weights.ref import WeightsRef

PLOT_FILE, NOTE_FILE = "losses.png", "training.md"


def write_training(
    checkpoint: Path,
    model: nn.Module,
    config: Any,
    *,
    title: str,
    log: list[LogRow],
    numbers: Mapping[str, float],
    start_from: WeightsRef | None,
    card: Mapping[str, Any],
    clips: str = "",
) -> dict[str, Any]:
    """The checkpoint's card, after writing the checkpoint, the loss plot and the page.

    card: the stage's own entries; the starting point and the numbers are added. clips: Markdown for
    the page, which clips were used and what was doubted about them.
    """
    whole = parameters({**start_card(start_from), **card, "numbers": dict(numbers)})
    save_model(checkpoint, model, config, card=whole)
    folder = checkpoint.parent
    write_file(folder / PLOT_FILE, plot_losses(log, f"{title}: losses"))
    note = training_note(title, start_from, numbers, clips, set_aside(folder))
    write_file(folder / NOTE_FILE, note.encode())
    return whole


def start_card(start_from: WeightsRef | None) -> dict[str, Any]:
    """The card's entries about where the training started."""
    if start_from is None:
        return {"started_from": "random weights", "steps_before": 0}
    before = read_header(start_from.resolve())["card"]
    taken = before.get("state", {}).get("step", before.get("training", {}).get("steps", 0))
    steps = before.get("steps_before", 0) + taken
    return {
        "started_from": f"{start_from.name} (SHA-256 {start_from.sha256})",
        "steps_before": steps,
    }


def training_note(
    title: str,
    start_from: WeightsRef | None,
    numbers: Mapping[str, float],
    clips: str = "",
    damaged: Sequence[str] = (),
) -> str:
    """Markdown: what the training started from, and what it changed on held-out clips.

    damaged: saved states that were not what had been written.
    """
    card = start_card(start_from)
    before = f", after {card['steps_before']} steps elsewhere" if card["steps_before"] else ""
    sections = [
        f"# {title}",
        f"Started from **{card['started_from']}**{before}; "
        f"trained {numbers['steps']:.0f} steps here.",
    ]
    if damaged:
        sections.append(
            f"**{len(damaged)} saved states were damaged** and set aside: {', '.join(damaged)}. "
            "The training resumed from older ones; the disk may be failing."
        )
    if clips:
        sections.append(clips)
    counts = {
        name.removeprefix("parameters, "): f"{count:,.0f}"
        for name, count in numbers.items()
        if name.startswith("parameters")
    }
    if counts:
        total, *parts_of_it = counts.items()
        sections.append(markdown_table(total, parts_of_it))
    if parts := names_with(numbers, ", first steps"):
        rows = [(p, *pair(numbers, f"{p}, first steps", f"{p}, last steps")) for p in parts]
        sections.append(markdown_table(("in training", "first steps", "last steps"), rows))
    rows = [
        (name.removeprefix("val/"), *pair(numbers, f"{name}, before", f"{name}, after"))
        for name in names_with(numbers, ", before")
    ]
    sections.append(markdown_table(("on held-out clips", "before", "after"), rows))
    return "\n\n".join(sections) + "\n"


def names_with(numbers: Mapping[str, float], suffix: str) -> list[str]:
    return [name.removesuffix(suffix) for name in numbers if name.endswith(suffix)]


def pair(numbers: Mapping[str, float], before: str, after: str) -> tuple[str, str]:
    return f"{numbers[before]:.4g}", f"{numbers[after]:.4g}"
