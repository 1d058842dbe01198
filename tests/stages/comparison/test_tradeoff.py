"""The Pareto front, and the plot of it, also from tables without depth."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_scores import made_evaluation
from PIL import Image

from stages.comparison.contrasts import CONTROL, DEPTH
from stages.comparison.score_table import ScoreTable
from stages.comparison.tradeoff import pareto_front, plot_tradeoff, points_of
from stages.evaluation.scores import CAMERA, FRAME, FREE, MODEL, PSEUDO_DEPTH, Cell

CLIPS = [f"c{i}" for i in range(6)]
SMALL = st.integers(-3, 3).map(float)


def test_the_front_of_a_known_set():
    points = [(1.0, 5.0), (3.0, 3.0), (2.0, 2.0), (5.0, 1.0), (3.0, 3.0), (0.0, 5.0)]
    assert pareto_front(points) == [0, 1, 3, 4]


@given(st.lists(st.tuples(SMALL, SMALL), min_size=1, max_size=12))
def test_what_is_not_on_the_front_is_beaten_by_what_is(points):
    front = pareto_front(points)
    assert front
    for i, (x, y) in enumerate(points):
        beaten = any(points[j][0] >= x and points[j][1] >= y for j in front if j != i)
        assert i in front or beaten


def table(root: Path, label: str, psnr: float, control: float, depth: float | None) -> ScoreTable:
    made = made_evaluation(root, dict.fromkeys(CLIPS, psnr), {c: f"1/{c}" for c in CLIPS})
    scores = dict(ScoreTable.read(made, label).scores)
    scores[Cell(FREE, CAMERA, FRAME, MODEL, "delta_psnr")] = dict.fromkeys(CLIPS, control)
    if depth is not None:
        scores[Cell(FREE, PSEUDO_DEPTH, FRAME, MODEL, "abs_rel_aligned")] = dict.fromkeys(
            CLIPS, depth
        )
    return replace(ScoreTable.read(made, label), scores=scores)


def test_a_panel_for_each_pair_that_two_variants_have(tmp_path):
    one = table(tmp_path, "full", 20.0, 3.0, 0.1)
    flat = table(tmp_path, "no depth", 21.0, 1.0, None)
    other = table(tmp_path, "other", 19.0, 2.0, 0.3)
    assert [p.label for p in points_of([one, flat, other], DEPTH, CONTROL)] == ["full", "other"]
    sizes = [
        Image.open(io.BytesIO(plot_tradeoff(tables) or b"")).width
        for tables in ([one, flat], [one, flat, other])
    ]
    assert sizes[1] == pytest.approx(3 * sizes[0], rel=0.01)
    assert plot_tradeoff([one]) is None
