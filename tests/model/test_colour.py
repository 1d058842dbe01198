import cv2
import numpy as np
import pytest
import torch

from model.colour import ciede2000, lab, opponent

# Colours and their ΔE00 from table 1 of Sharma, Wu and Dalal 2005: blue hues, hues at both ends of
# the circle, greys, large differences and dark colours
PUBLISHED = [
    ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
    ((50, 3.1571, -77.2803), (50, 0, -82.7485), 2.8615),
    ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0000),
    ((50, 0, 0), (50, -1, 2), 2.3669),
    ((50, 2.49, -0.001), (50, -2.49, 0.0009), 7.1792),
    ((50, 2.49, -0.001), (50, -2.49, 0.0011), 7.2195),
    ((50, -0.001, 2.49), (50, 0.0009, -2.49), 4.8045),
    ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
    ((50, 2.5, 0), (73, 25, -18), 27.1492),
    ((50, 2.5, 0), (61, -5, 29), 22.8977),
    ((50, 2.5, 0), (56, -27, -3), 31.9030),
    ((50, 2.5, 0), (58, 24, 15), 19.4535),
    ((50, 2.5, 0), (50, 3.1736, 0.5854), 1.0000),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((63.0109, -31.0961, -5.8663), (62.8187, -29.7946, -4.0864), 1.2630),
    ((35.0831, -44.1164, 3.7933), (35.0232, -40.0716, 1.5901), 1.8645),
    ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
    ((90.9257, -0.5406, -0.9208), (88.6381, -0.8985, -0.7239), 1.5381),
    ((6.7747, -0.2908, -2.4247), (5.8714, -0.0985, -2.2286), 0.6377),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


@pytest.mark.parametrize(("first", "second", "expected"), PUBLISHED)
def test_ciede2000_equals_published_values_both_ways(first, second, expected):
    a, b = (torch.tensor(c, dtype=torch.float64) for c in (first, second))
    assert ciede2000(a, b).item() == pytest.approx(expected, abs=5e-5)
    assert ciede2000(b, a).item() == pytest.approx(expected, abs=5e-5)


def test_lab_equals_opencv():
    rgb = np.random.default_rng(0).random((8, 9, 3), np.float32)
    found = lab(torch.from_numpy(rgb).permute(2, 0, 1) * 2 - 1).permute(1, 2, 0).numpy()
    # OpenCV interpolates in tables, in steps of about 1/8
    assert np.abs(found - cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)).max() < 0.3


def test_lab_of_black_white_and_grey():
    greys = torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 3).expand(3, 1, 3)
    lightness, a, b = lab(greys)
    assert lightness[0].tolist() == pytest.approx([0, 53.39, 100], abs=0.01)
    assert a.abs().max() < 0.01 and b.abs().max() < 0.01


def test_lab_of_another_range_is_refused_not_clamped():
    with pytest.raises(ValueError, match=r"\[0, 255\]: expected \[-1, 1\]"):
        lab(torch.tensor([0.0, 128.0, 255.0]).view(3, 1, 1))


def test_lab_has_finite_gradients_everywhere():
    images = torch.linspace(-1, 1, 30).reshape(1, 3, 2, 5).requires_grad_()
    lab(images).sum().backward()
    assert images.grad is not None and images.grad.isfinite().all()


def test_opponent_of_grey_has_no_chroma_and_stays_in_range():
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
    assert opponent(corners.T[..., None]).abs().max() <= 1 + 1e-6
    assert opponent(torch.full((3, 1, 1), 0.4)).flatten().tolist() == pytest.approx(
        [0.4, 0, 0], abs=1e-6
    )
