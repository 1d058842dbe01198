"""What a study's report says of the runs that its command made."""

from typing import Any

from pipeline.cli.study_report import made_line
from pipeline.orchestration.study.outcome import Outcome


def outcomes(*states: Any) -> list[Outcome]:
    return [Outcome(planned=None, state=state) for state in states]  # type: ignore[arg-type]


def test_it_counts_what_was_made_there_or_missing():
    assert made_line(outcomes("cached", "cached"), 3.0, 2) == "This command made no run."
    found = made_line(outcomes("completed", "cached", "failed", "completed", "skipped"), 150, 2)
    assert found.startswith("This command made 2 runs in 2 minutes, 2 at once on ")
    assert found.endswith(" cores; 1 were there already; 1 failed; 1 were left out.")
    assert "already" not in made_line(outcomes("completed"), 60.0, 1)
