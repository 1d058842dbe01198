"""Small trainings of the world model on any number of workers, for `test_parallel`.

torchrun --nproc-per-node 2 worker_runs.py together FOLDER
python worker_runs.py compiled FILE
"""

import functools
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch._dynamo.utils import counters

from model.training.loop import StepReport, TrainConfig, train
from model.training.parallel import (
    ALONE,
    Parallel,
    ParallelConfig,
    ParallelWrapper,
    Workers,
    join,
    leave,
    load_whole,
    uncompiled,
)
from model.training.snapshots import Snapshots
from model.world.batch import WorldBatch
from model.world.config import TOKEN_VOCAB, LossConfig, MaskingConfig, tiny
from model.world.dual_branch import Block, DualBranchWorldModel
from model.world.losses import world_loss_fn

CLIPS, FRAMES, GRID, POINTS = 4, 5, (3, 4), 6  # of a global batch
CONFIG = TrainConfig(steps=6, learning_rate=3e-3, warmup_steps=2, ema=0.9, weight_decay=0.1, seed=3)
STOP = 3  # runs that are stopped are stopped after this step
DDP, FSDP, MASKED, ALL = (
    ParallelConfig(),
    ParallelConfig(strategy="fsdp"),
    MaskingConfig(),
    LossConfig(),
)
NO_DEPTH = LossConfig(depth=0.0)  # the depth branch's head gets no gradient

