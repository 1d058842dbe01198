import hashlib
import os
import shutil
from dataclasses import replace

import pytest

from storage.errors import WeightsError
from storage.stores.key import content_key
from storage.weights.ref import WeightsRef


def test_a_file_is_named_by_its_digest_and_found_again(tmp_path, monkeypatch):
    (tmp_path / "net.safetensors").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    ref = WeightsRef.of("net.safetensors", licence="Apache-2.0")
    assert (ref.name, ref.sha256) == ("net", hashlib.sha256(b"weights").hexdigest())
    monkeypatch.chdir("/")
    assert ref.resolve().read_bytes() == b"weights"


def test_place_and_licence_are_not_in_the_key_and_the_bytes_are(tmp_path):
    (tmp_path / "a").write_bytes(b"weights")
    (tmp_path / "b").write_bytes(b"Weights")
    shutil.copy(tmp_path / "a", tmp_path / "c")
    a, b, c = (WeightsRef.of(tmp_path / name, name="net") for name in "abc")
    assert content_key(a) == content_key(c) == content_key(replace(a, path="", licence="MIT"))
    assert content_key(a) != content_key(b)
    assert content_key(a) != content_key(replace(a, name="other"))


def test_another_file_in_its_place_is_refused(tmp_path):
    path = tmp_path / "net.pt"
    path.write_bytes(b"weights")
    ref = WeightsRef.of(path)
    assert ref.resolve() == path
    path.write_bytes(b"weightz")
    os.utime(
        path, ns=(1, path.stat().st_mtime_ns + 1_000_000)
    )  # clocks of some file systems are coarse
    found = hashlib.sha256(b"weightz").hexdigest()
    with pytest.raises(
        WeightsError, match=f"{path} has the SHA-256 {found}, expected {ref.sha256}.*another file"
    ):
        ref.resolve()


def test_missing_files_are_named(tmp_path):
    path = tmp_path / "net.pt"
    path.write_bytes(b"weights")
    ref = WeightsRef.of(path)
    path.unlink()
    with pytest.raises(
        WeightsError, match=rf"'net' \(SHA-256 {ref.sha256[:12]}\.\.\.\): there is no file '{path}'"
    ):
        ref.resolve()
    with pytest.raises(WeightsError, match="there is no file ''"):
        replace(ref, path="").resolve()
    for missing in (path, tmp_path):
        with pytest.raises(WeightsError, match=f"weights 'x': there is no file {missing}"):
            WeightsRef.of(missing, name="x")


@pytest.mark.parametrize("digest", ["", "abc", "g" * 64, "A" * 64, "a" * 65])
def test_other_text_than_a_digest_is_refused(digest):
    with pytest.raises(ValueError, match="is not a SHA-256 in 64 hex digits"):
        WeightsRef(name="net", sha256=digest)


@pytest.mark.parametrize(
    ("licence", "forbids"),
    [
        ("CC-BY-NC-4.0", True),
        ("cc-by-nc-sa-4.0", True),
        ("CC BY-NC 4.0", True),
        ("Apache-2.0", False),
        ("", False),
    ],
)
def test_licences_that_forbid_commercial_use(licence, forbids):
    assert WeightsRef(name="net", sha256="a" * 64, licence=licence).non_commercial == forbids
