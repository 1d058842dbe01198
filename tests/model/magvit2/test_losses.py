"""The tokenizer's loss terms against slow versions, their laws, and overfitting of a batch."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from model.magvit2.autoencoder import MagvitTokenizer, TokenizerOutput
from model.magvit2.config import MagvitConfig, tiny
from model.magvit2.discriminator import PatchDiscriminator
from model.magvit2.losses import (
    TokenizerLossConfig,
    cell_colour_loss,
    code_perplexity,
    discriminator_loss,
    entropy_terms,
    gradient_balance,
    tokenizer_loss,
)

SMALL = MagvitConfig(base_channels=8, channel_multipliers=(1, 2), n_res_blocks=1, norm_groups=4)


def some_z(d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, d, 2, 3, generator=torch.Generator().manual_seed(seed))


def images(b: int = 4, side: int = 32) -> torch.Tensor:
    """Discs of random colour and place on random backgrounds, in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    centre = torch.randint(side // 4, 3 * side // 4, (b, 2), generator=generator)
    disc = (x - centre[:, 0, None, None]) ** 2 + (y - centre[:, 1, None, None]) ** 2 < (
        side / 5
    ) ** 2
    inside, outside = (torch.rand(b, 3, 1, 1, generator=generator) * 2 - 1 for _ in range(2))
    return torch.where(disc[:, None], inside, outside)


def distribution_over_codes(z: torch.Tensor, temperature: float) -> torch.Tensor:
    """softmax(-|z - q|^2 / 2T) over all q in {-1, 1}^d, (tokens, 2^d)."""
    codes = torch.tensor(
        list(itertools.product((-1.0, 1.0), repeat=z.shape[1])), dtype=torch.float64
    )
    tokens = z.double().movedim(1, -1).flatten(0, 2)
    rows = [
        torch.stack([-((token - code) ** 2).sum() / (2 * temperature) for code in codes])
        for token in tokens
    ]
    return torch.softmax(torch.stack(rows), dim=1)


def entropy_bits(p: torch.Tensor) -> float:
    return -sum(x * math.log2(x) for x in p.tolist() if x > 0)


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_entropies_agree_with_the_listed_codebook(temperature: float):
    z = some_z(4)
    p = distribution_over_codes(z, temperature)
    token, batch = entropy_terms(z, temperature=temperature, group_bits=4)
    assert token.item() == pytest.approx(sum(entropy_bits(row) for row in p) / len(p), rel=1e-5)
    assert batch.item() == pytest.approx(entropy_bits(p.mean(dim=0)), rel=1e-5)


def test_groups_bound_the_joint_entropy_from_above_ever_tighter():
    z = some_z(6)
    by_group = [entropy_terms(z, group_bits=bits)[1].item() for bits in (1, 2, 6)]
    assert by_group[0] >= by_group[1] >= by_group[2]
    p = distribution_over_codes(z, 1.0)
    assert by_group[2] == pytest.approx(entropy_bits(p.mean(dim=0)), rel=1e-5)


def test_entropies_and_their_gradient_are_float32_under_autocast():
    """Sums over 512 codes in bfloat16 would be off by a tenth."""

    def found(precision: torch.dtype | None) -> tuple[torch.Tensor, ...]:
        z = some_z(18).requires_grad_()
        with torch.autocast("cpu", precision, enabled=precision is not None):
            token, batch = entropy_terms(z, temperature=0.5)
        return token.detach(), batch.detach(), *torch.autograd.grad(token - batch, z)

    for cast, plain in zip(found(torch.bfloat16), found(None), strict=True):
        assert cast.dtype == torch.float32
        assert torch.equal(cast, plain)


def test_groups_may_be_uneven():
    z = some_z(5)
    low, high = (entropy_terms(part, group_bits=3)[1] for part in (z[:, :3], z[:, 3:]))
    assert_close(entropy_terms(z, group_bits=3)[1], low + high)


def test_equal_channels_are_detected_within_a_group_only():
    bit = torch.tensor([1.0, -1.0] * 8).view(1, 1, 4, 4) * 30
    z = bit.expand(1, 2, 4, 4)
    assert entropy_terms(z, group_bits=2)[1].item() == pytest.approx(1)
    assert entropy_terms(z, group_bits=1)[1].item() == pytest.approx(2)


def test_certain_tokens_have_no_entropy_and_stay_finite():
    z = (some_z(18).sign() * 1e4).requires_grad_()
    token, batch = entropy_terms(z)
    assert token.item() == pytest.approx(0, abs=1e-6)
    (token - batch).backward()
    assert torch.isfinite(z.grad).all()


def test_diversity_gradient_moves_a_collapsed_batch_apart():
    z = (0.02 * some_z(18) + 0.5).requires_grad_()
    _, batch = entropy_terms(z)
    (slope,) = torch.autograd.grad(batch, z)
    assert entropy_terms(z + 10 * slope)[1] > batch
    # Every channel is pulled towards 0, away from its one sign
    assert (slope.mean(dim=(0, 2, 3)) < 0).all()


def test_parts_and_total():
    torch.manual_seed(0)
    frames, config = (
        images(),
        TokenizerLossConfig(l1=0.5, l2=2.0, commitment=0.3, entropy=0.1, diversity=1.7),
    )
    output = MagvitTokenizer(SMALL)(frames)
    loss = tokenizer_loss(frames, output, config)
    error = output.reconstruction - frames
    assert_close(loss.parts["l1"], error.abs().mean())
    assert_close(loss.parts["l2"], (error**2).mean())
    assert_close(loss.parts["commitment"], ((output.z.abs() - 1) ** 2).mean())
    token, batch = entropy_terms(
        output.z, temperature=config.temperature, group_bits=config.group_bits
    )
    expected = 0.5 * error.abs().mean() + 2 * (error**2).mean() + 0.3 * loss.parts["commitment"]
    assert_close(loss.total, expected + 0.1 * (token - 1.7 * batch))
    assert not any(part.requires_grad for part in loss.parts.values())


def test_pixel_weight_chooses_what_counts_and_its_scale_does_not_matter():
    frames = images()
    blurred = frames + 0.1
    blurred[:, :, :8] += 0.5
    output = TokenizerOutput(reconstruction=blurred, z=some_z(18))
    weight = torch.zeros(4, 32, 32)
    weight[:, 8:] = 3.0
    parts = tokenizer_loss(frames, output, TokenizerLossConfig(), pixel_weight=weight).parts
    assert_close(parts["l1"], torch.tensor(0.1))
    assert_close(parts["l2"], torch.tensor(0.01))
    even = tokenizer_loss(
        frames, output, TokenizerLossConfig(), pixel_weight=torch.full((4, 32, 32), 7.0)
    )
    assert_close(even.total, tokenizer_loss(frames, output, TokenizerLossConfig()).total)


def test_chroma_counts_colours_and_not_brightness():
    frames = images().clamp(-0.5, 0.5)
    config, z = TokenizerLossConfig(chroma=3.0), some_z(18)
    brighter = tokenizer_loss(frames, TokenizerOutput(reconstruction=frames + 0.1, z=z), config)
    assert brighter.parts["chroma"].item() == pytest.approx(0, abs=1e-6)
    redder = frames.clone()
    redder[:, 0] += 0.1
    loss = tokenizer_loss(frames, TokenizerOutput(reconstruction=redder, z=z), config)
    tint = torch.tensor([0.1 * -0.168736, 0.1 * 0.5])  # BT.601
    assert_close(loss.parts["chroma"], (tint.abs() + tint.square()).mean())
    plain = tokenizer_loss(
        frames, TokenizerOutput(reconstruction=redder, z=z), TokenizerLossConfig()
    )
    assert_close(loss.total, plain.total + 3 * loss.parts["chroma"])


def test_bits_that_say_the_colours_linearly_have_no_cell_colour_loss():
    generator = torch.Generator().manual_seed(0)
    codes, others = torch.randn(2, 4, 6, 8, 8, generator=generator).sign()
    shades = torch.einsum("bdhw,dc->bchw", codes, torch.randn(6, 3, generator=generator) / 20)
    frames = torch.nn.functional.interpolate(shades, scale_factor=8.0)
    assert cell_colour_loss(codes, frames).item() == pytest.approx(0, abs=1e-4)
    assert cell_colour_loss(others, frames) > 50 * cell_colour_loss(codes, frames)


def test_the_cell_colour_gradient_is_that_of_the_best_map():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(4, 6, 4, 4, generator=generator).sign().requires_grad_()
    frames = images()
    (slope,) = torch.autograd.grad(cell_colour_loss(codes, frames), codes)
    step = 0.01 * torch.randn(codes.shape, generator=generator)
    with torch.no_grad():
        up, down = (cell_colour_loss(codes + sign * step, frames) for sign in (1, -1))
    assert_close((up - down) / 2, (slope * step).sum(), rtol=0.02, atol=1e-6)


def test_perceptual_network_adds_its_mean():
    frames = images()
    output = TokenizerOutput(reconstruction=frames * 0.5, z=some_z(18))
    with_it = tokenizer_loss(
        frames,
        output,
        TokenizerLossConfig(perceptual=0.7),
        perceptual=lambda a, b: (a - b).abs().amax(dim=(1, 2, 3)),
    )
    expected = (frames * 0.5).abs().amax(dim=(1, 2, 3)).mean()
    assert_close(with_it.parts["perceptual"], expected)
    assert_close(
        with_it.total - tokenizer_loss(frames, output, TokenizerLossConfig()).total, 0.7 * expected
    )


def test_adversarial_term_has_the_reconstruction_gradient_norm_times_its_weight():
    torch.manual_seed(0)
    frames, tokenizer, discriminator = (
        images(),
        MagvitTokenizer(SMALL),
        PatchDiscriminator(base_channels=8, n_layers=2),
    )
    output, last = tokenizer(frames), tokenizer.decoder.conv_out.weight
    plain = tokenizer_loss(frames, output, TokenizerLossConfig())
    both = tokenizer_loss(
        frames, output, TokenizerLossConfig(), discriminator=discriminator, last_layer=last
    )
    (of_reconstruction,) = torch.autograd.grad(
        _reconstruction(frames, output), last, retain_graph=True
    )
    (of_adversarial,) = torch.autograd.grad(both.total - plain.total, last)
    assert_close(of_adversarial.norm(), 0.1 * of_reconstruction.norm(), rtol=1e-3, atol=0)


def _reconstruction(frames: torch.Tensor, output: TokenizerOutput) -> torch.Tensor:
    error = output.reconstruction - frames
    return error.abs().mean() + error.square().mean()


def test_a_discriminator_needs_the_last_layer():
    output = TokenizerOutput(reconstruction=images(), z=some_z(18))
    with pytest.raises(ValueError, match=r"pass tokenizer\.decoder\.conv_out\.weight"):
        tokenizer_loss(images(), output, TokenizerLossConfig(), discriminator=PatchDiscriminator())


def test_gradient_balance_is_capped_and_carries_no_gradient():
    w = torch.ones(3, requires_grad=True)
    balance = gradient_balance((4 * w).sum(), (2 * w).sum(), w)
    assert balance.item() == pytest.approx(2, rel=1e-4) and not balance.requires_grad
    assert gradient_balance((4 * w).sum(), (0 * w).sum(), w).item() == 1e4


class Brightness(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(1, 2, 3), keepdim=True)


@pytest.mark.parametrize(
    ("real", "fake", "expected"), [(1.0, -1.0, 0.0), (0.0, 0.0, 1.0), (-0.5, 0.2, 1.35)]
)
def test_discriminator_loss_is_the_hinge(real: float, fake: float, expected: float):
    clean, made = torch.full((2, 3, 8, 8), real), torch.full((2, 3, 8, 8), fake, requires_grad=True)
    loss = discriminator_loss(Brightness(), clean, made)
    assert loss.item() == pytest.approx(expected)
    assert not loss.requires_grad  # nothing reaches the reconstruction


def test_discriminator_learns_to_tell_noise_from_images():
    torch.manual_seed(0)
    discriminator, frames = PatchDiscriminator(base_channels=8, n_layers=2), images()
    noise = torch.rand_like(frames) * 2 - 1
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-3)
    for _ in range(30):
        optimizer.zero_grad()
        discriminator_loss(discriminator, frames, noise).backward()
        optimizer.step()
    assert discriminator(frames).mean() > discriminator(noise).mean() + 1


def test_code_perplexity_counts_the_values_in_use():
    assert code_perplexity(torch.zeros(1, 4, 4, dtype=torch.int32)) == (1.0, 1.0)
    every = torch.arange(512, dtype=torch.int32).view(1, 16, 32)
    assert code_perplexity(every) == pytest.approx((512, 1))
    assert code_perplexity(every * 512 + every) == pytest.approx((512, 512))


def test_overfits_one_batch():
    torch.manual_seed(0)
    frames, tokenizer = images(b=3, side=32), MagvitTokenizer(tiny(8))
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=2e-3)
    first = tokenizer_loss(frames, tokenizer(frames), TokenizerLossConfig()).parts["l2"]
    for _ in range(150):
        loss = tokenizer_loss(frames, tokenizer(frames), TokenizerLossConfig())
        optimizer.zero_grad()
        loss.total.backward()
        nn.utils.clip_grad_norm_(tokenizer.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        decoded = tokenizer.decode_ids(tokenizer.to_ids(frames))
    assert (decoded - frames).square().mean() < 0.005 * first  # 30 dB of PSNR or more
