"""What a run will write is known before: upper, not far above, and compared with what is free."""

from pathlib import Path

import pytest
from machinery import Machinery
from small_disk import fill, small_disk
from toys import Brightness, Frames, Index, N, say_nothing

from pipeline.cli.sample import make
from pipeline.experiments.registry import SAMPLES, named
from pipeline.orchestration import disk_estimate
from pipeline.orchestration.dataset_stage import run_dataset
from pipeline.orchestration.disk_estimate import RunEstimate, estimate, require_space
from pipeline.orchestration.plan import Planner, plan
from pipeline.orchestration.recipe import describe, output_ref
from pipeline.settings import Settings
from simulation.dataset import make_sample
from stages.base import ClipStage
from stages.clips import expected_clips as module
from stages.clips.discover import Discover
from stages.clips.expected_clips import expected_clips
from storage.disk_space import space_at
from storage.errors import DiskFull
from storage.stores import store
from storage.stores.index import read_clips
from storage.stores.results import open_result
from storage.stores.rows import INDEX_FILE
from storage.stores.size import DiskUse


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample") / "smoke"
    make_sample(root, SAMPLES["smoke"], workers=1)
    return root


def on_disk(folder: Path) -> tuple[int, int]:
    """Bytes of blocks, and inodes, below the folder."""
    found = [path.lstat() for path in folder.rglob("*")]
    return sum(stat.st_blocks * 512 for stat in found), len(found)


def toys(machinery: Machinery) -> Planner:
    planner = Planner(root=machinery.root, planned={})
    index = planner(Index())
    clip = planner(Frames(), discover=index)
    planner(Brightness(faults=str(machinery.faults)), discover=index, clip=clip)
    return planner


def test_stores_take_what_was_estimated(machinery: Machinery, monkeypatch):
    monkeypatch.setattr(disk_estimate, "clips_of", lambda planned: N)
    found = estimate(toys(machinery))
    upstream = machinery.upstream()
    machinery.run(machinery.brightness(), upstream)
    depth = output_ref(machinery.brightness(), upstream, machinery.root)
    for ref in (upstream["clip"], depth):
        n_bytes, inodes = on_disk(Path(ref.uri))
        use = found.stages[ref.stage]
        assert n_bytes <= use.kept <= 3 * n_bytes + (1 << 20), ref.stage
        assert inodes <= use.inodes <= 1.5 * inodes + 8, ref.stage


def test_what_is_there_is_not_counted(machinery: Machinery, monkeypatch):
    monkeypatch.setattr(disk_estimate, "clips_of", lambda planned: N)
    planner = toys(machinery)
    whole = estimate(planner)
    upstream = machinery.upstream()
    machinery.arm("raise", 8)
    with pytest.raises(Exception, match="no brightness"):
        machinery.run(machinery.brightness(), upstream, share=0.0)
    rest = estimate(planner)
    assert list(rest.stages) == ["depth"]
    assert rest.stages["depth"].kept == round(whole.stages["depth"].kept / 8)  # one of 8 shards
    forced = estimate(planner, force=True)
    assert forced.stages["depth"] == whole.stages["depth"]
    assert list(estimate(planner, stages=["clip"]).stages) == []


def test_a_store_of_the_same_arrays_says_how_well_they_compress(machinery: Machinery, monkeypatch):
    upstream = machinery.upstream()
    seal = store.read_complete(upstream["clip"])
    stage: ClipStage = Frames(seed=1)
    assert disk_estimate.measured_bytes(stage, [upstream["clip"]]) is None, "of few clips"
    monkeypatch.setattr(disk_estimate, "MEASURED_CLIPS", 1)
    measured = disk_estimate.measured_bytes(stage, [upstream["clip"]])
    assert measured == seal["n_bytes"] / seal["made"]
    assert disk_estimate.measured_bytes(machinery.brightness(), [upstream["clip"]]) is None


@pytest.mark.parametrize("limit", [0, 3])
def test_clips_are_counted_before_there_is_an_index(sample, tmp_path, limit, monkeypatch):
    config = Discover.of(sample, hop_s=0.25, max_clips_per_episode=limit)
    machinery = Machinery(root=str(tmp_path / "stores"), faults=tmp_path / "faults")
    planner = Planner(root=machinery.root, planned={})
    ref = planner(config)
    store.create(ref, describe(config, {}, ref))
    expected = expected_clips(config)
    assert disk_estimate.clips_of(planner.planned) == expected
    run_dataset(config, {}, ref, say_nothing)
    assert len(read_clips(open_result(ref).file(INDEX_FILE))) == expected
    assert disk_estimate.clips_of(planner.planned) == expected
    # From some episodes only
    monkeypatch.setattr(module, "N_READ", 2)
    expected_clips.cache_clear()
    assert expected_clips(config) == pytest.approx(expected, rel=0.3)


def test_the_plan_of_every_experiment_has_a_size(sample, tmp_path):
    for name in ("smoke", "demo", "sensor-labels", "vda-tiny", "spatracker-tiny"):
        e = named(name, str(sample), {}, tmp_path)
        found = estimate(plan(e, str(tmp_path)))
        assert found.n_clips > 0 and all(use.kept > 0 for use in found.stages.values()), name
        trained = [use for stage, use in found.stages.items() if "tokenizer" in stage]
        assert all(use.working > 0 for use in trained)


def test_a_run_that_does_not_fit_is_refused_and_says_why(tmp_path):
    with small_disk(tmp_path / "disk", kilobytes=4096, inodes=100) as disk:
        settings = Settings(home=disk, space_check=True)
        fits = RunEstimate(5, {"clip": DiskUse(2_000_000, 50)}, space_at(disk))
        require_space(fits, settings)
        large = {"clip": DiskUse(2_000_000, 50), "world_model": DiskUse(100, 1, 3_000_000)}
        found = RunEstimate(5, large, space_at(disk))
        words = (
            r"writes about 2 MB in 51 files and folders, at most 5 MB while it runs \(5 clips\) to "
            rf"{disk}; most of it: world_model 3 MB, clip 2 MB\. Free on the file system {disk} "
            r"are 4 MB and \d+ inodes, so nothing was started\..*ROBOSCAPE_SPACE_CHECK=off"
        )
        with pytest.raises(DiskFull, match=words):
            require_space(found, settings)
        require_space(found, Settings(home=disk, space_check=False))
        many = RunEstimate(5, {"clip": DiskUse(1000, 200)}, space_at(disk))
        with pytest.raises(DiskFull, match="200 files and folders"):
            require_space(many, settings)
        fill(disk)
        with pytest.raises(DiskFull):
            require_space(RunEstimate(5, fits.stages, space_at(disk)), settings)
        # A bucket has no end
        require_space(RunEstimate(5, large, None), settings)
        assert estimate(Planner(root="memory://bucket", planned={})).space is None


def test_a_sample_that_does_not_fit_is_refused(tmp_path, capsys):
    with small_disk(tmp_path / "disk", kilobytes=4096) as disk:
        with pytest.raises(DiskFull, match=r"6 episodes of 128x96 pixels take about 6 MB in"):
            make(disk / "sample", SAMPLES["smoke"], 1, print)
        assert not list(disk.iterdir())


def test_a_sample_takes_what_was_estimated(sample):
    n_bytes, _ = on_disk(sample)
    estimated = SAMPLES["smoke"].episode_bytes * SAMPLES["smoke"].n_episodes
    assert n_bytes <= estimated <= 2 * n_bytes
