import pytest
import torch

from model.detail_metrics import chroma_psnr, colour_kept, detail_psnr, detailed_squares
from model.metrics import MAX_PSNR, psnr
from model.value_range import IMAGES


def plain(side: int = 64, t: int = 2) -> torch.Tensor:
    return torch.zeros(1, t, 3, side, side)


def with_thing(side: int = 64) -> torch.Tensor:
    """A grey frame with one small red thing."""
    video = plain(side)
    at = slice(side // 4 + 1, side // 4 + 1 + side // 5)
    video[..., at, at] = torch.tensor([0.9, -0.8, -0.8]).view(3, 1, 1)
    return video


def test_an_erased_thing_costs_whole_frames_little_and_detail_much():
    erased, true = plain(), with_thing()
    whole, detail = (
        psnr(erased, true, value_range=IMAGES).item(),
        detail_psnr(erased, true, value_range=IMAGES).item(),
    )
    assert whole > 15 and detail < whole - 5
    assert colour_kept(erased, true, value_range=IMAGES).item() == pytest.approx(0, abs=1e-6)


def test_equal_videos_have_the_largest_values():
    true = with_thing()
    assert (
        detail_psnr(true, true, value_range=IMAGES).item()
        == chroma_psnr(true, true, value_range=IMAGES).item()
        == MAX_PSNR
    )
    assert colour_kept(true, true, value_range=IMAGES).item() == pytest.approx(1)


def test_detail_is_where_colours_vary_in_a_tenth_of_the_squares():
    squares = detailed_squares(with_thing())
    assert squares.float().mean().item() == pytest.approx(26 / 256)
    assert squares[0, 0, 17, 17]  # the thing's corner


@pytest.mark.parametrize("side", [7, 50, 96, 130])
def test_frames_of_any_size_have_detail(side):
    squares = detailed_squares(torch.rand(1, 1, 3, side, side) * 2 - 1)
    assert squares.shape == (1, 1, side, side)
    assert 0.05 < squares.float().mean().item() < 0.2


def test_chroma_psnr_ignores_brightness():
    true = with_thing()
    assert chroma_psnr(true * 0.5 + 0.1, true, value_range=IMAGES).item() < 40
    assert chroma_psnr(true - 0.05, true, value_range=IMAGES).item() > 80


def test_a_grey_video_keeps_no_colour_and_of_a_grey_target_nothing_can_be_kept():
    noisy = plain() + 0.005 * torch.randn(plain().shape, generator=torch.Generator().manual_seed(0))
    assert (
        colour_kept(plain(), plain(), value_range=IMAGES).isnan().all()
        and colour_kept(plain(), noisy, value_range=IMAGES).isnan().all()
    )
    grey = with_thing().mean(2, keepdim=True).expand(-1, -1, 3, -1, -1)
    assert colour_kept(grey, with_thing(), value_range=IMAGES).item() < 1e-3
