import math
from dataclasses import replace

import pytest
import torch

from model.training.loop import TrainConfig, train
from model.world.batch import ActionStats
from model.world.config import LossConfig, MaskingConfig, tiny
from model.world.dual_branch import DualBranchWorldModel
from model.world.losses import (
    attention_map,
    keypoint_loss,
    per_frame_mean,
    run_beside_clean_copy,
    token_cross_entropy,
    total_loss,
    world_loss_fn,
    world_losses,
)
from model.world.masking import corrupt


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain_cell(point, grid) -> int | None:
    x, y = point.tolist()
    return int(y * grid[0]) * grid[1] + int(x * grid[1]) if 0 <= x < 1 and 0 <= y < 1 else None


def test_every_part_agrees_with_plain_loops(make_model, make_batch):
    model, batch, masking = make_model(), make_batch(b=3), MaskingConfig()
    config = LossConfig(depth=0.7, keypoint=0.3, attention=0.9, gamma=4.0)
    parts = world_losses(model, batch, config, masking, generator(2))

    noisy = corrupt(batch.rgb_tokens, batch.depth_tokens, masking, generator(2))
    model.requires_grad_(False)
    states = model(noisy.rgb, noisy.depth, batch.actions, noisy.masked)
    rgb_logits, depth_logits = model.rgb.logits(states.rgb), model.depth.logits(states.depth)
    b, t, gh, gw = noisy.masked.shape
    rgb, depth, attention, n = 0.0, 0.0, 0.0, 0
    keypoint, n_points = 0.0, 0
    for i in range(b):
        for f in range(1, t):
            for cell in range(gh * gw):
                row, column = divmod(cell, gw)
                if not noisy.masked[i, f, row, column]:
                    continue
                n += 1
                crossed = any(
                    bool(batch.visible[i, f, p])
                    and plain_cell(batch.tracks[i, f, p], (gh, gw)) == cell
                    for p in range(6)
                )
                nats = []
                for logits, tokens in (
                    (rgb_logits, batch.rgb_tokens),
                    (depth_logits, batch.depth_tokens),
                ):
                    token = int(tokens[i, f, row, column])
                    low, high = logits[i, f, cell].softmax(-1)
                    nats.append(-math.log(low[token % 512]) - math.log(high[token // 512]))
                rgb, depth = rgb + nats[0], depth + nats[1]
                attention += (4.0 if crossed else 1.0) * nats[0]
            for p in range(6):
                first = (
                    plain_cell(batch.tracks[i, 0, p], (gh, gw)) if batch.visible[i, 0, p] else None
                )
                now = (
                    plain_cell(batch.tracks[i, f, p], (gh, gw)) if batch.visible[i, f, p] else None
                )
                if first is not None and now is not None:
                    keypoint += (
                        (states.rgb[i, f, now] - states.rgb[i, 0, first]).square().sum().item()
                    )
                    n_points += 1
    expected = {
        "rgb": rgb / n,
        "depth": depth / n,
        "keypoint": keypoint / n_points,
        "attention": attention / n,
    }
    assert parts.keys() == expected.keys() == config.weights.keys()
    for name, part in parts.items():
        assert part.shape == (b, t)
        assert part.mean().item() == pytest.approx(expected[name], rel=1e-4), name
    total = (
        expected["rgb"]
        + 0.7 * expected["depth"]
        + 0.3 * expected["keypoint"]
        + 0.9 * expected["attention"]
    )
    assert total_loss(parts, config.weights).item() == pytest.approx(total, rel=1e-4)


def test_entries_are_contributions_of_frames():
    values, counted = torch.rand(3, 4, 5), torch.rand(3, 4, 5) < 0.5
    part = per_frame_mean(values, counted)
    assert part.mean().item() == pytest.approx(values[counted].mean().item(), rel=1e-5)
    ratio = part[1, 2] / part[0, 3]
    expected = (values * counted)[1, 2].sum() / (values * counted)[0, 3].sum()
    torch.testing.assert_close(ratio, expected)
    assert not per_frame_mean(values, torch.zeros_like(counted)).any()


def test_gamma_one_makes_the_two_rgb_terms_equal(make_model, make_batch):
    parts = world_losses(
        make_model(), make_batch(), LossConfig(gamma=1.0), MaskingConfig(), generator()
    )
    assert torch.equal(parts["rgb"], parts["attention"])
    stronger = world_losses(
        make_model(), make_batch(), LossConfig(gamma=5.0), MaskingConfig(), generator()
    )
    assert (stronger["attention"] >= stronger["rgb"]).all() and (
        stronger["attention"] > stronger["rgb"]
    ).any()


def test_a_track_cell_weighs_six_and_the_rest_two():
    # (1, 1, 3, 2), two in one cell
    tracks = torch.tensor([[[0.1, 0.1], [0.1, 0.15], [0.9, 0.5]]])[None]
    seen = torch.tensor([[[True, False, False]]])
    a = attention_map(tracks, seen, (2, 2), 5.0)
    assert (1 + a).tolist() == [[[6.0, 2.0, 2.0, 2.0]]]
    assert attention_map(tracks[:, :, :0], seen[:, :, :0], (2, 2), 5.0).eq(1).all()


def test_parts_with_weight_zero_are_omitted(make_model, make_batch):
    config = LossConfig(keypoint=0.0, attention=0.0)
    assert world_losses(
        make_model(), make_batch(), config, MaskingConfig(), generator()
    ).keys() == {"rgb", "depth"}
    rgb_only = make_model(depth_branch=False)
    parts = world_losses(rgb_only, make_batch(), LossConfig(), MaskingConfig(), generator())
    assert parts.keys() == {"rgb", "keypoint", "attention"}
    assert total_loss(parts, LossConfig().weights).isfinite()


def test_the_loss_depends_on_masked_cells_only(make_model, make_batch):
    model, batch = make_model(), make_batch()
    mask = torch.rand(2, 5, 12) < 0.4
    states = torch.randn(2, 5, 12, 16)
    tokens = batch.rgb_tokens.flatten(2)
    other = torch.where(mask, tokens, (tokens + 7) % 4096)
    assert torch.equal(
        token_cross_entropy(model.rgb, states, tokens, mask),
        token_cross_entropy(model.rgb, states, other, mask),
    )


def test_keypoint_loss_keeps_features_along_a_track_and_trains_later_frames_only():
    features = torch.randn(1, 3, 4, 8, requires_grad=True)  # a 2 x 2 grid
    tracks = torch.tensor([[[0.2, 0.2]], [[0.7, 0.2]], [[0.7, 0.7]]])[None]  # cells 0, 1, 3
    visible = torch.ones(1, 3, 1, dtype=torch.bool)
    loss = keypoint_loss(features, tracks, visible, (2, 2)).mean()
    loss.backward()
    touched = features.grad[0].abs().sum(-1) > 0
    assert touched.tolist() == [
        [False] * 4,
        [False, True, False, False],
        [False, False, False, True],
    ]
    carried = features.detach().clone()
    carried[0, 1, 1] = carried[0, 2, 3] = carried[0, 0, 0]
    assert keypoint_loss(carried, tracks, visible, (2, 2)).sum() == 0
    visible[0, 0] = False
    assert keypoint_loss(features, tracks, visible, (2, 2)).sum() == 0, (
        "not visible at first: nothing to compare with"
    )


@pytest.mark.parametrize("n_frames", [3, 5])
def test_with_a_clean_copy_each_frame_sees_what_generation_sees(make_model, make_batch, n_frames):
    """Against clips that end with frame t, masked in t only; also with a shorter window."""
    model, batch = make_model(n_frames=n_frames), make_batch()
    noisy = corrupt(
        batch.rgb_tokens, batch.depth_tokens, MaskingConfig(context="clean"), generator()
    )
    together = run_beside_clean_copy(model, noisy, batch.actions)
    assert together.rgb.shape == (2, 5, 12, 16)
    for t in range(5):
        masked = torch.zeros_like(noisy.masked[:, : t + 1])
        masked[:, t] = noisy.masked[:, t]
        alone = model(
            noisy.rgb[:, : t + 1], noisy.depth[:, : t + 1], batch.actions[:, : t + 1], masked
        )
        torch.testing.assert_close(together.rgb[:, t], alone.rgb[:, t], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(together.depth[:, t], alone.depth[:, t], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("conditioning", ["add", "modulate"])
def test_it_overfits_one_batch(make_batch, conditioning):
    torch.manual_seed(0)
    config = tiny(
        n_layers=2,
        d_model=32,
        n_heads=2,
        grid=(2, 3),
        n_frames=4,
        action_dim=3,
        action_conditioning=conditioning,
    )
    model, batch, seen = DualBranchWorldModel(config), make_batch(t=4, grid=(2, 3)), []
    settings = TrainConfig(steps=220, learning_rate=5e-3, warmup_steps=10, weight_decay=0.0)
    loss_fn = world_loss_fn(LossConfig(), MaskingConfig())
    train(
        model, loss_fn, lambda i: batch, settings, on_step=lambda report: seen.append(report.losses)
    )
    last = {name: sum(losses[name] for losses in seen[-10:]) / 10 for name in seen[0]}
    assert last["rgb"] < 0.1 * seen[0]["rgb"] and last["depth"] < 0.1 * seen[0]["depth"]
    assert last["keypoint"] < seen[0]["keypoint"]


def test_action_statistics_normalise():
    actions = torch.randn(50, 6, 3) * torch.tensor([2.0, 0.5, 0.0]) + torch.tensor(
        [1.0, -3.0, 0.25]
    )
    stats = ActionStats.measure(actions)
    normal = stats.normalise(actions)
    torch.testing.assert_close(normal.mean((0, 1)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        normal.std((0, 1), correction=0)[:2], torch.ones(2), atol=1e-4, rtol=0
    )
    assert not normal[..., 2].any()
    torch.testing.assert_close(normal * stats.std + stats.mean, actions)


def test_a_batch_moves_to_a_device(make_batch):
    batch = make_batch().to("cpu")
    assert batch.clip_ids == ["clip-0", "clip-1"]
    assert replace(batch, clip_ids=[]).rgb_tokens is batch.rgb_tokens


def test_bfloat16_training_follows_float32(make_batch):
    """Autocast through all operations, with weights and losses in float32."""
    curves = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        config = tiny(
            n_layers=2, d_model=32, n_heads=2, grid=(3, 4), n_frames=5, action_dim=3, qk_norm=True
        )
        model, batch, curve = DualBranchWorldModel(config), make_batch(), []
        settings = TrainConfig(steps=6, learning_rate=3e-3, warmup_steps=2, precision=precision)
        loss_fn = world_loss_fn(LossConfig(), MaskingConfig())
        train(
            model,
            loss_fn,
            lambda i, b=batch: b,
            settings,
            on_step=lambda r, c=curve: c.append(r.losses["rgb"]),
        )
        assert all(weight.dtype == torch.float32 for weight in model.parameters())
        curves.append(curve)
    assert curves[1] == pytest.approx(curves[0], rel=0.02) and curves[0] != curves[1]
