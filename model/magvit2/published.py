"""A tokenizer from a published checkpoint, a Lightning pickle.

Only `encoder.*` and `decoder.*` are read; the file also holds the loss networks, a moving average
and the optimiser. 1X's tokens come from the raw weights, TencentARC's code runs the average: the
caller chooses.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from model.magvit2.autoencoder import MagvitTokenizer
from model.magvit2.config import MagvitConfig
from model.published_files import check_finite, differences, read_tensors, shapes_of

Weights = Literal["raw", "ema"]


def load_published(path: str | Path, config: MagvitConfig, weights: Weights) -> MagvitTokenizer:
    """The tokenizer of a published file, on the CPU and in evaluation mode.

    `weights="raw"` for 1X's `magvit2.ckpt`, `"ema"` for TencentARC's files. Only tensors are
    unpickled. Raises ValueError if the file is no such checkpoint, or its entries are not those of
    `config`.
    """
    content = read_tensors(path, mmap=True)
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise ValueError(
            f"{path}: expected a dict of tensors or one under 'state_dict', found "
            f"{type(content).__name__}"
        )
    with torch.device("meta"):
        tokenizer = MagvitTokenizer(config)
    try:
        chosen = published_state(state, config, weights)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    check_finite(chosen, str(path))
    tokenizer.load_state_dict(chosen, assign=True)
    return tokenizer.eval()


def published_state(
    state: Mapping[str, Tensor], config: MagvitConfig, weights: Weights
) -> dict[str, Tensor]:
    """The entries that `MagvitTokenizer(config)` loads, under its names, as float32 copies.

    Raises ValueError naming the first entries that are missing, left over or of another shape.
    """
    with torch.device("meta"):
        wanted = shapes_of(MagvitTokenizer(config).state_dict())
    sources = {name: name if weights == "raw" else ema_name(name) for name in wanted}
    prefixes = {"raw": ("encoder.", "decoder."), "ema": ("model_ema.encoder", "model_ema.decoder")}
    present = {name: value for name, value in state.items() if name.startswith(prefixes[weights])}
    complaints = differences(
        shapes_of(present), {source: wanted[name] for name, source in sources.items()}
    )
    if complaints:
        raise ValueError(
            f"the {weights} weights do not fit {config}: {'; '.join(complaints)}. "
            "Layouts are in model/magvit2/config.py (one_x, tencent); the other choice of weights "
            f"is {'ema' if weights == 'raw' else 'raw'!r}"
        )
    return {
        name: state[source].detach().to(torch.float32, copy=True)
        for name, source in sources.items()
    }


def ema_name(name: str) -> str:
    """The entry of a parameter's moving average in a published file: its name without dots."""
    return "model_ema." + name.replace(".", "")
