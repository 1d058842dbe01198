"""A workspace is opened for reading, wherever it is, and says what it holds."""

import json
import shutil
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from s3_server import s3_server
from small_stores import new_result, square_clips, write_clips, write_index
from small_workspace import make_labels
from small_world import SPLITS, make_world

import roboscape as rs
from pipeline.orchestration.journal import start_journal
from storage.errors import CorruptFile, StoreConflict


def test_its_text_says_what_is_there(ws, world):
    assert repr(ws).startswith(f"<Workspace {world.root}: 11 stores (clip, depth,")
    assert ws.path == str(world.root) and ", 1 run>" in repr(ws)


def test_nothing_is_written(world):
    def files() -> dict[str, int]:
        return {str(p): p.stat().st_mtime_ns for p in sorted(world.root.rglob("*"))}

    before = files()
    ws = rs.open(world.root)
    ws.world_model(device="cpu").rollout(1, n_frames=3)
    ws.runs(), ws.lineage("evaluation").upstream(), ws.clips().to_frame()
    assert files() == before


def test_without_a_path_it_is_that_of_the_command_line(world, monkeypatch, tmp_path):
    monkeypatch.setenv("ROBOSCAPE_HOME", str(world.root))
    assert rs.open().path == str(world.root) and rs.open().runs().num_rows == 1
    monkeypatch.setenv("ROBOSCAPE_HOME", str(tmp_path))
    monkeypatch.setenv("ROBOSCAPE_STORES", str(world.root))
    assert rs.open().path == str(world.root) and rs.open().runs().num_rows == 0


def test_what_is_no_workspace_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no workspace at .*gone: expected a folder that"):
        rs.open(tmp_path / "gone")
    with pytest.raises(ValueError, match="found 'gs://'"):
        rs.open("gs://bucket")
    (tmp_path / "format.json").write_text(json.dumps({"name": "other", "crc32c": "0"}))
    with pytest.raises(CorruptFile, match=r"format\.json"):
        rs.open(tmp_path)
    start_journal(tmp_path / "begun" / "runs", {})
    ws = rs.open(tmp_path / "begun")
    assert "0 stores (none yet), 1 run" in repr(ws)
    with pytest.raises(LookupError, match="no complete store of the stage 'clip'"):
        ws.clips()


def test_a_format_of_later_days_is_refused(world, monkeypatch):
    monkeypatch.setattr("storage.stores.store.FORMAT", (2, 0))
    with pytest.raises(StoreConflict, match="Use the version of the pipeline that wrote it"):
        rs.open(world.root)


def test_clips_are_found_by_every_name_of_their_store(ws, world):
    ref = world.rows["clip"]
    for name in (None, ref.key, ref.key[:6], "clip", str(ref), ref.uri, f"{ref.uri}/manifest.json"):
        assert ws.clips(name).store == str(ref)


def test_what_is_no_complete_store_of_clips_is_refused(ws, world, tmp_path):
    with pytest.raises(LookupError, match=r"'depth' is depth/\w+: expected a store of the stage"):
        ws.clips("depth")
    with pytest.raises(LookupError, match="no store 'abc' in"):
        ws.clips("abc")
    index = write_index(tmp_path, SPLITS)
    ref = write_clips(index, "clip", square_clips(len(SPLITS))["clip"])
    (Path(ref.uri) / "complete.json").unlink()
    with pytest.raises(LookupError, match=r"clip/\w+ is not complete: `roboscape rerun clip`"):
        rs.open(tmp_path).clips("clip")
    with pytest.raises(LookupError, match="no complete store of the stage 'clip'"):
        rs.open(tmp_path).clips()


def test_the_newest_complete_store_is_taken(tmp_path):
    """Of stores begun within a second the key decides; an unfinished one never counts."""
    index, stores = write_index(tmp_path, SPLITS), {}
    for seed, day in ((0, "01"), (1, "03"), (2, "02"), (3, "04")):
        ref = write_clips(index, "clip", square_clips(len(SPLITS), seed)["clip"])
        stores[day] = ref
        rewrite_manifest(ref.uri, created=f"2026-01-{day}T10:00:00+0000")
    (Path(stores["04"].uri) / "complete.json").unlink()
    assert rs.open(tmp_path).clips().store == str(stores["03"])
    # the same moment in another zone is earlier than it looks
    rewrite_manifest(stores["02"].uri, created="2026-01-03T11:30:00+0200")
    assert rs.open(tmp_path).clips().store == str(stores["03"])
    rewrite_manifest(stores["02"].uri, created="2026-01-03T09:30:00-0200")
    assert rs.open(tmp_path).clips().store == str(stores["02"])


