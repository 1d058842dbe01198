"""What a run would make, before it runs: every stage with its inputs and the key of its output."""

from dataclasses import dataclass
from typing import Any

from pipeline.experiments import registry
from pipeline.experiments.experiment import AnnotatorTraining, Experiment
from pipeline.flow import data_path
from pipeline.orchestration.recipe import output_ref, taken
from pipeline.settings import Settings
from stages.base import Stage
from storage.stores.records import StoreRef


@dataclass
class Planner:
    """Instead of running a stage, notes it, its inputs and where its output lies or would lie."""

    root: str
    planned: dict[str, tuple[Stage, dict[str, StoreRef], StoreRef]]

    def __call__(self, stage: Stage, **offered: StoreRef) -> StoreRef:
        inputs = taken(stage, offered)
        out = output_ref(stage, inputs, self.root)
        self.planned[stage.name] = (stage, inputs, out)
        return out

    def after(self, name: str) -> list[str]:
        """The stage and all that is made from it, in order."""
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
    """The experiment that a run is asked for; without a source, on its own simulated episodes."""
    name = request["experiment"]
    source = request.get("source") or str(settings.sample(registry.sample_name(name)))
    return registry.named(name, source, request.get("overrides") or {}, settings.weights)


def planned(request: dict[str, Any], settings: Settings) -> Planner:
    return plan(experiment_of(request, settings), settings.stores)


def stages_after(
    request: dict[str, Any], settings: Settings, stage: str, and_after: bool
) -> list[str]:
    """The stage, and with `and_after` all that is made from it.

    Raises LookupError if there is no such stage.
    """
    there = planned(request, settings)
    if stage not in there.planned:
        raise LookupError(
            f"no stage '{stage}' in experiment '{request['experiment']}'; the stages are: "
            f"{', '.join(there.planned)}. --run chooses a run of another experiment"
        )
    return there.after(stage) if and_after else [stage]
