"""Training cost of the world model from its shapes: the FLOPs of all matrix products.

A product of (m, k) and (k, n) counts 2mkn. The backward pass has two such products for each of the
forward pass. Norms, activations, embeddings and the optimizer are not counted, nor is recomputing
activations.
"""

import math

from model.world.config import FACTOR_VOCAB, N_FACTORS, MaskingConfig, WorldModelConfig


def training_flops(config: WorldModelConfig, masking: MaskingConfig, n_frames: int) -> float:
    """FLOPs of one clip, forward and backward, all branches.

    With a clean context, 2 (n_frames - 1) frames run through the blocks. Logits are computed for
    masked tokens only; their number is random and counted by its mean.
    """
    frames = n_frames if masking.context == "masked" else 2 * (n_frames - 1)
    cells, n_masked = config.n_cells, masked_share(masking, n_frames) * n_frames * config.n_cells
    blocks = frames * config.n_layers * (cells * _block(config, frames) + _modulation(config))
    heads = n_masked * 2 * config.d_model * N_FACTORS * FACTOR_VOCAB
    actions = 2 * frames * _action_weights(config)
    fusions = frames * cells * config.n_fusions * 2 * config.d_model**2
    return 3 * (len(config.branches) * (blocks + heads + actions) + fusions)


def masked_share(masking: MaskingConfig, n_frames: int) -> float:
    """Mean share of a clip's cells that are masked: 2/π of those from the first masked frame on."""
    maskable = n_frames - masking.n_prompt_frames
    mean_frames = (maskable + 1) / 2 if masking.context == "masked" else maskable
    return mean_frames / n_frames * 2 / math.pi


def _block(config: WorldModelConfig, frames: int) -> int:
    """FLOPs of one cell of one frame: projections, MLP, and the products of both attentions."""
    d = config.d_model
    return 2 * (4 + 4 + 2 * config.mlp_ratio) * d**2 + 4 * (config.n_cells + frames) * d


def _modulation(config: WorldModelConfig) -> int:
    """FLOPs of one frame: its cells share the modulation."""
    return (
        2 * config.d_action * 9 * config.d_model if config.action_conditioning == "modulate" else 0
    )


def _action_weights(config: WorldModelConfig) -> int:
    n_inputs = config.action_dim * config.action_substeps
    if config.action_conditioning == "add":
        return n_inputs * config.d_model
    return (n_inputs + config.d_action) * config.d_action
