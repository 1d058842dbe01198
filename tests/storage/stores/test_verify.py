import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from made_stores import RGB, TOKENS, N, clips, created, filled, flip, manifest, tree, write

from storage.errors import CorruptFile, CorruptShard
from storage.files import open_files
from storage.stores import store
from storage.stores.binding import CHUNKS
from storage.stores.key import content_key, recipe_of
from storage.stores.records import StoreRef, encode_document, read_document
from storage.stores.results import open_result, open_writer
from storage.stores.rows import open_rows
from storage.stores.shards import shard_path
from storage.stores.verify import unbound, verify

REJECTED = (2, 9)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> StoreRef:
    return filled(created(tmp_path_factory.mktemp("good")), clips(), REJECTED)


@pytest.fixture
def ref(good: StoreRef, tmp_path: Path) -> StoreRef:
    """A copy that may be damaged."""
    shutil.copytree(good.root, tmp_path / "root")
    return StoreRef.at(str(tmp_path / "root"), good.stage, good.key)


def part(ref: StoreRef, shard: int = 1) -> Path:
    return Path(ref.uri) / store.read_records(ref)[shard].part


def test_nothing_is_wrong_with_a_good_store(good, tmp_path):
    for level in ("quick", "full"):
        assert verify(good, level) == []
    half = created(tmp_path)
    assert verify(half, "full") == []
    store.commit(half, write(half, 2, clips()))
    write(half, 1, clips())
    assert verify(half, "full") == []


def test_any_flipped_bit_in_any_file_is_found_and_the_file_named(ref):
    """By a full check; a quick one finds those outside the chunks."""
    for name in [
        path.removeprefix(f"{ref.uri}/") for path in map(str, sorted(Path(ref.uri).rglob("*")))
    ]:
        path = Path(ref.uri) / name
        if not path.is_file():
            continue
        n_bits = 8 * path.stat().st_size
        for bit in range(n_bits // 3, n_bits, n_bits // 2):
            flip(path, bit)
            messages = verify(ref, "full")
            assert messages and (any(name in message for message in messages)), (
                name,
                bit,
                messages,
            )
            if "/c/" not in name:
                assert verify(ref), (name, bit)
            flip(path, bit)
    assert verify(ref, "full") == []


def test_every_missing_file_is_found_and_every_change_of_size(ref):
    for name, data in tree(Path(ref.uri)).items():
        path = Path(ref.uri) / name
        if name not in ("complete.json",):  # without it the store is visibly incomplete
            path.unlink()
            assert verify(ref), f"{name} missing"
        for changed in (data[:-1], data + b"\0"):
            path.write_bytes(changed)
            assert any(name in message for message in verify(ref)), (
                f"{name}: {len(data)} -> {len(changed)} bytes"
            )
        path.write_bytes(data)
    assert verify(ref) == []


def test_a_damaged_chunk_is_named_by_its_row_in_full_only(ref):
    flip(part(ref) / shard_path(TOKENS), 8 * 60)
    assert verify(ref) == []
    (message,) = verify(ref, "full")
    assert "chunk 1 (row 5)" in message and shard_path(TOKENS) in message


def test_another_intact_shard_in_its_place_is_found(ref):
    """All its checksums are right, and its size too: raw shards have the same size."""
    shutil.copy(part(ref, 0) / shard_path(TOKENS), part(ref, 1) / shard_path(TOKENS))
    for level in ("quick", "full"):
        (message,) = verify(ref, level)
        assert "chunk 0 (row 4) is not the one that was committed there" in message
        assert str(part(ref, 1)) in message


def as_written_by_format_1_1(ref: StoreRef) -> StoreRef:
    """Without what binds a chunk to its place and a seal to its manifest."""
    files, parts = open_files(ref.uri), []
    for shard, record in store.read_records(ref).items():
        path = f"{record.part}/zarr.json"
        plain = json.loads(files.read(path))
        del plain["attributes"][CHUNKS]
        written = files.write(path, [json.dumps(plain).encode()])
        record = replace(record, files={**record.files, "zarr.json": written})
        files.write(f"commits/{shard:08d}.json", [encode_document(record.to_json())])
        parts.append(replace(record, rejects=()).to_json())
    n_bytes = sum(record.n_bytes for record in store.read_records(ref).values())
    seal = store.read_complete(ref) | {"parts": parts, "n_bytes": n_bytes}
    del seal["manifest"]
    files.write("complete.json", [encode_document(seal)])
    return ref


def test_an_older_store_is_read_and_said_to_be_checked_less(good, ref):
    assert unbound(good) is None
    old = as_written_by_format_1_1(ref)
    assert verify(old, "full") == []
    rows = open_rows(old)
    made = np.flatnonzero(rows.ok)
    np.testing.assert_array_equal(rows.gather("tokens", made), clips()["tokens"][made])
    assert "was sealed by an earlier version" in (unbound(old) or "")
    shutil.copy(part(old, 0) / shard_path(TOKENS), part(old, 1) / shard_path(TOKENS))
    assert verify(old) == []
    (message,) = verify(old, "full")
    assert "is an intact shard file, but not the one that was committed" in message


def exchange_shards(ref: StoreRef) -> None:
    one, other = part(ref, 0) / shard_path(TOKENS), part(ref, 1) / shard_path(TOKENS)
    data = one.read_bytes()
    shutil.copy(other, one)
    other.write_bytes(data)


def exchange_chunks(ref: StoreRef) -> None:
    file, n = part(ref, 0) / shard_path(TOKENS), 4 * int(np.prod(TOKENS.shape)) + 4
    data = file.read_bytes()
    file.write_bytes(data[n : 2 * n] + data[:n] + data[2 * n :])


def take_shard_of_another_store(ref: StoreRef) -> None:
    """With everything that names it in this one."""
    other = filled(created(Path(ref.root).parent / "other", OTHER), clips(1), REJECTED)
    record = store.read_records(other)[0]
    shutil.copytree(part(other, 0), Path(ref.uri) / record.part)
    parts = store.read_complete(ref)["parts"]
    reseal(ref, parts=[replace(record, rejects=()).to_json(), *parts[1:]])


OTHER = manifest(parameters={"size": 7}, key=content_key(recipe_of("clip", 1, {"size": 7}, {})))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (exchange_shards, "is not the one that was committed there"),
        (exchange_chunks, "is not the one that was committed there"),
        (take_shard_of_another_store, "was written for another place: it says {'key':"),
    ],
)
def test_what_was_exchanged_is_not_read(ref, damage, message):
    damage(ref)
    with pytest.raises(CorruptShard, match=re.escape(message)):
        open_rows(ref).gather("tokens", np.array([0, 1]))


