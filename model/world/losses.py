"""RoboScape's losses (arXiv:2506.23135, section 3).

L = L_rgb + λ1 L_depth + λ2 L_keypoint + λ3 L_attention. Every part is returned as (b, t), scaled so
that its mean is the part's value: an entry is the contribution of that frame of that clip. All
entries share one normaliser, the number of predicted tokens (or visible tracks) in the global
batch.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.training.loop import LossFn
from model.training.parallel import ALONE, Workers
from model.world.attention import two_stream_view
from model.world.batch import WorldBatch
from model.world.config import LossConfig, MaskingConfig
from model.world.dual_branch import Branch, DualBranchWorldModel, HiddenStates, split_factors
from model.world.keypoints import cells_of, in_frame
from model.world.masking import Corrupted, corrupt

Parts = dict[str, Float[Tensor, "b t"]]


def world_losses(
    model: DualBranchWorldModel,
    batch: WorldBatch,
    losses: LossConfig,
    masking: MaskingConfig,
    generator: torch.Generator,
) -> Parts:
    """The parts named in `losses.weights`, of the model's prediction for corrupted clips.

    A model without a depth branch has no "depth" part.
    """
    noisy = corrupt(batch.rgb_tokens, batch.depth_tokens, masking, generator, batch.workers)
    run = run_beside_clean_copy if masking.context == "clean" else run_masked_clip
    states = run(model, noisy, batch.actions)
    mask = noisy.masked.flatten(2)  # M, the tokens to predict; never in frame 0, which is given
    # L_rgb = -1/|M| Σ_M log p(z_rgb), and L_depth likewise
    cross_entropy = token_cross_entropy(model.rgb, states.rgb, batch.rgb_tokens.flatten(2), mask)
    parts = {"rgb": per_frame_mean(cross_entropy, mask, batch.workers)}
    if model.depth is not None and states.depth is not None and losses.depth:
        depth_cross_entropy = token_cross_entropy(
            model.depth, states.depth, batch.depth_tokens.flatten(2), mask
        )
        parts["depth"] = per_frame_mean(depth_cross_entropy, mask, batch.workers)
    if losses.keypoint:  # L_keypoint = 1/|K T| Σ_k Σ_t |f_t(p_k) - f_0(p_k)|²
        parts["keypoint"] = keypoint_loss(
            states.rgb, batch.tracks, batch.visible, model.config.grid, batch.workers
        )
    if losses.attention:  # L_attention = -1/|M| Σ_M A log p(z_rgb), A = γ under a track, else 1
        weight = attention_map(batch.tracks, batch.visible, model.config.grid, losses.gamma)
        parts["attention"] = per_frame_mean(weight * cross_entropy, mask, batch.workers)
    return parts


def run_masked_clip(
    model: DualBranchWorldModel, noisy: Corrupted, actions: Float[Tensor, "b t *substeps a"]
) -> HiddenStates:
    """States of one run over the clip; earlier frames are seen with their masked cells."""
    return model(noisy.rgb, noisy.depth, actions, noisy.masked)


def run_beside_clean_copy(
    model: DualBranchWorldModel, noisy: Corrupted, actions: Float[Tensor, "b t *substeps a"]
) -> HiddenStates:
    """States of frame 0 and of masked frames 1 ... t-1, which see an unmasked copy of 0 ... t-2.

    Both copies run in one forward pass, and both have wrong tokens.
    """
    n = noisy.rgb.shape[1] - 1
    model.check_length(n + 1)

    def twice(x: Tensor) -> Tensor:
        return torch.cat([x[:, :-1], x[:, 1:]], dim=1)

    masked = torch.cat([torch.zeros_like(noisy.masked[:, :-1]), noisy.masked[:, 1:]], dim=1)
    view = two_stream_view(n, model.config.n_frames, noisy.rgb.device)
    states = model(twice(noisy.rgb), twice(noisy.depth), twice(actions), masked, view=view)

    def first_and_new(x: Tensor) -> Tensor:
        return torch.cat([x[:, :1], x[:, n:]], dim=1)

    return HiddenStates(
        first_and_new(states.rgb), first_and_new(states.depth) if states.depth is not None else None
    )


def total_loss(parts: Parts, weights: dict[str, float]) -> Float[Tensor, ""]:
    """The weighted sum of the parts' means; `weights` are `LossConfig.weights`."""
    return torch.stack([weights[name] * part.mean() for name, part in parts.items()]).sum()


