import os
import pickle
import shutil
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_stores import SPECS, TOKENS, N, clips, created, filled, flip, in_child, manifest, write

from storage.errors import CorruptFile, CorruptShard, IncompleteStore, RejectedRow, StoreError
from storage.files import open_files
from storage.stores import rows as module
from storage.stores import store
from storage.stores.records import StoreRef
from storage.stores.results import open_writer
from storage.stores.rows import INDEX_FILE, ClipRows, IndexRows, open_rows
from storage.stores.shards import MappedShard, Shard, shard_path
from storage.stores.spec import ArraySpec

REJECTED = (2, 9)
MADE = np.setdiff1d(np.arange(N), REJECTED)


@pytest.fixture(scope="module", params=["local", "memory"])
def ref(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> StoreRef:
    """Not to be changed."""
    root = (
        tmp_path_factory.mktemp("rows") if request.param == "local" else f"memory://{uuid4().hex}"
    )
    return filled(created(root), clips(), REJECTED)


@pytest.fixture
def own(tmp_path: Path) -> StoreRef:
    """May be damaged."""
    return filled(created(tmp_path), clips(), REJECTED)


@settings(max_examples=40, deadline=None)
@given(chosen=st.lists(st.sampled_from(MADE.tolist()), max_size=12))
@pytest.mark.parametrize("name", [spec.name for spec in SPECS])
def test_gather_gives_these_rows_in_this_order(ref, name, chosen):
    rows, at = open_rows(ref), np.array(chosen, dtype=np.int64)
    found = rows.gather(name, at)
    assert found.dtype == clips()[name].dtype and found.tobytes() == clips()[name][at].tobytes()
    assert found.shape == (len(chosen), *rows.spec(name).shape)
    for i, row in enumerate(chosen):
        assert rows.read([name], row)[name].tobytes() == found[i].tobytes()


@pytest.mark.parametrize("codec", ["raw", "lz4", "zstd"])
def test_one_number_a_clip_is_an_array_too(tmp_path, codec):
    spec = ArraySpec("score", "float32", (), (), "1", "", codec, np.nan)
    scores = {"score": np.linspace(0, 1, N, dtype=np.float32)}
    rows = open_rows(filled(created(tmp_path, manifest(specs=(spec,))), scores, REJECTED))
    np.testing.assert_array_equal(rows.gather("score", MADE), scores["score"][MADE])
    found = rows.read(["score"], 4)["score"]
    assert isinstance(found, np.ndarray) and found.shape == () and found == scores["score"][4]


def test_reads_are_copies(ref):
    rows = open_rows(ref)
    for name in rows.specs:
        rows.gather(name, MADE)[...] = 0
        rows.read([name], 0)[name][...] = 0
        np.testing.assert_array_equal(rows.gather(name, MADE), clips()[name][MADE])


def test_opening_reads_no_data(own):
    shutil.rmtree(Path(own.uri) / "parts")
    rows = open_rows(own)
    assert (
        len(rows) == N and sorted(rows.specs) == ["depth", "rgb", "tokens"] and rows.ok.sum() == 8
    )
    assert "clip/" in repr(rows)
    with pytest.raises(CorruptShard, match=r"parts/00000001-\w+/zarr\.json is gone"):
        rows.read(["rgb"], 5)


def test_rows_cross_processes_as_a_name_only(own):
    rows = open_rows(own)
    fresh = pickle.dumps(rows)
    for name in rows.specs:
        rows.gather(name, MADE)
    assert pickle.dumps(rows) == fresh and len(fresh) < 500
    again = pickle.loads(fresh)
    assert (again.ref, again.partial, again.n) == (rows.ref, rows.partial, rows.n)
    assert (
        in_child(
            lambda: np.testing.assert_array_equal(
                rows.gather("tokens", MADE), clips()["tokens"][MADE]
            )
        )
        == 0
    )
    assert (
        in_child(
            lambda: np.testing.assert_array_equal(
                again.gather("depth", MADE), clips()["depth"][MADE]
            )
        )
        == 0
    )
    assert pickle.loads(pickle.dumps(open_rows(own, partial=True))).partial


def test_raw_arrays_on_the_disk_are_mapped_and_others_decoded(own, monkeypatch):
    def refuse(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(Shard, "read", refuse)
    np.testing.assert_array_equal(open_rows(own).gather("tokens", MADE), clips()["tokens"][MADE])
    for name in ("rgb", "depth"):
        with pytest.raises(AssertionError, match="decoded"):
            open_rows(own).gather(name, MADE)


def test_few_shards_are_open_and_each_mapped_chunk_is_checked_once(own, monkeypatch):
    monkeypatch.setattr(module, "MAX_OPEN_SHARDS", 1)
    checked, opened = [], []
    check, init = Shard.check_crc, MappedShard.__init__
    monkeypatch.setattr(
        Shard,
        "check_crc",
        lambda self, what, data, place: (checked.append(what), check(self, what, data, place)),
    )
    monkeypatch.setattr(
        MappedShard, "__init__", lambda self, *args: (opened.append(1), init(self, *args))[1]
    )
    rows, before = open_rows(own), len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        for row in (0, 5, 8, 1):
            np.testing.assert_array_equal(
                rows.read(["tokens"], row)["tokens"], clips()["tokens"][row]
            )
        assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert sorted(what for what in checked if "row" in what) == [
        "chunk 0 (row 0)", "chunk 0 (row 8)", "chunk 1 (row 1)", "chunk 1 (row 5)",
    ]  # fmt: skip
    assert len(opened) > 3
    rows.close()
    assert len(os.listdir("/proc/self/fd")) <= before
    np.testing.assert_array_equal(rows.gather("tokens", MADE), clips()["tokens"][MADE])


def test_rejected_rows_raise_and_say_why(ref):
    rows = open_rows(ref)
    assert np.flatnonzero(~rows.ok).tolist() == [2, 9] == [r.row for r in rows.rejected]
    for call in (lambda: rows.read(["rgb"], 9), lambda: rows.gather("tokens", np.array([0, 9, 2]))):
        with pytest.raises(
            RejectedRow, match=r"no data in row 9: rejected, shot_cut: détail 9. Check `ok`"
        ):
            call()


@pytest.mark.parametrize("rows", [[-1], [0, N], [3, 99]])
def test_rows_out_of_range_raise(ref, rows):
    with pytest.raises(IndexError, match=f"has {N} rows, asked for"):
        open_rows(ref).gather("tokens", np.array(rows))


def test_a_missing_array_is_named_with_the_existing_ones(ref):
    with pytest.raises(KeyError, match=r"no array 'depht'; it has \['depth', 'rgb', 'tokens'\]"):
        open_rows(ref).gather("depht", np.array([0]))


def test_a_frame_rate_that_no_manifest_names_is_not_guessed(ref):
    with pytest.raises(StoreError, match=r"has no 'rate_hz' .* as the stage 'clip' writes it"):
        _ = ClipRows(ref).rate_hz


def test_an_incomplete_store_shows_what_is_committed(tmp_path):
    ref = created(tmp_path)
    for shard in (2, 0):
        store.commit(ref, write(ref, shard, clips(), REJECTED))
    write(ref, 1, clips())
    rows = open_rows(ref, partial=True)
    assert np.flatnonzero(rows.ok).tolist() == [0, 1, 3, 8] and [r.row for r in rows.rejected] == [
        2,
        9,
    ]
    np.testing.assert_array_equal(rows.gather("rgb", np.array([8, 0])), clips()["rgb"][[8, 0]])
    with pytest.raises(RejectedRow, match="no data in row 5: its shard is missing"):
        rows.read(["rgb"], 5)
    with pytest.raises(RejectedRow, match="row 2: rejected, shot_cut"):
        rows.read(["rgb"], 2)
    filled(ref, clips(), REJECTED)
    again = open_rows(ref, partial=True)
    assert (again.ok == open_rows(ref).ok).all() and again.rejected == open_rows(ref).rejected
    assert not rows.ok[5], "an open store stays as it was when it was opened"


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_damaged_shard_is_named_and_the_others_are_read(own, spec):
    record = store.read_records(own)[1]
    path = Path(own.uri) / record.part / shard_path(spec)
    flip(path, 8 * 20 + 3)
    with pytest.raises(CorruptShard, match=rf"{path}: .*chunk 0 \(row 4\)"):
        open_rows(own).gather(spec.name, MADE)
    rest = np.array([0, 1, 3, 5, 6, 7, 8])
    np.testing.assert_array_equal(open_rows(own).gather(spec.name, rest), clips()[spec.name][rest])
    for other in {"tokens", "depth", "rgb"} - {spec.name}:
        np.testing.assert_array_equal(open_rows(own).gather(other, MADE), clips()[other][MADE])


def test_a_damaged_table_of_rejects_is_refused(own):
    path = Path(own.uri) / "rejected.parquet"
    for bit in range(0, 8 * path.stat().st_size, 331):
        flip(path, bit)
        with pytest.raises(CorruptFile, match=str(path)):
            _ = open_rows(own).ok
        flip(path, bit)
    assert open_rows(own).ok.sum() == 8


# The index


def index_of(root: Path | str, table: pa.Table) -> StoreRef:
    ref = created(root, manifest("index", stage="discover"))
    with open_writer(ref) as writer:
        pq.write_table(table, writer.path / INDEX_FILE)
        writer.finish({})
    return ref


TABLE = pa.table({
    "clip_id": [f"clip{i}" for i in range(N)],
    "start_ns": pa.array([17 * 10**17 + i for i in range(N)]),
    "rate_hz": [2.0] * N, "split": pa.array(["train", "val"] * 5).dictionary_encode(),
    "texts": [["a"] * (i % 3) for i in range(N)], "pair": [[i, -i] for i in range(N)],
    "held": [True, False] * 5,
})  # fmt: skip


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_columns_of_the_index_are_arrays(tmp_path, kind):
    rows = open_rows(index_of(tmp_path if kind == "local" else f"memory://{uuid4().hex}", TABLE))
    assert isinstance(rows, IndexRows) and len(rows) == N and rows.ok.all() and rows.rejected == []
    assert list(rows.clip_ids) == TABLE["clip_id"].to_pylist()
    chosen = np.array([7, 0, 7])
    for name in TABLE.column_names:
        found = rows.gather(name, chosen)
        expected = [TABLE[name].to_pylist()[i] for i in chosen]
        assert [
            value.tolist() if isinstance(value, np.ndarray) else value for value in found.tolist()
        ] == expected
        assert rows.read([name], 7)[name].tolist() == expected[0]
    assert (
        rows.gather("start_ns", chosen).dtype == np.int64
        and rows.gather("held", chosen).dtype == bool
    )
    assert rows.specs["texts"].shape == (-1,) and rows.specs["start_ns"].shape == ()
    assert pickle.loads(pickle.dumps(rows)).gather("split", chosen).tolist() == [
        "val",
        "train",
        "val",
    ]
    with pytest.raises(IndexError, match="asked for 10 to 10"):
        rows.gather("split", np.array([N]))
    rows.close()
    assert rows.read(["split"], 1)["split"] == "val"


@pytest.mark.parametrize("column", [["a", None], [["a"], None], [["a"], ["b", None]]])
def test_an_index_with_nulls_is_refused(tmp_path, column):
    rows = open_rows(index_of(tmp_path, pa.table({"clip_id": ["x", "y"], "texts": column})))
    assert rows.read(["texts"], 0)["texts"].tolist() == column[0]
    with pytest.raises(StoreError, match=r"row 1: column 'texts' has .*expected no nulls"):
        rows.gather("texts", np.array([0, 1]))


def test_clips_are_named_by_their_index_also_after_the_root_was_moved(tmp_path):
    index = index_of(tmp_path / "here", TABLE)
    ref = filled(created(tmp_path / "here", manifest(index_uri=index.uri)), clips())
    elsewhere = filled(created(tmp_path / "other", manifest(index_uri=index.uri)), clips())
    assert open_rows(ref).clip_ids == TABLE["clip_id"].to_pylist()
    with pytest.raises(FileNotFoundError, match=f"no store {tmp_path}/other"):
        _ = open_rows(elsewhere).clip_ids  # never from a place that is not its own root
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = open_rows(StoreRef.at(str(tmp_path / "there"), ref.stage, ref.key))
    assert isinstance(moved, ClipRows) and moved.clip_ids == TABLE["clip_id"].to_pylist()
    with pytest.raises(StoreError, match="has no index store"):
        _ = open_rows(filled(created(tmp_path / "none"), clips())).clip_ids


def test_only_stores_with_rows_are_opened(tmp_path):
    with pytest.raises(StoreError, match="is a result, not rows of clips: use `open_result`"):
        open_rows(created(tmp_path / "a", manifest("result")))
    for partial in (False, True):
        with pytest.raises(IncompleteStore):
            open_rows(created(tmp_path / "b", manifest("index")), partial=partial)


def test_mapped_and_fetched_stores_give_the_same(tmp_path):
    """The same parts, in a folder and in an object store."""
    here = filled(created(tmp_path), clips(), REJECTED)
    there = StoreRef.at(f"memory://{uuid4().hex}/copy", here.stage, here.key)
    source, target = open_files(here.root), open_files(there.root)
    for info in source.walk(""):
        target.write(info.path, [source.read(info.path)])
    for name in clips():
        assert (
            open_rows(here).gather(name, MADE).tobytes()
            == open_rows(there).gather(name, MADE).tobytes()
        )
    assert isinstance(open_rows(here)._open_shard(TOKENS.name, 0), MappedShard)
    assert isinstance(open_rows(there)._open_shard(TOKENS.name, 0), Shard)
