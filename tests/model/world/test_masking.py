import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.world.config import TOKEN_VOCAB, MaskingConfig
from model.world.masking import choose_masked, corrupt, replace_factors


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), t=st.integers(2, 9), prompt=st.integers(1, 8))
def test_prompt_frames_are_never_masked(seed, t, prompt):
    if prompt >= t:
        with pytest.raises(ValueError, match="none to predict"):
            choose_masked((2, t, 4, 4), MaskingConfig(n_prompt_frames=prompt), generator(seed))
        return
    assert not choose_masked((2, t, 4, 4), MaskingConfig(n_prompt_frames=prompt), generator(seed))[
        :, :prompt
    ].any()


def test_masked_shares_follow_the_recipe():
    """Frame f has masked cells with probability f / (t-1): a share cos(πu/2), on average 2/π."""
    b, t = 4000, 6
    share = choose_masked((b, t, 6, 6), MaskingConfig(), generator()).float().mean((2, 3))  # (b, t)
    expected = torch.arange(t) / (t - 1) * 2 / math.pi
    torch.testing.assert_close(share.mean(0), expected, atol=0.02, rtol=0)
    assert share[:, -1].min() < 0.1 and share[:, -1].max() == 1.0
    opened = share > 0  # from the first masked frame on, frames are independent
    second = share[:, 2][opened[:, 1]], share[:, 1][opened[:, 1]]
    assert abs(torch.corrcoef(torch.stack(second))[0, 1]) < 0.06


def test_with_a_clean_context_every_frame_after_the_prompt_is_predicted():
    share = (
        choose_masked((4000, 4, 6, 6), MaskingConfig(context="clean"), generator())
        .float()
        .mean((0, 2, 3))
    )
    torch.testing.assert_close(share, torch.tensor([0.0, 1, 1, 1]) * 2 / math.pi, atol=0.02, rtol=0)


def test_first_masked_frame_is_uniform():
    masked = (
        choose_masked((6000, 5, 8, 8), MaskingConfig(n_prompt_frames=2), generator())
        .flatten(2)
        .any(-1)
    )
    first = masked.float().argmax(1)
    counts = torch.bincount(first[masked.any(1)], minlength=5) / 6000
    assert counts[:2].sum() == 0
    torch.testing.assert_close(counts[2:], torch.full((3,), 1 / 3), atol=0.03, rtol=0)


def test_replacement_hits_each_factor_at_the_clips_rate():
    ids = torch.full((2, 50, 16, 16), 5 + 512 * 9)
    rate = torch.tensor([0.0, 0.2]).view(2, 1, 1, 1)
    wrong = replace_factors(ids, rate, generator())
    assert torch.equal(wrong[0], ids[0])
    low, high = (wrong[1] % 512 != 5).float().mean(), (wrong[1] // 512 != 9).float().mean()
    assert low == pytest.approx(0.2 * 511 / 512, abs=0.02) and high == pytest.approx(
        0.2 * 511 / 512, abs=0.02
    )
    both = ((wrong[1] % 512 != 5) & (wrong[1] // 512 != 9)).float().mean()
    assert both == pytest.approx(0.04, abs=0.01), "the factors are replaced independently"
    assert wrong.min() >= 0 and wrong.max() < TOKEN_VOCAB


def test_corruption_depends_on_the_seed_and_does_not_change_its_input(make_batch):
    batch = make_batch(b=4)
    rgb, depth = batch.rgb_tokens.clone(), batch.depth_tokens.clone()
    first = corrupt(rgb, depth, MaskingConfig(), generator(3))
    again = corrupt(rgb, depth, MaskingConfig(), generator(3))
    other = corrupt(rgb, depth, MaskingConfig(), generator(4))
    assert torch.equal(first.rgb, again.rgb) and torch.equal(first.masked, again.masked)
    assert not torch.equal(first.masked, other.masked)
    assert torch.equal(rgb, batch.rgb_tokens) and torch.equal(depth, batch.depth_tokens)
    clean = corrupt(rgb, depth, MaskingConfig(max_replacement_rate=0.0), generator(3))
    assert torch.equal(clean.rgb, rgb) and torch.equal(clean.depth, depth)


def test_rates_differ_between_clips():
    """Rates are U(0, 0.2) per clip: their mean is 0.1, and their deviation is between clips."""
    ids = torch.zeros(400, 4, 16, 16, dtype=torch.long)
    share = (corrupt(ids, ids, MaskingConfig(), generator()).rgb % 512 != 0).float().mean((1, 2, 3))
    assert share.mean() == pytest.approx(0.1, abs=0.01)
    assert share.std() == pytest.approx(0.2 / math.sqrt(12), abs=0.01)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="frame 0 is always given"):
        MaskingConfig(n_prompt_frames=0)
    with pytest.raises(ValueError, match=r"max_replacement_rate=1\.5"):
        MaskingConfig(max_replacement_rate=1.5)
