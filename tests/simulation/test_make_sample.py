"""Making a sample: determined by its seed, resumable, and without half episodes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from sample_configs import QUICK
from small_disk import fill, make_room, small_disk

from simulation import recording
from simulation.config import SampleConfig, demo_sample, digest
from simulation.dataset import SampleSummary, make_sample
from simulation.episode import UnstableError
from simulation.recording import FIRST_EPISODE_ID, draw_task, simulate_episode
from storage.errors import DiskFull
from storage.sources.agibot.tree import list_episodes

MORE = replace(QUICK, n_episodes=4)
PARTS = ("observations", "parameters", "proprio_stats", "ground_truth")
SCRIPT = """
import json, sys
from pathlib import Path
from simulation.config import SampleConfig
from simulation.dataset import make_sample
if __name__ == "__main__":
    make_sample(Path(sys.argv[1]), SampleConfig(**json.loads(sys.argv[2])), workers=2)
"""


def files_of(root: Path, number: int) -> dict[str, bytes]:
    """All files in the folders of one episode, by path."""
    folders = [
        path for part in PARTS for path in (root / part).glob(f"*/{FIRST_EPISODE_ID + number}")
    ]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def made(root: Path) -> set[int]:
    """Numbers of the episodes that have any file."""
    return {
        int(path.name) - FIRST_EPISODE_ID for part in PARTS for path in (root / part).glob("*/*")
    }


def marked(root: Path) -> set[int]:
    """Numbers of the episodes that are marked as complete."""
    return {int(path.stem) - FIRST_EPISODE_ID for path in (root / ".made").glob("*.json")}


def times(root: Path, numbers: set[int]) -> dict[Path, int]:
    paths = [root / name for number in numbers for name in files_of(root, number)]
    return {path: path.stat().st_mtime_ns for path in paths}


# A killed maker


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, set[int], list[int]]]:
    """(root, episodes, processes) after a maker of `MORE` was killed at its first episode's end."""
    folder = tmp_path_factory.mktemp("killed")
    (script := folder / "maker.py").write_text(SCRIPT)
    command = [sys.executable, str(script), str(folder / "sample"), json.dumps(asdict(MORE))]
    maker = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    )
    try:
        wait_for(
            lambda: maker.poll() is not None or any((folder / "sample" / ".made").glob("*.json")),
            seconds=200,
        )
        assert maker.poll() is None, "it should still be at work"
        processes = [maker.pid, *children(maker.pid)]
    finally:
        maker.send_signal(signal.SIGKILL)
        maker.wait()
    wait_for(lambda: not any(map(runs, processes)), seconds=60)
    yield folder / "sample", marked(folder / "sample"), processes


def wait_for(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)


def children(process: int) -> list[int]:
    return [
        int(number)
        for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()
    ]


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def resumed(
    killed: tuple[Path, set[int], list[int]],
) -> tuple[Path, SampleSummary, dict[Path, int]]:
    """(root, the second call's summary, times of the complete episodes' files before it)."""
    root = killed[0]
    before = times(root, killed[1])
    return root, make_sample(root, MORE, workers=2), before


def test_a_killed_maker_leaves_complete_episodes_and_no_worker(
    killed: tuple[Path, set[int], list[int]],
):
    root, numbers, processes = killed
    assert len(processes) >= 3 and not any(map(runs, processes))
    assert 1 <= len(numbers) < MORE.n_episodes
    unmarked = made(root) - numbers  # killed between the last rename and the mark
    assert numbers <= made(root) and len(unmarked) <= 2, "one per worker"
    assert not (root / "task_info").exists()


def test_resuming_makes_only_what_is_missing(
    killed, resumed: tuple[Path, SampleSummary, dict[Path, int]]
):
    root, summary, before = resumed
    assert (
        summary.n_made == MORE.n_episodes - len(killed[1]) and summary.n_episodes == MORE.n_episodes
    )
    assert made(root) == set(range(MORE.n_episodes)) and not list(root.glob(".building-*"))
    after = times(root, made(root))
    assert before and all(after[path] == when for path, when in before.items())


def test_episodes_do_not_depend_on_workers_kills_or_other_episodes(
    quick_sample: SampleSummary, resumed
):
    """Episodes 0 and 1: of a set of two from one process, and of a set of four, killed between."""
    for number in range(QUICK.n_episodes):
        one, other = files_of(quick_sample.root, number), files_of(resumed[0], number)
        assert len(one) > QUICK.n_frames and one.keys() == other.keys()
        assert [name for name in one if one[name] != other[name]] == []


def test_a_lost_episode_is_made_again_alone(resumed):
    root = resumed[0]
    wanted = files_of(root, 3)
    (root / ".made" / f"{FIRST_EPISODE_ID + 3}.json").unlink()
    for path in wanted:
        (root / path).unlink()
    before, seen = times(root, made(root)), []
    summary = make_sample(
        root, MORE, workers=1, on_progress=lambda done, total: seen.append((done, total))
    )
    assert summary.n_made == 1 and seen == [(3, 4), (4, 4)]
    assert files_of(root, 3) == wanted and before.items() <= times(root, made(root)).items()


# What is refused


def test_another_config_in_the_same_folder_is_refused(quick_sample: SampleSummary):
    before = times(quick_sample.root, made(quick_sample.root))
    with pytest.raises(FileExistsError, match=r"seed=0 there, 5 asked.*give another folder"):
        make_sample(quick_sample.root, replace(QUICK, seed=5))
    assert times(quick_sample.root, made(quick_sample.root)) == before