OUTSIDE = ("../../../secret", "/etc/passwd", "files/../../x", "", "a//b", "a\0b")


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_in_a_seal_cannot_leave_the_store(ref, name):
    first, *others = store.read_complete(ref)["parts"]
    record = {"size": 1, "crc32c": 1}
    for changes in ({"attempt": name}, {"files": {name: record}}):
        reseal(ref, parts=[first | changes, *others])
        with pytest.raises(CorruptFile, match="which is not in the store"):
            open_rows(ref).gather("tokens", np.array([0]))
    reseal(ref, parts=[first, *others], files={name: record})
    with pytest.raises(CorruptFile, match="which is not in the store"):
        store.read_rejected(ref)


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", ["local", "memory"])
def test_names_in_the_seal_of_a_result_cannot_leave_it(tmp_path, monkeypatch, kind, name):
    """From an object store, a file would be written to that place on this machine."""
    monkeypatch.setenv("ROBOSCAPE_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "r" if kind == "local" else f"memory://{uuid4().hex}"
    ref = created(root, manifest("result", stage="train"))
    with open_writer(ref) as writer:
        (writer.path / "a.csv").write_bytes(b"0123")
        writer.finish({})
    seal = store.read_complete(ref)
    for changes in ({"files": {name: seal["files"]["a.csv"]}}, {"folder": name}):
        open_files(ref.uri).write("complete.json", [encode_document(seal | changes)])
        with pytest.raises(CorruptFile, match="which is not in the store"):
            open_result(ref)


@pytest.mark.parametrize("name", ["../x", "/x", "", "a/b", ".."])
def test_arrays_in_a_manifest_cannot_leave_the_store(ref, name):
    change_manifest(ref, specs=[read_manifest_json(ref)["specs"][0] | {"name": name}])
    with pytest.raises(CorruptFile, match=r"manifest\.json is no manifest: array"):
        open_rows(ref)


def read_manifest_json(ref: StoreRef) -> dict:
    return read_document(open_files(ref.uri), "manifest.json")


def change_manifest(ref: StoreRef, **changes: object) -> None:
    content = encode_document(read_manifest_json(ref) | changes)
    open_files(ref.uri).write("manifest.json", [content])


def test_all_faults_are_found(ref):
    damaged = part(ref, 2)
    flip(damaged / shard_path(RGB), 80)
    (damaged / "tokens/zarr.json").write_text("{}")
    flip(Path(ref.uri) / "commits/00000000.json", 800)
    messages = "\n".join(verify(ref, "full"))
    for word in (
        "commits/00000000.json",
        "rgb/c/0/0/0/0: the crc32c of chunk 0 (row 8)",
        "tokens/zarr.json",
    ):
        assert word in messages


def recommit(ref: StoreRef, **changes: object) -> None:
    """Replaces the commit of shard 1 by another intact one."""
    record = replace(store.read_records(ref)[1], **changes)
    open_files(ref.uri).write("commits/00000001.json", [encode_document(record.to_json())])


def reseal(ref: StoreRef, **changes: object) -> None:
    open_files(ref.uri).write(
        "complete.json", [encode_document(store.read_complete(ref) | changes)]
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda ref: recommit(ref, made=3), "3 made and 0 rejected; expected 4 rows from 4"),
        (lambda ref: recommit(ref, first_row=5), "4 rows from 5"),
        (lambda ref: recommit(ref, attempt=write(ref, 1, clips(1)).attempt),
         "name different parts of shards [1]"),
        (lambda ref: reseal(ref, digest="0" * 64),
         "the seal's digest is not that of the committed parts"),
        (lambda ref: reseal(ref, made=9), "the seal says {'made': 9}, the commits say {'made': 8}"),
        (lambda ref: reseal(ref, reasons={}), "the seal says {'reasons': {}}"),
        (lambda ref: change_manifest(ref, parameters={"size": 6}), "have the key"),
        (lambda ref: change_manifest(ref, version=2), "have the key"),
        (lambda ref: change_manifest(ref, inputs={"clip": "/a/stores/clip/0"}), "have the key"),
        (lambda ref: change_manifest(ref, weights=[{"name": "x", "licence": "MIT"}]),
         "is not the one that was there when the store was sealed"),
        (lambda ref: change_manifest(ref, key="0" * 16), f"is of the store clip/{'0' * 16}"),
        (lambda ref: reseal(ref, key="0" * 16), f"is of the store clip/{'0' * 16}"),
        (lambda ref: reseal(ref, parts=store.read_complete(ref)["parts"][:2]),
         "different parts of shards [2]"),
        (lambda ref: shutil.copy(
            f"{ref.uri}/commits/00000000.json", f"{ref.uri}/commits/00000001.json"
         ), "commits/00000001.json is the commit of shard 0"),
        (lambda ref: shutil.rmtree(part(ref)), "No such file"),
    ],
)  # fmt: skip
def test_intact_files_that_do_not_fit_are_found(
    ref: StoreRef, damage: Callable[[StoreRef], None], message: str
):
    damage(ref)
    found = "\n".join(verify(ref))
    assert message in found


