"""The clip index: a Parquet table of all candidate clips, and one of everything left out.

Row i of the index is row i of every store made from it. Rows of one episode and camera are
consecutive and sorted by time, so that a shard's clips share one decoding pass. Files are named
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
    """A candidate clip: `n_frames` frames at `rate_hz`, the first at `start_ns`.

    start_ns: one of the episode's `timestamp`s. task: -1 if neither a path nor task_info names it.
    texts, skills: of the segments that overlap the clip, by time. video ... depth: `FileRef.text`
    of the files, empty for what the episode lacks.
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
    """Something that is not in the index: an episode, one camera of it, a clip, or a file."""

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


def clip_id(episode: int | str, camera: str, start_ns: int, n_frames: int, rate_hz: float) -> str:
    """16 hex digits that name the clip, the same in every index. episode: its number, with the
    folders above it if others have the same one.
    """
    return hashlib.blake2b(
        f"{episode} {camera} {start_ns} {n_frames} {rate_hz:g}".encode(), digest_size=8
    ).hexdigest()


def write_clips(path: Path, rows: Iterable[ClipRow]) -> int:
    """Writes all rows or, if interrupted, no file; returns their number.

    Raises ValueError for a repeated clip.
    """
    seen: set[str] = set()

    def checked() -> Iterator[ClipRow]:
        for row in rows:
            if row.clip_id in seen:
                which = f"episode {row.episode}, {row.camera}, {row.start_ns} ns"
                raise ValueError(f"clip {row.clip_id} ({which}) is there twice")
            seen.add(row.clip_id)
            yield row

    _write(path, checked(), _CLIP_SCHEMA)
    return len(seen)


def read_clips(path: Path) -> list[ClipRow]:
    """All rows (`storage.stores.rows` reads by column). Raises SourceError for another table."""
    rows = _read(path, _CLIP_SCHEMA).to_pylist()
    return [
        ClipRow(**row | {"texts": tuple(row["texts"]), "skills": tuple(row["skills"])})
        for row in rows
    ]


def write_left_out(path: Path, rows: Iterable[LeftOut]) -> None:
    """Writes all rows or, if interrupted, no file."""
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
