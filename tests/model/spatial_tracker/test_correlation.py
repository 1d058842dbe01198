"""Lookups around points, and the codes of places, frames and displacements."""

import math

import torch
from torch.testing import assert_close

from model.spatial_tracker import correlation
from model.spatial_tracker.codes import fourier_code, motion_code, position_code, sine_table
from model.spatial_tracker.correlation import correlate, pyramid, sample


def slow_sample(maps: torch.Tensor, n: int, x: float, y: float) -> torch.Tensor:
    """Bilinear lookup, zeros outside."""
    value = torch.zeros(maps.shape[1])
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < maps.shape[2] and 0 <= column < maps.shape[3]:
                value += (1 - abs(x - column)) * (1 - abs(y - row)) * maps[n, :, row, column]
    return value


def some_points() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 5, 8, 12, generator=generator)
    # Also beyond the map
    centres = torch.rand(2, 3, 2, generator=generator) * torch.tensor([14, 10]) - 1
    return maps, centres, torch.randn(2, 3, 5, generator=generator)


def test_correlation_is_the_product_with_the_features_around():
    maps, centres, features = some_points()
    levels = pyramid(maps, 2)
    made = correlate(levels, centres, features, radius=1)
    expected = []
    for n in range(2):
        for p in range(3):
            for level, factor in ((levels[0], 1), (levels[1], 2)):
                x, y = (centres[n, p] / factor).tolist()
                for dx in (-1, 0, 1):  # the column varies slowest
                    for dy in (-1, 0, 1):
                        around = slow_sample(level, n, x + dx, y + dy)
                        expected.append(around @ features[n, p] / math.sqrt(5))
    assert_close(made, torch.stack(expected).view(2, 3, 18), atol=1e-5, rtol=1e-5)


def test_lookups_in_slices_are_the_same(monkeypatch):
    maps, centres, features = some_points()
    whole = correlate(pyramid(maps, 2), centres, features, radius=3)
    monkeypatch.setattr(correlation, "MAX_PRODUCTS", 1)
    assert_close(correlate(pyramid(maps, 2), centres, features, radius=3), whole)


def test_levels_are_means():
    maps = some_points()[0]
    assert_close(pyramid(maps, 3)[2][0, 0, 1, 2], maps[0, 0, 4:8, 8:12].mean())


def test_outside_the_map_are_its_border_or_zeros():
    maps, beyond = some_points()[0], torch.full((2, 1, 1, 2), -3.0)
    assert_close(sample(maps, beyond, outside="border")[..., 0, 0], maps[:, :, 0, 0])
    assert not sample(maps, beyond, outside="zeros").any()


def test_correlation_follows_a_translation_by_a_cell_of_the_coarsest_level():
    generator = torch.Generator().manual_seed(0)
    maps, features = (
        torch.randn(1, 4, 32, 40, generator=generator),
        torch.randn(1, 6, 4, generator=generator),
    )
    # 10 cells from borders, before and after
    centres = 12 + 2 * torch.rand(1, 6, 2, generator=generator)
    before = correlate(pyramid(maps, 3), centres, features, radius=2)
    moved = correlate(
        pyramid(maps.roll((4, 8), dims=(2, 3)), 3),
        centres + torch.tensor([8, 4]),
        features,
        radius=2,
    )
    assert_close(moved, before, atol=1e-4, rtol=0)


def test_position_code_is_the_table_at_whole_cells_and_linear_between():
    table = sine_table(16, 8, torch.zeros(()))
    code = position_code(torch.tensor([[[3.0, 5.0], [3.25, 5.0], [-2.0, 99.0]]]), (12, 16), 16)[0]
    assert_close(code[0], torch.cat([table[3], table[5]]))
    assert_close(code[1, :8], 0.75 * table[3] + 0.25 * table[4])
    assert_close(code[2], torch.cat([table[0], table[11]]))  # the border of 12 rows


def test_sine_table():
    table = sine_table(5, 6, torch.zeros(()))
    for i in range(3):
        assert_close(table[4, i].item(), math.sin(4 * 10_000 ** (-i / 3)), atol=1e-6, rtol=0)
        assert_close(table[4, 3 + i].item(), math.cos(4 * 10_000 ** (-i / 3)), atol=1e-6, rtol=0)


def test_motion_code_alternates_sines_and_cosines():
    code = motion_code(torch.tensor([0.001, -0.002, 0.003]))
    assert code.shape == (195,)
    for axis, step in enumerate((0.001, -0.002, 0.003)):
        for k in range(32):
            angle = step * 2 * k * 1000 / 64
            assert_close(code[64 * axis + 2 * k].item(), math.sin(angle), atol=1e-6, rtol=0)
            assert_close(code[64 * axis + 2 * k + 1].item(), math.cos(angle), atol=1e-6, rtol=0)
    assert_close(code[-3:], torch.tensor([0.001, -0.002, 0.003]))


def test_fourier_code_depends_on_shares_of_the_range():
    volume = torch.rand(2, 2, 3, 4, 3)
    code = fourier_code(volume)
    assert code.shape == (2, 2, 3, 4, 63)
    assert_close(code[..., :3].amin(dim=(1, 2, 3)), -torch.ones(2, 3))
    assert_close(code[..., :3].amax(dim=(1, 2, 3)), torch.ones(2, 3))
    for i in range(10):
        angle = 2 ** (10 * i / 9) * code[..., :3]
        assert_close(code[..., 3 + 6 * i : 6 + 6 * i], angle.sin(), atol=2e-4, rtol=0)
        assert_close(code[..., 6 + 6 * i : 9 + 6 * i], angle.cos(), atol=2e-4, rtol=0)
    scaled = fourier_code(volume * torch.tensor([5.0, 1.0, 0.1]) + 3)
    assert_close(scaled[..., :9], code[..., :9], atol=1e-4, rtol=0)


def test_fourier_code_of_a_flat_volume_is_finite():
    assert torch.isfinite(fourier_code(torch.ones(1, 1, 2, 2, 3))).all()
