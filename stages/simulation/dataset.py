"""Make the embedded sample: many simulated episodes in AGIBOT-World's layout, in parallel, resumable, from one seed.

Episode i depends on (config, i) alone. It is built in a temporary folder and moved in whole, its `observations` folder
last, so that what stands there is complete and a second call makes only what is missing.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from stages.simulation import agibot_writer as agibot
from stages.simulation.episode import Trajectory, simulate
from stages.simulation.ground_truth import GroundTruth, geom_bodies, geom_poses, label_truth, write_ground_truth
from stages.simulation.policies import RANDOM_TASK, TASKS, Task
from stages.simulation.renderer import Picture, Renderer
from stages.simulation.scene import Scene, draw_scene

VERSION = 1  # of what the simulation gives for a config; raised when episodes come out differently
FIRST_EPISODE_ID = 900_000


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """What to make. The defaults give AGIBOT's own rate and size; `demo_sample()` is smaller."""

    n_episodes: int = 30
    seed: int = 0
    rate_hz: float = 30.0  # of video, states and actions alike
    duration_s: float = 12.0
    width: int = 640
    height: int = 480
    share_random: float = 0.25  # of episodes with random actions in place of a skill
    faults: bool = False  # add one deliberately faulty episode of each kind, for testing readers
    ground_truth: bool = True

    def __post_init__(self):
        if self.n_episodes < 0 or self.seed < 0:
            raise ValueError(f"n_episodes={self.n_episodes} and seed={self.seed} must not be negative")
        if self.rate_hz <= 0 or self.duration_s * self.rate_hz < 2:
            raise ValueError(f"duration_s={self.duration_s} at rate_hz={self.rate_hz} is fewer than 2 frames")
        if self.width % 2 or self.height % 2 or min(self.width, self.height) < 32:
            raise ValueError(f"{self.width}x{self.height}: H.264 yuv420p needs even sides; use 32 pixels or more")
        if not 0 <= self.share_random <= 1:
            raise ValueError(f"share_random={self.share_random} is not in [0, 1]")

    @property
    def n_frames(self) -> int:
        return round(self.duration_s * self.rate_hz)


def demo_sample() -> SampleConfig:
    """The set that `make demo` uses: about two minutes on two cores."""
    return SampleConfig(n_episodes=30, rate_hz=10.0, duration_s=12.0, width=256, height=192)


@dataclass(frozen=True, kw_only=True)
class SampleSummary:
    root: Path
    n_episodes: int
    n_made: int  # by this call; the others stood there already
    n_frames: int  # of all episodes
    digest: str  # of config and simulation version


def make_sample(
    root: Path, config: SampleConfig, *, workers: int = 0, on_progress: Callable[[int, int], None] | None = None
) -> SampleSummary:
    """Make what is missing of the sample under `root`; `workers` = 0 takes one process per CPU.

    `on_progress(done, total)` is called in this process after each episode. Raises FileExistsError where `root` holds a
    sample made with another config (or something else).
    """
    root = Path(root)
    _claim(root, config)
    numbers = range(config.n_episodes)
    missing = [i for i in numbers if not _is_complete(root, config, i)]
    done = len(numbers) - len(missing)
    report = on_progress or (lambda done, total: None)
    report(done, len(numbers))
    for _ in _make_in_parallel(root, config, missing, workers):
        done += 1
        report(done, len(numbers))
    _write_task_info(root, config)
    return SampleSummary(
        root=root,
        n_episodes=len(numbers),
        n_made=len(missing),
        n_frames=len(numbers) * config.n_frames,
        digest=digest(config),
    )


def digest(config: SampleConfig) -> str:
    """Names what the config makes: SHA-256 of its fields and of the simulation's version."""
    recipe = json.dumps({"version": VERSION, **asdict(config)}, sort_keys=True)
    return hashlib.sha256(recipe.encode()).hexdigest()


def draw_task(config: SampleConfig, number: int) -> Task:
    """The task of episode `number`; the share of random ones is spread evenly over the numbers."""
    if int((number + 1) * config.share_random) > int(number * config.share_random):
        return RANDOM_TASK
    scripted = number - int(number * config.share_random)
    return TASKS[scripted % len(TASKS)]


def episode_id(number: int) -> int:
    return FIRST_EPISODE_ID + number


# -- one episode -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One simulated episode before it is written."""

    id: int
    task: Task
    scene: Scene
    trajectory: Trajectory
    rng: np.random.Generator  # for what the writer adds: time stamps, depth noise


def simulate_episode(config: SampleConfig, number: int) -> Episode:
    task = draw_task(config, number)
    rng = np.random.default_rng([config.seed, number])
    scene = draw_scene(rng, width=config.width, height=config.height)
    trajectory = simulate(scene, task, rng, rate_hz=config.rate_hz, n_frames=config.n_frames)
    return Episode(id=episode_id(number), task=task, scene=scene, trajectory=trajectory, rng=rng)


