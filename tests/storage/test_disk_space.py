import errno
import os
import re
import sqlite3
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from small_disk import fill, make_room, small_disk, use_up_inodes

from stages.drawing.pictures import write_gif, write_mp4
from storage.atomic import write_file
from storage.disk_space import as_disk_full, explain_disk_full, space_at
from storage.errors import DiskFull
from storage.files import LocalFiles

MB = 1_000_000
FRAMES = np.random.default_rng(0).integers(0, 255, (20, 128, 128, 3), dtype=np.uint8)
SENTENCE = (
    r"^the disk is full \([^)]+\) while writing (?P<path>\S+): .*are free on the file system "
    r"(?P<mount>[^\s,.]+).*\. Everything that was finished is kept\. .*then run the same command "
    r"again"
)


def database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("create table t(x)")
    connection.execute("insert into t values(zeroblob(1000000))")
    connection.commit()


def table(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = np.random.default_rng(0).random(MB)


WRITERS = {
    "safetensors": lambda path: save_file({"a": torch.zeros(MB)}, path),
    "hdf5": table,
    "parquet": lambda path: pq.write_table(pa.table({"x": np.random.rand(MB)}), path),
    "sqlite": database,
    "mp4": lambda path: write_mp4(path.with_suffix(".mp4"), FRAMES, 4.0),
    "gif": lambda path: write_gif(path.with_suffix(".gif"), FRAMES, 4.0),
    "npz": lambda path: np.savez(path.with_suffix(".npz"), x=np.zeros(MB)),
    "text": lambda path: path.write_text("x" * MB),
    "ours": lambda path: write_file(path, bytes(MB)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_whoever_writes_a_full_disk_is_the_same_sentence(tmp_path, name):
    with small_disk(tmp_path / "disk") as disk:
        fill(disk)
        with pytest.raises(DiskFull) as raised, explain_disk_full(disk):
            WRITERS[name](disk / "file")
    found = re.search(SENTENCE, str(raised.value), re.DOTALL)
    assert found, str(raised.value)
    assert found["mount"] == str(disk) and found["path"].startswith(str(disk))
    assert "\n" not in str(raised.value)


def test_a_disk_without_inodes_is_not_said_to_have_room(tmp_path):
    with small_disk(tmp_path / "disk", kilobytes=4096, inodes=30) as disk:
        write_file(disk / "file", b"old")
        use_up_inodes(disk)
        with pytest.raises(DiskFull, match=r"0 of 30 inodes .* are free, [\d.]+ of 4 MB") as raised:
            write_file(disk / "file", b"new")
        assert re.search(SENTENCE, str(raised.value)) and "more inodes" in str(raised.value)
        assert (disk / "file").read_bytes() == b"old"
        make_room(disk)
        write_file(disk / "file", b"new")
        assert (disk / "file").read_bytes() == b"new"


def test_a_file_that_does_not_fit_leaves_the_old_one_and_says_its_size(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        files = LocalFiles(str(disk))
        files.write("a", [b"old"])
        fill(disk, leave=200_000)
        with pytest.raises(DiskFull, match=r"0\.0 of 1 MB are free.*5\.0 MB were to be written"):
            write_file(disk / "a", bytes(5 * MB))
        with pytest.raises(DiskFull):
            files.write("a", [bytes(MB)])
        assert files.read("a") == b"old" and files.list("") == ["a", "filler"]


def test_the_cause_is_found_within_other_errors(tmp_path):
    inner = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "inner"))
    try:
        try:
            raise inner
        except OSError as error:
            raise RuntimeError("the worker failed") from error
    except RuntimeError as error:
        found = as_disk_full(error)
    assert found is not None and f"while writing {tmp_path}/inner" in str(found)
    lost = RuntimeError("checkpoint")
    lost.failures = {1: (inner, [])}  # type: ignore[attr-defined]
    assert f"{tmp_path}/inner" in str(as_disk_full(lost))


def test_our_sentence_survives_as_text_of_another_process(tmp_path):
    first = as_disk_full(OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(tmp_path / "x")))
    assert first is not None and "less if there is a quota" in str(first)
    trace = f"storage.errors.DiskFull: {first}\n\nThe above exception was the direct cause\n"
    trace += f"  File ...\nstorage.errors.DiskFull: store clip/x, shard 1: {first}\nmore"
    again = as_disk_full(RuntimeError(trace))
    assert str(again) == f"store clip/x, shard 1: {first}"


def test_other_errors_stay_what_they_are(tmp_path):
    assert as_disk_full(OSError(errno.EIO, "Input/output error")) is None
    assert as_disk_full(ValueError("full")) is None
    with pytest.raises(ZeroDivisionError), explain_disk_full(tmp_path):
        _ = 1 / 0


def test_what_is_free_is_that_of_the_folder_that_will_be_made(tmp_path):
    with small_disk(tmp_path / "disk", kilobytes=2048, inodes=50) as disk:
        space = space_at(disk / "not" / "yet")
        assert space.mount == disk and space.total == 2 << 20 and space.inodes == 50
        assert not space.exhausted
        fill(disk)
        assert space_at(disk).exhausted
