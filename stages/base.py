"""The two kinds of stage, and nothing else.

A `ClipStage` makes some arrays for every clip, shard by shard, on many workers. A `DatasetStage`
works over whole stores (the index, training, evaluation). Both are frozen dataclasses: their fields
are their parameters, so they are also part of the content key of what they make (fields marked
`metadata={"key": False}` excepted).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from storage.stores.results import Result, ResultWriter
from storage.stores.rows import Rows
from storage.stores.spec import ArraySpec

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one worker of a stage needs, and how its work is cut."""

    cpus: float = 1.0
    gpus: float = 0.0  # a fraction puts several workers on one card
    memory_gb: float = 1.0
    clips_per_shard: int = 32  # the unit of commit, retry and re-run
    clips_per_call: int = 1  # clips given to the stage's function at once


class Rejected(Exception):
    """A clip that cannot be made. It becomes a row with this reason, is counted and skipped
    downstream.

    reason: one word or two, the same for all clips of this fault (`static`, `shot_cut`), so that it
    can be counted. detail: the number that decided and what was expected.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail

    def __reduce__(self):  # so that it survives the trip from a worker process
        return Rejected, (self.reason, self.detail)


@dataclass(frozen=True, kw_only=True)
class ClipInputs:
    """One row's inputs: `arrays` holds what the stage's `inputs` names, under the arrays' own
    names.
    """

    row: int
    clip_id: str
    arrays: Arrays = field(default_factory=dict)


ClipFunction = Callable[[Sequence[ClipInputs]], Sequence["Arrays | Rejected"]]


@runtime_checkable
class ClipStage(Protocol):
    """Makes `outputs` for each clip from rows of its inputs.

    inputs: role -> arrays read, where a role is the name under which the flow hands over an
    upstream store. An empty tuple stands for an upstream result (a checkpoint), given to `start`
    instead.
    """

    @property
    def name(self) -> str: ...  # folder of its stores, name of its task run

    @property
    def version(self) -> int: ...  # raised when the same inputs give other numbers

    @property
    def inputs(self) -> Mapping[str, tuple[str, ...]]: ...

    @property
    def outputs(self) -> tuple[ArraySpec, ...]: ...

    @property
    def resources(self) -> Resources: ...

    def start(self, device: str, results: Mapping[str, Result]) -> ClipFunction:
        """Called once per worker: loads what the worker keeps (a network) and gives its function."""
        ...


@runtime_checkable
class Progress(Protocol):
    """How a DatasetStage tells how far it is; `note` is a short text such as the current loss."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


@runtime_checkable
class DatasetStage(Protocol):
    """Works over whole stores and leaves files (index, checkpoint, tables, pictures) and a few
    numbers.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def inputs(self) -> Mapping[str, tuple[str, ...]]: ...

    @property
    def resources(self) -> Resources: ...

    def run(
        self,
        rows: Mapping[str, Rows],
        results: Mapping[str, Result],
        out: ResultWriter,
        progress: Progress,
    ) -> dict[str, float]:
        """Writes files below `out.path`, returns the numbers that its report shows. Called again
        after a kill, it finds what it wrote before (`out.path` is kept until the result is
        complete) and goes on from there.
        """
        ...


def per_clip(function: Callable[..., Arrays]) -> ClipFunction:
    """A clip function from a function of one clip's arrays, given by name."""

    def process(clips: Sequence[ClipInputs]) -> list[Arrays | Rejected]:
        made: list[Arrays | Rejected] = []
        for clip in clips:
            try:
                made.append(function(**clip.arrays))
            except Rejected as rejected:
                made.append(rejected)
        return made

    return process


# A ClipStage or a DatasetStage. Pyright does not take a dataclass's ClassVar for a protocol's
# property.
AnyStage = Any
