"""What every finished training writes: the checkpoint with its card, the losses, and a page to read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from model.training.checkpoint import read_header, save_model
from stages.drawing.loss_plot import plot_losses
from stages.drawing.markdown import markdown_table
from stages.training.run import NOTE_FILE, PLOT_FILE, LogRow
from storage.atomic import write_file
from storage.stores.key import parameters
from storage.weights.ref import WeightsRef


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
) -> dict[str, Any]:
    """Writes the checkpoint, and beside it the plot of the losses and the page.

    card: what the stage itself has to say; where the training began and its numbers are added.
    Returns the whole card.
    """
    whole = parameters({**start_card(start_from), **card, "numbers": dict(numbers)})
    save_model(checkpoint, model, config, card=whole)
    folder = checkpoint.parent
    write_file(folder / PLOT_FILE, plot_losses(log, f"{title}: losses"))
    write_file(folder / NOTE_FILE, training_note(title, start_from, numbers).encode())
    return whole


def start_card(start_from: WeightsRef | None) -> dict[str, Any]:
    """What a checkpoint's card says about where its training began."""
    if start_from is None:
        return {"started_from": "random weights", "steps_before": 0}
    before = read_header(start_from.resolve())["card"]
    taken = before.get("state", {}).get("step", before.get("training", {}).get("steps", 0))
    steps = before.get("steps_before", 0) + taken
    return {
        "started_from": f"{start_from.name} (SHA-256 {start_from.sha256})",
        "steps_before": steps,
    }


def training_note(title: str, start_from: WeightsRef | None, numbers: Mapping[str, float]) -> str:
    """Markdown for the report: what this training started from, and what it changed on held-out
    clips.
    """
    card = start_card(start_from)
    before = f", after {card['steps_before']} steps elsewhere" if card["steps_before"] else ""
    sections = [
        f"# {title}",
        f"Started from **{card['started_from']}**{before}; "
        f"trained {numbers['steps']:.0f} steps here.",
    ]
    counts = {
        name.removeprefix("parameters, "): f"{count:,.0f}"
        for name, count in numbers.items()
        if name.startswith("parameters")
    }
    if counts:
        whole, *of_parts = counts.items()
        sections.append(markdown_table(whole, of_parts))
    if parts := named(numbers, ", first steps"):
        rows = [(p, *pair(numbers, f"{p}, first steps", f"{p}, last steps")) for p in parts]
        sections.append(markdown_table(("in training", "first steps", "last steps"), rows))
    rows = [
        (name.removeprefix("val/"), *pair(numbers, f"{name}, before", f"{name}, after"))
        for name in named(numbers, ", before")
    ]
    sections.append(markdown_table(("on held-out clips", "before", "after"), rows))
    return "\n\n".join(sections) + "\n"


def named(numbers: Mapping[str, float], suffix: str) -> list[str]:
    return [name.removesuffix(suffix) for name in numbers if name.endswith(suffix)]


def pair(numbers: Mapping[str, float], before: str, after: str) -> tuple[str, str]:
    return f"{numbers[before]:.4g}", f"{numbers[after]:.4g}"