def test_a_folder_with_other_files_is_refused(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(FileExistsError, match=r"not empty and has no sample\.json"):
        make_sample(tmp_path, QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_second_maker_of_the_same_sample_is_refused(tmp_path: Path):
    refused = []

    def make_again(done: int, total: int) -> None:
        with pytest.raises(BlockingIOError, match=rf"process {os.getpid()} is making"):
            make_sample(tmp_path, replace(QUICK, n_episodes=0))
        refused.append(done)

    make_sample(tmp_path, replace(QUICK, n_episodes=0), on_progress=make_again)
    assert refused == [0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_episodes": -1}, "must not be negative"),
        ({"rate_hz": 0.0}, "fewer than 2 frames"),
        ({"duration_s": 0.3, "rate_hz": 4.0}, "fewer than 2 frames"),
        ({"width": 97}, "even sides"),
        ({"height": 16}, "32 pixels or more"),
        ({"share_random": 1.5}, r"share_random=1.5 is not in \[0, 1\]"),
        ({"camera_motion": -0.5}, r"camera_motion=-0.5 is not in \[0, 5\]"),
    ],
)
def test_impossible_settings_are_refused(changes: dict, words: str):
    with pytest.raises(ValueError, match=words):
        replace(QUICK, **changes)


# The recipe


def test_every_setting_changes_the_digest():
    changes = dict(
        n_episodes=3, seed=1, rate_hz=5.0, duration_s=4.0, width=98, height=74, share_random=0.5,
        faults=True, ground_truth=False, camera_motion=1.0,
    )  # fmt: skip
    assert changes.keys() == asdict(QUICK).keys()
    digests = [digest(replace(QUICK, **{name: value})) for name, value in changes.items()]
    assert len({digest(QUICK), *digests}) == len(changes) + 1 and digest(QUICK) == digest(
        replace(QUICK)
    )


# Of QUICK, before samples had `camera_motion`
QUICK_DIGEST = "0e2051de545622b929845f782810bb5f1306fc9a9f2a5fea14d2534760a5289b"


def test_samples_made_before_cameras_could_move_keep_their_digest(tmp_path: Path):
    assert digest(QUICK) == QUICK_DIGEST
    recipe = make_sample(tmp_path, replace(QUICK, n_episodes=0)).root / "sample.json"
    assert "camera_motion" not in json.loads(recipe.read_text())["config"]
    with pytest.raises(FileExistsError, match=r"\(camera_motion=0.0 there, 1.0 asked\)"):
        make_sample(tmp_path, replace(QUICK, n_episodes=0, camera_motion=1.0))


def test_the_default_is_agibots_own_size_and_rate():
    full = SampleConfig()
    assert (full.width, full.height, full.rate_hz, full.n_frames) == (640, 480, 30.0, 360)
    assert demo_sample().n_episodes == full.n_episodes


def test_random_episodes_are_spread_evenly():
    for share in (0.0, 0.25, 0.5, 1.0):
        tasks = [draw_task(replace(QUICK, share_random=share), i).id for i in range(40)]
        assert tasks.count(904) == 40 * share
        assert share in (0.0, 1.0) or 904 in tasks[: round(1 / share)]
    assert {draw_task(QUICK, i).id for i in range(8)} == {901, 902, 903, 904}


def test_the_sample_is_what_agibot_readers_list(quick_sample: SampleSummary):
    listing = list_episodes(quick_sample.root)
    assert not listing.faults and [e.episode for e in listing.episodes] == [
        FIRST_EPISODE_ID,
        FIRST_EPISODE_ID + 1,
    ]
    assert quick_sample.digest == digest(QUICK) and not quick_sample.faults


def test_a_scene_that_diverges_is_drawn_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    draw, calls = recording.draw_scene, []

    def draw_broken(rng, **size):
        scene = draw(rng, **size)
        calls.append(scene)
        if len(calls) <= n_broken:
            scene.model.qpos0[-1] = float("nan")
        return scene

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recording, "draw_scene", draw_broken)
    n_broken, config = 1, replace(QUICK, duration_s=0.5)
    assert simulate_episode(config, 0).scene is calls[1] and len(calls) == 2
    n_broken = 100
    with pytest.raises(
        UnstableError, match=r"episode 900000, seed 0: 4 scenes drawn, all unstable.*QPOS"
    ):
        simulate_episode(config, 0)
    assert not list(tmp_path.iterdir())  # MuJoCo's log


@pytest.mark.parametrize("leave", [100_000, 300_000])
def test_a_full_disk_keeps_whole_episodes_only_and_the_rest_is_made_later(tmp_path, leave):
    expected = make_sample(tmp_path / "expected", MORE, workers=1)
    with small_disk(tmp_path / "disk", kilobytes=8192, inodes=4000) as disk:
        fill(disk, leave=leave)
        with pytest.raises(DiskFull, match=rf"the disk is full .*while writing {disk}/sample"):
            make_sample(disk / "sample", MORE, workers=1)
        assert not list((disk / "sample").glob(".building-*"))
        assert made(disk / "sample") == marked(disk / "sample") != set(range(4))
        make_room(disk)
        make_sample(disk / "sample", MORE, workers=1)
        for number in range(4):
            assert files_of(disk / "sample", number) == files_of(expected.root, number)
