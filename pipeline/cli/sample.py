"""`roboscape sample`: simulated episodes, with a progress bar; `run demo` makes its own first."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.orchestration.progress import StageProgress

if TYPE_CHECKING:
    from simulation.config import SampleConfig


def sample_config(
    *,
    demo: bool,
    n_episodes: int | None,
    seed: int | None,
    rate_hz: float | None,
    size: str | None,
    camera_motion: float | None,
    faults: bool,
) -> "SampleConfig":
    """Raises ValueError if `size` is not WIDTHxHEIGHT."""
    from pipeline.experiments.field_values import hints, require
    from simulation.config import SampleConfig, demo_sample

    changes = {
        "n_episodes": n_episodes, "seed": seed, "rate_hz": rate_hz,
        "camera_motion": camera_motion, "faults": faults or None,
    }  # fmt: skip
    if size is not None:
        width, x, height = size.partition("x")
        if not (x and width.isdecimal() and height.isdecimal()):
            raise ValueError(f"--size {size}: expected WIDTHxHEIGHT, such as 640x480")
        for side in (width, height):
            require(int(side), hints(SampleConfig)["width"], f"--size {size}: side")
        changes |= {"width": int(width), "height": int(height)}
    base = demo_sample() if demo else SampleConfig(n_episodes=100)
    return replace(base, **{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]


def make(
    root: Path,
    config: "SampleConfig",
    workers: int,
    say: Callable[[str], None],
    *,
    space_check: bool = True,
) -> None:
    """Makes the sample's episodes that are not in `root` yet.

    Raises DiskFull before the first one if they do not fit, unless `space_check` is off.
    """
    from simulation.dataset import make_sample, missing_episodes
    from storage.disk_space import require_room

    n_missing = len(missing_episodes(root, config))
    if space_check:
        what = f"{n_missing} episodes of {config.width}x{config.height} pixels"
        require_room(root, n_missing * config.episode_bytes, what)
    with StageProgress("sample") as progress:
        summary = make_sample(
            root, config, workers=workers, on_progress=lambda done, total: progress(done, total)
        )
    say(f"sample: {summary.n_episodes} episodes ({summary.n_made} made now) in {summary.root}")
