"""Makes a ClipStage's missing shards on a pool of Ray actors."""

import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from pipeline.orchestration import ray_health
from pipeline.orchestration.clip_worker import Job, Worker
from pipeline.orchestration.errors import StageFailed
from pipeline.orchestration.placement import amounts_of, resource_hint, scarce_resources
from pipeline.orchestration.shards import Outcome
from stages.base import Progress, Resources, Stage
from storage.disk_space import raise_if_disk_full
from storage.errors import StoreError
from storage.stores import store
from storage.stores.records import PartRecord

MAX_CRASHES = 2  # workers that a shard may crash before its clips are tried one by one
MAX_CRASHES_IN_ROW = 10  # with no shard finished in between; more are not the clips' fault
POLL_S = 1.0
SHARDS_IN_FLIGHT = 2  # per worker: one being made, one queued, so that no worker idles


def run_ray(
    job: Job,
    shards: Sequence[int],
    progress: Progress,
    n_workers: int | None = None,
    stall_s: float = 3600.0,
    allowed_errors: float = float("inf"),
) -> Outcome:
    """Makes the shards on actors that load their network once; replaces workers that die.

    Raises StageFailed if no shard finishes within `stall_s`: after the loss of a node Ray can wait
    for ever. Raises RayDied if this machine's Ray has died.
    """
    outcome = Outcome()
    if shards:
        fit = worker_capacity(job.stage)
        pool = ActorPool(job, min(n_workers or fit, fit, len(shards)), stall_s, allowed_errors)
        try:
            pool.run(shards, outcome, progress)
        finally:
            pool.close()
    return outcome


def worker_capacity(stage: Stage) -> int:
    """How many workers of the stage the cluster's nodes have room for.

    Raises StageFailed if no node has room for one: Ray would wait for ever.
    """
    import ray

    needed = amounts_of(stage.resources)
    nodes = [node["Resources"] for node in ray_health.call(ray.nodes) if node["Alive"]]
    fit = sum(
        min(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in needed.items())
        for node in nodes
    )
    if not fit:
        have = [{name: round(node.get(name, 0.0), 1) for name in needed} for node in nodes]
        hint = resource_hint(stage, scarce_resources(stage.resources, nodes))
        raise StageFailed(
            f"stage '{stage.name}': no Ray node has room for one worker. It needs {needed}; the "
            f"nodes have {have}. Add such a node. {hint}".rstrip()
        )
    return fit


def raise_if_not_started(stage: Stage, error: Exception) -> None:
    """Raises StageFailed if the error is that of a worker's constructor; DiskFull for its cause."""
    raise_if_disk_full(error)
    if "creation task" in str(error):
        raise StageFailed(f"stage '{stage.name}': its worker could not start.\n{error}") from error


def actor_options(resources: Resources) -> dict[str, Any]:
    return {
        "num_cpus": resources.cpus,
        "num_gpus": resources.gpus,
        "memory": int(resources.memory_gb * 1e9),
        "max_restarts": 0,  # dead workers are replaced here, to know which shard crashed them
        "max_concurrency": 1,
    }


