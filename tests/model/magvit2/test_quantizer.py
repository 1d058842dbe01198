"""Laws of the lookup-free quantiser."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.magvit2.quantizer import (
    ids_from_signs,
    signs,
    signs_from_ids,
    split_ids,
    straight_through,
)

N_BITS = 18


def test_channel_0_is_the_least_significant_bit():
    z = torch.full((1, N_BITS, 1, N_BITS), -0.5)
    # In column c only channel c is positive
    z[0, torch.arange(N_BITS), 0, torch.arange(N_BITS)] = 0.5
    assert ids_from_signs(z)[0, 0].tolist() == [2**c for c in range(N_BITS)]


def test_zero_counts_as_minus_one():
    z = torch.tensor([0.0, -0.0, 1e-30, -1e-30]).view(1, 4, 1, 1)
    assert signs(z).flatten().tolist() == [-1, -1, 1, -1]
    assert ids_from_signs(z).item() == 0b0100


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, 2**N_BITS - 1), min_size=6, max_size=6))
def test_ids_round_trip_through_codes(ids: list[int]):
    grid = torch.tensor(ids, dtype=torch.int32).view(1, 2, 3)
    back = ids_from_signs(signs_from_ids(grid, N_BITS))
    assert back.dtype == torch.int32
    assert torch.equal(back, grid)


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, 2**N_BITS - 1), min_size=1, max_size=6))
def test_factors_are_the_low_and_the_high_nine_bits(ids: list[int]):
    assert split_ids(torch.tensor(ids)).tolist() == [[id & 0x1FF, id >> 9] for id in ids]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_codes_are_plus_and_minus_one_for_any_integer_type(dtype: torch.dtype):
    codes = signs_from_ids(torch.tensor([[[0, 2**N_BITS - 1, 5]]], dtype=dtype), N_BITS)
    assert codes[0, :, 0, 0].tolist() == [-1] * N_BITS
    assert codes[0, :, 0, 1].tolist() == [1] * N_BITS
    assert codes[0, :, 0, 2].tolist() == [1, -1, 1] + [-1] * (N_BITS - 3)


def test_straight_through_has_the_values_of_the_sign_and_the_gradient_of_the_identity():
    z = torch.randn(2, N_BITS, 3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    slope = torch.randn(2, N_BITS, 3, 4, generator=torch.Generator().manual_seed(1))
    codes = straight_through(z)
    torch.testing.assert_close(codes, signs(z))
    (codes * slope).sum().backward()
    assert torch.equal(z.grad, slope)