Curve = list[dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Run:
    name: str
    parallel: ParallelConfig = DDP
    config: TrainConfig = CONFIG
    masking: MaskingConfig = MASKED
    losses: LossConfig = ALL
    from_snapshot: str = ""  # resumes from the state of the run of this name
    stop: bool = False  # after STOP, with its state saved


TOGETHER = [
    Run(name="ddp"),
    Run(name="fsdp", parallel=FSDP),
    Run(name="fsdp, recomputed", parallel=replace(FSDP, checkpoint_activations=True)),
    Run(name="ddp, compiled", parallel=replace(DDP, compile=True)),
    Run(
        name="fsdp, compiled, recomputed",
        parallel=replace(FSDP, compile=True, checkpoint_activations=True),
    ),
    Run(name="ddp, accumulated", config=replace(CONFIG, grad_accum_steps=2)),
    Run(name="fsdp, accumulated", config=replace(CONFIG, grad_accum_steps=2), parallel=FSDP),
    Run(name="ddp, clean context", masking=MaskingConfig(context="clean")),
    Run(name="ddp, no depth loss", losses=NO_DEPTH),
    Run(name="fsdp, no depth loss", losses=NO_DEPTH, parallel=FSDP),
    Run(name="ddp, bfloat16", config=replace(CONFIG, precision="bfloat16")),
    Run(name="fsdp, bfloat16", config=replace(CONFIG, precision="bfloat16"), parallel=FSDP),
    Run(name="ddp, stopped", stop=True),
    Run(name="fsdp, stopped", parallel=FSDP, stop=True),
    Run(name="fsdp from ddp", parallel=FSDP, from_snapshot="ddp, stopped"),
    Run(name="ddp from fsdp", from_snapshot="fsdp, stopped"),
    Run(name="fsdp from one", parallel=FSDP, from_snapshot="one, stopped"),
]


def global_batch(i: int) -> WorldBatch:
    g = torch.Generator().manual_seed(i)
    return WorldBatch(
        rgb_tokens=torch.randint(TOKEN_VOCAB, (CLIPS, FRAMES, *GRID), generator=g),
        depth_tokens=torch.randint(TOKEN_VOCAB, (CLIPS, FRAMES, *GRID), generator=g),
        actions=torch.randn(CLIPS, FRAMES, 3, generator=g),
        tracks=torch.rand(CLIPS, FRAMES, POINTS, 2, generator=g),
        visible=torch.rand(CLIPS, FRAMES, POINTS, generator=g)
        < torch.rand(CLIPS, 1, 1, generator=g),
        clip_ids=[f"clip-{i}-{j}" for j in range(CLIPS)],
    )


def part_of(batch: WorldBatch, workers: Workers) -> WorldBatch:
    tensors = {
        name: workers.shard(value)
        for name, value in vars(batch).items()
        if isinstance(value, torch.Tensor)
    }
    return WorldBatch(
        **tensors, clip_ids=batch.clip_ids[workers.rank :: workers.n], workers=workers
    )


def build() -> DualBranchWorldModel:
    torch.manual_seed(0)
    return DualBranchWorldModel(
        tiny(n_layers=2, d_model=32, n_heads=2, grid=GRID, n_frames=FRAMES, action_dim=3)
    )


class Stopped(Exception):
    pass


def perform(
    run: Run, folder: Path, workers: Workers = ALONE
) -> tuple[Curve, dict[str, torch.Tensor]]:
    """The report of every step, and the final and averaged weights, unsharded.

    In float64 unless a run uses autocast: Adam divides each gradient by its size, so the rounding
    of the smallest ones would show in the weights.
    """
    exact = run.config.precision == "float32"
    model, curve = build().double() if exact else build(), Curve()

    def batch_at(i: int) -> WorldBatch:
        batch = part_of(global_batch(i), workers)
        return (
            replace(batch, actions=batch.actions.double(), tracks=batch.tracks.double())
            if exact
            else batch
        )

    start = (
        Snapshots(folder / run.from_snapshot, workers=workers).latest()
        if run.from_snapshot
        else None
    )
    snapshots = Snapshots(folder / run.name, workers=workers) if run.stop else None

    def on_step(report: StepReport) -> None:
        curve.append({"step": report.step, "grad_norm": report.grad_norm, **report.losses})
        if snapshots is not None and report.step == STOP:
            snapshots.save(report.state(), next_batch=report.step)
            snapshots.close()
            raise Stopped

    parallel = Parallel(
        workers=workers, config=run.parallel, block=Block, all_trained=run.losses.depth > 0
    )
    loss_fn = world_loss_fn(run.losses, run.masking)
    try:
        end = train(
            model, loss_fn, batch_at, run.config, state=start, on_step=on_step, parallel=parallel
        )  # fmt: skip
    except Stopped:
        return curve, {}
    assert end.ema is not None
    final = {name: value.clone() for name, value in model.state_dict().items()}
    load_whole(model, end.ema)
    return curve, {f"final.{name}": value for name, value in final.items()} | dict(
        model.state_dict()
    )


def without_code() -> None:
    """Compiles with a backend that generates no code: tests look at the graphs."""
    torch.compile = functools.partial(torch.compile, backend="aot_eager", fullgraph=True)


def together(folder: Path) -> None:
    """Performs every run of `TOGETHER`; writes each worker's reports and the weights."""
    without_code()
    workers = join()
    found = {run.name: perform(run, folder, workers) for run in TOGETHER}
    curves = workers.gather({name: curve for name, (curve, _) in found.items()})
    if workers.is_first:
        (folder / "curves.json").write_text(json.dumps(curves))
        torch.save({name: weights for name, (_, weights) in found.items()}, folder / "weights.pt")
    leave()


def compiled(path: Path) -> None:
    """Runs with compiled blocks."""
    without_code()
    found: dict = {}
    for name in ("plain", "recomputed"):
        torch.compiler.reset()
        counters.clear()
        config = ParallelConfig(compile=True, checkpoint_activations=name == "recomputed")
        curve, _ = perform(Run(name=name, parallel=config), path.parent)
        found[name] = {"curve": curve, "graphs": counters["stats"]["unique_graphs"]}
    counters.clear()
    model, batch = build(), global_batch(0)
    ParallelWrapper(
        model, lambda *_: {}, Parallel(config=ParallelConfig(compile=True), block=Block), bf16=False
    )
    with uncompiled(), torch.no_grad():
        model(batch.rgb_tokens[:, :2], batch.depth_tokens[:, :2], batch.actions[:, :2])
    found["graphs of other shapes"] = counters["stats"]["unique_graphs"]
    path.write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"together": together, "compiled": compiled}[sys.argv[1]](Path(sys.argv[2]))
