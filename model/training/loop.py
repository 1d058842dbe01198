"""The only training loop: for the tokenizer, the world model, or any module with a loss.

A step depends on the seed, its number and the state before it, nothing else: batches are a function
of the step, and each step has a new generator for its noise. So a run that was stopped resumes from
its last saved state exactly as if it had not been stopped.

The same loop runs on many processes, each with its shard of every batch: see `parallel`.
`snapshots` saves states.
"""

import math
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from model.training.device import step_generator
from model.training.parallel import Parallel, ParallelWrapper, load_whole


class Batch(Protocol):
    """Anything with the names of its clips, for error messages, that can move to a device."""

    @property
    def clip_ids(self) -> Sequence[str]: ...

    def to(self, device: torch.device) -> "Batch": ...

    def pinned(self) -> Any:
        """In page-locked memory; itself where that does not pay."""
        ...


# (module, batch, noise) -> scalars by name: "total" is minimised, the others are only reported
LossFn = Callable[[Any, Any, torch.Generator], Mapping[str, Tensor]]


Decay = Annotated[float, Interval(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """AdamW with linear warm-up, cosine decay and gradient clipping; defaults: 1xgpt's recipe."""

    steps: Annotated[int, Ge(1)]
    learning_rate: Annotated[float, Gt(0)] = 5e-4  # the peak, reached after the warm-up
    warmup_steps: Annotated[int, Ge(0)] = 1000
    # Learning rate of the last step over the peak
    min_lr_ratio: Annotated[float, Ge(0)] = field(default=0.1, metadata={"key": "final_share"})
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    # On matrices only, not on biases, norms and other vectors
    weight_decay: Annotated[float, Ge(0)] = 0.01
    clip_norm: Annotated[float, Gt(0)] = 1.0
    # Batches per step
    grad_accum_steps: Annotated[int, Ge(1)] = field(default=1, metadata={"key": "accumulate"})
    # Decay of a moving average of the weights, e.g. 0.999; None keeps none
    ema: float | None = None
    # "bfloat16" is autocast; weights stay float32
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: Annotated[int, Ge(0)] = 0

    def __post_init__(self):
        for name in ("steps", "grad_accum_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected 1 or more")
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected more than 0")
        for name in ("warmup_steps", "weight_decay", "min_lr_ratio"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision={self.precision!r}: expected 'float32' or 'bfloat16'")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema={self.ema}: expected a decay between 0 and 1, or None")


@dataclass(frozen=True, kw_only=True)
class Discriminator:
    """A second network, trained against the first from step `start` on, as in a GAN.

    `loss_fn(module, batch, generator)` calls the first network itself, without gradients. The first
    network's loss may call `module`; gradients that it puts there are cleared before the
    discriminator's own step.
    """

    module: nn.Module
    loss_fn: LossFn
    learning_rate: float
    start: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """All that a run needs to resume: the training's own tensors, which the next step changes.

    Of the optimizers, the moments of each parameter by its number, as in PyTorch's state dict; the
    rest of an optimizer follows from the config. With FSDP most tensors are this rank's shards.
    """

    step: int  # steps done; the next batch is number step * grad_accum_steps
    model: dict[str, Tensor]
    optimizer: dict[str, dict[str, Tensor]]
    ema: dict[str, Tensor] | None = None  # the averaged weights, a state dict like `model`
    discriminator: dict[str, Tensor] | None = field(default=None, metadata={"saved_as": "critic"})
    discriminator_optimizer: dict[str, dict[str, Tensor]] | None = field(
        default=None, metadata={"saved_as": "critic_optimizer"}
    )
    # Torch's global generators, for modules that draw (dropout)
    rng: dict[str, Tensor] = field(default_factory=dict)

    def parts(self) -> dict[str, Any]:
        """The tensors by their names in saved states, without the fields that are None."""
        parts = {f.metadata.get("saved_as", f.name): getattr(self, f.name) for f in fields(self)}
        return {name: part for name, part in parts.items() if name != "step" and part is not None}


@runtime_checkable
class SavedState(Protocol):
    """A state on disk. `fill` reads it into the tensors of a running training; returns its step."""

    def fill(self, live: TrainState) -> int: ...


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One finished step."""

    step: int  # steps done, this one included
    # Means over the step's batches; those of a discriminator are named "discriminator/..."
    losses: dict[str, float]
    learning_rate: float
    grad_norm: float  # before clipping
    seconds: float  # wall time of this step, loading its batches included
    clip_ids: list[str]  # of this rank's shard
    state: Callable[[], TrainState]


class TrainingStopped(RuntimeError):
    """A step was not taken. The weights are those of the step before; if the discriminator's step
    failed, only its own are.
    """


class NonFiniteLoss(TrainingStopped):
    """The loss or its gradient is NaN or infinite."""


class LossSpike(TrainingStopped):
    """The loss or its gradient is far above that of the steps before."""


# (losses, gradient norm) of a step before it is taken -> why it must not be taken, or None
Guard = Callable[[Mapping[str, float], float], str | None]


def train(
    model: nn.Module,
    loss_fn: LossFn,
    batch_at: Callable[[int], Any],
    config: TrainConfig,
    *,
    state: SavedState | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    discriminator: Discriminator | None = None,
    guard: Guard | None = None,
    parallel: Parallel | None = None,
) -> TrainState:
    """Trains `model` in place up to `config.steps`; returns the state after the last step.

    `batch_at(i)` gives this rank's shard of the i-th batch and must depend on i alone; step n uses
    batches [n, n + 1) * grad_accum_steps. With `state`, training resumes from it. `on_step` is
    called after every step; to stop early, let it raise.

    With many workers, the loss of a shard must be normalised so that the mean over the shards is
    the loss of the global batch.

    Raises NonFiniteLoss if the loss or its gradient is not finite, LossSpike if `guard` objects.
    Both name the step's clips.
    """
    run = _Run(model, loss_fn, config, discriminator, guard, parallel or Parallel())
    try:
        if state is not None:
            run.restore(state)
        while run.step < config.steps:
            report = run.take_step(batch_at)
            if on_step is not None:
                on_step(report)
        last = run.state()
        if run.parallel.shards:
            load_whole(model, last.model)
        return last
    finally:
        run.end()


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """Learning rate of step number `step` (from 0), over the peak."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - 1 - config.warmup_steps)
    return (
        config.min_lr_ratio
        + (1 - config.min_lr_ratio) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
    )


NETWORK_ROLE, DISCRIMINATOR_ROLE = 0, 1  # of a learner: the two draw different noise


class _Learner:
    """A network with its optimizer."""

    def __init__(
        self,
        module: nn.Module,
        loss_fn: LossFn,
        learning_rate: float,
        config: TrainConfig,
        parallel: Parallel,
        role: int,
    ):
        self.config, self.workers, self.role = config, parallel.workers, role
        self.device = next(module.parameters()).device
        self.wrapper = ParallelWrapper(module, loss_fn, parallel, config.precision == "bfloat16")
        self.module = self.wrapper.network
        self.learning_rate = learning_rate
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=config.betas, fused=True)
        # AdamW makes its moments at the first step; made here, a saved state can be read into them
        for parameter in parameters:
            self.optimizer.state[parameter] = {
                "step": torch.zeros((), device=self.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }

    def advance(
        self, batches: Sequence[Any], step: int, guard: Guard | None
    ) -> tuple[dict[str, float], float, float]:
        """One optimizer step; returns the batches' mean losses, gradient norm and learning rate."""
        self.module.train()
        self.optimizer.zero_grad(set_to_none=True)
        means: dict[str, Tensor] = {}
        for i, batch in enumerate(batches):
            generator = step_generator(
                self.config.seed, step * len(batches) + i, self.role, self.device
            )
            cast = torch.autocast(
                self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"
            )
            with self.wrapper.accumulating(more_to_come=i + 1 < len(batches)):
                with cast:
                    terms = self.wrapper.loss(batch, generator)
                (terms["total"] / len(batches)).backward()
            for name, value in terms.items():
                means[name] = means.get(name, 0) + value.detach() / len(batches)
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip_norm)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        # One copy to the CPU: the only place where a step waits for the GPU
        of_all_ranks = self.workers.mean(torch.stack(list(means.values())))
        *values, grad_norm = torch.cat([of_all_ranks, norm[None]]).double().tolist()
        losses = dict(zip(means, values, strict=True))
        self._check(losses, grad_norm, step, batches, guard)
        learning_rate = self.learning_rate * learning_rate_at(step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        return losses, grad_norm, learning_rate

    def _check(
        self,
        losses: dict[str, float],
        grad_norm: float,
        step: int,
        batches: Sequence[Any],
        guard: Guard | None,
    ) -> None:
        """Raises TrainingStopped on all ranks or on none, since all see the same numbers."""
        finite = math.isfinite(losses["total"]) and math.isfinite(grad_norm)
        why = guard(losses, grad_norm) if finite and guard is not None else None
        if finite and why is None:
            return
        self.optimizer.zero_grad(set_to_none=True)
        clips = self.workers.gather(
            ", ".join(clip_id for batch in batches for clip_id in batch.clip_ids)
        )
        kind, what = (LossSpike, f"{why}; ") if finite else (NonFiniteLoss, "")
        whose, weights = "", "The weights are those of the step before."
        if self.role == DISCRIMINATOR_ROLE:
            whose = "the discriminator's "
            weights = (
                "Its weights are those of the step before; the first network has taken this step "
                "already, so only a saved state has both as they belong together."
            )
        raise kind(
            f"step {step}: {what}{whose}loss {losses}, gradient norm {grad_norm}; clips "
            f"{', '.join(clips)}. {weights} Look at these clips, or lower {whose}learning_rate."
        )

    def moments(self) -> dict[str, dict[str, Tensor]]:
        return {str(i): moments for i, moments in self.optimizer.state_dict()["state"].items()}


class _Run:
    """The learners, the averaged weights and the number of steps done."""

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        config: TrainConfig,
        discriminator: Discriminator | None,
        guard: Guard | None,
        parallel: Parallel,
    ):
        if discriminator is not None and parallel.workers.n > 1:
            raise ValueError(
                f"{parallel.workers.n} workers and a discriminator: it is trained in one process "
                "only, use 1 worker"
            )
        self.config, self.guard, self.parallel, self.step = config, guard, parallel, 0
        self.learner = _Learner(
            model, loss_fn, config.learning_rate, config, parallel, NETWORK_ROLE
        )
        self.discriminator, self.discriminator_start = None, 0
        if discriminator is not None:
            self.discriminator = _Learner(
                discriminator.module,
                discriminator.loss_fn,
                discriminator.learning_rate,
                config,
                parallel,
                DISCRIMINATOR_ROLE,
            )
            self.discriminator_start = discriminator.start
        weights = self.learner.module.state_dict()
        self.ema = {name: value.clone() for name, value in weights.items()} if config.ema else None

    def take_step(self, batch_at: Callable[[int], Any]) -> StepReport:
        started = time.perf_counter()
        first = self.step * self.config.grad_accum_steps
        batches = [
            batch_at(i).to(self.learner.device)
            for i in range(first, first + self.config.grad_accum_steps)
        ]
        losses, grad_norm, learning_rate = self.advance(batches)
        return StepReport(
            step=self.step,
            losses=losses,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            seconds=time.perf_counter() - started,
            clip_ids=[clip_id for batch in batches for clip_id in batch.clip_ids],
            state=self.state,
        )

    def advance(self, batches: Sequence[Any]) -> tuple[dict[str, float], float, float]:
        losses, grad_norm, learning_rate = self.learner.advance(batches, self.step, self.guard)
        if self.discriminator is not None and self.step >= self.discriminator_start:
            its_losses, _, _ = self.discriminator.advance(batches, self.step, None)
            losses |= {f"discriminator/{name}": value for name, value in its_losses.items()}
        if self.ema is not None and self.config.ema is not None:
            # A smaller decay at first: the initial weights fade out fast
            decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
            _move_average(self.ema, self.learner.module.state_dict(), decay)
        self.step += 1
        return losses, grad_norm, learning_rate

    def state(self) -> TrainState:
        """The training's own tensors; of the generators, copies."""
        rng = {"cpu": torch.get_rng_state()}
        if self.learner.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.learner.device)
        discriminator = self.discriminator
        return TrainState(
            step=self.step,
            model=self.learner.module.state_dict(),
            optimizer=self.learner.moments(),
            ema=self.ema,
            discriminator=discriminator.module.state_dict() if discriminator else None,
            discriminator_optimizer=discriminator.moments() if discriminator else None,
            rng=rng,
        )

    def restore(self, saved: SavedState) -> None:
        live = self.state()
        self.step = saved.fill(live)
        torch.set_rng_state(live.rng["cpu"])
        if "cuda" in live.rng:
            torch.cuda.set_rng_state(live.rng["cuda"], self.learner.device)

    def end(self) -> None:
        self.learner.wrapper.undo()


