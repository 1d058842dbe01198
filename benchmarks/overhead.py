"""Overhead: runs against the stages' own compute, decoding against PyAV, stores against NumPy.

    python benchmarks/overhead.py [--episodes 12]

Every figure is a ratio of two measurements of this run. The control for a run is a bare loop over
the same stages' functions on the same clips, with inputs in memory and no outputs. Prefect and Ray
must be up (`roboscape up`), so that their start is not counted.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
import stores

from pipeline.experiments import registry
from pipeline.orchestration import services
from pipeline.settings import Settings, apply_environment
from stages.drawing.markdown import markdown_table

CHAIN = ("clip", "depth", "keypoints")  # the clip stages that need no training
ROUNDS = 5
# Many clips of few episodes: rendering more episodes would take longer than the benchmark
DENSE = {"discover.hop_s": 0.2}


@dataclass(frozen=True, kw_only=True)
class Ratio:
    what: str
    ours: str
    control: str
    ratio: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--episodes", type=int, default=12, help="of the demo's kind; about 23 clips each"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        source = make_sample(home, arguments.episodes)
        rows = [
            *run_overhead(home, source),
            decode_speed(source),
            *store_speed(home / "stores-benchmark"),
        ]
    print(hardware())
    cells = [(row.what, row.ours, row.control, f"{row.ratio:.2f}") for row in rows]
    print(markdown_table(("what", "ours", "control", "ratio"), cells))


def make_sample(home: Path, n_episodes: int) -> Path:
    from simulation.config import demo_sample
    from simulation.dataset import make_sample

    make_sample(home / "sample", replace(demo_sample(), n_episodes=n_episodes, ground_truth=False))
    return home / "sample"


def run_overhead(home: Path, source: Path) -> list[Ratio]:
    """Each stage in a serial flow run against its bare loop, and the run against their sum."""
    settings = Settings()
    services.up(settings)
    os.environ["ROBOSCAPE_STORES"] = str(home)  # fresh stores, the running services
    from pipeline.orchestration.flow_run import roboscape
    from pipeline.orchestration.journal import find_journal
    from pipeline.orchestration.plan import plan

    began = time.perf_counter()
    roboscape(
        experiment="demo",
        source=str(source),
        stages=["discover", *CHAIN],
        backend="serial",
        overrides=DENSE,
    )
    wall = time.perf_counter() - began
    spent = {entry.name: entry.seconds for entry in find_journal(settings.runs, None).stages}
    planned = plan(registry.named("demo", str(source), DENSE, home), str(home)).planned
    bare = {name: bare_loop(*planned[name][:2]) for name in CHAIN}
    rows = [stage_row(name, spent[name], bare[name]) for name in CHAIN]
    total = sum(bare.values()) + spent["discover"]
    return [
        *rows,
        Ratio(what="whole run", ours=f"{wall:.1f} s", control=f"{total:.1f} s", ratio=wall / total),
    ]


def stage_row(name: str, ours: float, control: float) -> Ratio:
    what = f"stage {name}: in a run / function alone"
    return Ratio(what=what, ours=f"{ours:.1f} s", control=f"{control:.1f} s", ratio=ours / control)


def bare_loop(stage: Any, inputs: dict[str, Any]) -> float:
    """Seconds inside the stage's own function for all clips that have inputs."""
    from pipeline.orchestration.clip_worker import Job, Worker
    from storage.stores.records import StoreRef

    root = next(iter(inputs.values())).root
    out = StoreRef.at(root, stage.name, output_key(stage, inputs))
    worker = Worker(Job(stage=stage, inputs=inputs, out=out))
    rows = [row for row in range(len(worker.clip_ids)) if worker.upstream_reject(row) is None]
    spent, step = 0.0, stage.resources.clips_per_call
    for i in range(0, len(rows), step):
        clips = [worker.read(row) for row in rows[i : i + step]]
        began = time.perf_counter()
        worker.function(clips)
        spent += time.perf_counter() - began
    return spent


def output_key(stage: Any, inputs: dict[str, Any]) -> str:
    from pipeline.orchestration.recipe import output_ref

    return output_ref(stage, inputs, next(iter(inputs.values())).root).key


def decode(path: Path, wanted: np.ndarray) -> np.ndarray:
    from storage.sources.video import Video

    with Video(path) as video:
        return video.frames(wanted)


def decode_speed(source: Path) -> Ratio:
    """A 2 Hz clip's frames by our reader, against a bare PyAV loop that converts the same."""
    path = sorted(source.rglob("head_color.mp4"))[0]
    with av.open(str(path)) as container:
        n_frames, rate = (
            container.streams.video[0].frames,
            float(container.streams.video[0].average_rate or 0),
        )
    wanted = np.arange(0, n_frames, max(1, round(rate / 2)))
    ours = cpu_s(lambda: decode(path, wanted))
    bare = cpu_s(lambda: bare_decode(path, set(wanted.tolist())))
    what = f"decode {len(wanted)} of {n_frames} frames / bare PyAV loop"
    return Ratio(
        what=what, ours=f"{1e3 * ours:.1f} ms", control=f"{1e3 * bare:.1f} ms", ratio=ours / bare
    )


def bare_decode(path: Path, wanted: set[int]) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        frames = enumerate(container.decode(video=0))
        return [frame.to_ndarray(format="rgb24") for i, frame in frames if i in wanted]


def store_speed(root: Path) -> list[Ratio]:
    root.mkdir()
    tokens = stores.token_reads(root)
    what = "read random token clips, batches of 64 / NumPy memory map"
    rows = [
        Ratio(
            what=what, ours=us(tokens["us"]), control=us(tokens["us_memmap"]), ratio=tokens["ratio"]
        )
    ]
    for codec in ("raw", "zstd"):
        found = stores.rgb(root, codec)
        for verb in ("write", "read"):
            ours, plain = found[f"{verb}_mb_s"], found[f"npy_{verb}_mb_s"]
            what = f"{verb} RGB clips, {codec} / one .npy a clip (MB/s, higher is better)"
            rows.append(
                Ratio(what=what, ours=f"{ours:.0f}", control=f"{plain:.0f}", ratio=ours / plain)
            )
    return rows


def us(value: float) -> str:
    return f"{value:.1f} us"


def cpu_s(work: Callable[[], object]) -> float:
    """CPU seconds, median over rounds."""
    spent = []
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return median(spent)


def hardware() -> str:
    names = {
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    }
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} x {', '.join(names)}; Python {platform.python_version()}; "
        f"load {load:.1f} at the end\n"
    )


if __name__ == "__main__":
    apply_environment(Settings())
    main()
