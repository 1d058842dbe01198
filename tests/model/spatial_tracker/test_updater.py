"""Attention: slices of queries, precision, memory, and the support tokens."""

import torch
from torch.nn import functional as F
from torch.testing import assert_close
from tracker_cases import SMALL, small_tracker

from model.spatial_tracker import updater
from model.spatial_tracker.updater import SupportAttention, attend


def some_heads() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, n, 8, generator=generator) for n in (50, 31, 31)]


def test_slices_of_queries_are_the_same(monkeypatch):
    q, k, v = some_heads()
    whole = attend(q, k, v)
    assert_close(whole, F.scaled_dot_product_attention(q, k, v))
    for scores in (1, 7 * 2 * 3 * 31, 10**9):
        monkeypatch.setattr(updater, "MAX_SCORES", scores)
        assert_close(attend(q, k, v), whole)


def test_attention_in_half_precision_is_close_and_returns_float32():
    q, k, v = some_heads()
    for dtype, error in ((torch.float16, 2e-3), (torch.bfloat16, 2e-2)):
        made = attend(q, k, v, dtype)
        assert made.dtype == torch.float32
        assert 0 < (made - attend(q, k, v)).abs().max() < error


def test_the_number_of_equal_support_tokens_does_not_matter():
    attention = small_tracker().updateformer.gnn
    assert isinstance(attention, SupportAttention)
    x = torch.randn(2, 20, SMALL.hidden, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, of_one = attention(x, torch.full((2, 1, SMALL.hidden), 0.1), torch.float32)
        many, of_many = attention(x, torch.full((2, 9, SMALL.hidden), 0.1), torch.float32)
    assert_close(many, one)
    assert_close(of_many, of_one.expand(2, 9, -1))
    with torch.no_grad():
        other, _ = attention(x, torch.full((2, 1, SMALL.hidden), 0.5), torch.float32)
    assert (other - one).abs().max() > 0.1  # but what they hold does
