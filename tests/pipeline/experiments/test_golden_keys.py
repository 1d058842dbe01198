"""The stores that users have stay valid: every stage of every experiment keeps its key.

A changed key makes users compute the stage, and those after it, again. So explain it in the commit,
and record it with

    PYTHONPATH=.:tests/support python tests/pipeline/experiments/test_golden_keys.py
"""

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
from repository import ROOT

from pipeline.experiments import registry
from pipeline.orchestration.plan import plan
from storage.weights import catalogue as published_weights

RECORDED = ROOT / "tests" / "golden" / "keys.json"
SOURCE = "0" * 64  # stands for the fingerprint of the episodes' files


def make_inputs(folder: Path) -> dict[str, str]:
    """What experiments look for before they are built: a sample's recipe, and files of the
    published weights' names.

    Returns environment variables.
    """
    source, weights = folder / "source", folder / "weights"
    source.mkdir()
    weights.mkdir()
    (source / "sample.json").write_text(json.dumps({"digest": SOURCE}))
    (source / "ground_truth").mkdir()
    for entry in published_weights.PUBLISHED:
        (weights / entry.file).write_text(entry.name)
    return {"ROBOSCAPE_WEIGHTS": str(weights), "ROBOSCAPE_HOME": str(folder / "workspace")}


def keys_of_all(folder: Path) -> dict[str, dict[str, str]]:
    """experiment -> stage -> key."""
    environment = make_inputs(folder)
    entries = tuple(replace(entry, sha256="") for entry in published_weights.PUBLISHED)
    with (
        patch.dict("os.environ", environment),
        patch.object(published_weights, "PUBLISHED", entries),
        patch("stages.clips.discover.fingerprint", lambda root: SOURCE),
    ):
        return {name: keys_of(name, folder / "source") for name in registry.EXPERIMENTS}


def keys_of(experiment: str, source: Path) -> dict[str, str]:
    planned = plan(
        registry.named(experiment, str(source), {}, source.parent / "weights"), "stores"
    ).planned
    return {stage: ref.key for stage, (_, _, ref) in planned.items()}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    return keys_of_all(tmp_path_factory.mktemp("keys"))


@pytest.mark.parametrize("experiment", list(registry.EXPERIMENTS))
def test_every_stage_keeps_its_key(experiment: str, keys: dict[str, dict[str, str]]):
    assert keys[experiment] == json.loads(RECORDED.read_text())[experiment]


def test_every_recorded_experiment_is_still_there():
    assert set(registry.EXPERIMENTS) == set(json.loads(RECORDED.read_text()))


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        RECORDED.write_text(json.dumps(keys_of_all(Path(folder)), indent=1) + "\n")
