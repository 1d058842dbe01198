"""What training the world model costs, counted from its shapes: multiplications and additions of
all matrix products.

A product of (m, k) and (k, n) is 2mkn. The backward pass is two such products for each of the
forward pass. Nothing is counted for norms, activations, embeddings and the optimizer, and nothing
twice: recomputing activations is no work.
"""

import math

from model.world.config import FACTOR_VOCAB, N_FACTORS, MaskingConfig, WorldModelConfig


def training_flops(config: WorldModelConfig, masking: MaskingConfig, n_frames: int) -> float:
    """Of one clip, forward and backward, all branches.

    A clip beside its clean copy runs through the blocks as 2 (n_frames - 1) frames. Scores are made
    for masked tokens only; their number is random, and counted by its mean.
    """
    frames = n_frames if masking.context == "masked" else 2 * (n_frames - 1)
    blocks = (
        frames * config.n_layers * (config.n_cells * _block(config, frames) + _modulation(config))
    )
    heads = (
        masked_share(masking, n_frames)
        * n_frames
        * config.n_cells
        * 2
        * config.d_model
        * N_FACTORS
        * FACTOR_VOCAB
    )
    actions = 2 * frames * _action_weights(config)
    fusions = (
        frames * config.n_cells * config.n_layers * 2 * config.d_model**2
        if config.depth_branch
        else 0
    )
    return 3 * (len(config.branches) * (blocks + heads + actions) + fusions)


def masked_share(masking: MaskingConfig, n_frames: int) -> float:
    """Mean share of a clip's cells that are masked: 2/pi of those of the frames from the first
    masked one on.
    """
    open_to_hiding = n_frames - masking.n_prompt_frames
    mean_frames = (open_to_hiding + 1) / 2 if masking.context == "masked" else open_to_hiding
    return mean_frames / n_frames * 2 / math.pi


def _block(config: WorldModelConfig, frames: int) -> int:
    """Of one cell in one frame: projections of both attentions, the MLP, and every pair of scores
    and of values.
    """
    d = config.d_model
    return 2 * (4 + 4 + 2 * config.mlp_ratio) * d**2 + 4 * (config.n_cells + frames) * d


def _modulation(config: WorldModelConfig) -> int:
    """Of one frame; it is the same for all its cells."""
    return (
        2 * config.d_action * 9 * config.d_model if config.action_conditioning == "modulate" else 0
    )


def _action_weights(config: WorldModelConfig) -> int:
    n_inputs = config.action_dim * config.action_substeps
    if config.action_conditioning == "add":
        return n_inputs * config.d_model
    return (n_inputs + config.d_action) * config.d_action
