"""Runs the stage `discover` into a real store, and reads its rows as the next stage gets them."""

from pathlib import Path

import pyarrow.parquet as pq

from stages.base import ClipInputs
from stages.clips.discover import Discover
from storage.stores import store
from storage.stores.index import LEFT_OUT_FILE, ClipRow, LeftOut, read_clips
from storage.stores.key import content_key, parameters
from storage.stores.records import Manifest, StoreRef
from storage.stores.results import open_writer
from storage.stores.rows import INDEX_FILE, IndexRows, open_rows


def discover(
    stage: Discover, stores: Path
) -> tuple[IndexRows, list[ClipRow], list[LeftOut], dict[str, float]]:
    """(rows as arrays, rows, what was left out, numbers)."""
    ref = StoreRef.at(str(stores), stage.name, content_key(parameters(stage)))
    store.create(
        ref,
        Manifest(
            stage=stage.name,
            key=ref.key,
            kind="index",
            version=1,
            parameters=parameters(stage),
            inputs={},
        ),
    )
    writer = open_writer(ref)
    numbers = stage.run({}, {}, writer, lambda done, total, note="": None)
    table = pq.read_table(writer.path / LEFT_OUT_FILE)
    left_out = [LeftOut(**row) for row in table.to_pylist()]
    clips = read_clips(writer.path / INDEX_FILE)
    writer.finish(numbers)
    rows = open_rows(ref)
    assert isinstance(rows, IndexRows)
    return rows, clips, left_out, numbers


def clip_inputs(rows: IndexRows, names: tuple[str, ...]) -> list[ClipInputs]:
    ids = rows.clip_ids
    return [
        ClipInputs(row=row, clip_id=ids[row], arrays=rows.read(names, row)) for row in range(rows.n)
    ]
