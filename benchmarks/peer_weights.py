"""1xgpt's weights in a model of ours with the same layout, to measure generation against it.

1xgpt (1x-technologies/1xgpt on GitHub, Apache-2.0) has one branch, no actions, a position table
over frames and cells, and no norm before time attention or after the last block. `peer_names` maps
its entries to ours.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from model.world.config import WorldModelConfig
from model.world.dual_branch import DualBranchWorldModel

NAMES_SHOWN = 3  # complaints that an error lists before it only counts


def from_peer(state: Mapping[str, Tensor], n_heads: int) -> DualBranchWorldModel:
    """Our model with the weights of a 1xgpt state dict.

    Expects its `use_mup=False`, `qk_norm=False` and two factored vocabularies. What the peer lacks
    is 0 here: biases of queries, keys and values, the position of a cell alone, and the action map,
    so actions may be anything. Raises ValueError naming the first entries that are missing, left
    over or of another size.
    """
    model = DualBranchWorldModel(peer_config(state, n_heads))
    own, names = model.rgb.state_dict(), peer_names(model.config.n_layers)
    wrong = [f"{theirs} is missing" for theirs in names.values() if theirs not in state]
    wrong += [f"{theirs} has no place in our layout" for theirs in state.keys() - names.values()]
    for ours, theirs in names.items():
        found, expected = state.get(theirs, own[ours]).numel(), own[ours].numel()
        if found != expected:
            wrong.append(f"{theirs} has {found} numbers, expected {expected}")
    if wrong:
        more = f" and {len(wrong) - NAMES_SHOWN} more" if len(wrong) > NAMES_SHOWN else ""
        listed = "; ".join(sorted(wrong)[:NAMES_SHOWN])
        raise ValueError(f"the weights of 1xgpt do not fit {model.config}: {listed}{more}")
    filled = {name: torch.zeros_like(value) for name, value in own.items()}
    filled |= {ours: state[theirs].view_as(own[ours]) for ours, theirs in names.items()}
    model.rgb.load_state_dict(filled)
    return model.eval()


def peer_config(state: Mapping[str, Tensor], n_heads: int) -> WorldModelConfig:
    """Our config of the peer's layout; sizes come from the shapes, which do not show `n_heads`."""
    table, widest = state.get("pos_embed_TSC"), "decoder.layers.0.mlp.fc1.weight"
    if table is None or widest not in state:
        raise ValueError(
            f"not a state dict of 1xgpt: expected pos_embed_TSC and {widest}, found "
            f"{sorted(state)[:NAMES_SHOWN]}; give that of its STMaskGIT"
        )
    _, n_frames, n_cells, d_model = table.shape
    layers = {int(name.split(".")[2]) for name in state if name.startswith("decoder.layers.")}
    return WorldModelConfig(
        n_layers=1 + max(layers),
        n_heads=n_heads,
        d_model=d_model,
        mlp_ratio=state[widest].shape[0] // d_model,
        grid=(math.isqrt(n_cells), math.isqrt(n_cells)),
        n_frames=n_frames,
        action_dim=1,
        action_conditioning="add",
        time_positions="table",
        norms="1xgpt",
        depth_branch=False,
    )


def peer_names(n_layers: int) -> dict[str, str]:
    """Our name of each entry of the RGB branch that 1xgpt has -> its name in 1xgpt."""
    names = {
        "embed.low.weight": "token_embed.factored_embeds.0.weight",  # id % 512
        "embed.high.weight": "token_embed.factored_embeds.1.weight",
        "embed.mask": "token_embed.mask_token_embed",
        "embed.time": "pos_embed_TSC",
        "head.weight": "out_x_proj.weight",
        "head.bias": "out_x_proj.bias",
    }
    linear_or_norm = {
        "norms.0": "norm1",
        "norms.2": "norm2",
        "space.out": "spatial_attn.proj",
        "time.out": "temporal_attn.proj",
        "mlp.0": "mlp.fc1",
        "mlp.2": "mlp.fc2",
    }
    for i in range(n_layers):
        ours, theirs = f"blocks.{i}.", f"decoder.layers.{i}."
        names |= {
            f"{ours}{a}.{part}": f"{theirs}{b}.{part}"
            for a, b in linear_or_norm.items()
            for part in ("weight", "bias")
        }
        names |= {
            f"{ours}{a}.qkv.weight": f"{theirs}{b}_attn.qkv.weight"
            for a, b in (("space", "spatial"), ("time", "temporal"))
        }
    return names
