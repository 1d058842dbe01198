"""`roboscape run --plan`: what would be made, and why; all keys are known before anything runs."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.cli.machine import check_room
from pipeline.cli.source import digest_source
from pipeline.lineage.page import flatten
from pipeline.lineage.provenance import costs_of, non_commercial, non_commercial_text, weights_of
from pipeline.orchestration.disk_estimate import RunEstimate, estimate, require_space
from pipeline.orchestration.plan import planned
from pipeline.orchestration.recipe import recipe
from pipeline.settings import Settings
from stages.base import Stage
from stages.clips.discover import Discover
from storage.disk_space import megabytes
from storage.errors import StoreError
from storage.sources.agibot.tree import source_files
from storage.sources.source_files import SOURCE_FILES_FILE, changes, read_source_files
from storage.stores import cleanup, store
from storage.stores.records import Manifest, StoreRef
from storage.stores.results import open_result


def print_plan(request: dict[str, Any], settings: Settings, out: Console) -> None:
    digest_source(request, settings)
    planner = planned(request, settings)
    check_room(
        (stage for stage, _, ref in planner.planned.values() if not store.is_complete(ref)),
        settings,
        request.get("backend") or settings.backend,
    )
    known, sizes = cleanup.list_stores(settings.stores), estimate(planner)
    table = Table(box=None, pad_edge=False)
    for column in ("stage", "key", "would", "because"):
        table.add_column(column, overflow="fold")
    table.add_column("writes", justify="right", no_wrap=True)
    for name, (stage, inputs, ref) in planner.planned.items():
        action, reason = decide(stage, recipe(stage, inputs), ref, known)
        use = sizes.stages.get(name)
        table.add_row(escape(name), ref.key, action, reason, megabytes(use.kept) if use else "")
    out.print(table)
    print_sizes(sizes, out)
    for cost in costs_of(stage for stage, _, _ in planner.planned.values()):
        out.print(cost, style="dim", markup=False)
    used = [weights for stage, _, _ in planner.planned.values() for weights in weights_of(stage)]
    if text := non_commercial_text(non_commercial(used)):
        out.print(f"[yellow]Non-commercial:[/yellow] {escape(text)}")
    require_space(sizes, settings)  # last, so that the plan is seen


def print_sizes(sizes: RunEstimate, out: Console) -> None:
    """What the run will write, and what is free there."""
    if sizes.stages:
        free = "" if sizes.space is None else f"; on {sizes.space.mount}, {sizes.space}"
        out.print(f"Writes {sizes}{free}", style="dim", markup=False)


def decide(
    stage: Stage, wanted: dict[str, Any], ref: StoreRef, known: list[StoreRef]
) -> tuple[str, str]:
    """What a run would do for this output, and the reason."""
    if store.is_complete(ref):
        return "[cyan]reuse[/cyan]", "complete"
    if ref in known:
        return "[yellow]resume[/yellow]", "begun, not complete"
    last = latest(ref.stage, known)
    if last is None:
        return "[green]make[/green]", "never made"
    old, manifest = last
    reason = difference(wanted, manifest)
    if isinstance(stage, Discover) and stage.source != manifest.parameters.get("source"):
        reason = f"{source_changes(stage, old)} ({reason})"
    return "[green]make[/green]", escape(reason)


def source_changes(stage: Discover, last: StoreRef) -> str:
    """How the data set's files differ from those that the index was made of."""
    try:
        before = read_source_files(open_result(last).file(SOURCE_FILES_FILE))
    except (StoreError, LookupError, OSError):
        return "other files"  # not complete, or from before indices listed their files
    return changes(before, source_files(Path(stage.root))) or "other files"


def latest(stage: str, known: list[StoreRef]) -> tuple[StoreRef, Manifest] | None:
    """The stage's newest version."""
    found = []
    for ref in known:
        if ref.stage == stage:
            try:
                found.append((ref, store.read_manifest(ref)))
            except StoreError:
                continue
    return max(found, key=lambda one: one[1].created, default=None)


def difference(wanted: dict[str, Any], last: Manifest) -> str:
    """How the recipe differs from that of the stage's newest version."""
    if wanted["version"] != last.version:
        return f"the stage's version is {wanted['version']}, was {last.version}"
    new, old = flatten(wanted["parameters"]), flatten(last.parameters)
    changed = [
        f"{n}: {old.get(n, '-')} -> {new.get(n, '-')}"
        for n in sorted(new | old)
        if new.get(n) != old.get(n)
    ]
    changed += [
        f"input {role} changed"
        for role, key in wanted["inputs"].items()
        if last.input_keys.get(role) != key
    ]
    return ", ".join(changed) or "the newest version has another recipe"
