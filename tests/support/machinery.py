"""Runs toy stages without Prefect, and reads what they wrote."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from toys import Brightness, Frames, Index, say_nothing

from pipeline.orchestration import dataset_stage, ray_pool, shards
from pipeline.orchestration.clip_worker import Job
from pipeline.orchestration.recipe import describe, output_ref
from pipeline.orchestration.shards import Outcome
from stages.base import Progress, Stage
from storage.stores import store
from storage.stores.records import StoreRef
from storage.stores.rows import open_rows


@dataclass
class Machinery:
    root: str
    faults: Path

    def __post_init__(self) -> None:
        self.faults.mkdir(exist_ok=True)

    def arm(self, fault: str, number: int) -> None:
        (self.faults / f"{fault}-{number}").touch()

    def disarm(self) -> None:
        for path in self.faults.iterdir():
            path.unlink()

    def index(self) -> StoreRef:
        stage = Index()
        out = output_ref(stage, {}, self.root)
        if not store.is_complete(out):
            store.create(out, describe(stage, {}, out))
            dataset_stage.run_dataset(stage, {}, out, say_nothing)
        return out

    def run(
        self,
        stage: Stage,
        inputs: dict[str, StoreRef],
        backend: str = "serial",
        share: float = 0.01,
        on_progress: Progress = say_nothing,
    ) -> Outcome:
        """Makes the stage's missing shards and seals its store."""
        out = output_ref(stage, inputs, self.root)
        store.create(out, describe(stage, inputs, out))
        job = Job(stage=stage, inputs=inputs, out=out)  # type: ignore[arg-type]
        n_clips = store.read_manifest(out).n_clips or 0
        run = shards.run_serial if backend == "serial" else ray_pool.run_ray
        outcome = run(job, store.missing_shards(out), on_progress, allowed_errors=share * n_clips)
        outcome.accept_errors(job, n_clips, share)
        store.seal(out)
        return outcome

    def upstream(self, backend: str = "serial") -> dict[str, StoreRef]:
        index = self.index()
        frames = Frames()
        inputs = {"discover": index}
        if not store.is_complete(output_ref(frames, inputs, self.root)):
            self.run(frames, inputs, backend)
        return {"discover": index, "clip": output_ref(frames, inputs, self.root)}

    def brightness(self) -> Brightness:
        return Brightness(faults=str(self.faults))

    @staticmethod
    def arrays(ref: StoreRef) -> dict[str, np.ndarray]:
        """Every array of a complete store, rejected rows as False in `ok`."""
        rows = open_rows(ref)
        kept = np.flatnonzero(rows.ok)
        return {"ok": np.asarray(rows.ok)} | {name: rows.gather(name, kept) for name in rows.specs}


def assert_equal_stores(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
