"""The stages of a run with their inputs and outputs, before it runs."""

from dataclasses import dataclass
from typing import Any

from pipeline.experiments import registry
from pipeline.experiments.experiment import AnnotatorTraining, Experiment
from pipeline.flow import data_path
from pipeline.orchestration.journal import Journal
from pipeline.orchestration.recipe import declared_inputs, output_ref
from pipeline.settings import Settings
from stages.base import Stage
from storage.stores import store
from storage.stores.records import StoreRef


@dataclass
class Planner:
    """Records each stage, its inputs and its output's address instead of running it."""

    root: str
    planned: dict[str, tuple[Stage, dict[str, StoreRef], StoreRef]]

    def __call__(self, stage: Stage, **offered: StoreRef) -> StoreRef:
        inputs = declared_inputs(stage, offered)
        out = output_ref(stage, inputs, self.root)
        self.planned[stage.name] = (stage, inputs, out)
        return out

    def after(self, name: str) -> list[str]:
        """The stage and those that depend on it, in order."""
        chosen = {name}
        for stage, (_, inputs, _) in self.planned.items():
            if any(ref.stage in chosen for ref in inputs.values()):
                chosen.add(stage)
        return [stage for stage in self.planned if stage in chosen]

    def missing_before(self, name: str) -> list[str]:
        """The stages that it depends on, directly or not, whose output is not complete."""
        needed = {name}
        for stage, (_, inputs, _) in reversed(self.planned.items()):
            if stage in needed:
                needed |= {ref.stage for ref in inputs.values()}
        return [
            stage
            for stage, (_, _, out) in self.planned.items()
            if stage in needed - {name} and not store.is_complete(out)
        ]


def plan(e: Experiment | AnnotatorTraining, root: str) -> Planner:
    planner = Planner(root=root, planned={})
    data_path(e, planner)
    return planner


def source_of(request: dict[str, Any], settings: Settings) -> str:
    """The episodes of a run's request: the experiment's own simulated ones unless it names some."""
    own = settings.sample(registry.sample_name(request["experiment"]))
    return request.get("source") or str(own)


def experiment_of(request: dict[str, Any], settings: Settings) -> Experiment | AnnotatorTraining:
    """The experiment of a run's request."""
    name, source = request["experiment"], source_of(request, settings)
    return registry.named(name, source, request.get("overrides") or {}, settings.weights)


def planned(request: dict[str, Any], settings: Settings) -> Planner:
    return plan(experiment_of(request, settings), settings.stores)


def stages_to_rerun(
    journal: Journal, settings: Settings, stage: str, and_after: bool
) -> tuple[list[str], str]:
    """(the stages to make, a note for the user): the stage and, with `and_after`, those after it.

    If files of the episodes have changed since the run, what is stored was made from the old ones.
    Then the stages before it that are missing for the new files are made, too.

    Raises LookupError if there is no such stage.
    """
    planner = planned(journal.request, settings)
    if stage not in planner.planned:
        raise LookupError(
            f"no stage '{stage}' in experiment '{journal.request['experiment']}'; the stages are: "
            f"{', '.join(planner.planned)}. --run chooses a run of another experiment"
        )
    chosen = planner.after(stage) if and_after else [stage]
    first, (_, _, index) = next(iter(planner.planned.items()))
    then = next((entry.uri for entry in journal.stages if entry.name == first), "")
    before = planner.missing_before(stage)
    if not then or StoreRef(then).key == index.key or not before:
        return chosen, ""
    note = (
        f"The episodes' files have changed since run {journal.id}, so these stages are made from "
        f"the new ones first: {', '.join(before)}"
    )
    return [*before, *(name for name in chosen if name not in before)], note
