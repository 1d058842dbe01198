"""Clips a second of the training's loader, against what training steps need.

    python benchmarks/loader.py     # 512 synthetic clips of the published size; about two minutes

Clips as of AGIBOT-World at 256 px: 16 x 16 tokens of RGB and depth, 16 frames, 32 x 32 tracks, 15 x
16 actions a frame. The loader is timed alone with random batches of 32: from prepared rows in
memory, from prepared rows in a file, and from the stores. In the same run a training step of the
smallest model is timed, with the loader and with one constant batch. The upper bound for a GPU is
computed: an H200's rate of plain bfloat16 products over the operations of a clip for the smallest
published model.
"""

import argparse
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from measuring import Conditions, Times, Variant, interleave, table
from world_training import TrainingStep

from model.training.loop import TrainConfig
from model.world.batch import WorldBatch
from model.world.config import MaskingConfig, small, tiny
from model.world.flops import training_flops
from stages.batches import usable_rows
from stages.training.prefetch import Prefetched
from stages.training.prepared_rows import PreparedRows
from stages.world_model.train import TrainWorldModel
from storage.stores import store
from storage.stores.records import Kind, Manifest, StoreRef
from storage.stores.results import open_writer
from storage.stores.rows import open_rows
from storage.stores.spec import ArraySpec

T, GRID, POINTS, SIDE, SHARD = 16, (16, 16), 1024, 256, 64
H200_FLOPS = 790e12  # of bfloat16 products; from the project's notes, not measured here
SMALLEST = small(n_layers=16)  # 34 M parameters in both branches together
BATCH, STEP_BATCH, ROUNDS = 32, 2, 5  # a step of 32 clips takes half a minute on a core
STAGE = TrainWorldModel(model=tiny(grid=GRID), training=TrainConfig(steps=1), clips_per_batch=BATCH)
CPU = torch.device("cpu")
IN_FILE = "prepared rows in a file"

BatchAt = Callable[[int], WorldBatch]


def synthetic_stores(root: Path, n: int) -> dict[str, StoreRef]:
    """What the world model reads, with random contents; RGB is constant, no training reads it."""
    rng = np.random.default_rng(0)
    index = StoreRef.at(str(root), "discover", "benchmark")
    store.create(index, manifest(index, kind="index"))
    with open_writer(index) as writer:
        columns = {"clip_id": [f"clip{i:05d}" for i in range(n)], "split": ["train"] * n}
        pq.write_table(pa.table(columns), writer.path / "index.parquet")
        writer.finish({})
    tokens = rng.integers(0, 2**18, (2, n, T, *GRID), dtype=np.int32)
    start = rng.uniform(0, SIDE, (n, 1, POINTS, 2))
    tracks = (
        start + np.linspace(0, 1, T)[:, None, None] * rng.normal(0, 20, (n, 1, POINTS, 2))
    ).astype(np.float32)
    arrays = {
        "rgb_tokens": {"rgb_tokens": tokens[0]},
        "depth_tokens": {"depth_tokens": tokens[1]},
        "keypoints": {"tracks": tracks, "visible": rng.random((n, T, POINTS)) < 0.9},
        "clip": {
            "rgb": np.broadcast_to(np.uint8(0), (n, T, SIDE, SIDE, 3)),
            "actions": rng.normal(size=(n, T, 15, 16)).astype(np.float32),
        },
    }
    return {"discover": index} | {
        name: written(index, name, of_clip) for name, of_clip in arrays.items()
    }


def written(index: StoreRef, stage: str, arrays: dict[str, np.ndarray]) -> StoreRef:
    def spec(name: str, a: np.ndarray) -> ArraySpec:
        axes, codec = (
            tuple(f"axis{i}" for i in range(a.ndim - 1)),
            "zstd" if name == "rgb" else "raw",
        )
        return ArraySpec(name, a.dtype.name, axes, a.shape[1:], "", "synthetic", codec=codec)

    specs = tuple(spec(name, a) for name, a in arrays.items())
    ref = StoreRef.at(index.root, stage, "benchmark")
    n = len(next(iter(arrays.values())))
    store.create(
        ref,
        manifest(ref, "clips", specs=specs, n_clips=n, clips_per_shard=SHARD, index_uri=index.uri),
    )
    for shard in store.missing_shards(ref):
        rows = store.shard_rows(store.read_manifest(ref), shard)
        block = {name: a[rows.start : rows.stop] for name, a in arrays.items()}
        store.commit(ref, store.write_part(ref, shard, block, [], 0.0))
    store.seal(ref)
    return ref


