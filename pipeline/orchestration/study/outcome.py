"""How the runs of a study went."""

from dataclasses import dataclass
from typing import Literal

from pipeline.orchestration.study.planned import PlannedMember


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one run of a study went.

    state: completed; cached: all of it was there; failed; skipped: it needs a store that another
    run failed to make. run: its id. why: of what did not complete.
    """

    planned: PlannedMember
    state: Literal["completed", "cached", "failed", "skipped"]
    run: str = ""
    seconds: float = 0.0
    why: str = ""

    @property
    def is_there(self) -> bool:
        return self.state in ("completed", "cached")
