"""A run driven from the shell: services, sample episodes, the flow, and what it made."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.markup import escape

from pipeline.cli.machine import check_room
from pipeline.cli.publish import behind_text
from pipeline.cli.sample import make
from pipeline.cli.source import digest_source
from pipeline.cli.status import stage_table
from pipeline.experiments import registry
from pipeline.lineage.provenance import costs_of, non_commercial, non_commercial_text, weights_of
from pipeline.orchestration import services
from pipeline.orchestration.disk_estimate import estimate, require_space
from pipeline.orchestration.journal import Journal, journals
from pipeline.orchestration.plan import experiment_of, planned
from pipeline.settings import Settings
from stages.base import Stage
from storage.stores import store
from storage.stores.records import StoreRef
from storage.stores.results import open_result

SUMMARY_FILE = "metrics.md"
SHOWN = (".md", ".png", ".gif", ".mp4", ".safetensors")


def drive(request: dict[str, Any], settings: Settings, out: Console) -> None:
    """Runs the flow in this process and prints where its results are.

    Raises StageFailed with the stage's own message, after printing the state of every stage.
    """
    settings = replace(settings, backend=request.get("backend") or settings.backend)
    # What can be refused is refused before the minutes that episodes and services take.
    registry.require_weights(request["experiment"], settings.weights)
    make_sample_if_wanted(request, settings, out)
    digest_source(request, settings)
    stages = experiment_of(request, settings).stages
    check_room(to_make(request, settings), settings, settings.backend)
    chosen, force = request.get("stages"), bool(request.get("force"))
    require_space(estimate(planned(request, settings), chosen, force), settings)
    print_limits(stages, out)
    before = {journal.id for journal in journals(settings.runs)}

    def begun() -> list[Journal]:
        """Other processes may start runs in the same workspace meanwhile."""
        known = journals(settings.runs)
        return [journal for journal in known if journal.id not in before and journal.is_ours]

    try:
        run_with_services(request, settings, begun, lambda text: out.print(text, style="dim"))
    finally:
        if ours := begun():
            out.print(stage_table(ours[-1]))
    show_results(ours[-1], settings, out)


def run_with_services(
    request: dict[str, Any],
    settings: Settings,
    begun: Callable[[], list[Journal]],
    say: Callable[[str], None],
) -> None:
    """Starts the services that are missing, and runs the flow.

    A Prefect server that dies before the flow has begun is started once more: Prefect's engine
    needs it there. Later the run goes on without it.
    """
    services.up(settings, say)
    # Prefect reads its environment at import, and its server's address is known only now.
    from pipeline.orchestration.flow_run import run_flow

    try:
        run_flow(request)
    except Exception:
        if begun() or services.prefect_answers(settings, 10.0):
            raise
        say("The Prefect server has ended before the run has begun")
        services.up(settings, say)
        run_flow(request)


def to_make(request: dict[str, Any], settings: Settings) -> list[Stage]:
    """The stages that this run has to make."""
    chosen, force = request.get("stages"), request.get("force")
    return [
        stage
        for name, (stage, _, ref) in planned(request, settings).planned.items()
        if (chosen is None or name in chosen) and (force or not store.is_complete(ref))
    ]


def print_limits(stages: Sequence[Stage], out: Console) -> None:
    """What the networks of an experiment need, and what their weights' licences forbid."""
    for cost in costs_of(stages):
        out.print(cost, style="dim", markup=False)
    if text := non_commercial_text(non_commercial(weights_of(stages))):
        out.print(f"[yellow]Non-commercial:[/yellow] {escape(text)}")


def make_sample_if_wanted(request: dict[str, Any], settings: Settings, out: Console) -> None:
    """Simulates the episodes of an experiment that runs on such; those that are there are kept."""
    name = registry.sample_name(request["experiment"])
    if not request.get("source") and name in registry.SAMPLES:
        config = registry.SAMPLES[name]
        make(
            settings.sample(name),
            config,
            0,
            lambda text: out.print(text, style="dim"),
            space_check=settings.space_check,
        )


def show_results(journal: Journal, settings: Settings, out: Console) -> None:
    """Prints the last stage's summary, the paths of its files, and its lineage page."""
    done = [entry for entry in journal.stages if entry.state in ("completed", "cached")]
    if not done:
        return
    last = done[-1]
    if store.read_manifest(StoreRef(last.uri)).kind == "result":
        result = open_result(StoreRef(last.uri))
        if SUMMARY_FILE in result.files:
            out.print(f"\n{first_paragraph(result.file(SUMMARY_FILE).read_text())}\n", markup=False)
        for name in sorted(result.files):
            if name.endswith(SHOWN) and "/" not in name:
                out.print(f"  {result.file(name)}", markup=False)
    if last.artifact:
        out.print(f"Lineage: {settings.ui_url}/artifacts/artifact/{last.artifact}", markup=False)
    if text := behind_text(journal):
        out.print(text, style="yellow", markup=False)
    out.print(
        "Open the UI: [bold]roboscape ui[/bold]    Stop the services: [bold]roboscape down[/bold]"
    )


def first_paragraph(page: str) -> str:
    """Of a Markdown page, below its title."""
    paragraphs = (text.strip() for text in page.split("\n\n"))
    return next((text for text in paragraphs if text and not text.startswith("#")), "")