def manifest(ref: StoreRef, kind: Kind, **more) -> Manifest:
    return Manifest(
        stage=ref.stage, key=ref.key, kind=kind, version=1, parameters={}, inputs={}, **more
    )


def loaders(root: Path, n_clips: int) -> dict[str, BatchAt]:
    """Loaders by name; "steps" has a step's small batches, from the thread that prefetches them."""
    rows = {role: open_rows(ref) for role, ref in synthetic_stores(root, n_clips).items()}
    used = usable_rows(rows, "train")
    stats = STAGE.clips.action_stats(rows["clip"], used)

    def prepared(stage: TrainWorldModel = STAGE, **how: Any) -> BatchAt:
        data = PreparedRows(lambda chosen: stage.clips.prepare(rows, stats, chosen), used, **how)
        return stage.clips.batches(rows, data, used)

    in_file = {"cache_bytes": 0, "folder": root / "prepared"}
    return {
        "prepared rows in memory": prepared(),
        IN_FILE: prepared(**in_file),
        "from the stores": prepared(cache_bytes=0),
        "steps": Prefetched(prepared(replace(STAGE, clips_per_batch=STEP_BATCH), **in_file)),
    }


def epochs(batch_at: BatchAt, n_clips: int) -> Callable[[], object]:
    """A function that loads the next epoch, whose clips are in another order than the last."""
    numbers = itertools.count()
    return lambda: [batch_at(next(numbers)) for _ in range(n_clips // BATCH)]


def measured(root: Path, n_clips: int) -> dict[str, Times]:
    """Seconds a clip."""
    found = loaders(root, n_clips)
    batch_at, numbers = found.pop("steps"), itertools.count()
    step, one = TrainingStep(STAGE.model, STEP_BATCH, CPU), batch_at(0)

    def take(batch: WorldBatch) -> None:
        step.batch = batch
        step()

    variants = {
        name: Variant(work=epochs(loader, n_clips), n_items=n_clips)
        for name, loader in found.items()
    }
    variants["step with the loader"] = Variant(
        work=lambda: take(batch_at(next(numbers))), n_items=STEP_BATCH
    )
    variants["step with one batch"] = Variant(work=lambda: take(one), n_items=STEP_BATCH)
    return interleave(variants, ROUNDS, CPU)


def report(times: dict[str, Times], conditions: Conditions) -> str:
    bound = H200_FLOPS / training_flops(SMALLEST, MaskingConfig(), T)
    step, constant = times["step with the loader"], times["step with one batch"]
    rows = [
        {
            "loader": name,
            "a clip, least (median)": times[name],
            "clips/s": f"{1 / times[name].median:.0f}",
            "times a step of tiny here": f"{step.median / times[name].median:.0f}",
            "times the most that an H200 could take": f"{1 / times[name].median / bound:.1f}",
        }
        for name in times
        if not name.startswith("step")
    ]
    verdict = conditions.verdict(1 / times[IN_FILE].median / bound, 10.0, [times[IN_FILE]])
    return "\n".join(
        [
            str(conditions),
            f"\na step of tiny: {step} a clip with the loader, {constant} with a constant batch",
            "the most that an H200 could take, 34 M parameters, all products at full rate: "
            f"{bound:.0f} clips/s",
            table("Loader", rows),
            f"\nat least 10 times that: {verdict}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="The training's loader against training steps.")
    parser.add_argument("--clips", type=int, default=512)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    conditions = Conditions(CPU)
    with TemporaryDirectory(prefix="roboscape-loader-") as name:
        print(report(measured(Path(name), arguments.clips), conditions))


if __name__ == "__main__":
    main()
