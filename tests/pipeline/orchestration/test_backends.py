"""Both backends: equal arrays, no finished shard is lost, no clip can block a stage for ever."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from machinery import Machinery, assert_equal_stores
from toys import Brightness, Frames, N

from pipeline.orchestration.errors import StageFailed
from pipeline.orchestration.recipe import output_ref
from stages.base import Resources
from stages.tokenizer.tokenize import Tokens
from storage.stores import store
from storage.stores.rows import open_rows


def undisturbed(tmp_path: Path) -> dict[str, np.ndarray]:
    clean = Machinery(root=str(tmp_path / "clean"), faults=tmp_path / "no_faults")
    upstream = clean.upstream()
    clean.run(clean.brightness(), upstream)
    return clean.arrays(output_ref(clean.brightness(), upstream, clean.root))


def test_rejected_clips_are_rows_with_a_reason_and_stay_out_downstream(machinery: Machinery):
    upstream = machinery.upstream()
    machinery.run(machinery.brightness(), upstream)
    frames = open_rows(upstream["clip"])
    depth = open_rows(output_ref(machinery.brightness(), upstream, machinery.root))
    unlucky = [i for i in range(N) if i % 7 == 3]
    assert [r.row for r in frames.rejected] == unlucky
    assert {r.reason for r in frames.rejected} == {"unlucky"}
    assert [(r.row, r.kind) for r in depth.rejected] == [(i, "upstream") for i in unlucky]
    assert int(depth.ok.sum()) == N - len(unlucky)


def test_arrays_are_those_of_a_plain_loop(machinery: Machinery):
    upstream = machinery.upstream()
    machinery.run(machinery.brightness(), upstream)
    rows = open_rows(output_ref(machinery.brightness(), upstream, machinery.root))
    for row in np.flatnonzero(rows.ok):
        frames = Frames().frames(np.int64(row))["rgb"]
        got = rows.read(["brightness", "darkest"], int(row))
        np.testing.assert_allclose(
            got["brightness"], 2.0 * frames.reshape(4, -1).mean(1), rtol=1e-6
        )
        np.testing.assert_array_equal(got["darkest"], frames.reshape(4, -1).min(1))


def test_an_error_in_one_clip_fails_the_stage_and_keeps_the_rest(
    machinery: Machinery, tmp_path: Path
):
    upstream = machinery.upstream()
    machinery.arm("raise", 8)
    with pytest.raises(StageFailed, match=r"clip clip0008 \(row 8\).*no brightness for number 8"):
        machinery.run(machinery.brightness(), upstream, share=0.0)
    out = output_ref(machinery.brightness(), upstream, machinery.root)
    assert store.missing_shards(out) == [8 // 3]
    assert not store.is_complete(out)
    machinery.disarm()
    outcome = machinery.run(machinery.brightness(), upstream, share=0.0)
    assert outcome.committed == 1
    assert_equal_stores(machinery.arrays(out), undisturbed(tmp_path))


def test_a_few_errors_become_rejects_with_their_trace(machinery: Machinery):
    upstream = machinery.upstream()
    machinery.arm("raise", 8)
    machinery.run(machinery.brightness(), upstream, share=0.05)
    rejected = open_rows(output_ref(machinery.brightness(), upstream, machinery.root)).rejected
    (error,) = [r for r in rejected if r.kind == "error"]
    assert (error.row, error.reason) == (8, "RuntimeError")
    assert "no brightness for number 8" in error.detail and "misbehave" in error.detail


def test_a_wrong_array_names_clip_array_found_and_expected(
    machinery: Machinery, monkeypatch: pytest.MonkeyPatch
):
    upstream = machinery.upstream()
    monkeypatch.setattr(Frames, "frames", None)

    def wrong(self: Brightness, number: np.ndarray, rgb: np.ndarray):
        return {"brightness": np.zeros(5, "float32"), "darkest": np.zeros(4, "int32")}

    monkeypatch.setattr(Brightness, "brightness", wrong)
    with pytest.raises(
        StageFailed, match=r"clip0000.*'brightness' is float32\[5\], its spec says float32\[4\]"
    ):
        machinery.run(machinery.brightness(), upstream)


def test_a_damaged_input_shard_is_named_and_the_other_shards_are_made(machinery: Machinery):
    upstream = machinery.upstream()
    part = sorted((Path(upstream["clip"].uri) / "parts").glob("00000001-*"))[0]
    shard = next(
        p
        for p in part.rglob("*")
        if p.is_file() and p.name != "zarr.json" and p.stat().st_size > 1000
    )
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(StageFailed, match="00000001"):
        machinery.run(machinery.brightness(), upstream)
    out = output_ref(machinery.brightness(), upstream, machinery.root)
    # Byte 100 belongs to row 4, and each clip has its own checksum
    assert store.missing_shards(out) == [1]


@pytest.mark.slow
def test_ray_and_serial_write_the_same_arrays(
    ray_cluster: None, machinery: Machinery, tmp_path: Path
):
    upstream = machinery.upstream("ray")
    machinery.run(machinery.brightness(), upstream, "ray")
    out = output_ref(machinery.brightness(), upstream, machinery.root)
    assert_equal_stores(machinery.arrays(out), undisturbed(tmp_path))


@pytest.mark.slow
def test_a_killed_ray_worker_is_replaced_and_nothing_is_lost(
    ray_cluster: None, machinery: Machinery, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    upstream = machinery.upstream()
    for number in (0, 8, 20):
        machinery.arm("kill-once", number)
    machinery.run(machinery.brightness(), upstream, "ray")
    assert not list(machinery.faults.iterdir()), "every armed kill happened"
    said = capsys.readouterr().err
    for shard in (0, 8 // 3, 20 // 3):
        assert f"depth: a worker died while it made shard {shard}, and is replaced: " in said
    out = output_ref(machinery.brightness(), upstream, machinery.root)
    assert_equal_stores(machinery.arrays(out), undisturbed(tmp_path))


@pytest.mark.slow
def test_a_clip_that_always_crashes_its_worker_is_rejected(
    ray_cluster: None, machinery: Machinery, tmp_path: Path
):
    upstream = machinery.upstream()
    machinery.arm("kill", 8)
    machinery.run(machinery.brightness(), upstream, "ray")
    out = output_ref(machinery.brightness(), upstream, machinery.root)
    (deadly,) = [r for r in open_rows(out).rejected if r.kind == "error"]
    assert (deadly.row, deadly.reason) == (8, "worker_died")
    clean = undisturbed(tmp_path)
    kept = np.flatnonzero(clean["ok"]) != 8
    np.testing.assert_array_equal(machinery.arrays(out)["brightness"], clean["brightness"][kept])


@pytest.mark.slow
def test_errors_in_ray_workers_fail_the_stage_like_serial_ones(
    ray_cluster: None, machinery: Machinery
):
    upstream = machinery.upstream()
    machinery.arm("raise", 8)
    with pytest.raises(StageFailed, match=r"clip clip0008 \(row 8\).*no brightness for number 8"):
        machinery.run(machinery.brightness(), upstream, "ray", share=0.0)
    assert store.missing_shards(output_ref(machinery.brightness(), upstream, machinery.root)) == [2]


@pytest.mark.slow
def test_when_most_clips_crash_their_worker_the_stage_fails_and_rejects_none(
    ray_cluster: None, machinery: Machinery
):
    upstream = machinery.upstream()
    for number in range(N):
        machinery.arm("kill", number)
    with pytest.raises(
        StageFailed, match=r"workers died one after the other|clips raised an error"
    ):
        machinery.run(machinery.brightness(), upstream, "ray")
    assert (
        len(store.missing_shards(output_ref(machinery.brightness(), upstream, machinery.root))) == 8
    )


@pytest.mark.slow
def test_a_stage_that_fits_no_node_says_so_at_once(ray_cluster: None):
    from pipeline.orchestration.ray_pool import worker_capacity

    assert worker_capacity(SimpleNamespace(name="clip", resources=Resources(cpus=0.5))) == 4
    tokens = Tokens(source="rgb", grid=(8, 8), resources=Resources(cpus=1.0, gpus=1.0))
    with pytest.raises(
        StageFailed, match=r"'rgb_tokens': no Ray node has room.*'GPU': 1.0.*rgb_tokens.*gpus=0$"
    ):
        worker_capacity(tokens)


def test_a_stage_whose_every_clip_raises_stops_early(
    machinery: Machinery, monkeypatch: pytest.MonkeyPatch
):
    from pipeline.orchestration import shards

    monkeypatch.setattr(shards, "EARLY_STOP_ERRORS", 3)
    upstream = machinery.upstream()
    for number in range(N):
        machinery.arm("raise", number)
    made: list[int] = []
    with pytest.raises(StageFailed, match="clips raised an error"):
        machinery.run(
            machinery.brightness(),
            upstream,
            on_progress=lambda done, total, note="": made.append(done),
        )
    assert made == [1, 2]  # of 8 shards: the second brings the errors over the limit
