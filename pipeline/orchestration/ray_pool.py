"""Makes a ClipStage's missing shards on a pool of Ray actors. This is the only file that knows
Ray's actors.
"""

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from pipeline.orchestration.clip_worker import Job, Worker
from pipeline.orchestration.errors import StageFailed
from pipeline.orchestration.placement import amounts_of, lacking, less
from pipeline.orchestration.shards import Outcome
from stages.base import Progress, Resources, Stage
from storage.errors import DiskFull, StoreError
from storage.stores import store
from storage.stores.records import PartRecord

MAX_DEATHS = 2  # workers that a shard may end before its clips are tried one by one


MAX_DEATHS_IN_ROW = 10  # with no shard finished in between: then it is not the clips


POLL_S = 1.0


# Per worker: one being made, one waiting, so that memory stays flat and no worker idles
SHARDS_IN_FLIGHT = 2


def run_ray(
    job: Job,
    shards: Sequence[int],
    progress: Progress,
    n_workers: int | None = None,
    stall_s: float = 3600.0,
    allowed_errors: float = float("inf"),
) -> Outcome:
    """A pool of actors, each loading its network once; a shard is retried when its worker dies.

    Raises StageFailed if no shard finishes within `stall_s`: with a lost node Ray can wait for
    ever.
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


def room_for(stage: Stage) -> int:
    """How many workers of a stage the cluster's nodes hold, each for itself.

    Raises StageFailed if no node holds even one: Ray would wait for ever for such a node to appear.
    """
    import ray

    needed = amounts_of(stage.resources)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fit = sum(
        min(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in needed.items())
        for node in nodes
    )
    if not fit:
        have = [{name: round(node.get(name, 0.0), 1) for name in needed} for node in nodes]
        raise StageFailed(
            f"stage '{stage.name}': no Ray node has room for one worker. It needs {needed}; the nodes have {have}. "
            f"Add such a node. {less(stage, lacking(stage.resources, nodes))}".rstrip()
        )
    return fit


def actor_options(resources: Resources) -> dict[str, Any]:
    return {
        "num_cpus": resources.cpus,
        "num_gpus": resources.gpus,
        "memory": int(resources.memory_gb * 1e9),
        "max_restarts": 0,  # we replace dead workers ourselves, to know which shard ended them
        "max_concurrency": 1,
    }


class ActorPool:
    """Workers of one stage and the shards they hold. `deaths` counts the workers that each shard
    has ended.
    """

    def __init__(self, job: Job, n_workers: int, stall_s: float, allowed_errors: float):
        import ray

        self.ray, self.job, self.n_workers = ray, job, n_workers
        self.stall_s, self.allowed_errors = stall_s, allowed_errors
        self.remote = ray.remote(**actor_options(job.stage.resources))(Worker)
        self.actors: list[Any] = []
        self.pending: dict[
            Any, tuple[Any, int]
        ] = {}  # object ref -> (actor, shard), in order of submission
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
        """Takes one finished call in; returns how many shards are done by it (0 if its worker
        died).
        """
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
        """Takes a dead worker out. Only the shard that it was making is blamed; those that waited
        go back.
        """
        if "creation task" in str(error):
            raise StageFailed(
                f"stage '{self.job.stage.name}': its worker could not start.\n{error}"
            ) from error
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
        """A shard that ends its workers: each clip alone in its own call, then the shard without
        the deadly ones.

        A clip is deadly if it ends two workers: one may be a lost node. Raises RayError if it fails
        otherwise.
        """
        self.close()
        rows = store.shard_rows(store.read_manifest(self.job.out), shard)
        poisoned = [row for row in rows if not self.survives(row) and not self.survives(row)]
        return self.ray.get(
            self.one_actor().make_shard.remote(shard, poisoned), timeout=self.stall_s
        )

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
