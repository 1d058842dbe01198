"""A training step of the world model, timed, with and without fused attention."""

import multiprocessing
import resource
from collections.abc import Iterator

import torch
from measuring import Conditions, Row, Variant, interleave
from world_cases import SEED, SIZES, WINDOW, noise, unfused

from model.world.batch import WorldBatch
from model.world.config import TOKEN_VOCAB, LossConfig, MaskingConfig, WorldModelConfig
from model.world.dual_branch import DualBranchWorldModel
from model.world.flops import training_flops
from model.world.losses import world_loss_fn

POINTS = 64
GPU_SHARES = {"tiny": 0.0, "small": 0.20, "medium": 0.35, "large": 0.45}  # of the product rate (G5)
CPU_SHARE = 0.70


class TrainingStep:
    """Forward, backward, clipping and AdamW on a constant batch, as in `model.training.loop`."""

    def __init__(self, config: WorldModelConfig, n_clips: int, device: torch.device):
        torch.manual_seed(SEED)
        self.model, self.device = DualBranchWorldModel(config).to(device).train(), device
        self.batch = random_batch(config, n_clips).to(device)
        self.loss_fn = world_loss_fn(LossConfig(), MaskingConfig())
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True
        )

    def total(self) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            return self.loss_fn(self.model, self.batch, noise(torch.device("cpu")))["total"]

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.total().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


def random_batch(config: WorldModelConfig, n_clips: int) -> WorldBatch:
    draw = noise(torch.device("cpu"))
    rgb, depth = torch.randint(TOKEN_VOCAB, (2, n_clips, WINDOW, *config.grid), generator=draw)
    return WorldBatch(
        rgb_tokens=rgb,
        depth_tokens=depth,
        actions=torch.randn(n_clips, WINDOW, config.action_dim, generator=draw),
        tracks=torch.rand(n_clips, WINDOW, POINTS, 2, generator=draw),
        visible=torch.ones(n_clips, WINDOW, POINTS, dtype=torch.bool),
        clip_ids=[f"clip{i}" for i in range(n_clips)],
    )


def training(
    name: str,
    n_clips: int,
    product_rate: float,
    rounds: int,
    device: torch.device,
    seen: Conditions,
) -> Iterator[Row]:
    """G5: the share of the product rate; recomputation and padding are not counted."""
    config = SIZES[name]()
    step = TrainingStep(config, n_clips, device)
    require_equal_losses(name, step)
    times = interleave(
        {"fused": Variant(work=step), "unfused": Variant(work=unfused(step))}, rounds, device
    )
    flops = n_clips * training_flops(config, MaskingConfig(), WINDOW)
    floor = GPU_SHARES[name] if device.type == "cuda" else CPU_SHARE
    for attention, found in times.items():
        share, fused = flops / found.least / product_rate, times["fused"]
        verdict = ""
        if attention == "fused":
            verdict = f"{seen.verdict(share, floor, (found,))} (at least {floor:.0%})"
        yield {
            "model": name,
            "clips": n_clips,
            "attention": attention,
            "a step: least (median)": found,
            "clips/s": f"{n_clips / found.least:.3g}",
            "over fused": f"{found.least / fused.least:.2f} ({found.median / fused.median:.2f})",
            "of the product rate": f"{share:.0%}",
            "G5": verdict,
        }


@torch.no_grad()
def require_equal_losses(name: str, step: TrainingStep) -> None:
    a, b = step.total(), unfused(step.total)()
    assert isinstance(b, torch.Tensor)
    tolerance = 2e-2 if step.device.type == "cuda" else 1e-4  # bfloat16 on a GPU
    if not torch.isclose(a, b, rtol=tolerance):
        raise SystemExit(
            f"{name}: the loss is {a:.6f} with fused attention, {b:.6f} without; nothing is timed"
        )


LIKE_1XGPT = {"action_conditioning": "add", "norms": "1xgpt", "time_positions": "table"}
LAYOUTS = {
    "one branch, 1xgpt's layout": {"depth_branch": False, **LIKE_1XGPT},
    "one branch": {"depth_branch": False},
    "two branches": {},
}


def peak_memory(name: str) -> Iterator[Row]:
    """Peak memory of training steps of one clip on a CPU, each layout in a process of its own."""
    for layout, changes in LAYOUTS.items():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peak = pool.apply(_train_alone, (SIZES[name](**changes),))
        yield {
            "model": name,
            "layout": layout,
            "clips": 1,
            "peak of the process": f"{peak / 1e9:.1f} GB",
        }


def _train_alone(config: WorldModelConfig) -> int:
    torch.set_num_threads(1)
    step = TrainingStep(config, 1, torch.device("cpu"))
    for _ in range(2):
        step()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
