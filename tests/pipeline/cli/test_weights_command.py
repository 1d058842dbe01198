"""`roboscape weights`, and what a run says of weights that are missing or not for every use."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from file_server import FileServer, file_server
from huggingface_hub import constants
from huggingface_hub.utils import tqdm
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.cli.console import FAILED, USAGE
from storage.weights.catalogue import PUBLISHED, PublishedWeights, find_published
from storage.weights.folder import read_records

CONTENT = b"a small network" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
TENCENT = find_published("magvit2-tencent")  # on the hub, of no published digest


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A mirror of the hub, where every file has CONTENT."""
    with file_server(CONTENT) as server:
        server.linked = SHA256
        monkeypatch.setenv("ROBOSCAPE_HOME", str(tmp_path))
        monkeypatch.delenv("ROBOSCAPE_WEIGHTS", raising=False)
        monkeypatch.setenv("HF_ENDPOINT", f"{server.root}/hub")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield server


@pytest.fixture
def folder(hub: FileServer, tmp_path: Path) -> Path:
    return tmp_path / "weights"


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> PublishedWeights:
    """vda-vitb, not for commercial use, as if CONTENT were what its authors publish."""
    base = replace(find_published("vda-vitb"), size=len(CONTENT), sha256=SHA256)
    entries = tuple(base if w.name == base.name else w for w in PUBLISHED)
    for module in ("storage.weights.catalogue", "storage.weights.folder", "pipeline.cli.weights"):
        monkeypatch.setattr(f"{module}.PUBLISHED", entries)
    return base


def roboscape(*arguments: str, code: int = 0, answer: str | None = None) -> str:
    """The output, in one line."""
    result = CliRunner().invoke(app, list(arguments), input=answer)
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def test_fetch_checks_what_the_hub_states_and_notes_it(hub: FileServer, folder: Path):
    output = roboscape("weights", "fetch", "magvit2-tencent")
    assert (
        "licence Apache-2.0" in output
        and f"SHA-256 {SHA256}, as its publisher's server stated" in output
    )
    assert (folder / TENCENT.file).read_bytes() == CONTENT
    record = read_records(folder)["magvit2-tencent"]
    assert (record.sha256, record.basis, record.url) == (SHA256, "server", TENCENT.url)
    wanted = TENCENT.url.removeprefix("https://huggingface.co")
    assert hub.requests[0] == ("HEAD", f"/hub{wanted}", None)


def test_fetch_of_a_file_that_is_there_only_checks_it(hub: FileServer, folder: Path):
    roboscape("weights", "fetch", "magvit2-tencent")
    n = len(hub.requests)
    assert "is there. SHA-256" in roboscape("weights", "fetch", "magvit2-tencent")
    (folder / TENCENT.file).write_bytes(CONTENT[:-1])
    assert "delete it and get it again" in roboscape(
        "weights", "fetch", "magvit2-tencent", code=FAILED
    )
    assert len(hub.requests) == n


def test_terms_that_forbid_commercial_use_are_printed_and_asked_for(
    hub: FileServer, folder: Path, base: PublishedWeights
):
    for answer in ("n\n", ""):
        output = roboscape("weights", "fetch", "vda-vitb", code=FAILED, answer=answer)
        assert "CC-BY-NC-4.0 does not allow commercial use" in output
        assert not (folder / base.file).exists() and hub.requests == []
    roboscape("weights", "fetch", "vda-vitb", answer="y\n")
    assert read_records(folder)["vda-vitb"].basis == "published"


def test_yes_answers_before_it_is_asked(hub: FileServer, folder: Path, base: PublishedWeights):
    output = roboscape("weights", "fetch", "vda-vitb", "magvit2-tencent", "--yes")
    assert "does not allow commercial use" in output and "[y/N]" not in output
    assert sorted(read_records(folder)) == ["magvit2-tencent", "vda-vitb"]


def test_another_file_than_published_is_not_taken(hub: FileServer, folder: Path):
    output = roboscape("weights", "fetch", "vda-vits", code=FAILED)
    published = find_published("vda-vits").sha256
    assert f"the server has a file with the SHA-256 {SHA256}, published is {published}" in output
    assert not (folder / find_published("vda-vits").file).exists() and read_records(folder) == {}


