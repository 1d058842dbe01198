"""Small stores for the tests of storage: an array per codec, in shards of 4, 4 and 2 clips."""

import math
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.files import LocalFiles
from storage.stores import store
from storage.stores.key import content_key, recipe_of
from storage.stores.records import Manifest, PartRecord, Reject, StoreRef
from storage.stores.spec import ArraySpec

TOKENS = ArraySpec("tokens", "int32", ("t", "i"), (3, 4), "token id", "", codec="raw", fill=-1)
DEPTH = ArraySpec("depth", "float16", ("h", "w"), (5, 4), "m", "", codec="zstd", fill=math.nan)
RGB = ArraySpec("rgb", "uint8", ("h", "w", "c"), (4, 5, 3), "sRGB", "", codec="lz4")
SPECS = (TOKENS, DEPTH, RGB)
N, STEP = 10, 4
PARAMETERS = {"size": 5}
KEY = content_key(recipe_of("clip", 1, PARAMETERS, {}))


def clips(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "tokens": rng.integers(0, 2**18, (N, *TOKENS.shape), dtype=np.int32),
        "depth": rng.uniform(0.2, 3.0, (N, *DEPTH.shape)).astype(np.float16),
        "rgb": rng.integers(0, 256, (N, *RGB.shape), dtype=np.uint8),
    }


def manifest(kind: Any = "clips", **changes: Any) -> Manifest:
    of_clips = {"specs": SPECS, "n_clips": N, "clips_per_shard": STEP} if kind == "clips" else {}
    base = Manifest(
        stage="clip", key=KEY, kind=kind, version=1, parameters=PARAMETERS, inputs={}, **of_clips
    )
    stage = changes.get("stage", "clip")
    key = content_key(recipe_of(stage, 1, PARAMETERS, {}))
    return replace(base, key=key, **changes) if "key" not in changes else replace(base, **changes)


def created(root: Path | str, of: Manifest | None = None) -> StoreRef:
    of = of or manifest()
    ref = StoreRef.at(str(root), of.stage, of.key)
    store.create(ref, of)
    return ref


def reject(row: int) -> Reject:
    return Reject(
        row=row, clip_id=f"clip{row}", reason="shot_cut", detail=f"détail {row}", kind="rejected"
    )


def write(
    ref: StoreRef, shard: int, arrays: Mapping[str, np.ndarray], rejected: Sequence[int] = ()
) -> PartRecord:
    """Writes one shard's rows of `arrays`, which have the whole store's clips."""
    rows = store.shard_rows(ref, shard)
    block = {name: array[rows.start : rows.stop] for name, array in arrays.items()}
    return store.write_part(
        ref, shard, block, [reject(row) for row in rejected if row in rows], 0.5
    )


def filled(
    ref: StoreRef, arrays: Mapping[str, np.ndarray], rejected: Sequence[int] = ()
) -> StoreRef:
    """Makes the missing shards and seals the store."""
    for shard in store.missing_shards(ref):
        assert store.commit(ref, write(ref, shard, arrays, rejected))
    store.seal(ref)
    return ref


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def tree(folder: Path) -> dict[str, bytes]:
    """All files under the folder, by path."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def in_child(work: Callable[[], object]) -> int:
    """Runs `work` in a forked process; returns its wait status: 0, or the signal that killed it."""
    if not (pid := os.fork()):
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


def killed_at(operation: int, work: Callable[[], object]) -> bool:
    """Runs `work` in a process killed before its n-th disk operation; False if it has fewer."""

    def countdown(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal operation
            operation -= 1
            if operation < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return counted

    def run() -> None:
        for name in ("write", "link", "replace", "unlink", "mkdir", "rmdir"):
            setattr(os, name, countdown(getattr(os, name)))
        work()

    status = in_child(run)
    assert status in (0, signal.SIGKILL), status
    return status == signal.SIGKILL


def stop_at_write(patch: pytest.MonkeyPatch, number: int, error: BaseException) -> None:
    """Writing the n-th local file raises `error` halfway."""
    left, write_file = number, LocalFiles.write

    def write(self: LocalFiles, path: str, chunks: Any) -> Any:
        nonlocal left
        left -= 1
        return write_file(self, path, broken(chunks) if left < 0 else chunks)

    def broken(chunks: Any) -> Any:
        yield next(iter(chunks))
        raise error

    patch.setattr(LocalFiles, "write", write)
