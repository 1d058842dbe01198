"""A worker of a ClipStage: keeps the stage's function loaded and makes whole shards with it.

The same class runs in the driver (serial) and as a Ray actor, so both write the same arrays.
"""

import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.orchestration.placement import device_of_stage
from stages.base import Arrays, ClipInputs, ClipStage, Rejected
from storage.disk_space import explain_disk_full, raise_if_disk_full
from storage.stores import store
from storage.stores.records import PartRecord, Reject, StoreRef
from storage.stores.results import Result, open_result, places_of
from storage.stores.rows import Rows, open_rows

WORKER_DIED = "worker_died"  # reason of a clip that crashes its worker process
RETRIES = 1  # of a clip that raises, alone, before it counts as an error


@dataclass(frozen=True, kw_only=True)
class Job:
    """One stage on its inputs: all that a worker needs to know."""

    stage: ClipStage
    inputs: dict[str, StoreRef]  # role -> upstream store
    out: StoreRef

    def open_rows(self) -> dict[str, Rows]:
        return {
            role: open_rows(self.inputs[role]) for role, names in self.stage.inputs.items() if names
        }

    def open_results(self) -> dict[str, Result]:
        return {
            role: open_result(self.inputs[role])
            for role, names in self.stage.inputs.items()
            if not names
        }


def limit_threads(cpus: float) -> None:
    """Limits torch and OpenCV, where they are loaded, to the stage's number of CPUs.

    Also in serial runs: sums over another number of threads differ in the last bit, which can
    change a token.
    """
    n_threads = max(1, int(cpus))
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(n_threads)
    if cv2 := sys.modules.get("cv2"):
        cv2.setNumThreads(n_threads)


class Worker:
    def __init__(self, job: Job):
        self.job, self.stage, self.places = job, job.stage, places_of(job.out)
        self.rows = job.open_rows()
        self.manifest = store.read_manifest(job.out)
        self.clip_ids = next(iter(self.rows.values())).clip_ids
        with explain_disk_full(*self.places):
            self.function = self.stage.start(device_of_stage(self.stage), job.open_results())
        limit_threads(self.stage.resources.cpus)

    def make_shard(self, shard: int, deadly: Sequence[int] = ()) -> PartRecord:
        """Makes and writes one shard, without the `deadly` rows, which have crashed workers."""
        started = time.monotonic()
        # Reject what an input rejected, and what crashes workers
        rows = store.shard_rows(self.manifest, shard)
        rejects = [r for row in rows if (r := self.upstream_reject(row)) is not None]
        rejects += [
            self.reject(row, "error", WORKER_DIED, "the clip crashed its worker process")
            for row in deadly
        ]
        skip = {r.row for r in rejects}

        # Make the others, a few clips per call
        todo = [row for row in rows if row not in skip]
        blocks = self.empty_blocks(len(rows))
        step = self.stage.resources.clips_per_call
        for i in range(0, len(todo), step):
            for row, made in self.make_rows(todo[i : i + step]):
                if isinstance(made, Reject):
                    rejects.append(made)
                    continue
                for spec in self.stage.outputs:
                    blocks[spec.name][row - rows.start] = made[spec.name]
        rejects.sort(key=lambda r: r.row)
        return store.write_part(self.job.out, shard, blocks, rejects, time.monotonic() - started)

    def probe(self, row: int) -> int:
        """Makes one clip without writing it, to find those that crash their worker."""
        if self.upstream_reject(row) is None:
            self.make_rows([row])
        return row

    def make_rows(self, rows: Sequence[int]) -> list[tuple[int, Arrays | Reject]]:
        """Makes the rows in one call of the stage's function; if it raises, in one call each."""
        clips = [self.read(row) for row in rows]
        try:
            made = self.function(clips)
        except Exception as error:
            raise_if_disk_full(error, *self.places)  # of the disk's, and no fault of the clip's
            if len(rows) > 1:
                return [pair for row in rows for pair in self.make_rows([row])]
            return [(rows[0], self.retry(clips[0], error))]
        if len(made) != len(clips):
            raise ValueError(
                f"stage '{self.stage.name}' returned {len(made)} clips for {len(clips)}: its "
                "function must return one entry per clip, arrays or Rejected"
            )
        return [(clip.row, self.checked(clip, one)) for clip, one in zip(clips, made, strict=True)]

    def retry(self, clip: ClipInputs, error: Exception) -> Arrays | Reject:
        for _ in range(RETRIES):
            try:
                return self.checked(clip, self.function([clip])[0])
            except Exception as again:
                raise_if_disk_full(again, *self.places)
                error = again
        last = traceback.format_exception(error)
        return self.reject(
            clip.row, "error", type(error).__name__, f"{error}\n{''.join(last[-6:])}"
        )

    def checked(self, clip: ClipInputs, made: Arrays | Rejected) -> Arrays | Reject:
        if isinstance(made, Rejected):
            return self.reject(clip.row, "rejected", made.reason, made.detail)
        try:
            for spec in self.stage.outputs:
                if spec.name not in made:
                    raise ValueError(
                        f"clip {clip.clip_id}: array '{spec.name}' is missing, found {sorted(made)}"
                    )
                spec.check(made[spec.name], clip.clip_id)
        except ValueError as error:
            return self.reject(clip.row, "error", "bad_output", str(error))
        return made

    def read(self, row: int) -> ClipInputs:
        arrays: Arrays = {}
        for role, names in self.stage.inputs.items():
            if names:
                arrays |= self.rows[role].read(names, row)
        return ClipInputs(row=row, clip_id=self.clip_ids[row], arrays=arrays)

    def upstream_reject(self, row: int) -> Reject | None:
        missing = [role for role, rows in self.rows.items() if not rows.ok[row]]
        return Reject.by_input(row, self.clip_ids[row], missing[0]) if missing else None

    def reject(self, row: int, kind: str, reason: str, detail: str) -> Reject:
        return Reject(row=row, clip_id=self.clip_ids[row], reason=reason, detail=detail, kind=kind)  # type: ignore[arg-type]

    def empty_blocks(self, n: int) -> Arrays:
        return {s.name: np.full((n, *s.shape), s.fill, dtype=s.dtype) for s in self.stage.outputs}