def test_a_file_without_a_direct_link_says_how_to_get_it(folder: Path):
    output = roboscape("weights", "fetch", "spatracker", "--yes", code=FAILED)
    assert "There is no direct link: open https://drive.google.com/" in output
    assert f"put it at {folder / 'spaT_final.pth'}" in output
    folder.mkdir()
    (folder / "spaT_final.pth").write_bytes(CONTENT)
    assert f"SHA-256 {SHA256}, as first seen" in roboscape("weights", "fetch", "spatracker")
    assert read_records(folder)["spatracker"].basis == "first use"


def test_an_unknown_name_lists_the_known(folder: Path):
    output = roboscape("weights", "fetch", "vda-vitx", code=USAGE)
    assert all(weights.name in output for weights in PUBLISHED)


def test_a_failed_fetch_does_not_stop_the_others(hub: FileServer, folder: Path):
    output = roboscape(
        "weights", "fetch", "vda-vits", "spatracker", "magvit2-tencent", "--yes", code=FAILED
    )
    assert (
        "published is" in output
        and "There is no direct link" in output
        and f"SHA-256 {SHA256}, as its" in output
    )
    assert output.endswith("Not fetched: vda-vits, spatracker.") and sorted(
        read_records(folder)
    ) == ["magvit2-tencent"]
    n = len(hub.requests)
    roboscape("weights", "fetch", "vda-vits", "vda-vitx", code=USAGE)
    assert len(hub.requests) == n


def test_after_an_interruption_the_same_command_resumes(
    hub: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    seen: list[int] = []

    def interrupt(self: tqdm, n: int) -> None:
        seen.append(n)
        if len(seen) > 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 5_000)
    with monkeypatch.context() as patch:
        patch.setattr(tqdm, "update", interrupt)
        output = roboscape("weights", "fetch", "magvit2-tencent", code=130)
    assert "the same command resumes" in output
    assert (folder / f"{TENCENT.file}.part").stat().st_size == 5_000
    roboscape("weights", "fetch", "magvit2-tencent")
    assert hub.ranges_asked() == [None, "bytes=5000-"]
    assert (folder / TENCENT.file).read_bytes() == CONTENT


def test_the_list_says_what_is_here(hub: FileServer, folder: Path):
    assert roboscape("weights", "list").count("missing") == len(PUBLISHED)
    roboscape("weights", "fetch", "magvit2-tencent")
    (folder / "alex.pth").write_bytes(b"too short")
    (folder / "spaT_final.pth").write_bytes(CONTENT)
    output = roboscape("weights", "list")
    assert (
        SHA256[:12] in output
        and "wrong size" in output
        and "9 bytes" in output
        and "not noted yet" in output
    )
    assert output.count("missing") == len(PUBLISHED) - 3
    rows = {
        row["name"]: row
        for row in json.loads(CliRunner().invoke(app, ["weights", "list", "--json"]).output)
    }
    assert (
        rows["magvit2-tencent"]["noted"]["sha256"] == SHA256 and rows["magvit2-tencent"]["present"]
    )
    assert rows["spatracker"]["non_commercial"] and rows["spatracker"]["noted"] is None
    assert not rows["vda-vits"]["present"] and rows["vda-vits"]["path"] == str(
        folder / rows["vda-vits"]["file"]
    )


def test_the_folder_can_be_another(
    hub: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ROBOSCAPE_WEIGHTS", str(tmp_path / "shared"))
    roboscape("weights", "fetch", "magvit2-tencent")
    assert (tmp_path / "shared" / TENCENT.file).exists() and not (tmp_path / "weights").exists()


@pytest.mark.parametrize("arguments", [["run", "smoke"], ["run", "smoke", "--plan"]])
def test_a_run_that_lacks_weights_ends_before_anything_is_made(
    folder: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        "pipeline.experiments.registry.WEIGHTS", {"smoke": ("vda-vits", "spatracker")}
    )
    output = roboscape(*arguments, code=FAILED)
    assert (
        "`roboscape weights fetch vda-vits`" in output
        and "CC-BY-NC-4.0, not for commercial use" in output
    )
    assert not list(folder.parent.iterdir()), "no sample, no services, no stores"
    for harmless in (["experiments"], ["status"], ["run", "--help"]):
        roboscape(*harmless)
