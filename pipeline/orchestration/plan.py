"""The stages of a run with their inputs and outputs, before it runs."""

from dataclasses import dataclass
from typing import Any

from pipeline.experiments import registry
from pipeline.experiments.experiment import AnnotatorTraining, Experiment
from pipeline.flow import data_path
from pipeline.orchestration.recipe import declared_inputs, output_ref
from pipeline.settings import Settings
from stages.base import Stage
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


def plan(e: Experiment | AnnotatorTraining, root: str) -> Planner:
    planner = Planner(root=root, planned={})
    data_path(e, planner)
    return planner


def experiment_of(request: dict[str, Any], settings: Settings) -> Experiment | AnnotatorTraining:
    """The experiment of a run's request; without a source, on its own simulated episodes."""
    name = request["experiment"]
    source = request.get("source") or str(settings.sample(registry.sample_name(name)))
    return registry.named(name, source, request.get("overrides") or {}, settings.weights)


def planned(request: dict[str, Any], settings: Settings) -> Planner:
    return plan(experiment_of(request, settings), settings.stores)


def stages_after(
    request: dict[str, Any], settings: Settings, stage: str, and_after: bool
) -> list[str]:
    """The stage and, with `and_after`, those that depend on it.

    Raises LookupError if there is no such stage.
    """
    planner = planned(request, settings)
    if stage not in planner.planned:
        raise LookupError(
            f"no stage '{stage}' in experiment '{request['experiment']}'; the stages are: "
            f"{', '.join(planner.planned)}. --run chooses a run of another experiment"
        )
    return planner.after(stage) if and_after else [stage]
