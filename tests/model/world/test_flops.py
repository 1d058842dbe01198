import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model.world.config import LossConfig, MaskingConfig, large, medium, small, tiny
from model.world.dual_branch import DualBranchWorldModel
from model.world.flops import masked_share, training_flops
from model.world.losses import total_loss, world_losses
from model.world.masking import choose_masked, corrupt


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("context", ["masked", "clean"])
@pytest.mark.parametrize("n_prompt_frames", [1, 3])
def test_share_of_masked_cells(context, n_prompt_frames):
    masking = MaskingConfig(context=context, n_prompt_frames=n_prompt_frames)
    share = choose_masked((3000, 6, 8, 8), masking, generator()).float().mean().item()
    assert masked_share(masking, 6) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"action_conditioning": "add", "action_substeps": 3},
        {"depth_branch": False},
        {"fusion": False},
        {"mlp_ratio": 2},
    ],
    ids=["modulate", "add", "rgb-only", "no-fusion", "narrow-mlp"],
)
@pytest.mark.parametrize("context", ["masked", "clean"])
def test_they_equal_torchs_count_of_a_step(make_batch, changes, context):
    """Forward and backward, unfused attention; corrected for the drawn number of masked tokens."""
    config = tiny(
        n_layers=2,
        d_model=32,
        n_heads=2,
        d_action=8,
        grid=(3, 4),
        n_frames=5,
        action_dim=3,
        **changes,
    )
    model, masking = DualBranchWorldModel(config), MaskingConfig(context=context)
    batch = make_batch(a=(3, 3) if config.action_substeps == 3 else (3,))
    n_masked = drawn_masked(batch, masking)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        parts = world_losses(model, batch, LossConfig(), masking, generator())
        total_loss(parts, LossConfig().weights).backward()
    b, t = batch.rgb_tokens.shape[:2]
    per_masked = 3 * len(config.branches) * 2 * config.d_model * 1024
    expected_masked = masked_share(masking, t) * b * t * config.n_cells
    expected = b * training_flops(config, masking, t) + per_masked * (n_masked - expected_masked)
    # Unused gradients are not computed: of the actions, and of frames without a loss
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


def drawn_masked(batch, masking: MaskingConfig) -> int:
    return int(corrupt(batch.rgb_tokens, batch.depth_tokens, masking, generator()).masked.sum())


@pytest.mark.parametrize(("size", "d"), [(small, 256), (medium, 512), (large, 1024)])
def test_published_sizes_cost_about_six_a_parameter_and_attention(size, d):
    """6N + 3 L branches (4 cells d + 4 frames d) a token, N without tables and modulation."""
    config = size(action_conditioning="add")
    model_n = 2 * config.n_layers * (8 + 2 * config.mlp_ratio) * d**2 + config.n_layers * d**2
    attention = 3 * config.n_layers * 2 * (4 * 256 * d + 4 * 16 * d)
    per_position = training_flops(config, MaskingConfig(), 16) / (16 * 256)
    assert per_position == pytest.approx(6 * model_n + attention, rel=0.02)
