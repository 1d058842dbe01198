import os
import time
from pathlib import Path
from uuid import uuid4

import pytest
from made_stores import clips, created, filled, flip, manifest, tree, write

from storage.atomic import TEMP_MARK
from storage.errors import CorruptFile
from storage.files import open_files
from storage.stores import store
from storage.stores.cleanup import delete, garbage, list_stores, sweep
from storage.stores.results import open_writer
from storage.stores.verify import verify


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else f"memory://{uuid4().hex}/prefix"


def paths(root: str) -> set[str]:
    return {info.path for info in open_files(root).walk("")}


def test_what_is_committed_is_never_garbage(root):
    ref = filled(created(root), clips())
    half = created(root, manifest(stage="depth"))
    store.commit(half, write(half, 1, clips()))
    before = paths(root)
    assert garbage(root, -1.0) == [] == sweep(root, -1.0)
    assert paths(root) == before and verify(ref, "full") == [] == verify(half, "full")


def test_parts_that_lost_or_were_never_committed_are(root):
    ref = filled(created(root), clips())
    before = paths(root)
    orphans = sorted(f"{ref.uri}/{write(ref, shard, clips()).part}" for shard in (0, 1, 1))
    assert garbage(root, 3600.0) == [], "a worker may have finished it just now"
    assert garbage(root, -1.0) == orphans and paths(root) > before
    assert sweep(root, -1.0) == orphans
    assert paths(root) == before and verify(ref, "full") == [] and garbage(root, -1.0) == []


def test_a_retracted_part_is(root):
    ref = filled(created(root), clips())
    part = store.read_records(ref)[1].part
    store.retract(ref, 1)
    assert garbage(root, -1.0) == [f"{ref.uri}/{part}"]


def test_a_sealed_part_is_not_even_where_its_commit_was_lost(root):
    """Readers trust the seal."""
    ref = filled(created(root), clips())
    open_files(ref.uri).delete("commits/00000001.json")
    assert garbage(root, -1.0) == []


def test_a_commit_that_cannot_be_read_stops_the_sweep(tmp_path):
    ref = filled(created(tmp_path), clips())
    write(ref, 0, clips())
    flip(Path(ref.uri) / "commits/00000002.json", 500)
    before = tree(tmp_path)
    with pytest.raises(CorruptFile, match=r"commits/00000002\.json"):
        sweep(str(tmp_path), -1.0)
    assert tree(tmp_path) == before


def test_unfinished_files_and_half_deleted_stores_are_and_age_is_that_of_the_newest_file(tmp_path):
    ref = filled(created(tmp_path), clips())
    litter = Path(ref.uri) / "commits" / f"00000000.json{TEMP_MARK}0123"
    litter.write_bytes(b"{")
    gone = created(tmp_path, manifest(stage="depth"))
    write(gone, 0, clips())
    (Path(gone.uri) / "manifest.json").unlink()
    assert garbage(str(tmp_path), 3600.0) == []
    assert garbage(str(tmp_path), -1.0) == [str(litter), gone.uri]
    old = time.time() - 7200
    for path in sorted(Path(gone.uri).rglob("*"))[1:]:
        os.utime(path, (old, old))
    os.utime(litter, (old, old))
    assert garbage(str(tmp_path), 3600.0) == [str(litter), gone.uri]
    os.utime(next(p for p in Path(gone.uri).rglob("*") if p.is_file()))
    assert sweep(str(tmp_path), 3600.0) == [str(litter)]
    assert Path(gone.uri).exists() and not litter.exists() and verify(ref, "full") == []
    assert list_stores(str(tmp_path)) == [ref]


def test_the_work_of_unfinished_results_is_not(tmp_path):
    ref = created(tmp_path, manifest("result", stage="train"))
    with open_writer(ref) as writer:
        (writer.path / f"checkpoint{TEMP_MARK}1").write_bytes(b"the stage's own")
    assert garbage(str(tmp_path), -1.0) == []
    os.rename(writer.path, writer.path.with_name("files"))  # killed between publishing and the seal
    assert garbage(str(tmp_path), -1.0) == []


def test_strangers_files_are_left_alone(tmp_path):
    """Files of file browsers and users beside the stores."""
    ref = filled(created(tmp_path), clips())
    for stray in (
        tmp_path / "stores/.DS_Store",
        tmp_path / "stores/clip/notes.txt",
        tmp_path / "readme",
    ):
        stray.write_text("mine")
    assert list_stores(str(tmp_path)) == [ref]
    before = tree(tmp_path)
    assert sweep(str(tmp_path), -1.0) == [] and tree(tmp_path) == before


def test_stores_are_listed_by_stage_and_key(root):
    assert list_stores(root) == [] == garbage(root, -1.0)
    refs = [
        created(root, manifest(stage=stage, key=key * 16))
        for stage, key in [("clip", "b"), ("a", "c"), ("clip", "a")]
    ]
    assert list_stores(root) == [refs[1], refs[2], refs[0]]
    delete(refs[2])
    delete(refs[2])
    assert list_stores(root) == [refs[1], refs[0]]
