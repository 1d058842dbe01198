"""Splatting and the range of depth."""

import pytest
import torch
from torch.testing import assert_close

from model.spatial_tracker.triplane import along_planes, depth_range, splat


def some_features(
    n: int = 2, c: int = 3, i: int = 4, j: int = 7
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    # Some outside planes of 5 cells, on both sides
    z = torch.rand(n, i, j, generator=generator) * 7 - 1
    return torch.randn(n, c, i, j, generator=generator), z


def slow_splat(features: torch.Tensor, z: torch.Tensor, n_cells: int) -> torch.Tensor:
    """Average splatting as usually written: each pixel to the cells below and above."""
    n, c, rows, columns = features.shape
    sums, weights = torch.zeros(n, c, n_cells, rows), torch.zeros(n, n_cells, rows)
    for b in range(n):
        for i in range(rows):
            for j in range(columns):
                below = int(z[b, i, j].floor())
                share = z[b, i, j] - below
                for cell, weight in ((below, 1 - share), (below + 1, share)):
                    if 0 <= cell < n_cells:
                        sums[b, :, cell, i] += weight * features[b, :, i, j]
                        weights[b, cell, i] += weight
    return sums / (weights[:, None] + 1e-7)


def test_splat_is_the_weighted_mean_of_a_cell():
    features, z = some_features()
    assert_close(splat(features, z, 5), slow_splat(features, z, 5), atol=1e-5, rtol=1e-5)


def test_features_at_whole_depths_are_kept_and_empty_cells_are_zero():
    features = torch.randn(1, 2, 3, 1)
    z = torch.tensor([0.0, 2.0, 3.0]).view(1, 3, 1)
    plane = splat(features, z, 4)
    for i, cell in enumerate((0, 2, 3)):
        assert_close(plane[0, :, cell, i], features[0, :, i, 0])
        assert not plane[0, :, [k for k in range(4) if k != cell], i].any()


def test_splat_follows_a_translation_exactly():
    features, z = some_features(i=8)
    shifted = splat(features.roll(2, dims=2), z.roll(2, dims=1), 5)
    assert torch.equal(shifted, splat(features, z, 5).roll(2, dims=3))
    along = splat(features.roll(2, dims=3), z.roll(2, dims=2), 5)  # the axis of the projection
    assert_close(along, splat(features, z, 5))


def test_splat_has_the_gradient_of_its_values():
    features, z = some_features(n=1, c=2, i=2, j=3)
    inputs = (features.double().requires_grad_(), z.double().requires_grad_())
    assert torch.autograd.gradcheck(lambda f, d: splat(f, d, 5), inputs)


def test_depth_range_skips_holes_and_is_that_of_each_clip():
    depth = torch.tensor([[0.0, 2.0, 4.0, 3.0], [0.005, 500.0, 300.0, 0.0]]).view(2, 1, 2, 2)
    scale = depth_range(depth, 8)
    assert scale.near.tolist() == [2, 300] and scale.far.tolist() == [4, 500]
    cells = scale.to_cells(depth)
    assert_close(cells[0], torch.tensor([[[-8.0, 0.0], [8.0, 4.0]]]))
    assert cells[1, 0, 1, 1] < 0  # a hole is outside the planes
    assert_close(scale.to_depth(cells), depth, atol=1e-4, rtol=0)


def test_cells_do_not_depend_on_the_unit_of_depth():
    depth = torch.rand(1, 2, 4, 4) + 0.5
    assert_close(
        depth_range(1000 * depth, 8).to_cells(1000 * depth), depth_range(depth, 8).to_cells(depth)
    )


@pytest.mark.parametrize(("plane", "expected"), [(0, [1, 2]), (1, [2, 3]), (2, [1, 3])])
def test_columns_and_rows_on_the_planes(plane: int, expected: list[int]):
    assert along_planes(torch.tensor([[1.0, 2.0, 3.0]]))[plane].tolist() == [expected]
