"""The benchmark of fingerprints on a few small episodes: it measures what it says."""

from dataclasses import replace
from pathlib import Path

import fingerprints
import pytest

from simulation.config import demo_sample


def test_it_repeats_episodes_and_sees_one_changed_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    small = replace(demo_sample(), duration_s=1.0, rate_hz=4.0, width=64, height=48)
    monkeypatch.setattr(fingerprints, "demo_sample", lambda: small)
    monkeypatch.setattr(fingerprints, "ORIGINALS", 2)
    monkeypatch.setattr(fingerprints, "SETTLES_S", 0.1)
    monkeypatch.setenv("ROBOSCAPE_CACHE", str(tmp_path / "before"))
    table = fingerprints.measured(tmp_path, 5, True)
    n_files = sum(path.is_file() for path in (tmp_path / "root").rglob("*"))
    assert table.startswith(f"| 5 episodes, {n_files:,} files | all | an episode |")
    assert n_files >= 5 * (4 + 4), "a depth picture for each of 4 frames, and the other files"
    assert len(list((tmp_path / "root" / "proprio_stats").rglob("*.h5"))) == 5
    assert "| nothing changed |" in table and "| cache of digests |" in table