def token_cross_entropy(
    branch: Branch,
    states: Float[Tensor, "b t s d"],
    tokens: Int[Tensor, "b t s"],
    mask: Bool[Tensor, "b t s"],
) -> Float[Tensor, "b t s"]:
    """-log p of each masked token, summed over its two factors; 0 elsewhere.

    A uniform guess has 2 ln 512 = 12.5. Logits are computed for masked tokens only, about a third.
    """
    logits = at_least_float32(branch.logits(states[mask]))  # (m, 2, 512)
    factors = split_factors(tokens[mask])
    nats = (
        F.cross_entropy(logits.flatten(0, 1), factors.flatten(), reduction="none")
        .unflatten(0, (-1, 2))
        .sum(-1)
    )
    return torch.zeros(mask.shape, device=nats.device, dtype=nats.dtype).masked_scatter(mask, nats)


def at_least_float32(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """x in float32 unless it is wider: sums in half precision would be too coarse."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def per_frame_mean(
    values: Float[Tensor, "b t i"], counted: Bool[Tensor, "b t i"], workers: Workers = ALONE
) -> Float[Tensor, "b t"]:
    """Each frame's sum of counted values over the mean count per frame.

    So the result's mean is that of the counted values; zeros if nothing is counted. The mean count
    is that of the global batch.
    """
    mean_count = workers.sum(counted.sum()) / (workers.n * counted.shape[0] * counted.shape[1])
    return torch.where(counted, values, 0.0).sum(-1) / mean_count.clamp(min=1e-6)


def attention_map(
    tracks: Float[Tensor, "b t p 2"],
    visible: Bool[Tensor, "b t p"],
    grid: tuple[int, int],
    gamma: float,
) -> Float[Tensor, "b t s"]:
    """The map A: gamma in the cells with a visible track in that frame, 1 elsewhere."""
    b, t, _ = visible.shape
    touched = torch.zeros(b, t, grid[0] * grid[1], device=tracks.device, dtype=torch.long)
    seen = (visible & in_frame(tracks)).long()
    touched.scatter_reduce_(2, cells_of(tracks, grid), seen, "amax")
    return torch.where(touched > 0, gamma, 1.0)


def keypoint_loss(
    features: Float[Tensor, "b t s d"],
    tracks: Float[Tensor, "b t p 2"],
    visible: Bool[Tensor, "b t p"],
    grid: tuple[int, int],
    workers: Workers = ALONE,
) -> Float[Tensor, "b t"]:
    """|f_t(p_t) - f_0(p_0)|² for every track and frame t >= 1: a moving point keeps its features.

    Open in the paper: the feature (here the RGB branch's final hidden state after the norm, in the
    cell under the point), the first frame's gradient (here none), and points out of sight (here a
    track counts where it is visible now and in frame 0).
    """
    cells = cells_of(tracks, grid)[..., None].expand(-1, -1, -1, features.shape[-1])
    along = features.gather(2, cells)  # (b, t, p, d)
    distance = at_least_float32(along - along[:, :1].detach()).square().sum(-1)
    seen = visible & in_frame(tracks)
    counted = seen & seen[:, :1]
    counted = torch.cat([torch.zeros_like(counted[:, :1]), counted[:, 1:]], dim=1)
    return per_frame_mean(distance, counted, workers)


def world_loss_fn(losses: LossConfig, masking: MaskingConfig) -> LossFn:
    """The world model's loss as `model.training.loop.train` takes it: scalars by name."""

    def loss_fn(
        model: DualBranchWorldModel, batch: WorldBatch, generator: torch.Generator
    ) -> dict[str, Tensor]:
        parts = world_losses(model, batch, losses, masking, generator)
        return {"total": total_loss(parts, losses.weights)} | {
            name: part.mean() for name, part in parts.items()
        }

    return loss_fn