@torch.no_grad()
def _move_average(average: dict[str, Tensor], latest: dict[str, Tensor], decay: float) -> None:
    for name, value in average.items():
        if not value.is_floating_point():  # a counter
            value.copy_(latest[name])
    moving = [name for name, value in average.items() if value.is_floating_point()]
    for in_shards in (True, False):  # a call takes either DTensors or plain tensors
        if names := [name for name in moving if isinstance(average[name], DTensor) == in_shards]:
            torch._foreach_lerp_(  # type: ignore[reportPrivateImportUsage]
                [average[n] for n in names], [latest[n] for n in names], 1 - decay
            )


def check_alike(step: int, saved: Container[str], live: Container[str]) -> None:
    """Raises ValueError unless both states, given as their parts' names, have averaged weights and
    a discriminator, or neither has.
    """
    for name, what in (("ema", "averaged weights"), ("critic", "a discriminator")):
        if (name in saved) != (name in live):
            verb, other = ("has", "has not") if name in saved else ("lacks", "has")
            raise ValueError(
                f"the saved state of step {step} {verb} {what}, this run {other}: use the same "
                "TrainConfig.ema and discriminator as when it was saved"
            )


def tensors_of(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors of nested dicts, by their dotted names."""
    if isinstance(tree, Tensor):
        yield path, tree
        return
    for name, part in tree.items():
        yield from tensors_of(part, f"{path}.{name}" if path else name)
