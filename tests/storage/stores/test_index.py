from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.sources.file_ref import SourceError
from storage.stores.index import (
    ClipRow,
    LeftOut,
    clip_id,
    read_clips,
    write_clips,
    write_left_out,
)

ROW = ClipRow(
    clip_id="2349e6622b32eb84", task=327, episode=648642, camera="head_color",
    start_ns=17 * 10**17 + 1, n_frames=16, rate_hz=2.0, split="val", effector="gripper",
    task_name="Move a cup", texts=("Pick up the cup.", "Place it."), skills=("Pick", "Place"),
    video="observations/327/648642-648649.tar!648642/videos/head_color.mp4@512+9",
    proprio="p.h5", intrinsics="i.json", extrinsics="", depth="",
)  # fmt: skip
LEFT = LeftOut(
    item="episode 327/648643", reason="too_short", found="7.03 s", expected="7.5 s", episode=648643
)


def read_left_out(path: Path) -> list[LeftOut]:
    return [LeftOut(**row) for row in pq.read_table(path).to_pylist()]


def test_round_trips(tmp_path):
    rows = [ROW, replace(ROW, clip_id="b", texts=(), skills=(), split="train", task=-1)]
    assert write_clips(tmp_path / "a.parquet", rows) == 2
    assert read_clips(tmp_path / "a.parquet") == rows
    left = [LEFT, replace(LEFT, camera="head_color", start_ns=5, episode=None)]
    write_left_out(tmp_path / "b.parquet", left)
    assert read_left_out(tmp_path / "b.parquet") == left


def test_columns_hold_no_nulls(tmp_path):
    """As `storage.stores.rows` expects of an index."""
    write_clips(tmp_path / "a.parquet", [ROW])
    table = pq.read_table(tmp_path / "a.parquet")
    assert all(column.null_count == 0 for column in table.columns)


def test_empty_tables_are_tables(tmp_path):
    write_clips(tmp_path / "a.parquet", [])
    write_left_out(tmp_path / "b.parquet", [])
    assert read_clips(tmp_path / "a.parquet") == [] == read_left_out(tmp_path / "b.parquet")


def test_many_rows_come_back_in_order(tmp_path):
    rows = [replace(ROW, clip_id=f"{i:06}", start_ns=i) for i in range(20_000)]
    write_clips(tmp_path / "a.parquet", iter(rows))
    found = pq.read_table(tmp_path / "a.parquet", columns=["start_ns"])["start_ns"].to_numpy()
    np.testing.assert_array_equal(found, np.arange(20_000))


def test_an_interrupted_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.parquet"
    write_clips(path, [ROW])
    before = path.read_bytes()

    def rows():
        yield replace(ROW, clip_id="c")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_clips(path, rows())
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_repeated_clip_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"clip 2349e6622b32eb84.*is there twice"):
        write_clips(tmp_path / "a.parquet", [ROW, ROW])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["text", "truncated", "other columns", "missing"])
def test_other_files_are_named(tmp_path: Path, kind):
    path = tmp_path / "index.parquet"
    write_clips(path, [ROW])
    if kind == "text":
        path.write_text("no table")
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-50])
    elif kind == "other columns":
        pq.write_table(pa.table({"clip_id": ["a"]}), path)
    else:
        path.unlink()
    with pytest.raises(SourceError, match=r"index\.parquet: corrupt_index"):
        read_clips(path)


CLIPS = st.tuples(
    st.integers(0, 10**7), st.sampled_from(["head_color", "hand_left_color"]),
    st.integers(0, 2**62), st.integers(2, 64), st.sampled_from([1.0, 2.0, 2.5, 5.0]),
)  # fmt: skip


@given(clips=st.sets(CLIPS, max_size=30))
def test_clip_ids_tell_clips_apart(clips):
    ids = {clip: clip_id(*clip) for clip in clips}
    assert len(set(ids.values())) == len(clips)
    assert all(len(i) == 16 and int(i, 16) >= 0 for i in ids.values())


def test_clip_ids_never_change():
    assert clip_id(648642, "head_color", 1_700_000_000_000_000_000, 16, 2.0) == "33b019e1ae255ad0"
