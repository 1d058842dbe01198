"""Runs a stage's missing shards here (`run_serial`) or on a pool of Ray actors (`run_ray`).

This is the only file that knows Ray's actors. Workers write parts; only the driver commits them, so two workers that
make the same shard cannot both count. What is committed survives anything that happens later.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.deaths import Deaths
from pipeline.placement import amounts_of, lacking, less
from pipeline.worker import WORKER_DIED, Job, Worker, limit_threads
from stages.base import DatasetStage, Progress
from storage import store
from storage.errors import StoreError
from storage.results import open_result, open_writer
from storage.rows import open_rows
from storage.store import DiskFull, PartRecord, Reject, StoreRef

MAX_DEATHS = 2  # workers that a shard may end before its clips are tried one by one
MAX_DEATHS_IN_ROW = 10  # with no shard finished in between: then it is not the clips
DEADLY_CLIPS = 3  # so many may end their workers and be rejected, also where that is more than max_error_share
HOPELESS = 20  # errors after which a stage that has too many of them does not try the rest
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
        """Records a few failing clips as rejected; raises StageFailed, with nothing lost, if they are too many.

        One odd clip in a hundred thousand must not stop a night's run, while an error in the code, which hits
        every clip, must not turn a data set into a list of rejects.
        """
        go_on = (
            f"Finished shards are kept: mend the cause, then `roboscape rerun {job.stage.name}` makes only the rest."
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


def run_serial(job: Job, shards: Sequence[int], progress: Progress, allowed_errors: float = float("inf")) -> Outcome:
    """One shard after the other, in this process: what a laptop without Ray, a debugger and the tests use."""
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


def run_ray(
    job: Job,
    shards: Sequence[int],
    progress: Progress,
    n_workers: int | None = None,
    stall_s: float = 3600.0,
    allowed_errors: float = float("inf"),
) -> Outcome:
    """A pool of actors, each loading its network once; a shard is retried when its worker dies.

    Raises StageFailed if no shard finishes within `stall_s`: with a lost node Ray can wait for ever.
    """
    outcome = Outcome()
    if shards:
        fit = room_for(job.stage)
        pool = ActorPool(job, min(n_workers or fit, fit, len(shards)), stall_s, allowed_errors)
        try:
            pool.run(shards, outcome, progress)
        finally:
            pool.close()
    return outcome


def room_for(stage: Any) -> int:
    """How many workers of a stage the cluster's nodes hold, each for itself.

    Raises StageFailed if no node holds even one: Ray would wait for ever for such a node to appear.
    """
    import ray

    needed = amounts_of(stage.resources)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fit = sum(min(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in needed.items()) for node in nodes)
    if not fit:
        have = [{name: round(node.get(name, 0.0), 1) for name in needed} for node in nodes]
        raise StageFailed(
            f"stage '{stage.name}': no Ray node has room for one worker. It needs {needed}; the nodes have {have}. "
            f"Add such a node. {less(stage, lacking(stage.resources, nodes))}".rstrip()
        )
    return fit


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

    def __init__(self, job: Job, n_workers: int, stall_s: float, allowed_errors: float):
        import ray

        self.ray, self.job, self.n_workers = ray, job, n_workers
        self.stall_s, self.allowed_errors = stall_s, allowed_errors
        self.remote = ray.remote(**actor_options(job.stage.resources))(Worker)
        self.actors: list[Any] = []
        self.pending: dict[Any, tuple[Any, int]] = {}  # object ref -> (actor, shard), in order of submission
        self.deaths: dict[int, int] = {}
        self.deaths_in_row = 0
        self.queue: deque[int] = deque()
        self.suspects: list[int] = []  # shards that have ended MAX_DEATHS workers

    def run(self, shards: Sequence[int], outcome: Outcome, progress: Progress) -> None:
        self.queue.extend(shards)
        done, last = 0, time.monotonic()
        while self.queue or self.pending:
            self.feed()
            ready, _ = self.ray.wait(list(self.pending), timeout=POLL_S)
            if not ready and time.monotonic() - last > self.stall_s:
                raise StageFailed(self.stalled(done, len(shards)))
            for ref in ready:
                last = time.monotonic()
                if ref in self.pending:  # a worker's death takes all its shards out at once
                    done += self.collect(ref, outcome)
                    progress(done, len(shards))
            if outcome.hopeless(self.allowed_errors):
                return
        for shard in self.suspects:
            try:
                outcome.take(self.job.out, self.make_carefully(shard))
            except (self.ray.exceptions.RayError, StoreError) as error:
                outcome.broken[shard] = f"{type(error).__name__}: {error}"
            done += 1
            progress(done, len(shards))

    def feed(self) -> None:
        """Keeps each worker supplied, with few shards in flight."""
        busy = len({id(actor) for actor, _ in self.pending.values()})
        while len(self.actors) < min(self.n_workers, len(self.queue) + busy):
            self.actors.append(self.remote.remote(self.job))
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
        self.deaths_in_row = 0
        outcome.take(self.job.out, record)
        return 1

    def bury(self, actor: Any, error: Exception) -> None:
        """Takes a dead worker out. Only the shard that it was making is blamed; those that waited go back."""
        if "creation task" in str(error):
            raise StageFailed(f"stage '{self.job.stage.name}': its worker could not start.\n{error}") from error
        self.deaths_in_row += 1
        if self.deaths_in_row > MAX_DEATHS_IN_ROW:
            raise StageFailed(
                f"stage '{self.job.stage.name}': {self.deaths_in_row} workers died one after the other, with no shard "
                f"finished in between. Too little memory (it asks for {self.job.stage.resources}), or a broken library "
                f"or driver? The last death: {error}"
            )
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
        """A shard that ends its workers: each clip alone in its own call, then the shard without the deadly ones.

        A clip is deadly if it ends two workers: one may be a lost node. Raises RayError if it fails otherwise.
        """
        self.close()
        rows = store.shard_rows(store.read_manifest(self.job.out), shard)
        poisoned = [row for row in rows if not self.survives(row) and not self.survives(row)]
        return self.ray.get(self.one_actor().make_shard.remote(shard, poisoned), timeout=self.stall_s)

    def one_actor(self) -> Any:
        if not self.actors:
            self.actors = [self.remote.remote(self.job)]
        return self.actors[0]

    def survives(self, row: int) -> bool:
        """Whether a worker outlives making this clip."""
        from ray.exceptions import OutOfMemoryError, RayActorError

        try:
            self.ray.get(self.one_actor().probe.remote(row), timeout=self.stall_s)
        except (RayActorError, OutOfMemoryError):
            self.actors = []
            return False
        return True

    def stalled(self, done: int, total: int) -> str:
        return (
            f"stage '{self.job.stage.name}': no shard finished in {self.stall_s:.0f} s ({done} of {total} done, "
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
    with open_writer(out) as writer:
        numbers = stage.run(rows, results, writer, progress)
        writer.finish(numbers)
    return numbers


def run_dataset_ray(
    stage: DatasetStage, inputs: dict[str, StoreRef], out: StoreRef, progress: Progress
) -> dict[str, float]:
    """The same on a Ray worker with the stage's resources (a GPU node, say), asked for its progress every second.

    A worker that dies is replaced, and goes on from the working folder. Raises StageFailed if that does not help.
    """
    import ray
    from ray.exceptions import RayActorError

    room_for(stage)
    deaths = Deaths(out)
    while True:
        options: dict[str, Any] = {**actor_options(stage.resources), "max_concurrency": 2}
        worker: Any = ray.remote(**options)(DatasetWorker).remote(stage, inputs, out)
        try:
            return watched(worker, progress)
        except RayActorError as error:
            if "creation task" in str(error):
                raise StageFailed(f"stage '{stage.name}': its worker could not start.\n{error}") from error
            if not deaths.one_more():
                raise StageFailed(
                    f"stage '{stage.name}': its worker was {deaths}. Too little memory (it has {stage.resources}), or "
                    f"a broken library or driver? The last death: {error}"
                ) from error
        finally:
            ray.kill(worker)


def watched(worker: Any, progress: Progress) -> dict[str, float]:
    """The result of a DatasetWorker, its progress passed on while it works."""
    import ray
    from ray.exceptions import GetTimeoutError

    result = worker.run.remote()
    while not ray.wait([result], timeout=POLL_S)[0]:
        try:
            done, total, note = ray.get(worker.where.remote(), timeout=10 * POLL_S)
        except GetTimeoutError:
            continue  # not started yet, or busy in one long call
        if total:
            progress(done, total, note)
    return ray.get(result)
