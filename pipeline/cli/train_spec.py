"""`roboscape train-spec`: a training's inputs and parameters as a file for torchrun."""

from pathlib import Path
from typing import Any

from pipeline.orchestration.errors import StageFailed
from pipeline.orchestration.plan import planned
from pipeline.orchestration.recipe import describe
from pipeline.settings import Settings
from stages.world_model.torchrun import TrainingSpec
from storage.atomic import write_file
from storage.stores import store


def write_spec(request: dict[str, Any], settings: Settings, path: Path) -> TrainingSpec:
    """The training of an experiment's world model, written to `path`; its store is created.

    Raises LookupError if the experiment trains none, StageFailed if the stages before it are not
    complete.
    """
    stages = planned(request, settings).planned
    if "world_model" not in stages:
        raise LookupError(
            f"experiment '{request['experiment']}' trains no world model; its stages are: "
            f"{', '.join(stages)}"
        )
    stage, inputs, out = stages["world_model"]
    missing = [str(ref) for ref in inputs.values() if not store.is_complete(ref)]
    if missing:
        raise StageFailed(
            f"the training needs {', '.join(missing)}, not complete: run the stages before it first"
        )
    store.create(out, describe(stage, inputs, out))
    spec = TrainingSpec.of(stage, inputs, out)
    write_file(path, spec.to_json().encode())
    return spec
