"""verify, repair, delete, gc: they protect what others need, and say which command goes on."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from machinery import Machinery, assert_equal_stores
from made_stores import flip
from toys import Brightness, Frames, Index
from typer.testing import CliRunner

from pipeline.cli import repair as repair_module
from pipeline.cli.app import app
from pipeline.orchestration.journal import Journal, start_journal
from pipeline.orchestration.plan import Planner
from pipeline.orchestration.recipe import output_ref
from pipeline.settings import Settings
from storage.processes import ProcessName
from storage.stores import leases, store
from storage.stores.records import StoreRef
from storage.stores.verify import verify


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The workspace `ws` with its stores in `ws-shared`: one name begins with the other."""
    return Settings(home=tmp_path / "ws", stores_root=str(tmp_path / "ws-shared"), backend="serial")


@pytest.fixture
def made(settings: Settings, tmp_path: Path) -> dict[str, StoreRef]:
    """The toy stores, and the journal of the run that made them."""
    machinery = Machinery(root=settings.stores, faults=tmp_path / "faults")
    upstream = machinery.upstream()
    machinery.run(machinery.brightness(), upstream)
    made = upstream | {"depth": output_ref(machinery.brightness(), upstream, settings.stores)}
    journal(settings, made).close("completed")
    return made


def journal(settings: Settings, made: dict[str, StoreRef]) -> Journal:
    journal = start_journal(settings.runs, {"experiment": "toys"})
    for name, ref in made.items():
        journal.entry(name).uri = ref.uri
    journal.save()
    return journal


def call(settings: Settings, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments, obj=settings)
    return result.exit_code, " ".join(result.output.split())


def collect(settings: Settings) -> tuple[int, str]:
    return call(settings, "gc", "--unused", "--older-than-h", "0", "--delete")


@contextmanager
def other_run(
    settings: Settings, stores: dict[str, StoreRef], host: str | None = None
) -> Iterator[None]:
    """A run of another workspace that uses these stores; `host`: one that ended there."""
    with leases.hold(settings.stores, home="/other/ws", what="run r1", run="r1") as lease:
        lease.acquire(uses={str(ref) for ref in stores.values()})
        if host is not None:
            process = replace(ProcessName(), host=host)
            lease.user = replace(lease.user, process=process)
        yield


# gc


def test_gc_asks_the_runs_of_other_workspaces(settings: Settings, made):
    for path in settings.runs.iterdir():
        path.unlink()
    with other_run(settings, made):
        code, text = collect(settings)
        assert code == 1 and "is in use by run r1 of the workspace /other/ws" in text
    assert all(store.is_complete(ref) for ref in made.values())


def test_gc_keeps_what_ended_runs_of_other_workspaces_used(settings: Settings, made):
    with other_run(settings, {"depth": made["depth"]}):
        pass
    for path in settings.runs.iterdir():
        path.unlink()
    assert collect(settings) == (0, "nothing to collect")
    assert all(store.is_complete(ref) for ref in made.values()), "nor what it was made from"


def test_gc_deletes_what_no_run_uses_any_more(settings: Settings, made):
    with leases.hold(settings.stores, home=str(settings.home), what="run", run="mine") as lease:
        lease.user = replace(lease.user, since=0.0)
        lease.acquire(uses={str(ref) for ref in made.values()})
    assert collect(settings) == (0, "nothing to collect")
    for path in settings.runs.iterdir():
        path.unlink()  # this workspace needs them no longer
    code, text = collect(settings)
    assert code == 0 and text.count("deleted:") == 3
    assert not any(store.exists(ref) for ref in made.values())


def test_gc_keeps_stores_from_before_users_noted_themselves_at_a_shared_root(
    settings: Settings, made
):
    for path in settings.runs.iterdir():
        path.unlink()
    code, text = collect(settings)
    assert code == 0 and f"`roboscape delete {made['depth']}` deletes it" in text
    assert all(store.is_complete(ref) for ref in made.values())


def test_gc_of_a_moved_workspace_still_knows_its_stores(settings: Settings, made, tmp_path: Path):
    home = tmp_path / "there" / "ws"
    shutil.copytree(settings.stores, home)
    shutil.move(settings.runs, home / "runs")
    shutil.rmtree(settings.stores)
    assert collect(Settings(home=home, backend="serial")) == (0, "nothing to collect")


@pytest.mark.parametrize("record", ["journal", "lease", "use", "manifest"])
def test_gc_stops_at_a_record_that_it_cannot_read(settings: Settings, made, record: str):
    path = {
        "journal": settings.runs / "20250101-000000-dead.json",
        "lease": Path(settings.stores, "leases/odd.json"),
        "use": Path(settings.stores, "uses/odd.json"),
        "manifest": Path(made["clip"].uri, "manifest.json"),
    }[record]
    path.parent.mkdir(exist_ok=True)
    path.write_text("{half")
    code, text = collect(settings)
    assert code == 1 and str(path.parent) in text, text
    assert all(store.exists(ref) for ref in made.values())


# delete


