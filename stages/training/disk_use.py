"""How much disk a training takes, before it starts: an upper estimate."""

from collections.abc import Callable

import torch
from torch import nn

from model.training.loop import TrainConfig
from stages.training.run import RunConfig
from storage.stores.size import DiskUse

FLOAT = 4  # bytes of a weight; states and checkpoints hold float32
REPORT_BYTES = 3 << 20  # losses, pictures, page


def parameter_count(build: Callable[[], nn.Module]) -> int:
    """Of a network that is built without memory, buffers included."""
    with torch.device("meta"):
        return sum(value.numel() for value in build().state_dict().values())


def training_use(
    n_parameters: int,
    config: TrainConfig,
    watch: RunConfig,
    *,
    discriminator: int = 0,
    keeps_best: bool = False,
) -> DiskUse:
    """Checkpoint and reports stay; saved states are deleted at the end.

    A state holds the weights, two moments of each and the average of them, if one is kept; of the
    discriminator (parameters) the same without an average. keeps_best: a second checkpoint.
    """
    checkpoints = 2 if keeps_best and watch.validate_every else 1
    of_network = n_parameters * (3 + (config.ema is not None))
    state = FLOAT * (of_network + 3 * discriminator)
    # Those that are kept, the best one, and one being written; or as many as are ever saved
    saved = 1 + config.steps // watch.save_every
    if watch.validate_every:
        saved += config.steps // watch.validate_every
    return DiskUse(
        kept=checkpoints * FLOAT * n_parameters + REPORT_BYTES,
        inodes=30,
        working=state * min(saved, watch.keep + 2),
    )
