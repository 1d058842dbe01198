"""Fréchet distance between two sets of features, taken as Gaussians: what FID and FVD are made of.

Dowson and Landau 1982; FVD: Unterthiner et al. 2018, arXiv:1812.01717.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor


def frechet_distance(features: Float[Tensor, "n d"], others: Float[Tensor, "m d"]) -> float:
    """|mean - mean'|² + tr(C + C' - 2 (C C')^½) of the Gaussians fitted to both sets; 0 for equal
    ones.

    C is the unbiased covariance. In double precision, and by eigenvalues of symmetric matrices, so
    that covariances of few samples, which are singular, give a real number too. Few samples make
    the distance too large: compare distances of equal numbers only.

    Raises ValueError for fewer than two samples, and for values that are not finite.
    """
    if min(len(features), len(others)) < 2:
        raise ValueError(
            f"{len(features)} and {len(others)} samples: a covariance needs 2 or more of both"
        )
    one, two = features.double(), others.double()
    if not (torch.isfinite(one).all() and torch.isfinite(two).all()):
        raise ValueError("features with NaN or infinity: expected finite numbers")
    between = (one.mean(0) - two.mean(0)).square().sum()
    first, second = (torch.cov(samples.T).reshape(2 * (one.shape[1],)) for samples in (one, two))
    # The eigenvalues of C C' are those of C^½ C' C^½, which is symmetric
    root = square_root(first)
    product = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0)
    within = first.trace() + second.trace() - 2 * product.sqrt().sum()
    return max(0.0, (between + within).item())


def square_root(matrix: Float64[Tensor, "d d"]) -> Float64[Tensor, "d d"]:
    """The symmetric square root of a covariance; eigenvalues that rounding made negative count as
    0.
    """
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
