import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from made_stores import RGB, TOKENS, N, clips, created, filled, flip, manifest, tree, write

from storage.files import open_files
from storage.stores import store
from storage.stores.records import StoreRef, encode_document
from storage.stores.results import open_result, open_writer
from storage.stores.rows import open_rows
from storage.stores.shards import shard_path
from storage.stores.verify import verify

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
    assert verify(ref) == []
    (message,) = verify(ref, "full")
    assert (
        "is an intact shard file, but not the one that was committed" in message
        and str(part(ref, 1)) in message
    )


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
