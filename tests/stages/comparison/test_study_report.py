"""The report of a study: which claims an interval and the seeds settle."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_scores import made_evaluation

from stages.comparison.contrasts import DEPTH, PSNR
from stages.comparison.score_table import ScoreTable
from stages.comparison.study_report import (
    RunLine,
    StudyReport,
    VariantScores,
    report_csv,
    report_document,
    report_page,
)
from stages.comparison.verdicts import Claim, settle

CLIPS = [f"c{i}" for i in range(12)]
EPISODES = {clip: f"1/{i // 2}" for i, clip in enumerate(CLIPS)}
BASE = dict(zip(CLIPS, np.random.default_rng(0).normal(20, 2, 12).tolist(), strict=True))


def tables(root: Path, *gains: float, noise: float = 0.1) -> list[ScoreTable]:
    """One a seed: the base, better by the gain, and a little different in every clip."""
    made = []
    for seed, gain in enumerate(gains):
        random = np.random.default_rng([seed, int(100 * gain) + 500])
        psnr = {clip: v + gain + noise * random.normal() for clip, v in BASE.items()}
        made.append(ScoreTable.read(made_evaluation(root, psnr, EPISODES), f"seed {seed}"))
    return made


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ((0.5, 0.6, 0.4), "supported"),
        ((-0.5, -0.6, -0.4), "refuted"),
        ((0.9, 0.9, -0.1), "undecided"),  # over episodes certain, but not for another training
        ((0.0, 0.0, 0.0), "undecided"),
    ],
)
def test_a_claim_needs_its_interval_and_every_seed(tmp_path, gains, verdict):
    found = settle(tables(tmp_path, *gains), tables(tmp_path, 0.0, 0.01, 0.02), PSNR)
    assert found.verdict == verdict
    assert found.difference.mean == pytest.approx(np.mean(gains), abs=0.1)
    assert len(found.by_seed) == 3


def test_no_difference_is_not_supported_more_often_than_it_may(tmp_path):
    """The control: two variants that are the same but for noise, many times."""
    (made,), random, verdicts = tables(tmp_path, 0.0), np.random.default_rng(0), []
    (cell,) = [cell for cell in made.own() if cell.metric == "psnr"]

    def noisy() -> ScoreTable:
        values = {clip: v + 0.5 * random.normal() for clip, v in BASE.items()}
        return replace(made, scores={cell: values})

    for _ in range(100):
        one, other = ([noisy() for _ in range(3)] for _ in range(2))
        verdicts.append(settle(one, other, PSNR).verdict)
    assert verdicts.count("undecided") >= 92


def test_what_was_not_measured_is_not_settled(tmp_path):
    found = settle(tables(tmp_path, 0.1), tables(tmp_path, 0.2), DEPTH)
    assert (found.verdict, found.difference, found.by_seed) == ("not measured", None, [])


def report(root: Path):
    full, bare = tables(root, 0.5, 0.6, 0.4), tables(root, 0.0, 0.01)
    claim = Claim(
        text="All is better than nothing", better="full", than="bare", place=PSNR, source="us"
    )
    never = Claim(text="Never ran", better="full", than="lost", place=PSNR, source="")
    return StudyReport.of(
        title="ablations, demo",
        question="What helps?",
        setting=["Experiment `demo`."],
        variants=[
            VariantScores(name="full", about="all", by_seed=dict(enumerate(full))),
            VariantScores(name="bare", about="nothing", by_seed={0: bare[0], 2: bare[1]}),
            VariantScores(name="lost", about="failed", by_seed={}),
        ],
        claims=[claim, never],
        runs=[
            RunLine(
                name="full, seed 0",
                state="completed",
                why="",
                run="2026-1",
                seconds=61.6,
                command="roboscape run demo --set a.b=1",
            ),
            RunLine(
                name="lost, seed 0",
                state="failed",
                why="clip: no room",
                run="",
                seconds=3.0,
                command="roboscape run demo",
            ),
        ],
        rate_hz=2.0,
    )


def test_the_page_has_values_claims_failures_and_commands(tmp_path):
    page = report_page(report(tmp_path))
    assert "**Runs that are missing: 1**" in page and "lost, seed 0: failed, clip: no room" in page
    assert "| **full** (all) | 3 | 2" in page and "| **bare** (nothing) | 2 | " in page
    assert "; seeds 2" in page
    (row,) = [line for line in page.splitlines() if line.startswith("| All is better")]
    # Of the seeds that both have: 0 and 2
    assert row.endswith("| **supported** |") and row.count("+0.") == 2 + 3
    assert "| Never ran | full − lost: PSNR (dB) ↑ | – |  | **not measured** |" in page
    assert "```bash\nroboscape run demo --set a.b=1\n```" in page
    assert "| full, seed 0 | completed | 62 | `2026-1` |" in page


def test_every_score_is_in_the_csv(tmp_path):
    made = report(tmp_path)
    lines = report_csv(made).decode().splitlines()
    assert len(lines) == 1 + (3 + 2) * 12 * 2  # seeds, clips, metrics
    assert lines[0] == "variant,seed,clip,episode,protocol,reference,region,metric,value"
    assert any(line.startswith("bare,2,c3,1/1,") for line in lines)
    document = report_document(made)
    assert [claim["verdict"] for claim in document["claims"]] == ["supported", "not measured"]
    assert list(document["stores"]["bare"]) == [0, 2]
