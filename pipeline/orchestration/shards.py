"""Makes a ClipStage's missing shards in this process (`run_serial`), and commits shards.

Workers write parts; only the driver commits them, so of two workers that make the same shard one
counts. A committed shard survives any later failure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.orchestration.clip_worker import WORKER_DIED, Job, Worker
from pipeline.orchestration.errors import StageFailed
from stages.base import Progress
from storage.errors import DiskFull
from storage.stores import store
from storage.stores.records import PartRecord, Reject, StoreRef

# So many clips may crash their workers and be rejected, even above max_error_share
DEADLY_CLIPS = 3
EARLY_STOP_ERRORS = 20  # a stage with more errors than this, and than allowed, stops at once


@dataclass
class Outcome:
    """What a run of a stage's shards did. `failed` holds shards with errors, not yet committed."""

    committed: int = 0
    clips: int = 0
    seconds: float = 0.0  # summed over workers: the stage's own compute
    rejects: list[Reject] = field(default_factory=list)
    failed: list[PartRecord] = field(default_factory=list)
    broken: dict[int, str] = field(default_factory=dict)  # shard that could not be made -> why

    def take(self, out: StoreRef, record: PartRecord) -> None:
        """Commits a shard without errors at once; keeps the others in `failed`."""
        self.seconds += record.seconds
        self.clips += record.made + len(record.rejects)
        if any(r.kind == "error" for r in record.rejects):
            self.failed.append(record)
        else:
            self.commit(out, record)

    def too_many_errors(self, allowed: float) -> bool:
        """Whether to stop early: an error in the code hits every clip."""
        return len(self.errors) > max(allowed, EARLY_STOP_ERRORS)

    @property
    def errors(self) -> list[Reject]:
        return [r for record in self.failed for r in record.rejects if r.kind == "error"]

    def commit(self, out: StoreRef, record: PartRecord) -> None:
        if store.commit(out, record):
            self.committed += 1
            self.rejects += record.rejects

    def accept_errors(self, job: Job, n_clips: int, max_error_share: float) -> None:
        """Commits the failed shards, if few clips have errors: these become rejects.

        One odd clip in a hundred thousand must not stop a run, but an error in the code, which hits
        every clip, must not reject a whole data set. Raises StageFailed for too many errors, or for
        shards that could not be made; finished shards are kept.
        """
        name = job.stage.name
        to_do = f"Finished shards are kept: fix the cause; `roboscape rerun {name}` makes the rest."
        allowed = max_error_share * n_clips
        errors = self.errors
        deadly = [r for r in errors if r.reason == WORKER_DIED]
        if len(errors) - len(deadly) > allowed or len(deadly) > max(allowed, DEADLY_CLIPS):
            first = errors[0]
            raise StageFailed(
                f"stage '{name}': {len(errors)} of {n_clips} clips raised an error (at most "
                f"{max_error_share:.2%} may be rejected for one). First: clip {first.clip_id} "
                f"(row {first.row}): {first.reason}: {first.detail}\n{to_do}"
            )
        for record in self.failed:
            self.commit(job.out, record)
        self.failed = []
        if self.broken:
            shard, why = next(iter(self.broken.items()))
            raise StageFailed(
                f"stage '{name}': {len(self.broken)} shards failed, first shard {shard}: {why}\n"
                f"{to_do}"
            )


def run_serial(
    job: Job, shards: Sequence[int], progress: Progress, allowed_errors: float = float("inf")
) -> Outcome:
    """Makes one shard after the other in this process: without Ray, in a debugger, in tests."""
    outcome = Outcome()
    if not shards:
        return outcome
    worker = Worker(job)
    for i, shard in enumerate(shards):
        try:
            outcome.take(job.out, worker.make_shard(shard))
        except DiskFull:
            raise
        except Exception as error:
            outcome.broken[shard] = f"{type(error).__name__}: {error}"
        progress(i + 1, len(shards))
        if outcome.too_many_errors(allowed_errors):
            break
    return outcome
