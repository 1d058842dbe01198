"""How often a killed training is restarted: without limit while it makes progress in between."""

import sys
from dataclasses import dataclass
from pathlib import Path

from model.training.snapshots import saved_states
from stages.training.states import STATES
from storage.files import open_files
from storage.stores.records import StoreRef, cache_folder
from storage.stores.results import WORK

MAX_STARTS = 3  # without a newer saved state in between; then the stage fails


@dataclass
class RestartBudget:
    """Starts of the workers that make `out`, counted since its newest saved state."""

    out: StoreRef
    starts: int = 0

    def __post_init__(self) -> None:
        self.saved = last_saved(self.out)

    def spend(self) -> bool:
        """Counts a start whose workers died; returns whether another one is allowed."""
        newest = last_saved(self.out)
        if newest > self.saved:
            self.starts, self.saved = 0, newest
        self.starts += 1
        return self.starts < MAX_STARTS

    def say(self, death: Exception) -> None:
        """Says on the terminal who died, and from where the training resumes."""
        what = str(death).strip().partition("\n")[0].rstrip(".") or type(death).__name__
        point = f"the state of step {self.saved}"
        if self.saved < 0:
            point = "the first step: no state was saved"
        message = f"{self.out.stage}: {what}. Starting again, from {point}"
        print(message, file=sys.stderr, flush=True)

    def __str__(self) -> str:
        since = f"a newer state than that of step {self.saved}" if self.saved >= 0 else "any state"
        return f"started {self.starts} times and died before {since} was saved"


def last_saved(out: StoreRef) -> int:
    """The step of the newest saved state; -1 if this machine sees none."""
    states = saved_states(working_folder(out) / STATES)
    return states[-1].step if states else -1


def working_folder(out: StoreRef) -> Path:
    """The first worker's working folder, if it is on this machine or a shared file system."""
    return Path(open_files(out.uri).local("") or cache_folder(out)) / WORK
