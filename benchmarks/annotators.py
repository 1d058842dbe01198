"""Speed and memory of the annotators on this machine, and the overhead of their stages.

    python benchmarks/annotators.py                     # tiny networks, a minute or two on a CPU
    python benchmarks/annotators.py --networks vda-vits spatracker --precisions float32 float16
    python benchmarks/annotators.py --stage 64          # also the Ray stages against bare loops

A clip is 16 frames of 256 px, with 1024 tracked points. Weights are random: speed does not depend
on them. "Of the product rate" is the network's operations a second over those of plain matrix
products of the same type, measured in this run. Memory is the allocator's peak on a GPU, the growth
of the process on a CPU, next to the prediction.
"""

import argparse
import logging
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from model.spatial_tracker import config as tracker_sizes
from model.spatial_tracker.cost import predict_cost
from model.spatial_tracker.model import SpatialTracker
from model.spatial_tracker.predictor import track_points
from model.training.checkpoint import save_model
from model.training.peak_flops import device_name, measure_peak
from model.video_depth import config as depth_sizes
from model.video_depth.cost import Precision, flops_per_frame, peak_bytes
from model.video_depth.model import VideoDepth
from model.video_depth.video import estimate_depth, network_size
from stages.annotator import AnnotatedStage
from stages.base import ClipStage
from stages.clip_format import ClipFormat
from stages.drawing.markdown import markdown_row, markdown_table
from stages.keypoints.stage import grid_queries

FRAMES, SIDE, GRID, SUPPORT = 16, 256, 32, 36
COLUMNS = (
    "network", "clips at once", "precision", "clips/s", "ms/frame", "of the product rate",
    "GB measured / predicted",
)  # fmt: skip
DEPTH = {
    "vda-tiny": depth_sizes.tiny,
    "vda-vits": depth_sizes.vits,
    "vda-vitb": depth_sizes.vitb,
    "vda-vitl": depth_sizes.vitl,
}
TRACKERS = {"spatracker-tiny": tracker_sizes.tiny, "spatracker": tracker_sizes.published}
INPUT = {"vda-tiny": 140}  # px; the others take 518, as published
NOISY = 1.3  # median over least


@dataclass(frozen=True, kw_only=True)
class Setting:
    network: str
    batch: int
    precision: Precision
    device: str


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One call on `batch` clips."""

    least_s: float
    median_s: float
    flops: float
    predicted: float  # bytes
    measured: float  # bytes

    def line(self, setting: Setting, peak_flops: float) -> str:
        clips_s = setting.batch / self.least_s
        noise = " (noisy)" if self.median_s > NOISY * self.least_s else ""
        return markdown_row(
            (
                setting.network,
                setting.batch,
                setting.precision,
                f"{clips_s:.3g}{noise}",
                f"{1e3 / clips_s / FRAMES:.1f}",
                f"{self.flops / self.least_s / peak_flops:.0%}",
                f"{self.measured / 1e9:.2f} / {self.predicted / 1e9:.2f}",
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--networks",
        nargs="+",
        default=["vda-tiny", "spatracker-tiny"],
        choices=[*DEPTH, *TRACKERS],
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2])
    parser.add_argument(
        "--precisions", nargs="+", default=["float32"], choices=["float32", "bfloat16", "float16"]
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--stage",
        type=int,
        default=0,
        metavar="CLIPS",
        help="also the Ray stages, on this many clips",
    )
    arguments = parser.parse_args()
    print(header(arguments.device))
    print(markdown_table(COLUMNS, []))
    for precision in arguments.precisions:
        rate = measure_peak(torch.device(arguments.device), getattr(torch, precision)).flops
        for network in arguments.networks:
            for batch in arguments.batches:
                setting = Setting(
                    network=network, batch=batch, precision=precision, device=arguments.device
                )
                print(measure(setting, arguments.rounds).line(setting, rate), flush=True)
    if arguments.stage:
        print()
        print(markdown_table(("stage, one Ray worker", "in the stage", "bare loop", "ratio"), []))
        print("\n".join(stage_rows(arguments.stage, arguments.device)))


def header(device: str) -> str:
    load = os.getloadavg()[0]
    where = device_name(torch.device(device))
    return (
        f"{where}; torch {torch.__version__}, Python {platform.python_version()}; load {load:.1f} "
        "at the start\n"
    )


def clips(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (n, FRAMES, SIDE, SIDE, 3)).astype(np.uint8)


def measure(setting: Setting, rounds: int) -> Figure:
    """Runs the network as its stage does; the first call is a warm-up."""
    work, flops, predicted = (depth_work if setting.network in DEPTH else tracker_work)(setting)
    before = memory_now(setting.device)
    work()
    spent = [timed(work) for _ in range(rounds)]
    measured = memory_peak(setting.device) - before
    return Figure(
        least_s=min(spent),
        median_s=median(spent),
        flops=flops,
        predicted=predicted,
        measured=measured,
    )


def depth_work(setting: Setting) -> tuple[Callable[[], object], float, float]:
    config, input_size = DEPTH[setting.network](), INPUT.get(setting.network, 518)
    network = VideoDepth(config).to(setting.device).eval()
    frames, size = clips(setting.batch), network_size(SIDE, SIDE, input_size)
    flops = setting.batch * FRAMES * flops_per_frame(config, size=size, n_frames=FRAMES)
    predicted = peak_bytes(
        config, size=size, n_clips=setting.batch, n_frames=FRAMES, precision=setting.precision
    )
    how = {"input_size": input_size, "windows": "direct", "precision": setting.precision}
    return lambda: estimate_depth(network, frames, **how), flops, predicted  # type: ignore[arg-type]


def tracker_work(setting: Setting) -> tuple[Callable[[], object], float, float]:
    config = TRACKERS[setting.network]()
    network = SpatialTracker(config).to(setting.device).eval()
    frames = clips(setting.batch)
    depth = np.random.default_rng(1).uniform(0.5, 2, frames.shape[:-1]).astype(np.float32)
    queries = np.insert(grid_queries(GRID, (SIDE, SIDE)), 0, 0, axis=1)  # all in frame 0
    cost = predict_cost(config, setting.batch, FRAMES, len(queries) + SUPPORT)
    work = lambda: track_points(network, frames, depth, queries, precision=setting.precision)  # noqa: E731
    return work, cost.flops, cost.peak_bytes


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()  # ends with a copy to the CPU, which waits for a GPU
    return time.perf_counter() - began


def memory_now(device: str) -> float:
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return 0.0  # the prediction includes the weights
    return memory_peak(device)


def memory_peak(device: str) -> float:
    """A process's peak never falls: after a large network, a smaller one shows no growth."""
    if device != "cpu":
        return float(torch.cuda.max_memory_allocated())
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# -- the overhead of a stage -----------------------------------------------------------------------


