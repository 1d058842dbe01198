"""LPIPS against the `lpips` package's values for seeded weights, its laws, and its loader."""

from pathlib import Path

import pytest
import torch
from lpips_golden import image_pairs, linear_weights, trunk_weights
from torch.testing import assert_close

from model.lpips import Lpips, load_lpips, lpips_state

# lpips 0.1.4 (net="alex", version="0.1") with the weights of lpips_golden.py on its image pairs,
# torch 2.13 CPU float32
REFERENCE = (0.0237718821, 0.0307491682, 0.0177138988)


@pytest.fixture(scope="module")
def network() -> Lpips:
    lpips = Lpips()
    lpips.load_state_dict(lpips_state(trunk_weights(), linear_weights()))
    return lpips.eval()


@torch.no_grad()
def test_matches_the_lpips_package(network: Lpips):
    assert_close(network(*image_pairs()), torch.tensor(REFERENCE), rtol=1e-5, atol=0)


@torch.no_grad()
def test_is_zero_for_equal_images_symmetric_and_grows_with_noise(network: Lpips):
    images, others = image_pairs()
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(images, images), torch.zeros(3))
    assert_close(network(images, others), network(others, images))
    distances = torch.stack([network(images, images + level * noise) for level in (0.05, 0.2, 0.8)])
    assert (distances.diff(dim=0) > 0).all()


def test_gradient_is_finite_even_without_features(network: Lpips):
    silent = Lpips()
    silent.load_state_dict(network.state_dict())
    with torch.no_grad():
        silent.features[0].bias.fill_(-1e4)  # no position of the first tap has a feature
    images, others = image_pairs()
    images.requires_grad_()
    silent(images, others).sum().backward()
    assert images.grad is not None and torch.isfinite(images.grad).all()


def test_loads_the_two_published_files(tmp_path: Path, network: Lpips):
    # Torchvision's file has the classifier, too
    trunk = trunk_weights() | {"classifier.1.weight": torch.zeros(2, 2)}
    torch.save(trunk, tmp_path / "alexnet.pth")
    torch.save(linear_weights(), tmp_path / "alex.pth")
    loaded = load_lpips(tmp_path / "alexnet.pth", tmp_path / "alex.pth")
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert_close(loaded(*image_pairs()), network(*image_pairs()).detach())


def test_an_absent_file_names_its_source(tmp_path: Path):
    torch.save(trunk_weights(), tmp_path / "alexnet.pth")
    with pytest.raises(
        FileNotFoundError, match=r"none\.pth.*torchvision's AlexNet ImageNet weights"
    ):
        load_lpips(tmp_path / "none.pth", tmp_path / "alex.pth")
    with pytest.raises(FileNotFoundError, match=r"alex\.pth.*lpips package's v0\.1"):
        load_lpips(tmp_path / "alexnet.pth", tmp_path / "alex.pth")


def test_other_weights_are_refused():
    with pytest.raises(
        ValueError, match=r"no entry 'features\.0\.weight'; expected torchvision's AlexNet"
    ):
        lpips_state(linear_weights(), linear_weights())
    vgg_heads = linear_weights() | {"lin1.model.1.weight": torch.zeros(1, 128, 1, 1)}
    with pytest.raises(
        ValueError, match=r"'lin1\.model\.1\.weight' has shape \(1, 128, 1, 1\), expected \(1, 192"
    ):
        lpips_state(trunk_weights(), vgg_heads)


def test_too_small_images_are_refused(network: Lpips):
    small = torch.zeros(1, 3, 30, 64)
    with pytest.raises(ValueError, match="at least 31 px"):
        network(small, small)
    edge = torch.zeros(1, 3, 31, 31)
    assert torch.isfinite(network(edge, edge)).all()
