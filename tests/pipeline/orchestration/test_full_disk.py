"""A full disk ends a stage with one sentence, loses nothing, and the same command goes on."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from machinery import Machinery, assert_equal_stores
from small_disk import fill, make_room, small_disk, use_up_inodes
from toys import Index, say_nothing

from pipeline.cli.console import FAILED, failures_explained
from pipeline.orchestration import dataset_stage
from pipeline.orchestration.errors import StageFailed
from pipeline.orchestration.journal import read_journal, start_journal
from pipeline.orchestration.recipe import describe, output_ref
from storage.errors import DiskFull
from storage.stores import store

BACKENDS = ["serial", pytest.param("ray", marks=[pytest.mark.slow, pytest.mark.long])]


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
    return request.param


def undisturbed(tmp_path: Path) -> dict[str, np.ndarray]:
    clean = Machinery(root=str(tmp_path / "clean"), faults=tmp_path / "no_faults")
    upstream = clean.upstream()
    clean.run(clean.brightness(), upstream)
    return clean.arrays(output_ref(clean.brightness(), upstream, clean.root))


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_a_clip_on_a_full_disk_is_not_rejected(tmp_path, machinery: Machinery, backend):
    upstream = machinery.upstream()
    machinery.arm("full", 8)
    with pytest.raises(DiskFull, match=r"^the disk is full \(No space left on device\)") as raised:
        machinery.run(machinery.brightness(), upstream, backend, share=1.0)
    assert "\n" not in str(raised.value)
    out = output_ref(machinery.brightness(), upstream, machinery.root)
    assert 8 // 3 in store.missing_shards(out) and not store.is_complete(out)
    machinery.disarm()
    machinery.run(machinery.brightness(), upstream, backend)
    expected = undisturbed(tmp_path)
    assert_equal_stores(machinery.arrays(out), expected)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize("exhaust", [fill, use_up_inodes])
def test_a_store_on_a_full_disk_is_made_when_there_is_room(tmp_path, exhaust, backend):
    with small_disk(tmp_path / "disk", kilobytes=4096, inodes=600) as disk:
        machinery = Machinery(root=str(disk / "stores"), faults=tmp_path / "faults")
        upstream = machinery.upstream()
        stage = machinery.brightness()
        out = output_ref(stage, upstream, machinery.root)

        def fill_up(done: int, total: int, note: str = "") -> None:
            if done == 1:
                exhaust(disk)

        words = r"the disk is full .*while writing .*/stores/depth/"
        with pytest.raises(DiskFull, match=words) as raised:
            machinery.run(stage, upstream, backend, on_progress=fill_up)
        assert len(store.missing_shards(out)) < store.read_manifest(out).n_shards
        assert f"on the file system {disk}" in str(raised.value)
        assert "\n" not in str(raised.value)
        make_room(disk)
        machinery.run(stage, upstream, backend)
        expected = undisturbed(tmp_path)
        assert_equal_stores(machinery.arrays(out), expected)
        left = [path for path in Path(out.uri).rglob("*") if ".tmp-" in path.name]
        assert left == []


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_a_result_on_a_full_disk_is_made_when_there_is_room(tmp_path, backend):
    run = dataset_stage.run_dataset if backend == "serial" else dataset_stage.run_dataset_ray
    with small_disk(tmp_path / "disk") as disk:
        stage = Index()
        out = output_ref(stage, {}, str(disk))
        store.create(out, describe(stage, {}, out))
        fill(disk)
        with pytest.raises(DiskFull, match=rf"^the disk is full .*{disk}") as raised:
            run(stage, {}, out, say_nothing)
        assert "\n" not in str(raised.value)
        make_room(disk)
        assert run(stage, {}, out, say_nothing) == {"clips": stage.n}
        assert store.is_complete(out)


def test_a_journal_that_cannot_be_saved_stays_whole_and_hides_no_error(tmp_path, capsys):
    with small_disk(tmp_path / "disk") as disk:
        journal = start_journal(disk / "runs", {"experiment": "demo"})
        fill(disk)
        journal.close("failed", "why it failed")
        assert "is not up to date: its disk is full" in capsys.readouterr().err
        assert read_journal(journal.path).state == "running"
        make_room(disk)
        journal.close("failed", "why it failed")
        assert read_journal(journal.path).note == "why it failed"
        assert [path.name for path in journal.path.parent.iterdir()] == [journal.path.name]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/some/file"),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        StageFailed("worker 0: SafetensorError: I/O error: (os error 28)\nTraceback\n many lines"),
        RuntimeError("database or disk is full"),
        DiskFull("the disk is full (No space left on device) while writing /some/file: 0.0 MB"),
    ],
)
def test_every_command_ends_with_the_sentence(error, capsys):
    with pytest.raises(SystemExit) as ended, failures_explained():
        raise error
    assert ended.value.code == FAILED
    said = capsys.readouterr().err
    assert said.startswith("Failed: the disk is full (") and said.count("\n") == 1
    assert "/some/file" in said or "many lines" not in said
