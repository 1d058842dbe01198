"""Runs a stage's missing shards here (`run_serial`) or on a pool of Ray actors (`run_ray`).

This is the only file that knows Ray's actors. Workers write parts; only the driver commits them, so two workers that
make the same shard cannot both count. What is committed survives anything that happens later.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.worker import Job, Worker, limit_threads
from stages.base import DatasetStage, Progress
from storage import store
from storage.results import open_result, open_writer
from storage.rows import open_rows
from storage.store import DiskFull, PartRecord, Reject, StoreRef

MAX_DEATHS = 2  # workers that a shard may end before its clips are tried one by one
POLL_S = 1.0
SHARDS_IN_FLIGHT = 2  # per worker: one being made, one waiting, so that memory stays flat and no worker idles


class StageFailed(RuntimeError):
    """A stage ended without its output; everything that it finished is kept."""


@dataclass
class Outcome:
    """What a run of a stage's shards did. Shards with unexpected errors wait in `failed` for the verdict."""

    committed: int = 0
    clips: int = 0
    seconds: float = 0.0  # summed over workers: the stage's own compute
    rejects: list[Reject] = field(default_factory=list)
    failed: list[PartRecord] = field(default_factory=list)
    broken: dict[int, str] = field(default_factory=dict)  # shard -> why it could not be read or written

    def take(self, out: StoreRef, record: PartRecord) -> None:
        """Commits a good shard at once; keeps one with errors back."""
        self.seconds += record.seconds
        self.clips += record.made + len(record.rejects)
        if any(r.kind == "error" and r.reason != "worker_died" for r in record.rejects):
            self.failed.append(record)
        else:
            self.commit(out, record)

    def commit(self, out: StoreRef, record: PartRecord) -> None:
        if store.commit(out, record):
            self.committed += 1
            self.rejects += record.rejects

    def settle(self, job: Job, n_clips: int, max_error_share: float) -> None:
        """Records a few failing clips as rejected; raises StageFailed, with nothing lost, if they are too many.

        One odd clip in a hundred thousand must not stop a night's run, while an error in the code, which hits
        every clip, must not turn a data set into a list of rejects.
        """
        go_on = (
            f"Finished shards are kept: mend the cause, then `roboscape rerun {job.stage.name}` makes only the rest."
        )
        errors = [r for record in self.failed for r in record.rejects if r.kind == "error"]
        if len(errors) > max_error_share * n_clips:
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


def run_serial(job: Job, shards: Sequence[int], progress: Progress, device: str = "cpu") -> Outcome:
    """One shard after the other, in this process: what a laptop without Ray, a debugger and the tests use."""
    outcome = Outcome()
    if not shards:
        return outcome
    worker = Worker(job, device)
    for i, shard in enumerate(shards):
        try:
            outcome.take(job.out, worker.make_shard(shard))
        except DiskFull:
            raise
        except Exception as error:
            outcome.broken[shard] = f"{type(error).__name__}: {error}"
        progress(i + 1, len(shards))
    return outcome


def run_ray(
    job: Job, shards: Sequence[int], progress: Progress, n_workers: int | None = None, stall_s: float = 3600.0
) -> Outcome:
    """A pool of actors, each loading its network once; a shard is retried when its worker dies.

    Raises StageFailed if no shard finishes within `stall_s`: with a lost node Ray can wait for ever.
    """
    outcome = Outcome()
    if shards:
        pool = ActorPool(job, n_workers or default_workers(job.stage.resources, len(shards)))
        try:
            pool.run(shards, outcome, progress, stall_s)
        finally:
            pool.close()
    return outcome


def default_workers(resources: Any, n_shards: int) -> int:
    """As many workers as the cluster's free resources hold, at least one and no more than there are shards."""
    import ray

    have = ray.cluster_resources()
    fit = [have.get("CPU", 1.0) / resources.cpus if resources.cpus else n_shards]
    if resources.gpus:
        fit.append(have.get("GPU", 0.0) / resources.gpus)
    fit.append(have.get("memory", float("inf")) / (resources.memory_gb * 1e9))
    return int(max(1, min(*fit, n_shards)))


def actor_options(resources: Any) -> dict[str, Any]:
    return {
        "num_cpus": resources.cpus,
        "num_gpus": resources.gpus,
        "memory": int(resources.memory_gb * 1e9),
        "max_restarts": 0,  # we replace dead workers ourselves, to know which shard ended them
        "max_concurrency": 1,
    }


