"""One stage on the stores of a workspace, in this process: to try a stage of your own."""

from pathlib import Path

from pipeline.lineage.graph import find
from pipeline.orchestration.recipe import describe, output_ref
from pipeline.orchestration.stage_task import Workers, make
from stages.base import Stage
from storage.stores import leases, store
from storage.stores.records import StoreRef


def make_alone(stage: Stage, root: str) -> StoreRef:
    """Makes the stage's output from the newest store of each input, without Prefect and Ray.

    A role is taken for the name of the stage that makes it. What is complete is reused, what was
    begun is resumed. Raises LookupError if there is no store for a role, StoreInUse if a run makes
    the output just now, StageFailed if too many clips raise an error.
    """
    inputs = {role: find(role, root) for role in stage.inputs}
    out = output_ref(stage, inputs, root)
    if store.is_complete(out):
        return out
    me, what = str(Path.cwd()), f"stage {stage.name} alone"
    with leases.hold(root, home=me, what=what) as lease, lease.making(out, None):
        lease.acquire(uses={str(ref) for ref in inputs.values()})
        store.create(out, describe(stage, inputs, out))
        make(stage, inputs, out, Workers())
    return out
