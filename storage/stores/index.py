"""The clip index: one row per candidate clip, and one row for everything that was left out, each a
Parquet table.

Row i of the index is row i of every store that is made after it. Rows of one episode and camera
stand together and by time, so that a shard's clips share one decoding pass. Files are named
relative to the data set's root.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from storage.atomic import replacing
from storage.sources.file_ref import SourceError

LEFT_OUT_FILE = "left_out.parquet"  # beside storage.stores.rows.INDEX_FILE
BATCH_ROWS = 16_384

Split = Literal["train", "val", "test"]


@dataclass(frozen=True, kw_only=True)
class ClipRow:
    """A candidate clip: `n_frames` frames at `rate_hz` from `start_ns` (a row of the episode's
    `timestamp`) on.

    task is -1 where no path and no entry of task_info tells it. texts, skills: of the segments that
    overlap the clip, by time. video ... depth: `FileRef.text` of the files, empty for what the
    episode lacks.
    """

    clip_id: str
    task: int
    episode: int
    camera: str
    start_ns: int
    n_frames: int
    rate_hz: float
    split: Split
    effector: Literal["gripper", "hand"]
    task_name: str
    texts: tuple[str, ...]
    skills: tuple[str, ...]
    video: str
    proprio: str
    intrinsics: str
    extrinsics: str
    depth: str


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """An episode (start_ns None), one camera of it, one clip, or a file of the data set that is not
    in the index.
    """

    item: str
    reason: str
    found: str
    expected: str
    task: int | None = None
    episode: int | None = None
    camera: str | None = None
    start_ns: int | None = None


_CLIP_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("task", pa.int64()),
        ("episode", pa.int64()),
        ("camera", pa.string()),
        ("start_ns", pa.int64()),
        ("n_frames", pa.int32()),
        ("rate_hz", pa.float64()),
        ("split", pa.string()),
        ("effector", pa.string()),
        ("task_name", pa.string()),
        ("texts", pa.list_(pa.string())),
        ("skills", pa.list_(pa.string())),
        *(
            (name, pa.string())
            for name in ("video", "proprio", "intrinsics", "extrinsics", "depth")
        ),
    ]
)
_LEFT_OUT_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("item", "reason", "found", "expected")),
        ("task", pa.int64()),
        ("episode", pa.int64()),
        ("camera", pa.string()),
        ("start_ns", pa.int64()),
    ]
)


def clip_id(episode: int, camera: str, start_ns: int, n_frames: int, rate_hz: float) -> str:
    """16 hex digits that name the clip for good: the same in every index that has it."""
    return hashlib.blake2b(
        f"{episode} {camera} {start_ns} {n_frames} {rate_hz:g}".encode(), digest_size=8
    ).hexdigest()


def write_clips(path: Path, rows: Iterable[ClipRow]) -> int:
    """Writes all rows or, where it is stopped, no file. Returns their number. Raises ValueError for
    a repeated clip.
    """
    seen: set[str] = set()

    def checked() -> Iterator[ClipRow]:
        for row in rows:
            if row.clip_id in seen:
                raise ValueError(
                    f"clip {row.clip_id} (episode {row.episode}, {row.camera}, {row.start_ns} ns) is twice"
                )
            seen.add(row.clip_id)
            yield row

    _write(path, checked(), _CLIP_SCHEMA)
    return len(seen)


def read_clips(path: Path) -> list[ClipRow]:
    """Raises SourceError where the file is no clip index of this version.

    `storage.stores.rows` reads it by columns.
    """
    rows = _read(path, _CLIP_SCHEMA).to_pylist()
    return [
        ClipRow(**row | {"texts": tuple(row["texts"]), "skills": tuple(row["skills"])})
        for row in rows
    ]


def write_left_out(path: Path, rows: Iterable[LeftOut]) -> None:
    """Writes all rows or, where it is stopped, no file."""
    _write(path, rows, _LEFT_OUT_SCHEMA)


def _write(path: Path, rows: Iterable[ClipRow] | Iterable[LeftOut], schema: pa.Schema) -> None:
    left = iter(rows)
    with replacing(path) as temp, pq.ParquetWriter(temp, schema, compression="zstd") as writer:
        while batch := [asdict(row) for row in islice(left, BATCH_ROWS)]:
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise SourceError(
            "corrupt_index", path, str(error), "a Parquet table (run the stage `discover` again)"
        ) from error
    if table.schema.names != schema.names:
        raise SourceError("corrupt_index", path, f"columns {table.schema.names}", f"{schema.names}")
    return table
