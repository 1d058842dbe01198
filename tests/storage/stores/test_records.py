import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_stores import KEY, SPECS, manifest, reject
from strategies import PLAIN

from storage.errors import CorruptFile
from storage.files import FileRecord, LocalFiles
from storage.stores.records import (
    Manifest,
    PartRecord,
    StoreRef,
    encode_document,
    read_document,
    read_record,
)

DOCUMENTS = st.dictionaries(st.text().filter(lambda name: name != "crc32c"), PLAIN, max_size=4)
RECORD = PartRecord(
    shard=3, attempt="a1", first_row=12, n=4, made=3, rejects=(reject(13),), seconds=0.25,
    files={"rgb/c/0/0/0/0": FileRecord(100, 7), "zarr.json": FileRecord(50, 2**32 - 1)},
)  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(content=DOCUMENTS)
def test_documents_round_trip(tmp_path_factory, content):
    files = LocalFiles(str(tmp_path_factory.mktemp("documents")))
    files.create("a.json", encode_document(content))
    assert read_document(files, "a.json") == json.loads(json.dumps(content))


def test_names_become_strings(tmp_path):
    """Their order as numbers and as strings differs, and the checksum must not."""
    (tmp_path / "a.json").write_bytes(encode_document({"codes": {2: "b", 10: "a"}}))
    assert read_document(LocalFiles(str(tmp_path)), "a.json") == {"codes": {"2": "b", "10": "a"}}


class Held(LocalFiles):
    """A file in memory."""

    data = b""

    def read(self, path: str) -> bytes:
        return self.data


def test_every_flipped_bit_and_every_cut_is_found():
    """Or changes nothing, like the case of a hex digit in an escape."""
    files = Held("/held")
    content = {
        "stage": "clip",
        "n": 12,
        "share": 2.5e-07,
        "rejects": [{"row": 3, "detail": "é\n"}],
        "none": None,
    }
    good = encode_document(content)
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        files.data = bytes(bad)
        try:
            assert read_document(files, "a.json") == content, bit
        except CorruptFile as error:
            assert "/held/a.json" in str(error)
    for length in range(len(good)):
        files.data = good[:length]
        with pytest.raises(CorruptFile, match=r"/held/a\.json"):
            read_document(files, "a.json")


@pytest.mark.parametrize(
    "text", ["", "[]", "3", '"crc32c"', "{}", '{"a": 1}', '{"a": 1, "crc32c": null}', "\xff"]
)
def test_other_json_is_no_document(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="latin-1")
    with pytest.raises(CorruptFile, match=r"a\.json"):
        read_document(LocalFiles(str(tmp_path)), "a.json")


def test_manifests_and_records_round_trip_and_ignore_what_later_versions_add():
    later = {"invented_later": [1]}
    of = manifest(attributes={"a": 1}, index_uri="/r/stores/discover/k")
    plain = json.loads(json.dumps(of.to_json(), allow_nan=False))
    plain["specs"] = [spec | later for spec in plain["specs"]]
    again = Manifest.from_json(plain | later)
    assert math.isnan(again.specs[1].fill)
    assert again.to_json() == of.to_json()
    assert [type(spec.shape) for spec in again.specs] == [tuple] * len(SPECS)
    plain = json.loads(json.dumps(RECORD.to_json()))
    plain["rejects"] = [one | later for one in plain["rejects"]]
    plain["files"] = {path: file | later for path, file in plain["files"].items()}
    assert PartRecord.from_json(plain | later) == RECORD


def test_a_commit_under_another_shards_name_is_refused(tmp_path):
    files = LocalFiles(str(tmp_path))
    for path in (RECORD.commit_path, "commits/00000004.json"):
        files.create(path, encode_document(RECORD.to_json()))
    assert read_record(files, RECORD.commit_path) == RECORD
    with pytest.raises(CorruptFile, match=r"00000004\.json is the commit of shard 3"):
        read_record(files, "commits/00000004.json")


@settings(max_examples=30, deadline=None)
@given(root=st.sampled_from(["/a/b", "/a/stores/b", "s3://bucket", "s3://bucket/p/q/", "memory://x/y"]),
       stage=st.sampled_from(["clip", "rgb_tokens"]))  # fmt: skip
def test_refs_know_their_parts(root, stage):
    ref = StoreRef.at(root, stage, KEY)
    assert (ref.root, ref.stage, ref.key) == (root.rstrip("/"), stage, KEY)
    assert StoreRef.at(ref.root, ref.stage, ref.key) == ref
    assert str(ref) == f"{stage}/{KEY}"


def test_a_relative_root_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert StoreRef.at("data", "clip", KEY).root == str(tmp_path / "data")


@pytest.mark.parametrize(
    "uri", ["", "clip/k", "/r/clip/k", "/r/stores/clip/", "/r/stores//k", "stores/clip/k"]
)
def test_other_uris_are_refused(uri):
    with pytest.raises(ValueError, match="does not name a store"):
        StoreRef(uri)


@pytest.mark.parametrize("missing", [{"specs": ()}, {"n_clips": None}, {"clips_per_shard": None}])
def test_a_store_of_clips_needs_specs_and_sizes(missing):
    with pytest.raises(ValueError, match="needs specs, n_clips and clips_per_shard"):
        manifest(**missing)
    assert (
        manifest(n_clips=0).n_shards == 0
        and manifest(n_clips=9).n_shards == 3
        and manifest(n_clips=8).n_shards == 2
    )


def test_a_manifest_names_other_stores_relative_to_the_root():
    """So that the root can be moved; older manifests have whole addresses."""
    old = manifest().to_json() | {
        "inputs": {"clip": f"/gone/stores/clip/{KEY}", "depth": f"s3://b/p/stores/depth/{KEY}"},
        "index_uri": f"/gone/stores/discover/{KEY}",
    }
    again = Manifest.from_json(old)
    assert again.inputs == {"clip": f"clip/{KEY}", "depth": f"depth/{KEY}"}
    assert again.to_json()["index_uri"] == f"discover/{KEY}"
    assert Manifest.from_json(again.to_json()).to_json() == again.to_json()
    assert StoreRef.under("s3://b/q", old["inputs"]["clip"]).uri == f"s3://b/q/stores/clip/{KEY}"


@pytest.mark.parametrize("name", ["", "clip", "clip/", "/k", "a/b/c", "../k", "clip/..", "a/../b"])
def test_a_manifest_that_names_no_store_is_refused(name):
    with pytest.raises(ValueError, match="does not name a store; expected stage/key"):
        manifest(inputs={"clip": name})
