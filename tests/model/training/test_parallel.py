"""Trainings on many workers equal those on one, up to the rounding of sums."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from repository import ROOT, SUPPORT
from worker_runs import CONFIG, STOP, TOGETHER, Curve, Run, build, global_batch, part_of, perform

from model.training.loop import Discriminator, TrainConfig, train
from model.training.parallel import ALONE, Parallel, ParallelConfig, Workers, join
from model.world.config import LossConfig, MaskingConfig
from model.world.dual_branch import Block
from model.world.losses import world_loss_fn
from model.world.masking import corrupt

EXACT = 1e-8  # of float64, after six steps of Adam
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def torchrun(n: int, *command: object) -> None:
    """Processes as a user starts them, on a port that torch finds."""
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(n),
    ]
    done = subprocess.run(
        [*launch, *map(str, command)], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-5000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of all runs of `TOGETHER` by two workers, one from a single process's state."""
    folder = tmp_path_factory.mktemp("two_workers")
    perform(Run(name="one, stopped", stop=True), folder)
    torchrun(2, SUPPORT / "worker_runs.py", "together", folder)
    return folder


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """In a process of its own, since the annotation checks of tests cannot be compiled."""
    path = tmp_path_factory.mktemp("compiled") / "found.json"
    script = SUPPORT / "worker_runs.py"
    done = subprocess.run(
        [sys.executable, script, "compiled", path], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(path.read_text())


def two_workers(folder: Path, name: str) -> tuple[Curve, dict[str, torch.Tensor]]:
    first, second = (curves[name] for curves in json.loads((folder / "curves.json").read_text()))
    assert first == second, "all workers report the loss of the whole batch"
    return first, torch.load(folder / "weights.pt")[name]


def assert_same_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """All weights but the keys' biases of space attention.

    These shift all scores of a query equally, which softmax ignores: their gradient is rounding
    noise, of which Adam makes full steps.
    """
    assert found.keys() == expected.keys()
    for name, value in found.items():
        keep = torch.ones_like(value, dtype=torch.bool)
        if name.endswith("space.qkv.bias"):
            keep[len(value) // 3 : 2 * len(value) // 3] = False
        torch.testing.assert_close(
            value[keep],
            expected[name][keep],
            rtol=EXACT,
            atol=EXACT,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def assert_alike(found: Curve, expected: Curve, tolerance: float) -> None:
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert row == pytest.approx(other, rel=tolerance), f"step {row['step']}"


@pytest.mark.slow
@pytest.mark.parametrize("run", TOGETHER, ids=lambda run: run.name)
def test_two_workers_train_like_one(folder, run: Run):
    """Losses, gradient norms, final and averaged weights; also from states of other strategies."""
    curve, weights = two_workers(folder, run.name)
    alone, expected = perform(
        Run(name="alone", config=run.config, masking=run.masking, losses=run.losses), folder
    )
    if run.stop:
        alone, expected = alone[:STOP], {}
    if run.from_snapshot:
        alone = alone[STOP:]
    # Rounds to 3 digits, and Adam's first steps are nearly signs of gradients
    if run.config.precision == "bfloat16":
        assert_alike(curve, alone, tolerance=2e-3)
        return
    assert_alike(curve, alone, tolerance=EXACT)
    assert_same_weights(weights, expected)


@pytest.mark.slow
@pytest.mark.parametrize("saved", ["ddp, stopped", "fsdp, stopped"])
def test_one_worker_resumes_from_the_state_of_two(folder, saved):
    whole, expected = perform(Run(name="alone"), folder)
    rest, weights = perform(Run(name="rest", from_snapshot=saved), folder)
    assert_alike(rest, whole[STOP:], tolerance=EXACT)
    assert_same_weights(weights, expected)


@pytest.mark.parametrize("context", ["masked", "clean"])
@pytest.mark.parametrize("n", [2, 4])
def test_workers_draw_the_noise_of_the_global_batch(n, context):
    batch, masking = global_batch(0), MaskingConfig(context=context)

    def noise() -> torch.Generator:
        return torch.Generator().manual_seed(5)

    whole = corrupt(batch.rgb_tokens, batch.depth_tokens, masking, noise())
    for rank in range(n):
        part = part_of(batch, Workers(rank, n))
        found = corrupt(part.rgb_tokens, part.depth_tokens, masking, noise(), part.workers)
        for name in ("rgb", "depth", "masked"):
            assert torch.equal(getattr(found, name), getattr(whole, name)[rank::n]), name


def train_once(config: ParallelConfig, steps: int = 2, **more) -> Curve:
    model, curve = build(), Curve()
    loss_fn = world_loss_fn(LossConfig(), MaskingConfig())
    train(
        model, loss_fn, global_batch, TrainConfig(steps=steps, warmup_steps=1, learning_rate=3e-3),
        on_step=lambda report: curve.append({"step": report.step, **report.losses}),
        parallel=Parallel(config=config, block=Block), **more,
    )  # fmt: skip
    assert not [block for block in model.modules() if "forward" in vars(block)], (
        "the blocks come back plain"
    )
    return curve


@pytest.mark.slow
@pytest.mark.parametrize("recomputed", [False, True])
def test_all_blocks_share_one_whole_graph(compiled, recomputed):
    found = compiled["recomputed" if recomputed else "plain"]
    assert found["graphs"] == 1, "of two branches of two blocks"
    assert_alike(found["curve"], perform(Run(name="alone"), Path())[0], tolerance=1e-5)


@pytest.mark.slow
def test_other_shapes_run_compiled_blocks_eagerly(compiled):
    """Such as a rollout's: compiling for them would take longer than the rollout."""
    assert compiled["graphs of other shapes"] == 0


def test_recomputed_activations_change_nothing_and_save_memory():
    """Memory is counted as what autograd keeps for the backward pass."""

    def kept(config: ParallelConfig) -> tuple[int, Curve]:
        n_bytes = 0

        def count(x: torch.Tensor) -> torch.Tensor:
            nonlocal n_bytes
            n_bytes += x.numel() * x.element_size()
            return x

        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            return n_bytes, train_once(config, steps=1)

    (plain_bytes, plain), (bytes_, curve) = (
        kept(ParallelConfig()),
        kept(ParallelConfig(checkpoint_activations=True)),
    )
    assert curve == plain
    assert bytes_ <= plain_bytes


def test_a_single_process_needs_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join() == ALONE
    x = torch.arange(3)
    assert ALONE.shard(x) is x and ALONE.sum(x) is x and ALONE.mean(x) is x
    assert ALONE.gather("a") == ["a"] and ALONE.broadcast("a") == "a"


def test_more_workers_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        ValueError, match=r"2 workers on a machine with 1 GPUs: use 1, or device='cpu' for all"
    ):
        join()


def test_a_discriminator_is_refused_with_many_workers():
    discriminator = Discriminator(
        module=torch.nn.Linear(1, 1), loss_fn=lambda *_: {}, learning_rate=0.1
    )
    with pytest.raises(ValueError, match="2 workers and a discriminator"):
        train(
            build(),
            lambda *_: {},
            global_batch,
            CONFIG,
            discriminator=discriminator,
            parallel=Parallel(workers=Workers(0, 2)),
        )
