"""Drives a run from the shell: services, sample, flow, and what to look at afterwards."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from pipeline.lineage.provenance import costs_of, non_commercial, non_commercial_text, weights_of
from pipeline.orchestration import services
from pipeline.orchestration.journal import Journal, journals
from pipeline.settings import Settings
from stages.base import Stage
from storage.stores import store
from storage.stores.records import StoreRef
from storage.stores.results import open_result

VERDICT = "metrics.md"
SHOWN = (".md", ".png", ".gif", ".mp4", ".safetensors")


def drive(request: dict[str, Any], out: Console) -> None:
    """Runs the flow in this process. Raises StageFailed with the stage's own message, after saying
    how to go on.
    """
    from pipeline.experiments import registry

    settings = Settings(backend=request.get("backend") or Settings().backend)
    registry.require_weights(
        request["experiment"], settings.weights
    )  # before the sample, which takes minutes
    make_sample_if_wanted(request, settings, out)
    source = request.get("source") or str(
        settings.sample(registry.sample_name(request["experiment"]))
    )
    # Mistakes show before any wait.
    e = registry.named(
        request["experiment"], source, request.get("overrides") or {}, settings.weights
    )
    print_limits(e.stages, out)
    services.up(settings, lambda text: out.print(text, style="dim"))
    from pipeline.orchestration.flow_run import roboscape

    before = {journal.id for journal in journals(settings.runs)}
    try:
        roboscape(**request)
    finally:
        new = [journal for journal in journals(settings.runs) if journal.id not in before]
        ours = [
            journal for journal in new if journal.is_ours
        ]  # others may run in the same workspace meanwhile
        if ours:
            show(ours[-1], out)
    show_results(ours[-1], settings, out)


def print_limits(stages: Sequence[Stage], out: Console) -> None:
    """What its networks need, and what the licences of their weights forbid, before anything is
    made with them.
    """
    for cost in costs_of(stages):
        out.print(cost, style="dim", markup=False)
    if text := non_commercial_text(non_commercial(weights_of(stages))):
        out.print(f"[yellow]Non-commercial:[/yellow] {text}")


def make_sample_if_wanted(request: dict[str, Any], settings: Settings, out: Console) -> None:
    """The embedded episodes, for an experiment that runs on them; quick if they are there."""
    from pipeline.cli.sample import make
    from pipeline.experiments import registry

    name = registry.sample_name(request["experiment"])
    if not request.get("source") and name in registry.SAMPLES:
        make(
            settings.sample(name),
            registry.SAMPLES[name],
            0,
            lambda text: out.print(text, style="dim"),
        )


def show(journal: Journal, out: Console) -> None:
    """One line a stage."""
    from pipeline.cli.status import stage_table

    out.print(stage_table(journal))


def show_results(journal: Journal, settings: Settings, out: Console) -> None:
    """Where a person looks now: the verdict, tables and pictures of the last stage, its page, the
    UI.
    """
    done = [entry for entry in journal.stages if entry.state in ("completed", "cached")]
    if not done:
        return
    last = done[-1]
    if store.read_manifest(StoreRef(last.uri)).kind == "result":
        result = open_result(StoreRef(last.uri))
        if VERDICT in result.files:
            out.print(verdict(result.file(VERDICT).read_text()), markup=False)
        for name in sorted(result.files):
            if name.endswith(SHOWN) and "/" not in name:
                out.print(f"  {result.file(name)}", markup=False)
    if last.artifact:
        out.print(f"Lineage: {settings.ui_url}/artifacts/artifact/{last.artifact}", markup=False)
    out.print(
        "Open the UI: [bold]roboscape ui[/bold]    Stop the services: [bold]roboscape down[/bold]"
    )


def verdict(page: str) -> str:
    """The first paragraph below the page's title."""
    paragraphs = [p.strip() for p in page.split("\n\n") if p.strip() and not p.startswith("#")]
    return "\n" + (paragraphs[0] if paragraphs else "") + "\n"
