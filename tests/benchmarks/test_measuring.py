"""Timing and its verdicts, and the world model's benchmark, which compares tokens first."""

import os

import pytest
import torch
import world_generation
from measuring import NOISY, Conditions, Times, Variant, interleave, table
from world_cases import Case, flops_per_frame, make_case
from world_generation import Plan, against_the_plain_way, cache_memory, require_equal_tokens

from model.world.cache import FrameTokens
from model.world.config import tiny

CPU = torch.device("cpu")
PLAN = Plan(rounds=1, n_new=2, compiled=False)
EVEN, UNEVEN = Times(1.0, 1.1), Times(1.0, NOISY + 0.1)


@pytest.fixture
def quiet(monkeypatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 0.5, 0.5))


def small_case() -> Case:
    return make_case(
        "tiny", tiny(n_layers=1, n_heads=1, d_model=16, d_action=8, grid=(2, 3)), CPU, 2
    )


def test_variants_are_interleaved_after_a_warm_up():
    order = []
    variants = {
        name: Variant(work=lambda name=name: order.append(name), n_items=2) for name in "ab"
    }
    times = interleave(variants, 3, CPU)
    assert "".join(order) == "abababab" and all(0 <= t.least <= t.median for t in times.values())


def test_times_are_of_one_item():
    assert Times.of([3.0, 1.0, 2.0], n_items=2) == Times(0.5, 1.0)


def test_a_verdict_needs_even_times(quiet):
    seen = Conditions(CPU)
    assert seen.verdict(10, 9, [EVEN, EVEN]) == "holds" and seen.verdict(8.9, 9, [EVEN]) == "missed"
    assert seen.verdict(10, 9, [EVEN, UNEVEN]) == "noisy"


def test_a_verdict_needs_a_quiet_machine(quiet, monkeypatch):
    """A high load at any time in the run makes all later verdicts noisy."""
    seen, cores = Conditions(CPU), os.cpu_count() or 1
    monkeypatch.setattr(os, "getloadavg", lambda: (cores + 0.6, 0.0, 0.0))
    assert seen.verdict(10, 9, [EVEN]) == "noisy"
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 0.0, 0.0))
    assert seen.verdict(10, 9, [EVEN]) == "noisy" and f"load up to {cores + 0.6:.1f}" in str(seen)


def test_tables_are_markdown():
    assert (
        table("T", [{"a": 1, "b": "x"}, {"a": 2}])
        == "\n## T\n\n| a | b |\n|---|---|\n| 1 | x |\n| 2 |  |"
    )


def test_generation_is_compared_in_every_way(quiet):
    s, seen = small_case(), Conditions(CPU)
    rows = list(against_the_plain_way(s, 2, PLAN, seen))
    assert [row["way"] for row in rows] == ["ours", "window", "window, unfused attention"]
    assert rows[0]["over ours"] == "1.00 (1.00)" and str(rows[1]["G2"]).endswith("(at least 9)")
    assert cache_memory(s)["G13"] == "holds"
    assert flops_per_frame(s.model.config, 4) > flops_per_frame(s.model.config, 2) > 0


@pytest.mark.parametrize("n_steps", [1, 4])
def test_nothing_is_timed_if_tokens_differ(n_steps, monkeypatch):
    s = small_case()
    require_equal_tokens(s, n_steps, PLAN)
    wrong = FrameTokens(
        torch.zeros(2, 1, 2, 3, dtype=torch.long), torch.zeros(2, 1, 2, 3, dtype=torch.long)
    )
    monkeypatch.setattr(world_generation.Case, "window_frame", lambda *arguments: wrong)
    with pytest.raises(
        SystemExit, match=r"frame 1: .* of the tokens are equal, expected 99.9%; nothing is timed"
    ):
        require_equal_tokens(s, n_steps, PLAN)
