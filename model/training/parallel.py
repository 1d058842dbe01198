"""One training on several processes: their ranks, the clips of each, and the network in parallel.

Every process (worker) runs the same program and joins the group by `join`: under torchrun, Ray
Train or any launcher that sets the same environment variables. Results do not depend on the number
of workers: the order of clips and all noise are those of the global batch, and so are counts.
"""

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

Thing = TypeVar("Thing")

# Rank 0 may be measuring held-out clips while the others wait
TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Workers:
    """This process among those of its training. All methods but `shard` are collectives: every rank
    must call them.
    """

    rank: int = 0
    n: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this rank writes tables, pictures and the checkpoint."""
        return self.rank == 0

    def shard(self, whole: Tensor) -> Tensor:
        """This rank's rows of a tensor for the global batch: every n-th."""
        return whole if self.n == 1 else whole[self.rank :: self.n]

    def sum(self, x: Tensor) -> Tensor:
        """The sum over the ranks, without gradient."""
        if self.n == 1:
            return x
        total = x.detach().clone()
        dist.all_reduce(total)
        return total

    def mean(self, x: Tensor) -> Tensor:
        return x if self.n == 1 else self.sum(x) / self.n

    def gather(self, thing: Thing) -> list[Thing]:
        """Every rank's `thing`, by rank; anything that can be pickled."""
        if self.n == 1:
            return [thing]
        found: list[Any] = [None] * self.n
        dist.all_gather_object(found, thing)
        return found

    def broadcast(self, thing: Thing) -> Thing:
        """Rank 0's `thing`."""
        return self.gather(thing)[0]

    def barrier(self) -> None:
        """Waits until every rank has called it."""
        self.gather(None)


ALONE = Workers()


def join(device: str | None = None) -> Workers:
    """Joins the process group that the environment describes, if any; selects this rank's GPU.

    A group that exists already (Ray Train makes one) is used. `device="cpu"` uses no GPU. Raises
    ValueError if this machine has GPUs, but fewer than workers.
    """
    if not dist.is_initialized():
        if "WORLD_SIZE" not in os.environ:
            return ALONE
        on_gpus = torch.cuda.is_available() and device != "cpu"
        if on_gpus:
            here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
            if here > gpus:
                raise ValueError(
                    f"{here} workers on a machine with {gpus} GPUs: use {gpus}, or device='cpu' "
                    "for all"
                )
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=TIMEOUT)
    return Workers(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How a training uses its processors and memory. Results change by rounding only."""

    # "ddp": every worker holds the whole network. "fsdp": each holds a shard of the weights,
    # gradients, moments and averages, and gathers the rest block by block (FSDP2).
    strategy: Literal["ddp", "fsdp"] = "ddp"
    compile: bool = False  # one graph for all blocks; pays on GPUs, costs a minute at the start
    # Keep each block's input only, and run the block again for its gradient
    checkpoint_activations: bool = False

    def __post_init__(self):
        if self.strategy not in ("ddp", "fsdp"):
            raise ValueError(f"strategy={self.strategy!r}: expected 'ddp' or 'fsdp'")


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """The processes of a training, and what of its network is repeated."""

    workers: Workers = ALONE
    config: ParallelConfig = field(default_factory=ParallelConfig)
    # The repeated module: sharded, compiled and recomputed one by one
    block: type[nn.Module] | None = None
    # False: some weights get no gradient, as with a part of the loss left out
    all_trained: bool = True

    @property
    def shards(self) -> bool:
        return self.config.strategy == "fsdp" and self.workers.n > 1


class LossModule(nn.Module):
    """A loss with its network as one module, so that one forward pass uses all weights of a step.

    DDP and FSDP hook this forward pass; the loss also calls parts of the network (its heads)
    directly.
    """

    def __init__(self, network: nn.Module, loss_fn: Callable[..., Mapping[str, Tensor]]):
        super().__init__()
        self.network, self.loss_fn = network, loss_fn

    def forward(self, batch: Any, noise: torch.Generator) -> Mapping[str, Tensor]:
        return self.loss_fn(self.network, batch, noise)


class ParallelWrapper:
    """A network and its loss, wrapped for DDP or FSDP.

    `network` has the parameters that are trained. It is the given module itself, or with FSDP a
    sharded copy of it: then the given one stays on the CPU, unsharded, and `load_whole` copies the
    weights into it.
    """

    def __init__(
        self,
        module: nn.Module,
        loss_fn: Callable[..., Mapping[str, Tensor]],
        parallel: Parallel,
        bf16: bool,
    ):
        self.network = copy.deepcopy(module) if parallel.shards else module
        if parallel.shards:
            module.to("cpu")
        self.blocks = [
            part
            for part in self.network.modules()
            if parallel.block and isinstance(part, parallel.block)
        ]
        for block in self.blocks:
            _prepare_block(block, parallel.config)
        self.loss: nn.Module = LossModule(self.network, loss_fn)
        if parallel.shards:
            _shard(self.loss, self.blocks, bf16)
        elif parallel.workers.n > 1:
            self.loss = DistributedDataParallel(
                self.loss,
                gradient_as_bucket_view=True,
                find_unused_parameters=not parallel.all_trained,
            )

    def accumulating(self, more_to_come: bool) -> AbstractContextManager[None]:
        """The context of a batch's backward pass: DDP reduces gradients after the last batch only.

        FSDP reduces them after each, which needs no memory for whole gradients.
        """
        if more_to_come and isinstance(self.loss, DistributedDataParallel):
            return self.loss.no_sync()
        return nullcontext()

    def undo(self) -> None:
        """Restores the blocks' own forward methods."""
        for block in self.blocks:
            vars(block).pop("forward", None)


def _prepare_block(block: nn.Module, config: ParallelConfig) -> None:
    """Wraps a block's forward: recomputation inside, compilation outside, then FSDP's hooks."""
    plain = block.forward

    def recomputed(*args: Any) -> Any:
        return checkpoint(plain, *args, use_reentrant=False)

    forward = recomputed if config.checkpoint_activations else plain
    if config.compile:
        forward = torch.compile(forward)
    if forward is not plain:
        block.forward = forward


def _shard(loss: nn.Module, blocks: list[nn.Module], bf16: bool) -> None:
    """Applies FSDP2: one unit per block and one for the rest.

    In bfloat16 the blocks' weights are gathered in that precision, to which autocast would cast
    them anyway; shards, gradients and moments stay float32.
    """
    device = next(loss.parameters()).device.type
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    in_bf16 = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=in_bf16 if bf16 else MixedPrecisionPolicy())
    fully_shard(loss, mesh=mesh)


@torch.no_grad()
def load_whole(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies a state that may be sharded into a plain module; if it is, every rank must call it."""
    for name, value in module.state_dict().items():
        source = weights[name]
        value.copy_(source.full_tensor() if isinstance(source, DTensor) else source)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Runs compiled blocks eagerly: for inputs of other shapes, such as a rollout's."""
    with torch.compiler.set_stance("force_eager"):
        yield
