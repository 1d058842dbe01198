"""Names of published weights: the list is sound, files are checked, and what is missing says how to
get it.
"""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from storage.errors import WeightsError
from storage.weights import catalogue
from storage.weights import folder as folder_module
from storage.weights.catalogue import PUBLISHED, PublishedWeights, find_published
from storage.weights.folder import read_records, require_files, resolve_weights, write_record

CONTENT = b"a small network"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PINNED = PublishedWeights(
    name="net", file="net.pth", about="A network", licence="CC-BY-NC-4.0", used_by="depth",
    size=len(CONTENT), sha256=SHA256, page="https://lab.example/net", url="https://lab.example/net/net.pth",
)  # fmt: skip
UNPINNED = replace(PINNED, name="other", file="other.pth", sha256="", exact=False, url="")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder, with a catalogue of two files."""
    for module in (catalogue, folder_module):
        monkeypatch.setattr(module, "PUBLISHED", (PINNED, UNPINNED))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def test_the_list_is_sound():
    for field in ("name", "file"):
        assert len({getattr(w, field) for w in PUBLISHED}) == len(PUBLISHED), field
    for weights in PUBLISHED:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", weights.name) and "/" not in weights.file
        assert re.fullmatch(r"|[0-9a-f]{64}", weights.sha256) and weights.size > 0
        assert weights.page.startswith("https://") and re.match(r"https://|$", weights.url)
        assert weights.url.rpartition("/")[2] in ("", weights.file)
        assert weights.licence in ("Apache-2.0", "CC-BY-NC-4.0", "BSD-2-Clause", "BSD-3-Clause")
    digests = [w.sha256 for w in PUBLISHED if w.sha256]
    assert len(set(digests)) == len(digests)


def test_licences_of_the_networks_that_label():
    free = {
        w.name for w in PUBLISHED if w.used_by in ("depth", "keypoints") and not w.non_commercial
    }
    assert free == {"vda-vits", "vda-vits-metric"}
    assert not any(w.non_commercial for w in PUBLISHED if w.used_by not in ("depth", "keypoints"))


def test_a_mirror_replaces_the_hub_only():
    vits, alexnet = find_published("vda-vits"), find_published("lpips-alexnet")
    assert vits.address("https://mirror.example/") == vits.url.replace(
        "https://huggingface.co", "https://mirror.example"
    )
    assert vits.address() == vits.url and alexnet.address("https://mirror.example") == alexnet.url


def test_a_name_gives_the_file_with_its_digest_and_licence(folder: Path):
    (folder / "net.pth").write_bytes(CONTENT)
    ref = resolve_weights("net", folder, report=lambda _: None)
    assert (ref.name, ref.sha256, ref.licence, ref.path) == (
        "net",
        SHA256,
        "CC-BY-NC-4.0",
        str(folder / "net.pth"),
    )
    assert ref.non_commercial and ref.resolve() == folder / "net.pth"


def test_the_first_use_is_reported_and_noted_once(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "other.pth").write_bytes(CONTENT)
    resolve_weights("other", folder)
    output = capsys.readouterr().err
    assert SHA256 in output and "nothing to compare it with, so it is trusted, and noted" in output
    resolve_weights("other", folder)
    assert capsys.readouterr().err == ""
    noted = json.loads((folder / "weights.json").read_text())["other"]
    assert noted.pop("date").startswith("20")
    assert noted == {
        "file": "other.pth", "sha256": SHA256, "size": len(CONTENT), "licence": "CC-BY-NC-4.0",
        "url": "https://lab.example/net", "basis": "first use",
    }  # fmt: skip


def test_from_then_on_another_file_is_refused(folder: Path):
    (folder / "other.pth").write_bytes(CONTENT)
    resolve_weights("other", folder, report=lambda _: None)
    (folder / "other.pth").write_bytes(CONTENT + b"!")
    with pytest.raises(
        WeightsError, match=rf"but {SHA256} was noted in .*weights.json on 20.*delete its entry"
    ):
        resolve_weights("other", folder)
    assert read_records(folder)["other"].sha256 == SHA256


def test_another_file_than_published_is_refused_and_not_noted(folder: Path):
    (folder / "net.pth").write_bytes(CONTENT[:-1])
    with pytest.raises(
        WeightsError, match=rf"but {SHA256} is published.*incomplete or another file"
    ):
        resolve_weights("net", folder)
    assert read_records(folder) == {}


def test_a_missing_file_says_what_it_is_and_how_to_get_it(folder: Path):
    with pytest.raises(WeightsError) as raised:
        resolve_weights("net", folder)
    for part in ("A network", "not for commercial use", str(folder / "net.pth"),
                 "roboscape weights fetch net", "https://lab.example/net/net.pth"):  # fmt: skip
        assert part in str(raised.value)
    with pytest.raises(
        WeightsError,
        match=r"no direct link: open https://lab.example/net, download other.pth and put",
    ):
        resolve_weights("other", folder)


def test_all_missing_files_are_named_at_once(folder: Path):
    with pytest.raises(WeightsError, match=r"(?s)weights 'net'.*weights 'other'"):
        require_files(["net", "other"], folder)
    (folder / "net.pth").write_bytes(CONTENT)
    with pytest.raises(WeightsError) as raised:
        require_files(["net", "other"], folder)
    assert "weights 'net'" not in str(raised.value)
    require_files(["net"], folder)
    with pytest.raises(LookupError, match="no published weights 'nets'; there is: net, other"):
        require_files(["nets"], folder)


def test_a_path_gives_any_file_and_an_unknown_name_lists_the_known(folder: Path, tmp_path: Path):
    own = tmp_path / "mine.pth"
    own.write_bytes(b"mine")
    ref = resolve_weights(str(own), folder)
    assert (ref.name, ref.licence, ref.path) == ("mine", "", str(own))
    with pytest.raises(WeightsError, match=r"no weights file .*gone.pth"):
        resolve_weights(str(tmp_path / "gone.pth"), folder)
    with pytest.raises(LookupError, match="there is: net, other"):
        resolve_weights("nett", folder)


def test_a_published_file_keeps_its_name_and_licence_at_any_path(folder: Path, tmp_path: Path):
    """By its digest, published or noted; where there is neither, by its file name."""
    for name, content in (("renamed.pth", CONTENT), ("other.pth", b"whatever")):
        (tmp_path / name).write_bytes(content)
    assert resolve_weights(str(tmp_path / "renamed.pth"), folder).name == "net"
    by_name = resolve_weights(str(tmp_path / "other.pth"), folder)
    assert (by_name.name, by_name.non_commercial) == ("other", True)
    (folder / "other.pth").write_bytes(b"as noted")
    resolve_weights("other", folder, report=lambda _: None)
    (tmp_path / "elsewhere.bin").write_bytes(b"as noted")
    assert resolve_weights(str(tmp_path / "elsewhere.bin"), folder).name == "other"


def test_a_read_only_folder_is_used(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "net.pth").write_bytes(CONTENT)

    def refuse(*_) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folder_module, "write_record", refuse)
    said: list[str] = []
    assert resolve_weights("net", folder, report=said.append).sha256 == SHA256
    assert "not noted in" in said[0] and "Permission denied" in said[0]


def test_notes_of_several_files_stay_together(folder: Path):
    for weights in (PINNED, UNPINNED):
        (folder / weights.file).write_bytes(CONTENT)
        write_record(weights, folder, SHA256, "server")
    records = read_records(folder)
    assert list(records) == ["net", "other"] and records["net"].basis == "server"


@pytest.mark.parametrize("text", ["{", "[]", '{"net": {"file": "net.pth"}}'])
def test_notes_that_cannot_be_read_are_not_overwritten(folder: Path, text: str):
    (folder / "weights.json").write_text(text)
    (folder / "net.pth").write_bytes(CONTENT)
    with pytest.raises(WeightsError, match=r"weights\.json is damaged"):
        resolve_weights("net", folder)
    assert (folder / "weights.json").read_text() == text
