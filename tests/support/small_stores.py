"""Small real stores for the tests of training and evaluation: a square that goes where the actions
say.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.stores import store
from storage.stores.key import content_key
from storage.stores.records import Manifest, Reject, StoreRef
from storage.stores.results import Result, open_result, open_writer
from storage.stores.rows import Rows, open_rows
from storage.stores.spec import ArraySpec

T, SIDE, P = 16, 32, 30
SHARD = 4


def square_clips(n: int, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Arrays of n clips by store: a bright, near square on a still, far background moves to
    commanded places.
    """
    rng = np.random.default_rng(seed)
    background = rng.integers(40, 90, (SIDE, SIDE, 3)).astype(np.uint8)
    start, end = rng.uniform(5, SIDE - 6, (2, n, 1, 2))
    share = np.linspace(0, 1, T)[None, :, None]
    place = (start + (end - start) * share).astype(np.float32)  # (n, t, xy)
    ys, xs = np.mgrid[:SIDE, :SIDE]
    inside = (abs(xs - place[..., 0, None, None]) < 5) & (abs(ys - place[..., 1, None, None]) < 5)
    rgb = np.where(inside[..., None], np.uint8([230, 120, 30]), background)
    inverse_depth = np.where(inside, 2.0, 0.5 + 0.5 * ys / SIDE).astype(np.float16)
    actions = np.zeros((n, T, 15, 16), np.float32)
    actions[..., :2] = place[:, :, None]
    tracks = (
        np.broadcast_to(rng.uniform(1, SIDE - 2, (n, 1, P, 2)), (n, T, P, 2))
        .astype(np.float32)
        .copy()
    )
    tracks[:, :, :6] = place[:, :, None] + rng.uniform(-3, 3, (n, 1, 6, 2))
    return {
        "clip": {"rgb": rgb, "actions": actions},
        "depth": {
            "inverse_depth": inverse_depth,
            "valid": np.ones((n, T, SIDE, SIDE), bool),
            "inverse_depth_range": np.tile(np.float32([0.5, 2.0]), (n, 1)),
        },
        "keypoints": {"tracks": tracks, "visible": np.ones((n, T, P), bool)},
    }


def write_index(root: Path, splits: list[str]) -> StoreRef:
    ref = StoreRef.at(str(root), "discover", content_key(splits))
    manifest = Manifest(
        stage="discover", key=ref.key, kind="index", version=1, parameters={}, inputs={}
    )
    store.create(ref, manifest)
    writer = open_writer(ref)
    n = len(splits)
    columns = {
        "clip_id": [f"clip{i:03d}" for i in range(n)],
        "split": splits,
        "task": [327] * n,
        "episode": list(range(648600, 648600 + n)),
        "camera": ["head_color"] * n,
        "task_name": ["Move a square"] * n,
        "texts": [["Push it.", "Let go."] if i % 2 else [] for i in range(n)],
    }
    pq.write_table(pa.table(columns), writer.path / "index.parquet")
    writer.finish({})
    return ref


def write_clips(
    index: StoreRef,
    stage: str,
    arrays: dict[str, np.ndarray],
    rejected: tuple[int, ...] = (),
    inputs: dict[str, str] | None = None,
    upstream: tuple[int, ...] = (),
    attributes: dict[str, str] | None = None,
) -> StoreRef:
    """A complete store of these arrays, (clip, ...) each, without the rejected rows and those that
    the clips lack (`upstream`).
    """
    n = len(next(iter(arrays.values())))
    specs = tuple(
        ArraySpec(
            name, a.dtype.name, tuple(f"axis{i}" for i in range(a.ndim - 1)), a.shape[1:], "", "",
            fill=np.nan if a.dtype.kind == "f" and np.isnan(a).any() else 0,
        )
        for name, a in arrays.items()
    )  # fmt: skip
    recipe = {name: float(np.nansum(np.asarray(a, np.float64))) for name, a in arrays.items()} | {
        "rejected": rejected,
        **({"attributes": attributes} if attributes else {}),
    }
    ref = StoreRef.at(index.root, stage, content_key(recipe))
    manifest = Manifest(
        stage=stage, key=ref.key, kind="clips", version=1, inputs=inputs or {},
        attributes=attributes or {}, parameters={"rate_hz": 2.0} if stage == "clip" else {},
        specs=specs, n_clips=n, clips_per_shard=SHARD, index_uri=index.uri,
    )  # fmt: skip
    store.create(ref, manifest)
    for shard in range(manifest.n_shards):
        rows = store.shard_rows(manifest, shard)
        rejects = [
            Reject(row=row, clip_id=f"clip{row:03d}", reason="test", detail="", kind="rejected")
            for row in rows
            if row in rejected
        ]
        rejects += [
            Reject(
                row=row,
                clip_id=f"clip{row:03d}",
                reason="rejected_by_clip",
                detail="",
                kind="upstream",
            )
            for row in rows
            if row in upstream
        ]
        block = {name: a[rows.start : rows.stop] for name, a in arrays.items()}
        store.commit(ref, store.write_part(ref, shard, block, rejects, 0.0))
    store.seal(ref)
    return ref


def new_result(
    root: Path, stage: str, recipe: object, inputs: dict[str, StoreRef] | None = None
) -> StoreRef:
    """A result that a stage may now be run into."""
    ref = StoreRef.at(str(root), stage, content_key(recipe))
    made_from = {role: each.uri for role, each in (inputs or {}).items()}
    manifest = Manifest(
        stage=stage, key=ref.key, kind="result", version=1, parameters={}, inputs=made_from
    )
    store.create(ref, manifest)
    return ref


def run_stage(
    root: Path, stage, rows: dict[str, StoreRef], results: dict[str, StoreRef] | None = None
) -> Result:
    """Runs a DatasetStage as the pipeline does; returns its result."""
    recipe = [repr(stage), {role: r.uri for role, r in rows.items()}]
    ref = new_result(root, stage.name, recipe, rows | (results or {}))
    writer = open_writer(ref)
    try:
        numbers = stage.run(
            opened(rows),
            {role: open_result(r) for role, r in (results or {}).items()},
            writer,
            quiet,
        )
        writer.finish(numbers)
    finally:
        writer.close()
    return open_result(ref)


def opened(refs: dict[str, StoreRef]) -> dict[str, Rows]:
    return {role: open_rows(ref) for role, ref in refs.items()}


def quiet(done: int, total: int, note: str = "") -> None:
    """Progress that nobody watches."""
