from dataclasses import replace

import pytest
import torch

from model.world.attention import TimeView, rotary_angles, rotate
from model.world.config import TOKEN_VOCAB, WorldModelConfig, large, medium, small, tiny
from model.world.dual_branch import (
    DualBranchWorldModel,
    join_factors,
    parameter_counts,
    split_factors,
)

VARIANTS = [
    {},
    {"action_conditioning": "add"},
    {"time_positions": "learned", "qk_norm": True},
    {"action_conditioning": "add", "depth_branch": False},
    {"action_conditioning": "add", "time_positions": "table", "norms": "1xgpt"},
    {"fusion": False},
]


def run(model, batch, **kwargs):
    return model(batch.rgb_tokens, batch.depth_tokens, batch.actions, **kwargs)


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("what", ["rgb_tokens", "depth_tokens", "actions", "masked"])
def test_a_frame_depends_on_no_later_one(make_model, make_batch, changes, what):
    model, batch, frame = make_model(**changes), make_batch(), 3
    masked = torch.rand(batch.rgb_tokens.shape) < 0.4
    before = run(model, batch, masked=masked)
    if what == "masked":
        changed = masked.clone()
        changed[:, frame] = ~masked[:, frame]
        after = run(model, batch, masked=changed)
    else:
        value = getattr(batch, what).clone()
        value[:, frame] = value[:, frame].flip(0) + (what != "actions")
        after = run(
            model,
            replace(batch, **{what: value % TOKEN_VOCAB if what != "actions" else value}),
            masked=masked,
        )
    for name in model.config.branches:
        x, y = getattr(before, name), getattr(after, name)
        assert torch.equal(x[:, :frame], y[:, :frame])
        if name == what.removesuffix("_tokens") or what in ("actions", "masked"):
            assert ((x - y)[:, frame:].abs().amax((0, 2, 3)) > 1e-4).all(), (
                "this and all later frames see the change"
            )


def test_a_cell_sees_its_whole_frame(make_model, make_batch):
    model, batch = make_model(), make_batch()
    tokens = batch.rgb_tokens.clone()
    tokens[:, 2, 2, 3] = (tokens[:, 2, 2, 3] + 1) % TOKEN_VOCAB
    changed = run(model, replace(batch, rgb_tokens=tokens)).rgb - run(model, batch).rgb
    assert (changed[:, 2].abs().amax(-1) > 1e-5).all(), "space attention looks both ways"


def test_nothing_flows_from_rgb_to_depth(make_model, make_batch):
    model, batch = make_model(), make_batch()
    other = replace(batch, rgb_tokens=make_batch(seed=1).rgb_tokens)
    assert torch.equal(run(model, batch).depth, run(model, other).depth)
    assert not torch.equal(run(model, batch).rgb, run(model, other).rgb)


@pytest.mark.parametrize("conditioning", ["add", "modulate"])
def test_rgb_with_fusion_zeroed_is_the_model_without_depth(make_model, make_batch, conditioning):
    model, batch = make_model(action_conditioning=conditioning), make_batch()
    alone = DualBranchWorldModel(replace(model.config, depth_branch=False))
    alone.rgb.load_state_dict(model.rgb.state_dict())
    assert not torch.allclose(run(model, batch).rgb, run(alone, batch).rgb, atol=1e-3)
    for weight in model.fusions.parameters():
        weight.data.zero_()
    assert torch.equal(run(model, batch).rgb, run(alone, batch).rgb)
    assert run(alone, batch).depth is None
    apart = DualBranchWorldModel(replace(model.config, fusion=False))
    state = {n: w for n, w in model.state_dict().items() if not n.startswith("fusions")}
    apart.load_state_dict(state)
    assert parameter_counts(apart)["fusion"] == 0
    both, fused = run(apart, batch), run(model, batch)
    assert torch.equal(both.rgb, fused.rgb) and torch.equal(both.depth, fused.depth)


@pytest.mark.parametrize("conditioning", ["add", "modulate"])
def test_rgb_loss_reaches_the_depth_branch_through_every_fusion(make_batch, conditioning):
    torch.manual_seed(0)
    config = tiny(
        n_layers=3,
        d_model=16,
        n_heads=2,
        grid=(3, 4),
        n_frames=5,
        action_dim=3,
        action_conditioning=conditioning,
    )
    model, batch = DualBranchWorldModel(config), make_batch()  # as training starts
    model.rgb.logits(run(model, batch).rgb).square().sum().backward()
    assert all(weight.grad.abs().max() > 0 for weight in model.fusions.parameters())
    assert model.depth.embed.low.weight.grad.abs().max() > 0
    model.zero_grad()
    for weight in model.fusions.parameters():
        weight.data.zero_()
    model.rgb.logits(run(model, batch).rgb).square().sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.depth.parameters()), (
        "there is no other way"
    )


def test_masked_cells_show_nothing_of_their_tokens(make_model, make_batch):
    model, batch, other = make_model(), make_batch(), make_batch(seed=1)
    masked = torch.rand(batch.rgb_tokens.shape) < 0.5
    swapped = replace(
        batch,
        rgb_tokens=torch.where(masked, other.rgb_tokens, batch.rgb_tokens),
        depth_tokens=torch.where(masked, other.depth_tokens, batch.depth_tokens),
    )
    a, b = run(model, batch, masked=masked), run(model, swapped, masked=masked)
    assert torch.equal(a.rgb, b.rgb) and torch.equal(a.depth, b.depth)


