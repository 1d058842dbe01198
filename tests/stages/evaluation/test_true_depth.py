"""Predicted depth against the exact depth of simulated episodes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_stores import opened
from small_world import USABLE, World, make_world, write_square_truth

from stages.evaluation.scores import (
    COPY,
    FRAME,
    FREE,
    MODEL,
    PROTOCOLS,
    TRUE_DEPTH,
    Cell,
    ClipDepth,
)
from stages.evaluation.true_depth import score_true_depth
from storage.stores.rows import open_rows


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    made = make_world(tmp_path_factory.mktemp("true_depth"))
    write_square_truth(made)  # 1 m everywhere
    return made


def predicted(world: World) -> ClipDepth:
    t, h, w, _ = open_rows(world.rows["clip"]).spec("rgb").shape
    random = np.random.default_rng(0)
    free, teacher, decoded = random.uniform(0.5, 2, (3, t, h, w)).astype(np.float32)
    return ClipDepth(
        target=torch.zeros(t, h, w),
        valid=torch.zeros(t, h, w, dtype=torch.bool),
        limits=(0.0, 9.0),
        decoded=torch.from_numpy(decoded),
        predicted=dict(zip(PROTOCOLS, map(torch.from_numpy, (free, teacher)), strict=True)),
    )


def score(world: World, units: str = "1/m", root: Path | None = None):
    rows = opened({role: world.rows[role] for role in ("discover", "clip")})
    return score_true_depth(predicted(world), rows, USABLE[0], root or world.root, units)


def test_the_target_is_the_simulations_depth(world):
    scores, depth = score(world), predicted(world)
    for protocol in PROTOCOLS:
        errors = [abs(1 / v - 1) for v in depth.predicted[protocol][1:].flatten().tolist()]
        cell = Cell(protocol, TRUE_DEPTH, FRAME, MODEL, "abs_rel")
        assert scores[cell] == pytest.approx(sum(errors) / len(errors), rel=1e-4)
    copied = [abs(1 / v - 1) for v in depth.decoded[0].flatten().tolist()]
    cell = Cell(FREE, TRUE_DEPTH, FRAME, COPY, "abs_rel")
    assert scores[cell] == pytest.approx(sum(copied) / len(copied), rel=1e-4)


def test_units_that_are_no_metres_are_compared_aligned_only(world):
    metrics = {cell.metric for cell in score(world, units="relative")}
    assert metrics == {"abs_rel_aligned", "delta1_aligned", "delta2_aligned"}
    assert {cell.metric for cell in score(world)} > metrics


def test_episodes_without_truth_have_no_scores(world, tmp_path):
    assert score(world, root=tmp_path) == {}
    rows = opened({role: world.rows[role] for role in ("discover", "clip")})
    assert score_true_depth(predicted(world), rows, USABLE[0], None, "1/m") == {}


def test_an_evaluation_has_them_in_a_table_of_their_own(world, monkeypatch):
    monkeypatch.setattr("stages.evaluation.stage.Evaluate.draw", lambda *args: None)
    result = replace(world).evaluate(root=str(world.root))
    numbers, page = result.numbers, result.file("metrics.md").read_text()
    # A scale and a shift make anything of a flat truth
    assert numbers["abs_rel_aligned_true"] == pytest.approx(0, abs=1e-6)
    assert numbers["abs_rel_aligned"] > 0.01
    assert "## Free-running, against the true depth (of the simulation, exact)" in page
