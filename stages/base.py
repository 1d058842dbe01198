"""The stage contract: what a stage declares, and what it may add. `docs/extending.md` shows whole
ones.

A `ClipStage` makes some arrays for every clip, shard by shard, on many workers. A `DatasetStage`
works over whole stores (the index, training, evaluation). Both are frozen dataclasses: their fields
are their parameters, so they are also part of the content key of what they make (fields marked
`metadata={"key": False}` excepted, see `storage.stores.key`).

A class variable, a field or a property may stand in place of each member declared here.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from annotated_types import Ge, Gt
from jaxtyping import UInt8

from storage.stores.results import Result, ResultWriter
from storage.stores.rows import Rows
from storage.stores.size import DiskUse, size_of_clips
from storage.stores.spec import ArraySpec

if TYPE_CHECKING:  # most stages do without torch
    from model.training.parallel import Workers

RESULT_BYTES = 2 << 20  # of a DatasetStage that does not say otherwise: pictures, pages, tables

Arrays = dict[str, np.ndarray]
# Role -> arrays read. A role is the name under which the flow offers an upstream store. An empty
# tuple stands for an upstream result (a checkpoint, say), which has files instead of arrays.
Inputs = Mapping[str, tuple[str, ...]]
InputRows = Mapping[str, Rows]  # by role, those of `Inputs` that name arrays
InputResults = Mapping[str, Result]  # by role, the others
ResourceName = Literal["cpus", "gpus", "memory_gb"]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one worker of a stage needs, and how its work is cut."""

    cpus: Annotated[float, Gt(0)] = 1.0
    gpus: Annotated[float, Ge(0)] = 0.0  # a fraction puts several workers on one card
    memory_gb: Annotated[float, Gt(0)] = 1.0
    clips_per_shard: Annotated[int, Ge(1)] = 32  # the unit of commit, retry and re-run
    clips_per_call: Annotated[int, Ge(1)] = 1  # clips given to the stage's function at once


class Rejected(Exception):
    """A clip that cannot be made. It becomes a row with this reason, is counted and skipped
    downstream.

    reason: one word or two, the same for all clips with this fault (`static`, `shot_cut`), so that
    it can be counted.
    detail: the number that decided and what was expected.
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
class Progress(Protocol):
    """How a DatasetStage reports its progress; `note` is a short text such as the current loss."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


@dataclass(frozen=True, kw_only=True)
class LivePage:
    """What a stage shows while it runs."""

    text: str  # Markdown
    pictures: Mapping[str, bytes]  # PNGs by name


class Stage(ABC):
    """What both kinds of stage declare."""

    resources: Resources = Resources()

    @property
    @abstractmethod
    def name(self) -> str:
        """Folder of its stores, name of its task run."""

    @property
    @abstractmethod
    def version(self) -> int:
        """Raised when the same inputs give other numbers."""

    @property
    @abstractmethod
    def inputs(self) -> Inputs: ...

    @property
    def attributes(self) -> Mapping[str, str]:
        """Facts for the manifest and the lineage page that no other stage computes with."""
        return {}

    @property
    def expected_cost(self) -> str:
        """Memory and operations, for people, before anything runs; empty if they are small."""
        return ""

    @abstractmethod
    def disk_use(self, n_clips: int) -> DiskUse:
        """An upper estimate, before anything runs, of what it writes for so many clips."""

    @property
    def config_name(self) -> str:
        """Its field of the experiment: what `--set` calls it."""
        return self.name

    def ask_for_less(self, resource: ResourceName) -> str | None:
        """The setting, as `--set` takes it, by which it asks for less; None if the code decides."""
        own = {f.name for f in fields(self)} if is_dataclass(self) else set()
        value = "0" if resource == "gpus" else "..."
        return f"{self.config_name}.resources.{resource}={value}" if "resources" in own else None


class ClipStage(Stage):
    """Makes `outputs` for each clip from rows of its inputs."""

    preview_clips: int = 3  # shown on its lineage page

    @property
    @abstractmethod
    def outputs(self) -> tuple[ArraySpec, ...]: ...

    @abstractmethod
    def start(self, device: str, results: Mapping[str, Result]) -> ClipFunction:
        """Called once per worker: loads what it keeps (a network), returns its function."""

    def disk_use(self, n_clips: int) -> DiskUse:
        return size_of_clips(self.outputs, n_clips, self.resources.clips_per_shard)

    def check_made(self, own: Rows) -> None:
        """Raises ValueError if the complete store breaks a limit, such as one of flagged clips.

        Called by every run that uses the store, also where it is made already. So the fields that
        are read here are no part of the key: another limit makes nothing again.
        """
        return None

    def preview(
        self, own: Rows, inputs: Mapping[str, Rows], picks: Sequence[int]
    ) -> UInt8[np.ndarray, "h w 3"] | None:
        """A picture of these rows for the lineage page; None if the stage has none."""
        return None


class DatasetStage(Stage):
    """Works over whole stores and writes files (index, checkpoint, tables, pictures) and a few
    numbers.
    """

    kind: Literal["result", "index"] = "result"

    @abstractmethod
    def run(
        self, rows: InputRows, results: InputResults, out: ResultWriter, progress: Progress
    ) -> dict[str, float]:
        """Writes files under `out.path`, returns the numbers that its report shows.

        `out.path` is kept until the result is complete. Called again after a kill, it finds there
        what it wrote before, and resumes.
        """

    def disk_use(self, n_clips: int) -> DiskUse:
        return DiskUse(kept=RESULT_BYTES, inodes=30)

    def live_page(self, folder: Path) -> LivePage | None:
        """What its working folder shows so far, while it runs; None if there is nothing yet."""
        return None


class ParallelStage(DatasetStage):
    """A training that several workers may share: local processes, or Ray Train's."""

    workers: int = 1

    @abstractmethod
    def check_workers(self, n: int) -> None:
        """Raises ValueError if so many workers cannot share it."""

    @abstractmethod
    def work(
        self, rows: Mapping[str, Rows], folder: Path, progress: Progress, workers: "Workers"
    ) -> dict[str, float]:
        """One worker's part. All of them see `folder`; the first one writes the result's files."""


Made = TypeVar("Made")


def for_each(
    function: Callable[[ClipInputs], Made],
) -> Callable[[Sequence[ClipInputs]], list[Made | Rejected]]:
    """A function of many clips from one of a single clip, which may raise Rejected."""

    def process(clips: Sequence[ClipInputs]) -> list[Made | Rejected]:
        made: list[Made | Rejected] = []
        for clip in clips:
            try:
                made.append(function(clip))
            except Rejected as rejected:
                made.append(rejected)
        return made

    return process


def per_clip(function: Callable[..., Arrays]) -> ClipFunction:
    """A clip function from a function of one clip's arrays, given by name."""
    return for_each(lambda clip: function(**clip.arrays))
