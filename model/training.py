"""The only training loop: for the tokenizer, the world model, or any module with a loss.

Everything a step does follows from the seed, the step's number and the state before it: batches are a function of the
step, and noise comes from a generator made anew for each step. So a run that was stopped goes on from its last saved
state exactly as if it had not been.
"""

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn


class Batch(Protocol):
    """Anything with the names of its clips, for error messages, that can move to a device."""

    clip_ids: list[str]

    def to(self, device: torch.device) -> "Batch": ...


# (module, batch, noise) -> scalars by name: "total" is minimised, the others are reported beside it.
LossFn = Callable[[Any, Any, torch.Generator], Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """AdamW with linear warm-up, cosine decay and gradient clipping; the defaults are 1xgpt's recipe."""

    steps: int
    learning_rate: float = 5e-4  # the highest, reached after the warm-up
    warmup_steps: int = 1000
    final_share: float = 0.1  # learning rate at the last step, as a share of the highest
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01  # on matrices only; biases, norms and single vectors are left alone
    clip_norm: float = 1.0
    accumulate: int = 1  # batches per step
    ema: float | None = None  # decay of a moving average of the weights, e.g. 0.999; None keeps none
    precision: Literal["float32", "bfloat16"] = "float32"  # bfloat16 is autocast, over weights that stay float32
    seed: int = 0

    def __post_init__(self):
        for name in ("steps", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected 1 or more")
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected more than 0")
        for name in ("warmup_steps", "weight_decay", "final_share"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision={self.precision!r}: expected 'float32' or 'bfloat16'")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema={self.ema}: expected a decay between 0 and 1, or None")


@dataclass(frozen=True, kw_only=True)
class Critic:
    """A second network trained against the first, such as a GAN's discriminator, from step `start` on.

    `loss_fn(critic_module, batch, generator)` makes its own use of the first network, without gradients. The first
    network's loss may call the critic's module: gradients that this leaves there are cleared before the critic's turn.
    """

    module: nn.Module
    loss_fn: LossFn
    learning_rate: float
    start: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """All that a run needs to go on, as plain tensors (on the CPU), numbers and containers."""

    step: int  # steps done; the next batch is number step * accumulate
    model: dict[str, Any]
    optimizer: dict[str, Any]
    ema: dict[str, Tensor] | None = None  # the averaged weights, a state dict like `model`
    critic: dict[str, Any] | None = None
    critic_optimizer: dict[str, Any] | None = None
    rng: dict[str, Any] = field(default_factory=dict)  # torch's global generators, for modules that draw (dropout)


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One finished step."""

    step: int  # steps done, this one included
    losses: dict[str, float]  # means over the step's batches; a critic's are named "critic/..."
    learning_rate: float
    grad_norm: float  # before clipping
    seconds: float  # wall time of this step, getting its batches included
    clip_ids: list[str]
    capture: Callable[[], TrainState]  # copies the state after this step; call it inside `on_step`


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient is NaN or infinite; the weights of that network are those of the step before."""


def train(
    model: nn.Module,
    loss_fn: LossFn,
    batch_at: Callable[[int], Any],
    config: TrainConfig,
    *,
    state: TrainState | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    critic: Critic | None = None,
) -> TrainState:
    """Train `model` in place up to `config.steps` and return the state after the last one.

    `batch_at(i)` gives the i-th batch and must depend on i alone; step n uses batches [n, n + 1) * accumulate.
    With `state`, everything is set to it and training goes on from there. `on_step` hears of every step; to stop
    early, let it raise.

    Raises NonFiniteLoss, naming the batch's clips, when the loss or its gradient is not finite.
    """
    run = _Run(model, loss_fn, config, critic)
    if state is not None:
        run.restore(state)
    while run.step < config.steps:
        started = time.perf_counter()
        first = run.step * config.accumulate
        batches = [batch_at(i).to(run.device) for i in range(first, first + config.accumulate)]
        clip_ids = [clip_id for batch in batches for clip_id in batch.clip_ids]
        losses, grad_norm, learning_rate = run.advance(batches, clip_ids)
        if on_step is not None:
            on_step(
                StepReport(
                    step=run.step,
                    losses=losses,
                    learning_rate=learning_rate,
                    grad_norm=grad_norm,
                    seconds=time.perf_counter() - started,
                    clip_ids=clip_ids,
                    capture=run.capture,
                )
            )
    return run.capture()


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """Share of the highest learning rate that step number `step` (from 0) uses."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - 1 - config.warmup_steps)
    return config.final_share + (1 - config.final_share) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def step_generator(seed: int, index: int, role: int = 0) -> torch.Generator:
    """The noise of one batch: the same for the same numbers, unrelated for any others. Always on the CPU."""
    mixed = np.random.SeedSequence((seed, index, role)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed))


class _Learner:
    """A network with its optimizer."""

    def __init__(self, module: nn.Module, loss_fn: LossFn, learning_rate: float, config: TrainConfig, role: int):
        self.module, self.loss_fn, self.config, self.role = module, loss_fn, config, role
        self.learning_rate = learning_rate
        parameters = [p for p in module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=config.betas, fused=True)

    def advance(self, batches: list[Any], step: int, clip_ids: list[str]) -> tuple[dict[str, float], float, float]:
        """One optimizer step over the batches; returns mean losses, gradient norm and learning rate."""
        self.module.train()
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for i, batch in enumerate(batches):
            generator = step_generator(self.config.seed, step * len(batches) + i, self.role)
            device = next(self.module.parameters()).device.type
            with torch.autocast(device, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
                losses = self.loss_fn(self.module, batch, generator)
            (losses["total"] / len(batches)).backward()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach() / len(batches)
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip_norm)
        *values, grad_norm = torch.stack([*sums.values(), norm]).double().tolist()  # the step's one wait for a GPU
        means = dict(zip(sums, values, strict=True))
        if not (math.isfinite(means["total"]) and math.isfinite(grad_norm)):
            self.optimizer.zero_grad(set_to_none=True)
            raise NonFiniteLoss(
                f"step {step}: loss {means}, gradient norm {grad_norm}; clips {', '.join(clip_ids)}. The weights are "
                "those of the step before. Look at these clips, or lower learning_rate, and go on from a saved state."
            )
        learning_rate = self.learning_rate * learning_rate_at(step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        return means, grad_norm, learning_rate


class _Run:
    """What changes from step to step."""

    def __init__(self, model: nn.Module, loss_fn: LossFn, config: TrainConfig, critic: Critic | None):
        self.config, self.step = config, 0
        self.device = next(model.parameters()).device
        self.learner = _Learner(model, loss_fn, config.learning_rate, config, role=0)
        self.rival, self.rival_start = None, 0
        if critic is not None:
            self.rival = _Learner(critic.module, critic.loss_fn, critic.learning_rate, config, role=1)
            self.rival_start = critic.start
        self.ema = {name: value.clone() for name, value in model.state_dict().items()} if config.ema else None

    def advance(self, batches: list[Any], clip_ids: list[str]) -> tuple[dict[str, float], float, float]:
        losses, grad_norm, learning_rate = self.learner.advance(batches, self.step, clip_ids)
        if self.rival is not None and self.step >= self.rival_start:
            rival_losses, _, _ = self.rival.advance(batches, self.step, clip_ids)
            losses |= {f"critic/{name}": value for name, value in rival_losses.items()}
        if self.ema is not None and self.config.ema is not None:
            decay = min(self.config.ema, (1 + self.step) / (10 + self.step))  # early averages forget their start fast
            _move_average(self.ema, self.learner.module.state_dict(), decay)
        self.step += 1
        return losses, grad_norm, learning_rate

    def capture(self) -> TrainState:
        rng = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}
        rival = self.rival
        return TrainState(
            step=self.step,
            model=_copied(self.learner.module.state_dict()),
            optimizer=_copied(self.learner.optimizer.state_dict()),
            ema=_copied(self.ema),
            critic=_copied(rival.module.state_dict()) if rival else None,
            critic_optimizer=_copied(rival.optimizer.state_dict()) if rival else None,
            rng=rng,
        )

    def restore(self, state: TrainState) -> None:
        self.step = state.step
        self.learner.module.load_state_dict(state.model)
        self.learner.optimizer.load_state_dict(_copied(state.optimizer))
        if (self.ema is None) != (state.ema is None) or (self.rival is None) != (state.critic is None):
            raise ValueError(
                f"the saved state of step {state.step} {'has' if state.ema else 'lacks'} averaged weights and "
                f"{'has' if state.critic else 'lacks'} a critic, this run is the other way round: use the same "
                "TrainConfig.ema and critic as when it was saved"
            )
        if state.ema is not None:
            self.ema = {name: value.to(self.device, copy=True) for name, value in state.ema.items()}
        if self.rival is not None and state.critic is not None and state.critic_optimizer is not None:
            self.rival.module.load_state_dict(state.critic)
            self.rival.optimizer.load_state_dict(_copied(state.critic_optimizer))
        torch.set_rng_state(state.rng["cpu"])
        if torch.cuda.is_available() and len(state.rng["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state.rng["cuda"])


@torch.no_grad()
def _move_average(average: dict[str, Tensor], latest: dict[str, Tensor], decay: float) -> None:
    for name, value in average.items():
        if value.is_floating_point():
            value.lerp_(latest[name], 1 - decay)
        else:
            value.copy_(latest[name])


def _copied(tree: Any) -> Any:
    """The same containers with copies of their tensors, on the CPU."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, Mapping):
        return {key: _copied(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_copied(value) for value in tree)
    return tree


def save_state(path: Path, state: TrainState) -> None:
    """Write a state whole or not at all: a file beside `path` is filled, flushed to disk and renamed over it."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            torch.save(vars(state), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def load_state(path: Path) -> TrainState:
    """Read a state that `save_state` wrote; only tensors and plain values are accepted from the file."""
    return TrainState(**torch.load(path, map_location="cpu", weights_only=True))