def test_a_store_without_manifest_is_reported_as_missing(ref):
    (Path(ref.uri) / "manifest.json").unlink()
    (message,) = verify(ref)
    assert f"there is no store {ref.uri}" in message


def test_a_sealed_store_is_read_despite_damaged_commits(ref):
    """Readers need only the seal."""
    shutil.rmtree(Path(ref.uri) / "commits")
    assert open_rows(ref).ok.sum() == N - 2
    assert "different parts of shards [0, 1, 2]" in "\n".join(verify(ref))


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_files_of_results_are_checked_in_place(tmp_path, kind, monkeypatch):
    monkeypatch.setenv("ROBOSCAPE_CACHE", str(tmp_path / "cache"))
    ref = created(
        tmp_path / "r" if kind == "local" else f"memory://{uuid4().hex}",
        manifest("result", stage="train"),
    )
    assert verify(ref, "full") == []
    with open_writer(ref) as writer:
        (writer.path / "a.csv").write_bytes(b"0123")
        (writer.path / "b.csv").write_bytes(b"4567")
        writer.finish({})
    files, result = open_files(ref.uri), open_result(ref)
    assert result.file("a.csv").read_bytes() == b"0123", "a copy of it is in the cache from now on"
    assert verify(ref, "full") == []
    files.write(f"{result.folder}/a.csv", [b"0124"])
    assert verify(ref) == []
    (message,) = verify(ref, "full")
    assert f"{result.folder}/a.csv has the SHA-256" in message
    files.write(f"{result.folder}/a.csv", [b"01234"])
    (message,) = verify(ref)
    assert "a.csv has 5 bytes, 4 were written" in message
    files.delete(f"{result.folder}/b.csv")
    assert len(verify(ref)) == 2
