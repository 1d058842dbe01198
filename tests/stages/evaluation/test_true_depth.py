"""Predicted depth against the exact depth of simulated episodes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_stores import opened
from small_world import USABLE, World, make_world, write_square_truth

from stages.evaluation.estimated_depth import ALIGNED, DEPTH_METRICS
from stages.evaluation.scores import (
    COPY,
    FRAME,
    FREE,
    MODEL,
    PROTOCOLS,
    TRUE_DEPTH,
    Cell,
    ClipDepth,
    ClipVideos,
)
from stages.evaluation.true_depth import TrueDepthScores
from stages.label_quality.labels import AnnotatorInfo
from storage.stores.rows import open_rows


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    made = make_world(tmp_path_factory.mktemp("true_depth"))
    write_square_truth(made)  # 1 m everywhere
    return made


def predicted(world: World) -> ClipVideos:
    t, h, w, _ = open_rows(world.rows["clip"]).spec("rgb").shape
    random = np.random.default_rng(0)
    free, teacher, decoded = random.uniform(0.5, 2, (3, t, h, w)).astype(np.float32)
    depth = ClipDepth(
        target=torch.zeros(t, h, w),
        valid=torch.zeros(t, h, w, dtype=torch.bool),
        limits=(0.0, 9.0),
        decoded=torch.from_numpy(decoded),
        predicted=dict(zip(PROTOCOLS, map(torch.from_numpy, (free, teacher)), strict=True)),
    )
    frames = torch.zeros(t, 3, h, w)
    return ClipVideos(clip_id="clip", camera=frames, decoded=frames, predicted={}, depth=depth)


@pytest.fixture
def score(world, monkeypatch):
    """The scores of a clip, its labels in these units."""

    def run(clip: ClipVideos, units: str = "1/m", root: Path = world.root):
        rows = opened({role: world.rows[role] for role in ("discover", "clip", "depth")})
        labels = replace(AnnotatorInfo.of(rows["depth"]), units=units)
        monkeypatch.setattr(AnnotatorInfo, "of", lambda rows: labels)
        return TrueDepthScores(rows, root)(clip, USABLE[0])

    return run


def test_the_target_is_the_simulations_depth(world, score):
    clip = predicted(world)
    scores = score(clip)
    assert clip.depth is not None
    for protocol in PROTOCOLS:
        errors = [abs(1 / v - 1) for v in clip.depth.predicted[protocol][1:].flatten().tolist()]
        cell = Cell(protocol, TRUE_DEPTH, FRAME, MODEL, "abs_rel")
        assert scores[cell] == pytest.approx(sum(errors) / len(errors), rel=1e-4)
    copied = [abs(1 / v - 1) for v in clip.depth.decoded[0].flatten().tolist()]
    cell = Cell(FREE, TRUE_DEPTH, FRAME, COPY, "abs_rel")
    assert scores[cell] == pytest.approx(sum(copied) / len(copied), rel=1e-4)


def test_units_that_are_no_metres_are_compared_aligned_only(world, score):
    clip = predicted(world)
    assert {cell.metric for cell in score(clip, units="relative")} == set(ALIGNED)
    assert {cell.metric for cell in score(clip)} == set(DEPTH_METRICS)


def test_without_a_truth_or_a_depth_branch_there_are_no_scores(world, score, tmp_path):
    clip = predicted(world)
    assert score(clip, root=tmp_path) == {}
    assert score(replace(clip, depth=None)) == {}


def test_an_evaluation_has_them_in_a_table_of_their_own(world, monkeypatch):
    monkeypatch.setattr("stages.evaluation.stage.Evaluate.draw", lambda *args: None)
    result = world.evaluate(root=str(world.root))
    numbers, page = result.numbers, result.file("metrics.md").read_text()
    # A scale and a shift make anything of a flat truth
    assert numbers["abs_rel_aligned_true"] == pytest.approx(0, abs=1e-6)
    assert numbers["abs_rel_aligned"] > 0.01
    assert "## Free-running, against the true depth (of the simulation, exact)" in page
    assert "true depth" not in world.evaluate(root=None, seed=1).file("metrics.md").read_text()
