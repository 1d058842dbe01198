"""Makes the sample: simulated episodes in AGIBOT-World's layout, from one seed.

    <root>/observations, parameters, proprio_stats, task_info   as in AGIBOT-World
    <root>/ground_truth/<task>/<episode>   exact depth, geoms, poses, success
    <root>/sample.json                     the config, its digest, and the faulty episodes
    <root>/.made/<episode>.json            written last: marks the episode as complete

Episode i depends on (config, i) alone. It is built in a temporary folder and its parts are renamed
into place, so a killed run has written only complete episodes, and a second call makes only the
missing ones. `task_info` is written at the end.
"""

import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2

from simulation.config import VERSION, SampleConfig, digest
from simulation.faults import FAULTS, damage, simulate_faulty
from simulation.recording import (
    episode_id,
    simulate_episode,
    task_info_entry,
    write_episode,
)
from storage.atomic import write_file
from storage.disk_space import explain_disk_full
from storage.locks import locked
from storage.stores.key import parameters

_PARTS = ("observations", "parameters", "proprio_stats", "ground_truth")


@dataclass(frozen=True, kw_only=True)
class SampleSummary:
    root: Path
    n_episodes: int  # faulty ones included
    n_made: int  # by this call
    faults: dict[int, str]  # episode id -> kind
    digest: str  # of config and simulation version


def make_sample(
    root: Path,
    config: SampleConfig,
    *,
    workers: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> SampleSummary:
    """Makes the missing episodes of the sample under `root`; workers=0 is one process per CPU.

    `on_progress(done, total)` is called in this process, at the start and after each episode.
    Workers are spawned, so a script must call this under `if __name__ == "__main__"`. Raises
    FileExistsError if `root` has a sample of another config or other files, and BlockingIOError if
    another process is making the same sample.
    """
    root, report = Path(root), on_progress or (lambda done, total: None)
    _claim(root, config)
    with _locked(root):
        kinds = fault_kinds(config)
        total = config.n_episodes + len(kinds)
        missing = missing_episodes(root, config)
        done = total - len(missing)
        report(done, total)
        for _ in _make_in_parallel(root, config, missing, workers):
            done += 1
            report(done, total)
        _write_task_info(root, config)
    faults = {episode_id(number): kind for number, kind in kinds.items()}
    return SampleSummary(
        root=root, n_episodes=total, n_made=len(missing), faults=faults, digest=digest(config)
    )


def missing_episodes(root: Path, config: SampleConfig) -> list[int]:
    """Numbers of the episodes that are still to be made."""
    total = config.n_episodes + len(fault_kinds(config))
    return [number for number in range(total) if not _mark(root, number).is_file()]


def fault_kinds(config: SampleConfig) -> dict[int, str]:
    """Episode number -> fault, of the faulty episodes, which follow the good ones."""
    return {config.n_episodes + i: kind for i, kind in enumerate(FAULTS)} if config.faults else {}


def _claim(root: Path, config: SampleConfig) -> None:
    """Writes `sample.json` into a new root, or checks that the one there has the same config."""
    path = root / "sample.json"
    if path.is_file():
        found = json.loads(path.read_text())
        if found["digest"] != digest(config):
            defaults = asdict(SampleConfig())  # of fields that are newer than the sample
            there = {"version": found["version"], **defaults, **found["config"]}
            asked = {"version": VERSION, **asdict(config)}
            different = [name for name, value in asked.items() if there.get(name) != value]
            differ = ", ".join(f"{k}={there.get(k)} there, {asked[k]} asked" for k in different)
            raise FileExistsError(
                f"{root} holds another sample ({differ}): give another folder, or delete this one "
                "to make it again"
            )
        return
    if root.exists() and any(root.iterdir()):
        raise FileExistsError(
            f"{root} is not empty and has no sample.json: give an empty or a new folder"
        )
    root.mkdir(parents=True, exist_ok=True)
    faults = {str(episode_id(number)): kind for number, kind in fault_kinds(config).items()}
    recipe = {"digest": digest(config), "version": VERSION, "config": parameters(config)}
    _write_json(path, recipe | {"faults": faults})


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Keeps other processes out of `root`; the lock ends with this process, however it ends."""

    def refuse(who: str) -> None:
        raise BlockingIOError(f"{who} is making the sample in {root}: wait for it, or stop it")

    with locked(root / ".lock", refuse):
        yield


def _make_in_parallel(
    root: Path, config: SampleConfig, numbers: list[int], workers: int
) -> Iterator[int]:
    """Makes episodes in spawned processes, stopped on Ctrl-C or an error; yields their numbers."""
    n_workers = min(workers or os.cpu_count() or 1, len(numbers))
    if n_workers <= 1:
        yield from (_make_one(root, config, number) for number in numbers)
        return
    others = multiprocessing.active_children()
    spawn = multiprocessing.get_context("spawn")  # forking a process with threads can hang
    pool = ProcessPoolExecutor(n_workers, mp_context=spawn, initializer=_start_worker)
    try:
        waiting: set[Future[int]] = {
            pool.submit(_make_one, root, config, number) for number in numbers
        }
        while waiting:
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in finished)
        pool.shutdown()
    except BaseException as error:
        # Stop our own workers, and no other process that the caller has started.
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise RuntimeError(
                f"a worker making episodes in {root} was killed (out of memory?). Finished "
                "episodes are kept: call again to make the rest, with fewer workers if memory is "
                "short."
            ) from error
        raise


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent stops its workers
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this worker with its parent: a killed parent has released its lock."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in workers only"
    parent.join()
    os._exit(1)


def _make_one(root: Path, config: SampleConfig, number: int) -> int:
    """Makes episode `number`, whole or not at all. Raises DiskFull."""
    build = root / f".building-{episode_id(number)}"
    with explain_disk_full(root):
        try:
            return _build(root, build, config, number)
        except Exception:
            shutil.rmtree(build, ignore_errors=True)  # a full disk needs the space
            raise


def _build(root: Path, build: Path, config: SampleConfig, number: int) -> int:
    """Builds the episode in a temporary folder and moves its parts into place."""
    kind = fault_kinds(config).get(number)
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir()
    episode = simulate_faulty(config, number, kind) if kind else simulate_episode(config, number)
    write_episode(build, episode, ground_truth=config.ground_truth)
    if kind:
        damage(build, episode, kind)
    for part in _PARTS:
        place = Path(part, str(episode.task.id), str(episode.id))
        source, target = build / place, root / place
        shutil.rmtree(target, ignore_errors=True)
        if source.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
    shutil.rmtree(build)
    mark = _mark(root, number)
    mark.parent.mkdir(exist_ok=True)
    _write_json(mark, task_info_entry(episode))
    return number


def _mark(root: Path, number: int) -> Path:
    """The file that marks an episode as complete; contains its `task_info` entry."""
    return root / ".made" / f"{episode_id(number)}.json"


def _write_json(path: Path, content: object) -> None:
    write_file(path, json.dumps(content, indent=1).encode(), flush=False)


def _write_task_info(root: Path, config: SampleConfig) -> None:
    by_task: dict[int, list[dict]] = {}
    kinds = fault_kinds(config)
    for number in range(config.n_episodes + len(kinds)):
        if kinds.get(number) != "not_listed":
            entry = json.loads(_mark(root, number).read_text())
            by_task.setdefault(entry["task_id"], []).append(entry)
    (root / "task_info").mkdir(exist_ok=True)
    for task, entries in by_task.items():
        _write_json(root / "task_info" / f"task_{task}.json", entries)
