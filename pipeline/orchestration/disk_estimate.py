"""What a run will write, compared with what is free, before it starts.

The estimates are upper ones: of no clip it is known before whether it is rejected, nor how well it
compresses. Where a stage has been made before at this root, its own bytes per clip count.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pipeline.orchestration.plan import Planner
from pipeline.settings import Settings
from stages.base import ClipStage, Stage
from stages.clips.discover import Discover
from stages.clips.expected_clips import expected_clips
from storage.disk_space import OVERRIDE, Space, megabytes, space_at
from storage.errors import DiskFull, StoreError
from storage.files import open_files
from storage.stores import cleanup, store
from storage.stores.records import StoreRef
from storage.stores.results import open_result
from storage.stores.size import DiskUse, size_of_clips

MARGIN = 1.2  # of bytes per clip that were measured: other clips compress less
MEASURED_CLIPS = 50  # a store of fewer clips says little
NAMED = 3  # stages in a message


@dataclass(frozen=True)
class RunEstimate:
    """What each stage will write, by name, and the file system that it goes to (None: a bucket)."""

    n_clips: int
    stages: dict[str, DiskUse]
    space: Space | None

    @property
    def kept(self) -> int:
        return sum(use.kept for use in self.stages.values())

    @property
    def peak(self) -> int:
        """The most that is there at once: what stays, and the working files of one stage."""
        return self.kept + max((use.working for use in self.stages.values()), default=0)

    @property
    def inodes(self) -> int:
        return sum(use.inodes for use in self.stages.values())

    @property
    def fits(self) -> bool:
        s = self.space
        if s is None:
            return True
        return self.peak <= s.free and (not s.inodes or self.inodes <= s.free_inodes)

    def __str__(self) -> str:
        text = f"about {megabytes(self.kept)} in {self.inodes} files and folders"
        if self.peak > self.kept:
            text += f", at most {megabytes(self.peak)} while it runs"
        return f"{text} ({self.n_clips} clips)"


def estimate(
    planner: Planner, stages: Collection[str] | None = None, force: bool = False
) -> RunEstimate:
    """Of the stages that the run makes; stages: names of those chosen, None for all."""
    planned = planner.planned
    n_clips = clips_of(planned)
    known = cleanup.list_stores(planner.root)
    found = {
        name: stage_use(stage, ref, n_clips, known, force)
        for name, (stage, _, ref) in planned.items()
        if (stages is None or name in stages) and (force or not store.is_complete(ref))
    }
    root = open_files(planner.root).local("")
    return RunEstimate(n_clips, found, None if root is None else space_at(Path(root)))


def require_space(found: RunEstimate, settings: Settings) -> None:
    """Raises DiskFull if the run would by its estimate fill the disk, unless the user allows it."""
    space = found.space
    if found.fits or space is None or not settings.space_check:
        return
    largest = sorted(found.stages.items(), key=lambda one: -(one[1].kept + one[1].working))
    named = ", ".join(f"{n} {megabytes(u.kept + u.working)}" for n, u in largest[:NAMED])
    inodes = f" and {space.free_inodes} inodes" if space.inodes else ""
    raise DiskFull(
        f"this run writes {found} to {settings.stores}; most of it: {named}. Free on the file "
        f"system {space.mount} are {megabytes(space.free)}{inodes}, so nothing was started. Free "
        "some space (`roboscape gc` lists what no run needs), put the stores on another disk "
        f"(ROBOSCAPE_STORES), or, since this is an upper estimate, {OVERRIDE}"
    )


def clips_of(planned: dict[str, tuple[Stage, dict[str, StoreRef], StoreRef]]) -> int:
    """Of the run's index, which may not be made yet."""
    for stage, _, ref in planned.values():
        if isinstance(stage, Discover):
            if store.is_complete(ref):
                return round(open_result(ref).numbers["clips"])
            return expected_clips(stage)
    return 0


def stage_use(
    stage: Stage, ref: StoreRef, n_clips: int, known: list[StoreRef], force: bool
) -> DiskUse:
    """What the stage has still to write."""
    use = stage.disk_use(n_clips)
    if not isinstance(stage, ClipStage):
        return use
    if (measured := measured_bytes(stage, known)) is not None:
        per_shard = stage.resources.clips_per_shard
        use = size_of_clips(stage.outputs, n_clips, per_shard, MARGIN * measured)
    if ref in known and not force:
        n_shards = store.read_manifest(ref).n_shards
        return use.scaled(len(store.missing_shards(ref)) / max(n_shards, 1))
    return use


def measured_bytes(stage: ClipStage, known: list[StoreRef]) -> float | None:
    """Bytes per clip of a complete store of the stage with arrays of the same shapes, if any."""
    wanted = {(spec.name, spec.dtype, spec.shape, spec.codec) for spec in stage.outputs}
    for ref in known:
        if ref.stage != stage.name:
            continue
        try:
            manifest, seal = store.read_manifest(ref), store.read_complete(ref)
        except (StoreError, OSError):
            continue
        found = {(spec.name, spec.dtype, spec.shape, spec.codec) for spec in manifest.specs}
        if found == wanted and seal["made"] >= MEASURED_CLIPS:
            return seal["n_bytes"] / seal["made"]
    return None
