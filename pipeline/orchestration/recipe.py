"""A stage output's recipe, its key, and the manifest that is written before any work."""

import time
from collections.abc import Mapping
from typing import Any

from pipeline.lineage.provenance import (
    NON_COMMERCIAL,
    code_version,
    non_commercial,
    non_commercial_behind,
    run_with,
    weights_of,
)
from stages.base import ClipStage, DatasetStage, Stage
from storage.stores import store
from storage.stores.key import content_key, parameters, recipe_of
from storage.stores.records import STORES, Manifest, StoreRef
from storage.stores.rows import open_rows


def recipe(stage: Stage, inputs: Mapping[str, StoreRef]) -> dict[str, Any]:
    """What the key of the stage's output is computed from."""
    keys = {role: ref.key for role, ref in inputs.items()}
    return recipe_of(stage.name, stage.version, parameters(stage), keys)


def output_ref(stage: Stage, inputs: Mapping[str, StoreRef], root: str) -> StoreRef:
    """Where the stage's output is stored, made or not."""
    return StoreRef.at(root, stage.name, content_key(recipe(stage, inputs)))


def declared_inputs(stage: Stage, offered: Mapping[str, StoreRef]) -> dict[str, StoreRef]:
    """The inputs that the stage declares, from all that the flow offers.

    (Two annotators of one stage may need different inputs.) Raises ValueError if one is missing.
    """
    missing = sorted(set(stage.inputs) - set(offered))
    if missing:
        raise ValueError(
            f"stage '{stage.name}' declares inputs {missing}, but the flow offers only "
            f"{sorted(offered)}: pass them in pipeline/flow.py"
        )
    return {role: offered[role] for role in stage.inputs}


def describe(stage: Stage, inputs: dict[str, StoreRef], out: StoreRef) -> Manifest:
    """The manifest: the output's parameters, inputs, code and weights.

    Raises ValueError for an input under another root, which a manifest cannot name.
    """
    for role, ref in inputs.items():
        if ref.root != out.root:
            raise ValueError(
                f"stage '{stage.name}': input '{role}' is {ref.uri}, expected one under {out.root} "
                f"as the output is: copy the store there, to {STORES}/{ref}"
            )
    upstream = {role: store.read_manifest(ref) for role, ref in inputs.items()}
    # The index that numbers the clips: the upstream one, or that of an upstream store
    indices = [
        manifest.index_uri or str(inputs[role])
        for role, manifest in upstream.items()
        if manifest.index_uri or manifest.kind == "index"
    ]
    index = StoreRef.under(out.root, indices[0]) if indices else None
    specs = stage.outputs if isinstance(stage, ClipStage) else ()
    n_clips = open_rows(index).n if specs and index else None
    # Third-party weights, and the licence limits that they and those upstream pass on
    weights = weights_of(stage)
    forbidden = non_commercial(weights) | non_commercial_behind(upstream.values())
    limits = {NON_COMMERCIAL: forbidden} if forbidden else {}
    return Manifest(
        stage=stage.name,
        key=out.key,
        kind=stage.kind if isinstance(stage, DatasetStage) else "clips",
        version=stage.version,
        parameters=parameters(stage),
        inputs={role: str(ref) for role, ref in inputs.items()},
        specs=specs,
        n_clips=n_clips,
        clips_per_shard=stage.resources.clips_per_shard if specs else None,
        index_uri=str(index) if index else None,
        code=code_version(),
        weights=weights,
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        attributes={**stage.attributes, **run_with(stage), **limits},
    )