def test_rotary_time_is_relative_and_learned_time_is_not(make_model, make_batch):
    batch = make_batch()
    later = TimeView(torch.arange(5) + 1000)
    relative = make_model()
    torch.testing.assert_close(
        run(relative, batch).rgb, run(relative, batch, view=later).rgb, atol=1e-3, rtol=0
    )
    with pytest.raises(ValueError, match="learned time positions end at 5"):
        run(make_model(time_positions="learned"), make_batch(t=6))


def test_rotation_keeps_length_and_depends_on_distance():
    x, y = torch.randn(2, 1, 1, 1, 8)
    turned = rotate(x.expand(1, 9, 1, 8), rotary_angles(torch.arange(9), 8))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1).expand(1, 9, 1))
    other = rotate(y.expand(1, 9, 1, 8), rotary_angles(torch.arange(9), 8))
    products = (turned[0, :, 0] @ other[0, :, 0].T).diagonal(2)
    torch.testing.assert_close(products, products[:1].expand(7))


def test_order_matters_in_time(make_model, make_batch):
    """Without positions the last frame would not depend on the order of earlier ones."""
    batch = make_batch()
    order = torch.tensor([1, 0, 2, 3, 4])
    shuffled = replace(
        batch, rgb_tokens=batch.rgb_tokens[:, order], actions=batch.actions[:, order]
    )
    for positions in ("rotary", "learned"):
        model = make_model(time_positions=positions, depth_branch=False)
        assert (run(model, batch).rgb - run(model, shuffled).rgb)[:, -1].abs().max() > 1e-3


def test_frames_beyond_the_window_are_not_seen(make_model, make_batch):
    model, batch = make_model(n_layers=1, n_frames=3), make_batch(t=6)
    tokens = batch.rgb_tokens.clone()
    tokens[:, 1] = (tokens[:, 1] + 1) % TOKEN_VOCAB
    changed = (
        (run(model, batch).rgb - run(model, replace(batch, rgb_tokens=tokens)).rgb)
        .abs()
        .amax((0, 2, 3))
    )
    assert (changed[1:4] > 1e-4).all() and not changed[[0, 4, 5]].any()


def test_sub_steps_are_all_read(make_model, make_batch):
    model, batch = make_model(action_substeps=4), make_batch(a=(4, 3))
    for i in range(4):
        actions = batch.actions.clone()
        actions[:, 2, i] += 1.0
        changed = run(model, replace(batch, actions=actions)).rgb - run(model, batch).rgb
        assert not changed[:, :2].any() and (changed[:, 2].abs() > 1e-4).any()
    with pytest.raises(
        ValueError, match="= 3 numbers a frame, the model was made for 4 sub-steps x 3"
    ):
        run(model, make_batch())


def test_wrong_grid_and_missing_depth_are_named(make_model, make_batch):
    batch = make_batch(grid=(4, 4))
    with pytest.raises(ValueError, match=r"\(4, 4\) grid, the model was made for \(3, 4\)"):
        run(make_model(), batch)
    with pytest.raises(ValueError, match="needs depth_tokens"):
        make_model()(make_batch().rgb_tokens, None, make_batch().actions)


def test_token_ids_round_trip_through_their_factors():
    ids = torch.tensor([0, 511, 512, 262143, 12345])
    assert split_factors(ids).tolist() == [[0, 0], [511, 0], [0, 1], [511, 511], [57, 24]]
    assert torch.equal(join_factors(split_factors(ids)), ids)


def test_modulation_starts_at_zero(make_batch):
    """AdaLN-zero: in an untrained model actions have no effect and blocks are identities."""
    torch.manual_seed(0)
    model = DualBranchWorldModel(
        tiny(n_layers=2, d_model=16, n_heads=2, grid=(3, 4), n_frames=5, action_dim=3)
    )
    batch = make_batch()
    assert torch.equal(
        run(model, batch).rgb, run(model, replace(batch, actions=-batch.actions)).rgb
    )


def branch_millions(config: WorldModelConfig) -> float:
    """Parameters of one branch, extrapolated from two layers (the widest has 544 M)."""
    counts = []
    for n_layers in (1, 2):
        with torch.device("meta"):
            model = DualBranchWorldModel(replace(config, n_layers=n_layers))
        parts = parameter_counts(model)
        assert parts["total"] == sum(p.numel() for p in model.parameters())
        assert parts["total"] == parts["rgb"] + parts["depth"] + parts["fusion"]
        counts.append(parts["rgb"])
    return (counts[0] + (config.n_layers - 1) * (counts[1] - counts[0])) / 1e6


def test_one_branch_has_the_papers_sizes():
    """35, 137 and 544 M with the paper's conditioning; AdaLN has a seventh more at width 512."""
    assert branch_millions(small(action_conditioning="add")) == pytest.approx(35.2, rel=0.03)
    assert branch_millions(medium(action_conditioning="add")) == pytest.approx(137.5, rel=0.03)
    assert branch_millions(large(action_conditioning="add")) == pytest.approx(543.5, rel=0.03)
    assert branch_millions(medium()) / branch_millions(
        medium(action_conditioning="add")
    ) == pytest.approx(1.14, abs=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_heads": 3}, "not a multiple of n_heads=3"),
        ({"d_model": 6, "n_heads": 2}, "head width 3 is odd"),
        ({"n_frames": 0}, "n_frames=0"),
        ({"grid": (0, 8)}, r"grid=\(0, 8\)"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


@pytest.mark.parametrize("changes", VARIANTS)
def test_the_least_number_of_parameters_is_a_close_bound(changes):
    config = small(n_layers=4, **changes)
    with torch.device("meta"):
        true = parameter_counts(DualBranchWorldModel(config))["total"]
    assert true / 2 < config.least_parameters < true