class ActorPool:
    """Workers of one stage and the shards they hold. `deaths` counts the workers that each shard has ended."""

    def __init__(self, job: Job, n_workers: int):
        import ray

        self.ray, self.job, self.n_workers = ray, job, n_workers
        self.remote = ray.remote(**actor_options(job.stage.resources))(Worker)
        self.device = "cuda" if job.stage.resources.gpus else "cpu"
        self.actors: list[Any] = []
        self.pending: dict[Any, tuple[Any, int]] = {}  # object ref -> (actor, shard), in order of submission
        self.deaths: dict[int, int] = {}
        self.queue: deque[int] = deque()
        self.suspects: list[int] = []  # shards that have ended MAX_DEATHS workers

    def run(self, shards: Sequence[int], outcome: Outcome, progress: Progress, stall_s: float) -> None:
        self.queue.extend(shards)
        done, last = 0, time.monotonic()
        while self.queue or self.pending:
            self.feed()
            ready, _ = self.ray.wait(list(self.pending), timeout=POLL_S)
            if not ready and time.monotonic() - last > stall_s:
                raise StageFailed(self.stalled(done, len(shards), stall_s))
            for ref in ready:
                last = time.monotonic()
                if ref in self.pending:  # a worker's death takes all its shards out at once
                    done += self.collect(ref, outcome)
                    progress(done, len(shards))
        for shard in self.suspects:
            outcome.take(self.job.out, self.make_carefully(shard))
            done += 1
            progress(done, len(shards))

    def feed(self) -> None:
        """Keeps each worker supplied, with few shards in flight."""
        busy = len({id(actor) for actor, _ in self.pending.values()})
        while len(self.actors) < min(self.n_workers, len(self.queue) + busy):
            self.actors.append(self.remote.remote(self.job, self.device))
        for _ in range(SHARDS_IN_FLIGHT):
            for actor in self.actors:
                held = sum(a is actor for a, _ in self.pending.values())
                if self.queue and held < SHARDS_IN_FLIGHT:
                    shard = self.queue.popleft()
                    self.pending[actor.make_shard.remote(shard)] = (actor, shard)

    def collect(self, ref: Any, outcome: Outcome) -> int:
        """Takes one finished call in; returns how many shards are done by it (0 if its worker died)."""
        from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

        actor, shard = self.pending[ref]
        try:
            record = self.ray.get(ref)
        except (RayActorError, OutOfMemoryError) as error:
            self.bury(actor, error)
            return 0
        except RayTaskError as error:
            del self.pending[ref]
            if isinstance(error.cause, DiskFull):
                raise error.cause from None
            outcome.broken[shard] = f"{type(error.cause).__name__}: {error.cause}"
            return 1
        del self.pending[ref]
        outcome.take(self.job.out, record)
        return 1

    def bury(self, actor: Any, error: Exception) -> None:
        """Takes a dead worker out. Only the shard that it was making is blamed; those that waited go back."""
        if "creation task" in str(error):
            raise StageFailed(f"stage '{self.job.stage.name}': its worker could not start.\n{error}") from error
        self.actors.remove(actor)
        refs = [ref for ref, (a, _) in self.pending.items() if a is actor]
        blamed, *waiting = [self.pending.pop(ref)[1] for ref in refs]
        self.queue.extendleft(reversed(waiting))
        self.deaths[blamed] = self.deaths.get(blamed, 0) + 1
        if self.deaths[blamed] >= MAX_DEATHS:
            self.suspects.append(blamed)
        else:
            self.queue.append(blamed)

    def make_carefully(self, shard: int) -> PartRecord:
        """A shard that ends its workers: each clip alone in its own call, then the shard without the deadly ones."""
        from ray.exceptions import OutOfMemoryError, RayActorError

        poisoned: list[int] = []
        self.close()
        actor = self.remote.remote(self.job, self.device)
        self.actors = [actor]
        for row in store.shard_rows(store.read_manifest(self.job.out), shard):
            try:
                self.ray.get(actor.probe.remote(row))
            except (RayActorError, OutOfMemoryError):
                poisoned.append(row)
                actor = self.remote.remote(self.job, self.device)
                self.actors = [actor]
        return self.ray.get(actor.make_shard.remote(shard, poisoned))

    def stalled(self, done: int, total: int, stall_s: float) -> str:
        return (
            f"stage '{self.job.stage.name}': no shard finished in {stall_s:.0f} s ({done} of {total} done, "
            f"{len(self.pending)} in work). Is the Ray cluster alive, and has it room for {self.job.stage.resources}? "
            "Raise ROBOSCAPE_STALL_S if a shard really takes longer."
        )

    def close(self) -> None:
        for actor in self.actors:
            self.ray.kill(actor)
        self.actors = []


class DatasetWorker:
    """A DatasetStage in its own process; `where` answers while `run` works."""

    def __init__(self, stage: DatasetStage, inputs: dict[str, StoreRef], out: StoreRef):
        self.stage, self.inputs, self.out = stage, inputs, out
        self.state = (0, 0, "")

    def note(self, done: int, total: int, note: str = "") -> None:
        self.state = (done, total, note)

    def where(self) -> tuple[int, int, str]:
        return self.state

    def run(self) -> dict[str, float]:
        return run_dataset(self.stage, self.inputs, self.out, self.note)


def run_dataset(
    stage: DatasetStage, inputs: dict[str, StoreRef], out: StoreRef, progress: Progress
) -> dict[str, float]:
    """A DatasetStage in this process. Its working folder is kept when it fails, for the next attempt."""
    limit_threads(stage.resources.cpus)
    rows = {role: open_rows(inputs[role]) for role, names in stage.inputs.items() if names}
    results = {role: open_result(inputs[role]) for role, names in stage.inputs.items() if not names}
    writer = open_writer(out)
    numbers = stage.run(rows, results, writer, progress)
    writer.finish(numbers)
    return numbers


def run_dataset_ray(
    stage: DatasetStage, inputs: dict[str, StoreRef], out: StoreRef, progress: Progress
) -> dict[str, float]:
    """The same on a Ray worker with the stage's resources (a GPU node, say), asked for its progress every second."""
    import ray

    options: dict[str, Any] = {**actor_options(stage.resources), "max_concurrency": 2}
    worker: Any = ray.remote(**options)(DatasetWorker).remote(stage, inputs, out)
    try:
        result = worker.run.remote()
        while not ray.wait([result], timeout=POLL_S)[0]:
            done, total, note = ray.get(worker.where.remote())
            if total:
                progress(done, total, note)
        return ray.get(result)
    finally:
        ray.kill(worker)
