"""One episode of the sample: draws it, simulates it, and writes its files and ground truth."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from simulation import agibot_writer as agibot
from simulation.camera_motion import moving_cameras
from simulation.config import SampleConfig
from simulation.episode import Trajectory, UnstableError, simulate
from simulation.ground_truth import (
    GroundTruth,
    geom_bodies,
    geom_poses,
    label_truth,
    write_ground_truth,
)
from simulation.policies import RANDOM_TASK, TASKS, Task
from simulation.renderer import Picture, Renderer
from simulation.scene import Camera, Scene, draw_scene

FIRST_EPISODE_ID = 900_000
MAX_DRAWS = 4
CAMERA_SEED = 1000  # above the numbers of draws


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One simulated episode before it is written."""

    id: int
    task: Task
    scene: Scene
    trajectory: Trajectory
    cameras: tuple[Camera, ...]  # of each frame
    rng: np.random.Generator  # for the writer's time stamps and depth noise


def episode_id(number: int) -> int:
    return FIRST_EPISODE_ID + number


def draw_task(config: SampleConfig, number: int) -> Task:
    """The task of episode `number`; random ones are spread evenly over the numbers."""
    if int((number + 1) * config.share_random) > int(number * config.share_random):
        return RANDOM_TASK
    scripted = number - int(number * config.share_random)
    return TASKS[scripted % len(TASKS)]


def simulate_episode(config: SampleConfig, number: int) -> Episode:
    """Episode `number` of the sample, which depends on the config and the number alone.

    If the physics diverges, another scene is drawn. Raises UnstableError if all `MAX_DRAWS` do.
    """
    task, faults = draw_task(config, number), []
    for attempt in range(MAX_DRAWS):
        rng = np.random.default_rng([config.seed, number, *([attempt] if attempt else [])])
        scene = draw_scene(rng, width=config.width, height=config.height)
        try:
            trajectory = simulate(
                scene, task, rng, rate_hz=config.rate_hz, n_frames=config.n_frames
            )
        except UnstableError as error:
            faults.append(str(error))
            continue
        # Its own random numbers: the rest of an episode is the same however much the camera sways
        sway = np.random.default_rng([config.seed, number, CAMERA_SEED])
        times_s = np.arange(config.n_frames) / config.rate_hz
        return Episode(
            id=episode_id(number),
            task=task,
            scene=scene,
            trajectory=trajectory,
            cameras=moving_cameras(scene.camera, times_s, config.camera_motion, sway),
            rng=rng,
        )
    which = f"episode {episode_id(number)}, seed {config.seed}"
    raise UnstableError(
        f"{which}: {MAX_DRAWS} scenes drawn, all unstable: {faults}; take another seed"
    )


def render_frames(episode: Episode) -> Iterator[Picture]:
    renderer = Renderer(episode.scene)
    for qpos, camera in zip(episode.trajectory.qpos, episode.cameras, strict=True):
        yield renderer.render(qpos, camera)


def ground_truth_folder(task_id: int, episode_id: int) -> Path:
    return Path("ground_truth", str(task_id), str(episode_id))


def write_episode(root: Path, episode: Episode, *, ground_truth: bool) -> None:
    """Writes an episode's files under `root` in AGIBOT's layout, except its `task_info` entry."""
    task, scene, trajectory = episode.task.id, episode.scene, episode.trajectory
    depth_folder = root / agibot.observation_folder(task, episode.id) / "depth"
    n = len(trajectory.qpos)
    depth, geom = [], []

    def frames() -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for k, picture in enumerate(render_frames(episode)):
            agibot.write_depth(depth_folder, k, agibot.sense_depth(picture.depth_m, episode.rng))
            if ground_truth:
                depth.append(picture.depth_m.astype(np.float16))
                geom.append(picture.geom.astype(np.uint8))
            yield picture.rgb

    times = agibot.timestamps_ns(episode.id, n, trajectory.rate_hz, episode.rng)
    size = (scene.camera.width, scene.camera.height)
    agibot.write_video(
        root / agibot.video_path(task, episode.id), frames(), size=size, rate_hz=trajectory.rate_hz
    )
    agibot.write_camera(root / agibot.camera_folder(task, episode.id), episode.cameras)
    agibot.write_proprio(
        root / agibot.proprio_folder(task, episode.id), agibot.proprio_arrays(trajectory, times)
    )
    if ground_truth:
        position, axes = geom_poses(scene, trajectory.qpos)
        truth = GroundTruth(
            depth_m=np.stack(depth),
            geom=np.stack(geom),
            geom_position_m=position,
            geom_axes=axes,
            geom_body=geom_bodies(scene),
            cameras=episode.cameras,
            labels=label_truth(scene, task, trajectory),
        )
        write_ground_truth(root / ground_truth_folder(task, episode.id), truth)


def task_info_entry(episode: Episode) -> dict:
    """The episode's object in `task_info/task_<id>.json`; frame numbers at the sample's rate."""
    scene, trajectory = episode.scene, episode.trajectory
    objects = ", ".join(f"a {o.words}" for o in scene.objects)
    return agibot.task_info_entry(
        episode.id, episode.task, trajectory, f"A table with {objects} and a {scene.tray_words}."
    )