def test_delete_refuses_what_other_stores_need(settings: Settings, made):
    clip, depth = made["clip"], made["depth"]
    code, text = call(settings, "delete", clip.key)
    assert code == 1 and f"needed by what was made from it: {depth}" in text
    assert f"`roboscape delete {clip} --and-after`" in text and store.is_complete(clip)
    code, text = call(settings, "delete", str(clip), "--and-after")
    assert code == 0 and text.index(depth.uri) < text.index(clip.uri)
    assert not store.exists(clip) and not store.exists(depth) and store.exists(made["discover"])


def test_delete_refuses_what_others_use_or_used(settings: Settings, made):
    with other_run(settings, made):
        code, text = call(settings, "delete", made["depth"].key, "--force")
        assert code == 1 and "being used by run r1 of the workspace /other/ws" in text
    code, text = call(settings, "delete", made["depth"].key)
    assert code == 1 and "was used by run r1" in text and "--force" in text
    assert call(settings, "delete", made["depth"].key, "--force")[0] == 0
    assert not store.exists(made["depth"])


def test_delete_wants_a_key(settings: Settings, made):
    code, text = call(settings, "delete", "depth")
    assert code == 2 and f"say {made['depth']}" in text
    assert call(settings, "delete", "ffff")[0] == 2


def test_a_store_without_a_readable_manifest_can_be_deleted(settings: Settings, made):
    flip(Path(made["clip"].uri, "manifest.json"), 300)
    assert call(settings, "delete", str(made["depth"]))[0] == 1, "what clip needs is not known"
    assert call(settings, "delete", str(made["clip"]))[0] == 1, "depth was made from it"
    assert call(settings, "delete", str(made["clip"]), "--and-after")[0] == 0
    assert not store.exists(made["clip"]) and not store.exists(made["depth"])


# verify and repair


def damage(ref: StoreRef) -> None:
    part = store.read_records(ref)[1]
    flip(next(p for p in Path(ref.uri, part.part).rglob("c/**/*") if p.is_file()), 8)


def test_verify_names_the_command_that_repairs(settings: Settings, made):
    code, text = call(settings, "verify", "--full")
    assert code == 0 and text.count("sound") == 3
    damage(made["depth"])
    code, text = call(settings, "verify", "depth", "--full")
    assert (
        code == 1 and f"`roboscape repair {made['depth']}`" in text and "store.retract" not in text
    )


@pytest.fixture
def toy_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Runs of the toy stages in place of real experiments, without Prefect."""

    def planned(request: dict, settings: Settings) -> Planner:
        planner = Planner(root=settings.stores, planned={})
        index = planner(Index())
        clips = planner(Frames(), discover=index)
        planner(Brightness(faults=str(tmp_path / "faults")), discover=index, clip=clips)
        return planner

    def drive(request: dict, settings: Settings, out: object) -> None:
        machinery = Machinery(root=settings.stores, faults=tmp_path / "faults")
        for name in request["stages"]:
            stage, inputs, _ = planned(request, settings).planned[name]
            machinery.index() if name == "discover" else machinery.run(stage, inputs)

    monkeypatch.setattr(repair_module, "planned", planned)
    monkeypatch.setattr(repair_module, "drive", drive)


@pytest.mark.usefixtures("toy_runs")
def test_repair_makes_only_damaged_shards_again(settings: Settings, made):
    depth = made["depth"]
    before, arrays = store.read_records(depth), Machinery.arrays(depth)
    damage(depth)
    flip(Path(depth.uri, "commits/00000000.json"), 300)
    code, text = call(settings, "repair")
    assert code == 0 and f"{depth}: shards 0, 1 are made again" in text, text
    after = store.read_records(depth)
    assert {n for n in after if after[n].attempt != before[n].attempt} == {0, 1}
    assert_equal_stores(Machinery.arrays(depth), arrays)
    assert call(settings, "repair") == (0, "every checksum is right: nothing to repair")


@pytest.mark.usefixtures("toy_runs")
@pytest.mark.parametrize("name", ["complete.json", "rejected.parquet", "manifest.json"])
def test_repair_writes_seals_and_manifests_again(settings: Settings, made, name: str):
    depth = made["depth"]
    before = store.read_records(depth)
    flip(Path(depth.uri, name), 300)
    code, text = call(settings, "repair", str(depth))
    assert code == 0, text
    assert store.read_records(depth) == before and verify(depth, "full") == []


@pytest.mark.usefixtures("toy_runs")
def test_repair_makes_a_result_again_as_a_whole(settings: Settings, made):
    index = made["discover"]
    flip(next(Path(index.uri, "files").iterdir()), 300)
    code, text = call(settings, "repair", "discover")
    assert code == 0 and f"{index}: all of it is made again" in text
    assert verify(index, "full") == []


@pytest.mark.usefixtures("toy_runs")
def test_repair_withdraws_nothing_that_it_cannot_make_again(settings: Settings, made):
    damage(made["depth"])
    for path in settings.runs.iterdir():
        path.unlink()
    code, text = call(settings, "repair")
    assert code == 2 and "no journal of a run" in text and "roboscape delete" in text
    assert store.is_complete(made["depth"])
    journal(settings, made).close("completed")
    with other_run(settings, made):
        assert call(settings, "repair")[0] == 1
    assert store.is_complete(made["depth"])
