from collections.abc import Callable

import pytest
import torch

from model.world.batch import WorldBatch
from model.world.config import TOKEN_VOCAB, WorldModelConfig, tiny
from model.world.dual_branch import DualBranchWorldModel


def small_config(**changes) -> WorldModelConfig:
    settings = {
        "n_layers": 2,
        "n_heads": 2,
        "d_model": 16,
        "d_action": 8,
        "grid": (3, 4),
        "n_frames": 5,
        "action_dim": 3,
    }
    return tiny(**(settings | changes))


@pytest.fixture
def make_model() -> Callable[..., DualBranchWorldModel]:
    """A small model with random weights, also those that are initially zero."""

    def make(seed: int = 0, **changes) -> DualBranchWorldModel:
        torch.manual_seed(seed)
        model = DualBranchWorldModel(small_config(**changes))
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
        return model.eval()

    return make


@pytest.fixture
def make_batch() -> Callable[..., WorldBatch]:
    def make(
        seed: int = 0, b: int = 2, t: int = 5, p: int = 6, a: tuple[int, ...] = (3,), grid=(3, 4)
    ) -> WorldBatch:
        g = torch.Generator().manual_seed(seed)
        return WorldBatch(
            rgb_tokens=torch.randint(TOKEN_VOCAB, (b, t, *grid), generator=g),
            depth_tokens=torch.randint(TOKEN_VOCAB, (b, t, *grid), generator=g),
            actions=torch.randn(b, t, *a, generator=g),
            tracks=torch.rand(b, t, p, 2, generator=g) * 1.2 - 0.1,  # some points outside the frame
            visible=torch.rand(b, t, p, generator=g) < 0.8,
            clip_ids=[f"clip-{i}" for i in range(b)],
        )

    return make