def write_episode(root: Path, episode: Episode, *, ground_truth: bool) -> None:
    """All files of one episode under `root`, in AGIBOT's layout, with its task_info entry as `info.json` beside."""
    task, scene, trajectory = episode.task.id, episode.scene, episode.trajectory
    seen = root / agibot.observation_folder(task, episode.id)
    n = len(trajectory.qpos)
    depth, geom = [], []

    def frames() -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for k, picture in enumerate(_render(scene, trajectory.qpos)):
            agibot.write_depth(seen / "depth", k, agibot.sense_depth(picture.depth_m, episode.rng))
            if ground_truth:
                depth.append(picture.depth_m.astype(np.float16))
                geom.append(picture.geom.astype(np.uint8))
            yield picture.rgb

    times = agibot.timestamps_ns(episode.id, n, trajectory.rate_hz, episode.rng)
    agibot.write_video(
        seen / "videos" / "head_color.mp4",
        frames(),
        size=(scene.camera.width, scene.camera.height),
        rate_hz=trajectory.rate_hz,
    )
    agibot.write_camera(root / agibot.camera_folder(task, episode.id), scene.camera, n)
    agibot.write_proprio(root / agibot.proprio_folder(task, episode.id), agibot.proprio_arrays(trajectory, times))
    if ground_truth:
        position, axes = geom_poses(scene, trajectory.qpos)
        truth = GroundTruth(
            depth_m=np.stack(depth),
            geom=np.stack(geom),
            geom_position_m=position,
            geom_axes=axes,
            geom_body=geom_bodies(scene),
            camera=scene.camera,
            labels=label_truth(scene, task, trajectory),
        )
        write_ground_truth(root / "ground_truth" / str(task) / str(episode.id), truth)
    things = ", ".join(f"a {o.words}" for o in scene.objects)
    entry = agibot.task_info_entry(
        episode.id, episode.task, trajectory, f"A table with {things} and a {scene.tray_words}."
    )
    (root / "info.json").write_text(json.dumps(entry))


def _render(scene: Scene, qpos: Float[np.ndarray, "t q"]) -> Iterator[Picture]:
    renderer = Renderer(scene)
    for q in qpos:
        yield renderer.render(q)


# -- the whole set -----------------------------------------------------------------------------------------------------


def _claim(root: Path, config: SampleConfig) -> None:
    """Write `sample.json` into a fresh root, or check that the one there names the same recipe."""
    path, ours = root / "sample.json", {"digest": digest(config), "version": VERSION, "config": asdict(config)}
    if path.is_file():
        found = json.loads(path.read_text())
        if found["digest"] != ours["digest"]:
            theirs = {**found["config"], "version": found["version"]}
            differ = {
                k: (theirs.get(k), v) for k, v in {**ours["config"], "version": VERSION}.items() if theirs.get(k) != v
            }
            raise FileExistsError(
                f"{root} holds a sample made with another config; (there, asked): {differ}. "
                "Take another folder, or delete this one."
            )
        return
    if root.exists() and any(root.iterdir()):
        raise FileExistsError(f"{root} is not empty and has no sample.json: take an empty or new folder for the sample")
    root.mkdir(parents=True, exist_ok=True)
    _write_whole(path, json.dumps(ours, indent=1))


def _is_complete(root: Path, config: SampleConfig, number: int) -> bool:
    return (root / agibot.observation_folder(draw_task(config, number).id, episode_id(number))).is_dir()


def _make_in_parallel(root: Path, config: SampleConfig, numbers: list[int], workers: int) -> Iterator[int]:
    """Make episodes in spawned processes; yields each number when it is done. Ctrl-C ends them all at once."""
    n_workers = min(workers or os.cpu_count() or 1, len(numbers))
    if n_workers <= 1:
        for number in numbers:
            yield _make_one(root, config, number)
        return
    pool = ProcessPoolExecutor(n_workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        waiting: set[Future[int]] = {pool.submit(_make_one, root, config, number) for number in numbers}
        while waiting:
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    except BaseException:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        raise
    pool.shutdown()


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    cv2.setNumThreads(1)


def _make_one(root: Path, config: SampleConfig, number: int) -> int:
    """Build episode `number` in a temporary folder and move its parts into place."""
    build = root / f".building-{episode_id(number)}"
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir()
    episode = simulate_episode(config, number)
    write_episode(build, episode, ground_truth=config.ground_truth)
    _move_in(build, root, episode.task.id, episode.id)
    shutil.rmtree(build)
    return number


def _move_in(build: Path, root: Path, task: int, episode: int) -> None:
    (root / "ground_truth" / "info").mkdir(parents=True, exist_ok=True)
    os.replace(build / "info.json", root / "ground_truth" / "info" / f"{episode}.json")
    parts = ("ground_truth", "parameters", "proprio_stats", "observations")  # the last one says: complete
    for part in parts:
        source, target = (base / part / str(task) / str(episode) for base in (build, root))
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)


def _write_task_info(root: Path, config: SampleConfig) -> None:
    by_task: dict[int, list[dict]] = {}
    for number in range(config.n_episodes):
        info = json.loads((root / "ground_truth" / "info" / f"{episode_id(number)}.json").read_text())
        by_task.setdefault(info["task_id"], []).append(info)
    (root / "task_info").mkdir(exist_ok=True)
    for task, infos in by_task.items():
        _write_whole(root / "task_info" / f"task_{task}.json", json.dumps(infos, indent=1))


def _write_whole(path: Path, text: str) -> None:
    """The file is there complete or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)
