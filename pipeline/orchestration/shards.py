"""Runs a stage's missing shards here (`run_serial`) or on a pool of Ray actors (`run_ray`).

This is the only file that knows Ray's actors. Workers write parts; only the driver commits them, so
two workers that make the same shard cannot both count. What is committed survives anything that
happens later.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.orchestration.clip_worker import WORKER_DIED, Job, Worker
from pipeline.orchestration.errors import StageFailed
from stages.base import Progress
from storage.errors import DiskFull
from storage.stores import store
from storage.stores.records import PartRecord, Reject, StoreRef

# So many may end their workers and be rejected, also where that is more than max_error_share
DEADLY_CLIPS = 3
HOPELESS = 20  # errors after which a stage that has too many of them does not try the rest


@dataclass
class Outcome:
    """What a run of a stage's shards did. Shards with unexpected errors wait in `failed` for the
    verdict.
    """

    committed: int = 0
    clips: int = 0
    seconds: float = 0.0  # summed over workers: the stage's own compute
    rejects: list[Reject] = field(default_factory=list)
    failed: list[PartRecord] = field(default_factory=list)
    # Shard -> why it could not be read or written
    broken: dict[int, str] = field(default_factory=dict)

    def take(self, out: StoreRef, record: PartRecord) -> None:
        """Commits a good shard at once; keeps one with errors back."""
        self.seconds += record.seconds
        self.clips += record.made + len(record.rejects)
        if any(r.kind == "error" for r in record.rejects):
            self.failed.append(record)
        else:
            self.commit(out, record)

    def hopeless(self, allowed: float) -> bool:
        """Whether going on only costs time: an error in the code hits every clip."""
        return len(self.errors) > max(allowed, HOPELESS)

    @property
    def errors(self) -> list[Reject]:
        return [r for record in self.failed for r in record.rejects if r.kind == "error"]

    def commit(self, out: StoreRef, record: PartRecord) -> None:
        if store.commit(out, record):
            self.committed += 1
            self.rejects += record.rejects

    def settle(self, job: Job, n_clips: int, max_error_share: float) -> None:
        """Records a few failing clips as rejected; raises StageFailed, with nothing lost, if they
        are too many.

        One odd clip in a hundred thousand must not stop a night's run, while an error in the code,
        which hits every clip, must not turn a data set into a list of rejects.
        """
        go_on = (
            "Finished shards are kept: mend the cause, then "
            f"`roboscape rerun {job.stage.name}` makes only the rest."
        )
        allowed = max_error_share * n_clips
        errors = self.errors
        deadly = [r for r in errors if r.reason == WORKER_DIED]
        if len(errors) - len(deadly) > allowed or len(deadly) > max(allowed, DEADLY_CLIPS):
            first = errors[0]
            raise StageFailed(
                f"stage '{job.stage.name}': {len(errors)} of {n_clips} clips raised an error (at most "
                f"{max_error_share:.2%} may be set aside). First: clip {first.clip_id} (row {first.row}): "
                f"{first.reason}: {first.detail}\n{go_on}"
            )
        for record in self.failed:
            self.commit(job.out, record)
        self.failed = []
        if self.broken:
            shard, why = next(iter(self.broken.items()))
            raise StageFailed(
                f"stage '{job.stage.name}': {len(self.broken)} shards failed, first shard {shard}: {why}\n{go_on}"
            )


def run_serial(
    job: Job, shards: Sequence[int], progress: Progress, allowed_errors: float = float("inf")
) -> Outcome:
    """One shard after the other, in this process: what a laptop without Ray, a debugger and the
    tests use.
    """
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
        if outcome.hopeless(allowed_errors):
            break
    return outcome
