"""How often a training may be killed and begun again: as often as it likes, as long as it gets on
in between.
"""

from dataclasses import dataclass
from pathlib import Path

from model.training.snapshots import saved_states
from stages.training.states import STATES
from storage.files import open_files
from storage.stores.records import StoreRef, cache_folder
from storage.stores.results import WORK

TRIES = 3  # deaths with no newer saved state in between, after which a stage is given up


@dataclass
class Deaths:
    """Those of the workers of the stage that makes `out`, counted since its newest saved state."""

    out: StoreRef
    count: int = 0

    def __post_init__(self) -> None:
        self.saved = last_saved(self.out)

    def one_more(self) -> bool:
        """Whether to try again."""
        now = last_saved(self.out)
        self.count, self.saved = (1, now) if now > self.saved else (self.count + 1, self.saved)
        return self.count < TRIES

    def __str__(self) -> str:
        since = f"a newer state than that of step {self.saved}" if self.saved >= 0 else "any state"
        return f"started {self.count} times and died before {since} was saved"


def last_saved(out: StoreRef) -> int:
    """The step of the newest saved state; -1 if there is none, or if it cannot be seen from this
    machine.
    """
    states = saved_states(working_folder(out) / STATES)
    return states[-1].step if states else -1


def working_folder(out: StoreRef) -> Path:
    """Where the first worker writes, as seen from here; in an object store's case only if it is on
    this machine.
    """
    return Path(open_files(out.uri).local("") or cache_folder(out)) / WORK