def rewrite_manifest(uri: str, **changes) -> None:
    from storage.stores.records import encode_document

    path = Path(uri) / "manifest.json"
    plain = json.loads(path.read_text()) | changes
    plain.pop("crc32c")
    path.write_bytes(encode_document(plain))


def test_runs_are_a_table_with_their_numbers(ws, world):
    table = ws.runs()
    (run,) = table.to_pylist()
    assert (run["experiment"], run["state"], run["failed"]) == ("demo", "completed", None)
    assert run["changed"] == "clip_format.size=32 depth.annotator=vda-tiny"
    assert run["started"].tzinfo is not None and run["seconds"] >= 0
    assert 0 < run["psnr_free"] < 100 and run["clips"] == 3
    assert "psnr_free" in table.to_pandas().columns


def test_runs_that_failed_or_were_killed_say_so(tmp_path):
    failed = start_journal(tmp_path / "runs", {"experiment": "demo"})
    failed.entry("clip").state = "completed"
    failed.entry("depth").state = "running"
    failed.close("failed")
    killed = start_journal(tmp_path / "runs", {"experiment": "smoke", "overrides": {"a.b": None}})
    killed.pid = 2**22 + 1  # above the largest process id
    killed.save()
    runs = {run["run"]: run for run in rs.open(tmp_path).runs().to_pylist()}
    assert (runs[failed.id]["state"], runs[failed.id]["failed"]) == ("failed", "depth")
    assert runs[killed.id]["state"] == "crashed" and runs[killed.id]["seconds"] is None
    assert runs[killed.id]["changed"] == "a.b=null"
    assert list(runs[failed.id])[-1] == "seconds", "no run has numbers"


def test_stores_are_a_table(ws, world):
    table = ws.stores().to_pydict()
    assert set(table["stage"]) >= {"discover", "clip", "label_quality", "evaluation"}
    assert all(table["complete"]) and table["clips"][table["stage"].index("clip")] == len(SPLITS)


def test_a_workspace_that_was_moved_is_whole(world, tmp_path):
    """Manifests name inputs by where they were; what lies below the same root is taken first."""
    copy = Path(shutil.copytree(world.root, tmp_path / "elsewhere"))
    hidden = world.root.rename(world.root.with_name("hidden"))
    try:
        ws = rs.open(copy)
        clip = ws.clips()[1]
        assert clip.depth.shape == (16, 32, 32) and clip.flags == ()
        assert ws.world_model(device="cpu").rollout(clip, n_frames=3).depth is not None
        upstream = ws.lineage("evaluation").upstream().to_pydict()
        assert len(upstream["uri"]) == 10
        assert all(uri.startswith(str(copy)) for uri in upstream["uri"])
        assert "made from it: depth/" in repr(ws.lineage("clip"))
        assert ws.runs().to_pylist()[0]["psnr_free"] > 0
    finally:
        hidden.rename(world.root)


def test_stores_in_a_bucket(tmp_path, monkeypatch):
    """Through the network, also from the workers of a DataLoader, and without any run."""
    from torch.utils.data import DataLoader

    with s3_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        root = f"s3://bucket-{uuid4().hex}/robots"
        made = make_world(root)  # type: ignore[arg-type]
        made.rows |= make_labels(made.rows["discover"], made.rows["clip"], made.rows["depth"])
        ws = rs.open(root)
        clips = ws.clips()
        expected = square_clips(len(SPLITS))
        np.testing.assert_array_equal(clips[1].rgb, expected["clip"]["rgb"][1])
        np.testing.assert_array_equal(clips[1].tracks, expected["keypoints"]["tracks"][1])
        dataset = clips.torch_dataset(["rgb"])
        with pytest.raises(RuntimeError, match="multiprocessing_context='spawn'"):
            list(DataLoader(dataset, num_workers=1, multiprocessing_context="fork"))
        loader = DataLoader(dataset, num_workers=2, multiprocessing_context="spawn")
        read = np.concatenate([batch["rgb"].numpy() for batch in loader])
        np.testing.assert_array_equal(read, expected["clip"]["rgb"][clips.rows[clips.ok]])
        assert len(ws.world_model(device="cpu").rollout(1, n_frames=3)) == 3
        with pytest.raises(LookupError, match=r"roboscape.open\(path, home=FOLDER\)"):
            ws.runs()
        start_journal(tmp_path / "runs", {"experiment": "demo"})
        assert rs.open(root, home=tmp_path).runs().num_rows == 1


def test_an_unfinished_result_is_no_store_of_clips(tmp_path):
    new_result(tmp_path, "clip", "odd")
    with pytest.raises(LookupError, match="is not complete"):
        rs.open(tmp_path).clips("clip")
