"""`roboscape status`: runs and services, read from the journals, without asking any server."""

import json
import time
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.cli.publish import behind_text, others_behind
from pipeline.orchestration import services
from pipeline.orchestration.journal import Journal, find_journal, journals
from pipeline.settings import Settings

STYLES = {
    "completed": "green",
    "cached": "cyan",
    "running": "yellow",
    "failed": "red",
    "crashed": "red",
}
SHOWN_RUNS = 5


def print_status(settings: Settings, run: str | None, out: Console, as_json: bool = False) -> str:
    """Prints the run and returns its state, or "none" if nothing ran yet."""
    known = journals(settings.runs)
    running = services.read_services(settings)
    if not known:
        if as_json:
            out.print_json(json.dumps({"runs": []}))
        else:
            out.print("no run yet: `roboscape run demo` starts one")
        return "none"
    journal = find_journal(settings.runs, run)
    if as_json:
        plain = {k: v for k, v in asdict(journal).items() if k != "path"}
        plain |= {
            "state": journal.true_state,
            "services": {name: s.address for name, s in running.items()},
        }
        out.print_json(json.dumps(plain))
        return journal.true_state
    out.print(stage_table(journal))
    if journal.note:
        out.print(journal.note, markup=False)
    for text in (behind_text(journal), others_behind(known, journal)):
        if text:
            out.print(text, style="yellow", markup=False)
    others = [j for j in known if j.id != journal.id][-SHOWN_RUNS:]
    if others:
        out.print(
            "earlier: "
            + ", ".join(f"{j.id} ({j.request.get('experiment')}, {j.true_state})" for j in others),
            markup=False,
        )
    for name in services.NAMES:
        out.print(
            f"{name:<11} {running[name].address if name in running else 'not running'}",
            style="dim",
            markup=False,
        )
    return journal.true_state


def stage_table(journal: Journal) -> Table:
    state = journal.true_state
    seconds = (journal.ended or time.time()) - journal.started
    title = escape(
        f"run {journal.id}: {journal.request.get('experiment')}, {state}, {seconds:.0f} s"
    )
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, title_style="bold")
    for column in ("stage", "state", "seconds", "key", "what"):
        table.add_column(
            column, justify="right" if column == "seconds" else "left", overflow="fold"
        )
    for entry in journal.stages:
        stage_state = "crashed" if entry.state == "running" and state == "crashed" else entry.state
        style = STYLES.get(stage_state, "dim")
        key = entry.uri[-16:]
        # A note such as "KEY is complete" stands in the same row as the key.
        note = escape(entry.note.partition("\n")[0].removeprefix(f"{key} is "))
        shown = f"[{style}]{escape(stage_state)}[/]"
        table.add_row(escape(entry.name), shown, f"{entry.seconds:.1f}", escape(key), note)
    return table
