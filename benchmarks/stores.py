"""Stores against plain NumPy files, measured in one run; called by `benchmarks/overhead.py`.

CPU seconds, which a busy machine disturbs less; writing also in wall time, since it waits for the
disk (fsync).
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from storage.stores import store
from storage.stores.records import Manifest, StoreRef
from storage.stores.rows import Rows, open_rows
from storage.stores.spec import ArraySpec, Codec

Array = np.ndarray
BATCH = 64  # clips of a training batch
ROUNDS = 5


def token_reads(root: Path, n_clips: int = 4096, clips_per_shard: int = 256) -> dict[str, float]:
    """CPU us per clip of random batches of 64 token clips (16 KB each, raw codec), and NumPy's."""
    spec = ArraySpec(
        "tokens", "int32", ("t", "gh", "gw"), (16, 16, 16), "id", "random", codec="raw", fill=-1
    )
    tokens = np.random.default_rng(0).integers(0, 2**18, (n_clips, *spec.shape), dtype=np.int32)
    rows = written(root, "tokens", spec, tokens, clips_per_shard)
    np.save(root / "tokens.npy", tokens)
    plain = np.load(root / "tokens.npy", mmap_mode="r")
    batches = np.random.default_rng(1).integers(0, n_clips, (n_clips // BATCH, BATCH))
    first = cpu_us(
        lambda: [rows.gather("tokens", batch) for batch in batches], batches.size, rounds=1
    )
    ours = cpu_us(lambda: [rows.gather("tokens", batch) for batch in batches], batches.size)
    one = cpu_us(
        lambda: [rows.read(["tokens"], int(row)) for row in batches[:8].ravel()], 8 * BATCH
    )
    theirs = cpu_us(lambda: [plain[batch] for batch in batches], batches.size)
    return {
        "us": ours,
        "us_first_touch": first,
        "us_read_one": one,
        "us_memmap": theirs,
        "ratio": ours / theirs,
    }


def rgb(root: Path, codec: Codec, n_clips: int = 64, clips_per_shard: int = 32) -> dict[str, float]:
    """MB/s of writing and reading RGB clips (3.1 MB each), and of a flushed .npy file per clip."""
    spec = ArraySpec(
        "rgb", "uint8", ("t", "h", "w", "c"), (16, 256, 256, 3), "sRGB", "synthetic", codec=codec
    )
    clips, megabytes = synthetic_clips(n_clips), n_clips * 16 * 256 * 256 * 3 / 1e6
    began, cpu = time.perf_counter(), time.process_time()
    rows = written(root, f"rgb-{codec}", spec, clips, clips_per_shard)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    began = time.perf_counter()
    for i, clip in enumerate(clips):
        with (root / f"{i}.npy").open("wb") as file:
            np.save(file, clip)
            file.flush()
            os.fsync(file.fileno())
    plain_wall = time.perf_counter() - began
    read = cpu_us(lambda: [rows.read(["rgb"], row) for row in range(n_clips)], n_clips) / 1e6
    plain_read = cpu_us(lambda: [np.load(root / f"{i}.npy") for i in range(n_clips)], n_clips) / 1e6
    per_clip = megabytes / n_clips
    return {
        "write_mb_s": megabytes / wall,
        "write_mb_per_cpu_s": megabytes / cpu,
        "npy_write_mb_s": megabytes / plain_wall,
        "read_mb_s": per_clip / read,
        "npy_read_mb_s": per_clip / plain_read,
        "size_ratio": megabytes * 1e6 / store.read_complete(rows.ref)["n_bytes"],
    }


def written(root: Path, stage: str, spec: ArraySpec, block: Array, clips_per_shard: int) -> Rows:
    """`block` as a sealed store, written shard by shard, as a worker does it."""
    ref = StoreRef.at(str(root), stage, "benchmark")
    recipe = {
        "stage": ref.stage,
        "key": ref.key,
        "kind": "clips",
        "version": 1,
        "parameters": {},
        "inputs": {},
    }
    store.create(
        ref, Manifest(**recipe, specs=(spec,), n_clips=len(block), clips_per_shard=clips_per_shard)
    )
    for shard in store.missing_shards(ref):
        at = store.shard_rows(ref, shard)
        store.commit(
            ref, store.write_part(ref, shard, {spec.name: block[at.start : at.stop]}, [], 0.0)
        )
    store.seal(ref)
    return open_rows(ref)


def synthetic_clips(n: int) -> Array:
    """Smooth moving gradients with a little noise, which compress about as camera pictures do."""
    rng = np.random.default_rng(2)
    t, y, x = np.mgrid[:16, :256, :256].astype(np.float32)
    clips = np.empty((n, 16, 256, 256, 3), np.uint8)
    for i in range(n):
        for c, (a, b, w) in enumerate(rng.uniform(0.5, 3.0, (3, 3))):
            clips[i, ..., c] = (
                128
                + 90 * np.sin(x * a / 60 + y * b / 60 + t * w / 10)
                + rng.integers(-2, 3, x.shape)
            )
    return clips


def cpu_us(work: Callable[[], object], n: int, rounds: int = ROUNDS) -> float:
    """CPU microseconds per item, median over rounds."""
    spent = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        spent.append((time.process_time() - began) / n * 1e6)
    return median(spent)
