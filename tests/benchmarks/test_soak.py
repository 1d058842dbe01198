"""The soak in a short form, and that it sees what it looks for."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import soak
import soak_report
import store_digests
from made_stores import clips, created, filled
from soak_faults import DISK_FULL, FAULTS
from soak_report import Report, Strike

# Struck from the end; killed drivers and workers, and a lost Prefect server have their own tests
SHORT = ("GCS: SIGKILL", DISK_FULL)
STRUCK = Strike(round=1, fault="driver: SIGKILL", stage="clip", did="SIGKILL", seconds=0.2, code=-9)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_short_soak_loses_nothing_and_waits_for_nothing(tmp_path: Path):
    deck = [fault for name in SHORT for fault in FAULTS if fault.name == name]
    few = {name: 6 for name in soak.OPTIONS if name.endswith("training.steps")}
    one = dict.fromkeys(("world_model.workers", "evaluation.n_clips", "token_quality.n_clips"), 1)
    changes = soak.OPTIONS | few | one
    report = soak.soak(tmp_path, deck, 2, random.Random(1), changes)
    assert not report.faults
    struck = sorted(strike.fault for strike in report.strikes)
    assert struck == sorted(SHORT[: len(SHORT) - report.left_out])
    # Full disk and GCS took one more each; a run that ends before the last fault takes another
    n_struck = len(SHORT) - report.left_out
    assert n_struck <= report.commands <= n_struck + 1


def test_one_changed_value_is_a_difference(tmp_path: Path):
    changed = clips()
    changed["tokens"][3, 0, 0] ^= 1
    for folder, arrays in (("reference", clips()), ("same", clips()), ("other", changed)):
        filled(created(tmp_path / folder), arrays)
    reference, same, other = (
        store_digests.digests(str(tmp_path / name)) for name in ("reference", "same", "other")
    )
    assert soak_report.differences(same, reference) == []
    assert soak_report.differences(other, reference) == ["clip: tokens differs"]
    assert set(soak_report.differences({}, reference)) == {
        f"clip: {name} differs" for name in ("key", "ok", "depth", "rgb", "tokens")
    }


def test_a_deck_has_every_fault_in_the_number_asked_for():
    deck = soak.shuffled_deck(104, random.Random(0))
    assert len(deck) == 104
    assert {fault.name for fault in deck} == {fault.name for fault in FAULTS}
    assert [f.name for f in deck] == [f.name for f in soak.shuffled_deck(104, random.Random(0))]


def test_the_page_names_what_was_wrong():
    wrong = replace(STRUCK, seconds=61.0, wrong=("61 s",))
    report = Report(strikes=[STRUCK, wrong], losses=["clip: rgb differs"], commands=3, rounds=1)
    assert report.faults == ["driver: SIGKILL in clip: 61 s", "clip: rgb differs"]
    table = soak_report.table(report.strikes)
    assert "| driver: SIGKILL | 2 | 1 | ended, code -9 (2) | 61.0, 61.0 | 1 |" in table