def stage_rows(n_clips: int, device: str) -> list[str]:
    """Table lines: seconds a clip in the Ray stage, with reading and storing, and in a bare loop.

    With `device` cuda annotators use the GPU, in the stage and in the bare loop.
    """
    import overhead
    import ray

    from pipeline.orchestration import dataset_stage, ray_pool
    from pipeline.orchestration.clip_worker import Job
    from pipeline.orchestration.recipe import declared_inputs, describe, output_ref
    from storage.stores import store
    from storage.stores.records import StoreRef

    n_gpus = n_gpus_of(device)
    quietly = {"log_to_driver": False, "logging_level": logging.ERROR}
    ray.init("local", num_cpus=1, num_gpus=n_gpus, include_dashboard=False, **quietly)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        made: dict[str, StoreRef] = {}
        for stage in tiny_stages(Path(folder), n_clips, n_gpus):
            inputs = declared_inputs(stage, made)
            out = made[stage.name] = output_ref(stage, inputs, folder)
            store.create(out, describe(stage, inputs, out))
            if not isinstance(stage, ClipStage):
                dataset_stage.run_dataset(stage, inputs, out, quiet)
                continue
            marks: list[tuple[float, int]] = []

            def note(done: int, total: int, note: str = "", marks: list = marks) -> None:
                marks.append((time.perf_counter(), done))

            job = Job(stage=stage, inputs=inputs, out=out)
            ray_pool.run_ray(job, store.missing_shards(out), note, 1)
            store.seal(out)
            bare_s = overhead.bare_loop(stage, inputs)
            lines.append(stage_line(stage, marks, bare_s, store.read_manifest(out)))
    ray.shutdown()
    return lines


def n_gpus_of(device: str) -> int:
    return 0 if torch.device(device).type == "cpu" else 1


def tiny_stages(folder: Path, n_clips: int, n_gpus: int) -> Sequence:
    """Stages with tiny annotators and random weights, each annotator on `n_gpus` GPUs."""
    from overhead import make_sample

    from pipeline.experiments import registry
    from pipeline.experiments.experiment import Experiment
    from stages.depth.video_depth_anything import VideoDepthAnything
    from stages.keypoints.spatial_tracker import SpatialTracking
    from storage.weights.ref import WeightsRef

    def weights(name: str, network: torch.nn.Module, config: object) -> WeightsRef:
        path = folder / f"{name}.safetensors"
        save_model(path, network, config)
        return WeightsRef.of(path, name=path.name)

    depth_config, track_config = depth_sizes.tiny(), tracker_sizes.tiny()
    torch.manual_seed(0)
    clips, gpus = ClipFormat(size=128), float(n_gpus)
    depth = VideoDepthAnything(
        weights=weights("vda-tiny", VideoDepth(depth_config), depth_config),
        model=depth_config, input_size=140, windows="direct", clip_format=clips, gpus=gpus,
    )  # fmt: skip
    tracks = SpatialTracking(
        weights=weights("spatracker-tiny", SpatialTracker(track_config), track_config),
        model=track_config, depth_units="relative", clip_format=clips, backward_points=0, gpus=gpus,
    )  # fmt: skip
    changes = {"discover.hop_s": 0.2, "clip_format.size": 128, "world_model.start_from": None}
    e = registry.named("demo", str(make_sample(folder, -(-n_clips // 23))), changes, folder)
    assert isinstance(e, Experiment)
    keypoints = replace(e.keypoints, annotator=tracks, grid=16)
    return [e.discover, e.clip, replace(e.depth, annotator=depth), keypoints]


def stage_line(stage, marks: list[tuple[float, int]], bare_s: float, manifest) -> str:
    """Times the stage from the end of the first shard on: the worker's start is not counted."""
    (first, done), (last, _) = marks[0], marks[-1]
    seconds, n = last - first, manifest.n_clips - done * manifest.clips_per_shard
    if n <= 0:
        raise SystemExit(
            f"stage {stage.name}: {manifest.n_clips} clips are one shard of "
            f"{manifest.clips_per_shard}, and nothing is left to time after it: give --stage more "
            "clips"
        )
    bare = bare_s / manifest.n_clips
    annotator = stage.annotator if isinstance(stage, AnnotatedStage) else None
    what = f"{stage.name} ({annotator.name})" if annotator else stage.name
    ratio = seconds / n / bare
    return markdown_row(
        (what, f"{seconds / n:.3f} s a clip", f"{bare:.3f} s a clip", f"{ratio:.2f}")
    )


def quiet(done: int, total: int, note: str = "") -> None:
    """Ignores progress."""


if __name__ == "__main__":
    main()