class ActorPool:
    """Workers of one stage and the shards they hold."""

    def __init__(self, job: Job, n_workers: int, stall_s: float, allowed_errors: float):
        import ray

        self.ray, self.job, self.n_workers = ray, job, n_workers
        self.stall_s, self.allowed_errors = stall_s, allowed_errors
        self.remote = ray.remote(**actor_options(job.stage.resources))(Worker)
        self.actors: list[Any] = []
        # Object ref -> (actor, shard), in order of submission
        self.pending: dict[Any, tuple[Any, int]] = {}
        self.crashes: dict[int, int] = {}  # shard -> workers that it crashed
        self.crashes_in_row = 0
        self.queue: deque[int] = deque()
        self.suspects: list[int] = []  # shards that crashed MAX_CRASHES workers

    def run(self, shards: Sequence[int], outcome: Outcome, progress: Progress) -> None:
        # First all shards, on all workers
        self.queue.extend(shards)
        done, last = 0, time.monotonic()
        while self.queue or self.pending:
            self.feed()
            ready, _ = self.ray.wait(list(self.pending), timeout=POLL_S)
            ray_health.check()
            if not ready and time.monotonic() - last > self.stall_s:
                raise StageFailed(self.stalled(done, len(shards)))
            for ref in ready:
                last = time.monotonic()
                if ref in self.pending:  # else removed with another shard of its dead worker
                    done += self.collect(ref, outcome)
                    progress(done, len(shards))
            if outcome.too_many_errors(self.allowed_errors):
                return

        # Then those that crashed workers, clip by clip
        for shard in self.suspects:
            try:
                outcome.take(self.job.out, self.make_without_deadly(shard))
            except (self.ray.exceptions.RayError, StoreError) as error:
                raise_if_disk_full(error)
                outcome.broken[shard] = f"{type(error).__name__}: {error}"
            done += 1
            progress(done, len(shards))

    def feed(self) -> None:
        """Starts missing workers and gives each up to SHARDS_IN_FLIGHT shards."""
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
        """Handles a finished call; returns how many shards it completed (0 if its worker died)."""
        from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

        actor, shard = self.pending[ref]
        try:
            record = ray_health.get(ref, self.stall_s)
        except (RayActorError, OutOfMemoryError) as error:
            self.remove_dead(actor, error)
            return 0
        except RayTaskError as error:
            del self.pending[ref]
            raise_if_disk_full(error)
            outcome.broken[shard] = f"{type(error.cause).__name__}: {error.cause}"
            return 1
        del self.pending[ref]
        self.crashes_in_row = 0
        outcome.take(self.job.out, record)
        return 1

    def remove_dead(self, actor: Any, error: Exception) -> None:
        """Removes a dead worker, blames the shard that it was making, queues its others again."""
        stage = self.job.stage
        raise_if_not_started(stage, error)
        self.crashes_in_row += 1
        if self.crashes_in_row > MAX_CRASHES_IN_ROW:
            raise StageFailed(
                f"stage '{stage.name}': {self.crashes_in_row} workers died one after the other, "
                "with no shard finished in between. Too little memory (each has "
                f"{stage.resources}), or a broken library or driver? Last error: {error}"
            )
        self.actors.remove(actor)
        refs = [ref for ref, (a, _) in self.pending.items() if a is actor]
        blamed, *waiting = [self.pending.pop(ref)[1] for ref in refs]
        self.queue.extendleft(reversed(waiting))
        self.crashes[blamed] = self.crashes.get(blamed, 0) + 1
        what = str(error).strip().partition("\n")[0]
        message = (
            f"{stage.name}: a worker died while it made shard {blamed}, and is replaced: {what}"
        )
        print(message, file=sys.stderr, flush=True)
        if self.crashes[blamed] >= MAX_CRASHES:
            self.suspects.append(blamed)
        else:
            self.queue.append(blamed)

    def make_without_deadly(self, shard: int) -> PartRecord:
        """Makes a shard that crashes workers: finds the deadly clips, then makes the rest.

        A clip is deadly if it crashes two workers; a single crash may be a lost node. Raises
        RayError if the shard fails in another way.
        """
        self.close()
        rows = store.shard_rows(store.read_manifest(self.job.out), shard)
        deadly = [row for row in rows if not self.survives(row) and not self.survives(row)]
        made = self.one_actor().make_shard.remote(shard, deadly)
        return ray_health.get(made, self.stall_s)

    def one_actor(self) -> Any:
        if not self.actors:
            self.actors = [self.remote.remote(self.job)]
        return self.actors[0]

    def survives(self, row: int) -> bool:
        """Whether a worker can make this clip without dying."""
        from ray.exceptions import OutOfMemoryError, RayActorError

        try:
            ray_health.get(self.one_actor().probe.remote(row), self.stall_s)
        except (RayActorError, OutOfMemoryError):
            self.actors = []
            return False
        return True

    def stalled(self, done: int, total: int) -> str:
        return (
            f"stage '{self.job.stage.name}': no shard finished in {self.stall_s:.0f} s ({done} of "
            f"{total} done, {len(self.pending)} in progress). Is the Ray cluster alive, with room "
            f"for {self.job.stage.resources}? Raise ROBOSCAPE_STALL_S if a shard needs longer."
        )

    def close(self) -> None:
        for actor in self.actors:
            self.ray.kill(actor)
        self.actors = []
