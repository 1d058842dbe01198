"""What a stage's output is made from: its recipe, its key, and the manifest that is written first."""

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
from storage.stores.key import content_key, parameters
from storage.stores.records import Manifest, StoreRef
from storage.stores.rows import open_rows


def recipe(stage: Stage, inputs: Mapping[str, StoreRef]) -> dict[str, Any]:
    """What the key of the stage's output names."""
    return {
        "stage": stage.name,
        "version": stage.version,
        "parameters": parameters(stage),
        "inputs": {role: ref.key for role, ref in inputs.items()},
    }


def output_ref(stage: Stage, inputs: Mapping[str, StoreRef], root: str) -> StoreRef:
    return StoreRef.at(root, stage.name, content_key(recipe(stage, inputs)))


def taken(stage: Stage, offered: Mapping[str, StoreRef]) -> dict[str, StoreRef]:
    """Of what the flow offers, the inputs that the stage declares: an annotator may need fewer than
    its stage's others.

    Raises ValueError if a declared input is not offered.
    """
    missing = sorted(set(stage.inputs) - set(offered))
    if missing:
        raise ValueError(
            f"stage '{stage.name}' declares inputs {missing}; the flow offers only {sorted(offered)}"
        )
    return {role: offered[role] for role in stage.inputs}


def describe(stage: Stage, inputs: dict[str, StoreRef], out: StoreRef) -> Manifest:
    """The manifest: parameters, inputs, code and weights, written before any work."""
    upstream = {role: store.read_manifest(ref) for role, ref in inputs.items()}
    index_uri = next(
        (
            m.index_uri or inputs[r].uri
            for r, m in upstream.items()
            if m.index_uri or m.kind == "index"
        ),
        None,
    )
    specs = stage.outputs if isinstance(stage, ClipStage) else ()
    n_clips = open_rows(StoreRef(index_uri)).n if specs and index_uri else None
    weights = weights_of(stage)
    forbidden = non_commercial(weights) | non_commercial_behind(upstream.values())
    limits = {NON_COMMERCIAL: forbidden} if forbidden else {}
    return Manifest(
        stage=stage.name,
        key=out.key,
        kind=stage.kind if isinstance(stage, DatasetStage) else "clips",
        version=stage.version,
        parameters=parameters(stage),
        inputs={role: ref.uri for role, ref in inputs.items()},
        specs=specs,
        n_clips=n_clips,
        clips_per_shard=stage.resources.clips_per_shard if specs else None,
        index_uri=index_uri,
        code=code_version(),
        weights=weights,
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        attributes={**stage.attributes, **run_with(stage), **limits},
    )
