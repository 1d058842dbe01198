"""Configs and laws of the tokenizer; reference outputs are in test_magvit_golden.py."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.magvit2.autoencoder import MagvitTokenizer
from model.magvit2.blocks import AdaptiveGroupNorm, depth_to_space, space_to_depth
from model.magvit2.config import MagvitConfig, one_x, tencent, tiny
from model.magvit2.quantizer import ids_from_signs


def images(size: tuple[int, int] = (64, 96), b: int = 2) -> torch.Tensor:
    return torch.rand(b, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def tiny_tokenizer(patch: int = 16) -> MagvitTokenizer:
    torch.manual_seed(0)
    return MagvitTokenizer(tiny(patch)).eval()


@pytest.mark.parametrize(
    ("config", "encoder", "decoder"), [(one_x(), 24.96, 40.53), (tencent(), 49.75, 65.38)]
)
def test_published_sizes(config: MagvitConfig, encoder: float, decoder: float):
    with torch.device("meta"):
        tokenizer = MagvitTokenizer(config)
    counts = [
        sum(p.numel() for p in part.parameters()) / 1e6
        for part in (tokenizer.encoder, tokenizer.decoder)
    ]
    assert counts == pytest.approx([encoder, decoder], abs=0.006)
    assert config.grid(256, 256) == (16, 16)


def test_published_cost():
    with torch.device("meta"):
        tokenizer = MagvitTokenizer(one_x())
        frame = torch.empty(1, 3, 256, 256)
    with FlopCounterMode(display=False) as counter:
        tokenizer(frame)
    assert counter.get_total_flops() / 1e9 == pytest.approx(135.8 + 186.7, rel=0.01)


@pytest.mark.parametrize("patch", [8, 16, 32])
@torch.no_grad()
def test_tiny_makes_one_token_per_cell_at_any_size(patch: int):
    tokenizer = tiny_tokenizer(patch)
    assert tokenizer.config.downscale == patch
    for rows, columns in ((1, 1), (2, 3), (4, 1)):
        frames = images((rows * patch, columns * patch))
        ids = tokenizer.to_ids(frames)
        assert ids.shape == (2, rows, columns) and ids.dtype == torch.int32
        assert ((ids >= 0) & (ids < 2**18)).all()
        decoded = tokenizer.decode_ids(ids)
        assert decoded.shape == frames.shape
        assert decoded.abs().max() <= 1


@pytest.mark.parametrize(("patch", "gflop"), [(8, 0.38), (16, 0.55)])
def test_cost_of_tiny(patch: int, gflop: float):
    with torch.device("meta"):
        tokenizer = MagvitTokenizer(tiny(patch))
        frame = torch.empty(1, 3, 128, 128)
    with FlopCounterMode(display=False) as counter:
        tokenizer(frame)
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, abs=0.006)


@torch.no_grad()
def test_tokens_of_a_frame_do_not_depend_on_the_other_frames():
    tokenizer, frames = tiny_tokenizer(), images(b=3)
    together = tokenizer.to_ids(frames)
    assert torch.equal(together, torch.cat([tokenizer.to_ids(frame[None]) for frame in frames]))


@torch.no_grad()
def test_forward_decodes_the_tokens_of_to_ids():
    tokenizer, frames = tiny_tokenizer(), images()
    output = tokenizer(frames)
    ids = tokenizer.to_ids(frames)
    assert torch.equal(ids_from_signs(output.z), ids)
    torch.testing.assert_close(
        output.reconstruction.clamp(-1, 1), tokenizer.decode_ids(ids), atol=1e-5, rtol=1e-5
    )


def test_every_parameter_gets_a_gradient():
    config = MagvitConfig(
        base_channels=8, channel_multipliers=(1, 2), n_res_blocks=1, adaptive_decoder=True
    )
    tokenizer = MagvitTokenizer(config)
    output = tokenizer(images((16, 16)))
    (output.reconstruction - 0.3).square().mean().backward()
    without = [
        name for name, p in tokenizer.named_parameters() if p.grad is None or not p.grad.any()
    ]
    assert without == []


def test_depth_to_space_inverts_space_to_depth_with_the_place_leading():
    x = images((4, 6))
    folded = space_to_depth(x, 2)
    assert torch.equal(depth_to_space(folded, 2), x)
    # Second row, first column of each square: the third group of 3 channels
    place_1_0 = folded[:, 2 * 3 : 3 * 3]
    assert torch.equal(place_1_0, x[:, :, 1::2, 0::2])


def test_adaptive_norm_follows_the_code_statistics():
    generator = torch.Generator().manual_seed(0)
    norm = AdaptiveGroupNorm(8, 3, 4)
    x = torch.randn(2, 8, 5, 5, generator=generator) * 7 + 3
    codes = torch.where(torch.rand(2, 3, 2, 4, generator=generator) < 0.5, 1.0, -1.0)
    with torch.no_grad():
        made = norm(x, codes)
        spread = codes.flatten(2).std(dim=2)
        groups = x.view(2, 4, -1)
        normal = (
            (groups - groups.mean(2, keepdim=True)) / groups.std(2, correction=0, keepdim=True)
        ).view_as(x)
        expected = (
            norm.gamma(spread)[..., None, None] * normal
            + norm.beta(codes.mean((2, 3)))[..., None, None]
        )
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)


def test_wrong_image_sizes_are_refused():
    with pytest.raises(ValueError, match=r"64 x 100 px: each side must be a multiple of 16"):
        tiny_tokenizer().to_ids(images((64, 100)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base_channels": 40}, "width 40 .* does not divide into norm_groups=32"),
        ({"channel_multipliers": ()}, "channel_multipliers"),
        ({"n_res_blocks": 0}, "at least 1"),
        ({"n_bits": 31}, "ids are int32"),
    ],
)
def test_wrong_configs_are_refused(fields: dict, message: str):
    with pytest.raises(ValueError, match=message):
        MagvitConfig(**fields)


@pytest.mark.parametrize("patch", [0, 4, 12, 24])
def test_wrong_patches_are_refused(patch: int):
    with pytest.raises(ValueError, match=f"patch={patch} px: expected a power of two"):
        tiny(patch)


@pytest.mark.parametrize("config", [one_x(), tencent(), tiny(8), tiny(16)])
def test_the_least_number_of_parameters_is_a_bound(config: MagvitConfig):
    with torch.device("meta"):
        true = sum(p.numel() for p in MagvitTokenizer(config).parameters())
    assert true / 5 < config.least_parameters < true
