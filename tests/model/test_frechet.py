"""The Fréchet distance on Gaussians whose distance is known, and the laws that it obeys."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.frechet import frechet_distance, square_root


def samples(mean: list[float], covariance: np.ndarray, n: int = 40, seed: int = 0) -> torch.Tensor:
    """Samples whose own mean and covariance are exactly these."""
    rng = np.random.default_rng(seed)
    white = rng.normal(size=(n, len(mean)))
    white -= white.mean(0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white.T).reshape(2 * [len(mean)]))).T
    return torch.from_numpy(white @ np.linalg.cholesky(covariance).T + np.array(mean))


def test_one_dimension_has_a_closed_form():
    one, two = samples([1.0], np.array([[4.0]])), samples([4.0], np.array([[0.25]]), seed=1)
    assert frechet_distance(one, two) == pytest.approx(3**2 + (2 - 0.5) ** 2)


def test_independent_dimensions_add_up():
    a, b = np.array([1.0, 4.0, 9.0]), np.array([16.0, 1.0, 9.0])
    one, two = samples([0, 0, 0], np.diag(a)), samples([1, 0, -2], np.diag(b), seed=1)
    expected = 5 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(one, two) == pytest.approx(expected)


def test_two_dimensions_whose_covariances_do_not_commute():
    """The trace of the root of a 2 x 2 matrix is √(trace + 2 √determinant)."""
    a, b = np.array([[2.0, 0.8], [0.8, 1.0]]), np.array([[0.5, -0.3], [-0.3, 3.0]])
    assert not np.allclose(a @ b, b @ a)
    root = math.sqrt(np.trace(a @ b) + 2 * math.sqrt(np.linalg.det(a @ b)))
    expected = 0.5**2 + np.trace(a) + np.trace(b) - 2 * root
    found = frechet_distance(samples([0.5, 0], a), samples([0, 0], b, seed=1))
    assert found == pytest.approx(expected)


def slow_distance(one: np.ndarray, two: np.ndarray) -> float:
    """By loops, and by the eigenvalues of the product itself, which is not symmetric."""
    d = one.shape[1]
    means = [[sum(x[i, j] for i in range(len(x))) / len(x) for j in range(d)] for x in (one, two)]
    covariances = []
    for x, mean in zip((one, two), means, strict=True):
        covariances.append(
            [
                [
                    sum((x[i, j] - mean[j]) * (x[i, k] - mean[k]) for i in range(len(x)))
                    / (len(x) - 1)
                    for k in range(d)
                ]
                for j in range(d)
            ]
        )
    a, b = (np.array(c) for c in covariances)
    root = np.sqrt(np.linalg.eigvals(a @ b).astype(complex)).real.sum()
    between = sum((p - q) ** 2 for p, q in zip(*means, strict=True))
    return between + np.trace(a) + np.trace(b) - 2 * root


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), d=st.integers(1, 5), n=st.integers(8, 20))
def test_it_agrees_with_a_plain_loop(seed, d, n):
    rng = np.random.default_rng(seed)
    one, two = rng.normal(size=(n, d)), 2 * rng.normal(size=(n + 3, d)) + 1
    found = frechet_distance(torch.from_numpy(one), torch.from_numpy(two))
    assert found == pytest.approx(slow_distance(one, two), rel=1e-5, abs=1e-7)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 30))
def test_it_is_0_for_one_set_and_the_same_both_ways(seed, n):
    """Also where there are fewer samples than features, so that covariances are singular."""
    rng = np.random.default_rng(seed)
    one, two = (torch.from_numpy(rng.normal(size=(n, 12))) for _ in range(2))
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-5)
    there, back = frechet_distance(one, two), frechet_distance(two, one)
    assert there == pytest.approx(back, rel=1e-5, abs=1e-5) and there > 0
    turn = torch.linalg.qr(torch.from_numpy(rng.normal(size=(12, 12))))[0]
    assert frechet_distance(one @ turn, two @ turn) == pytest.approx(there, rel=1e-5, abs=1e-5)


def test_more_noise_is_farther_and_few_samples_are_too_far():
    noise = torch.Generator().manual_seed(0)
    features = torch.randn(60, 8, generator=noise)
    shake = torch.randn(60, 8, generator=noise)
    found = [frechet_distance(features + by * shake, features) for by in (0, 0.3, 1, 3)]
    assert found == sorted(found) and found[0] < 1e-5 < found[1]
    one, two = torch.randn(2, 2000, 8, generator=noise)  # of one distribution
    few, many = frechet_distance(one[:12], two[:12]), frechet_distance(one, two)
    assert few > 10 * many


def test_a_square_root_squares_to_its_matrix():
    matrix = torch.tensor([[2.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    root = square_root(matrix)
    torch.testing.assert_close(root @ root, matrix)
    assert torch.equal(
        square_root(torch.zeros(3, 3, dtype=torch.float64)), torch.zeros(3, 3).double()
    )


def test_what_has_no_covariance_is_refused():
    with pytest.raises(ValueError, match="1 and 5 samples"):
        frechet_distance(torch.zeros(1, 3), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="NaN or infinity"):
        frechet_distance(torch.full((4, 3), torch.nan), torch.zeros(5, 3))
