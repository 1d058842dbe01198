import math
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.world.cache import FrameTokens, FullRecompute, KVCache
from model.world.config import SamplingConfig, small
from model.world.dual_branch import DualBranchWorldModel, HiddenStates
from model.world.sampling import (
    draw,
    draw_orders,
    fill,
    log_probability,
    n_masked_after,
    rollout,
    teacher_forced,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prompt_of(batch, n: int) -> FrameTokens:
    return FrameTokens(batch.rgb_tokens[:, :n], batch.depth_tokens[:, :n])


def fill_one(model, predict, config: SamplingConfig, seed: int = 0) -> FrameTokens:
    """One frame of two clips of 3 x 4 cells."""
    noise, blank = generator(seed), FrameTokens(*torch.zeros(2, 2, 1, 3, 4, dtype=torch.long))
    return fill(
        model,
        predict,
        blank,
        config,
        draw_orders(config, (2, 1, 12), noise, blank.rgb.device),
        noise,
    )


def same(a: FrameTokens, b: FrameTokens) -> bool:
    return torch.equal(a.rgb, b.rgb) and (a.depth is b.depth or torch.equal(a.depth, b.depth))


CONFIDENCE, DRAWN = {"order": "confidence"}, {"temperature": 1.0, "top_k": 50}


@pytest.mark.parametrize(
    ("n_steps", "settings"),
    [
        (1, {}),
        (2, {}),
        (3, {}),
        (4, {}),
        (8, {}),
        (2, CONFIDENCE),
        (8, CONFIDENCE),
        (1, DRAWN),
        (3, DRAWN),
    ],
)
def test_cached_generation_equals_full_recomputation(make_model, make_batch, n_steps, settings):
    """Also beyond the window: 7 frames with a window of 5."""
    model, batch = make_model(), make_batch(t=7)
    config, prompt = SamplingConfig(n_steps=n_steps, **settings), prompt_of(batch, 1 + n_steps % 2)
    cached = rollout(model, prompt, batch.actions, config, generator(1))
    assert same(
        cached, rollout(model, prompt, batch.actions, config, generator(1), use_cache=False)
    )
    assert cached.rgb.shape == batch.rgb_tokens.shape


def test_cached_generation_past_the_published_window(make_model, make_batch):
    """18 frames with a window of 16; in both ways deeper blocks still depend on earlier frames."""
    model, batch = make_model(n_frames=16), make_batch(t=18, b=1)
    config = SamplingConfig(n_steps=2)
    cached, plain = (
        rollout(model, prompt_of(batch, 1), batch.actions, config, generator(), use_cache=use)
        for use in (True, False)
    )
    assert same(cached, plain) and cached.rgb.shape[1] == 18


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_memory_of_the_cache(make_model, make_batch, precision):
    """Keys and values of a window and one frame, in the precision of their computation."""
    model, batch = make_model(), make_batch()
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16),
        torch.no_grad(),
    ):
        kv_cache = KVCache(model, batch.actions)
        kv_cache.commit(prompt_of(batch, 5))
    tensors = [
        x
        for block in kv_cache.cache
        for cache in block.values()
        for x in (cache.keys, cache.values)
    ]
    assert {x.dtype for x in tensors} == {precision} and all(x[:, :5].any() for x in tensors)
    n_layers, n_branches, b, n_slots, n_cells, d = 2, 2, 2, 5 + 1, 12, 16
    expected = 2 * n_layers * n_branches * b * n_slots * n_cells * d * precision.itemsize
    assert sum(x.nbytes for x in tensors) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "settings", [{"n_steps": 3}, {"n_steps": 2, "order": "confidence", "temperature": 1.0}]
)
def test_a_cuda_graph_generates_the_same(make_model, make_batch, settings):
    model, batch = make_model().cuda(), make_batch(t=9).to("cuda")
    config = SamplingConfig(**settings)

    def generate(cuda_graph: bool) -> FrameTokens:
        noise = torch.Generator("cuda").manual_seed(0)
        return rollout(
            model, prompt_of(batch, 2), batch.actions, config, noise, cuda_graph=cuda_graph
        )

    assert same(generate(True), generate(False))


@pytest.mark.parametrize(
    "changes", [{}, {"depth_branch": False, "qk_norm": True}, {"action_conditioning": "add"}]
)
@pytest.mark.parametrize("n_prompt", [1, 2, 5, 6, 8])
def test_cached_states_equal_recomputed_states(make_model, make_batch, changes, n_prompt):
    """To float tolerance, also for a frame's second step and prompts longer than the window."""
    model, batch = make_model(**changes), make_batch(t=12)
    clip = prompt_of(batch, 12)
    cached, plain = KVCache(model, batch.actions), FullRecompute(model, batch.actions)
    cached.commit(clip[: n_prompt - 1])
    for t in range(n_prompt, 12):
        predictors = [way.predict_at(clip, torch.tensor([t])) for way in (cached, plain)]
        for seed in range(2):
            masked = torch.rand((2, 1, 3, 4), generator=generator(seed)) < 0.5
            a, b = (predict(clip[t : t + 1], masked) for predict in predictors)
            torch.testing.assert_close(a.rgb, b.rgb, atol=2e-5, rtol=1e-4)
            assert a.rgb.shape == (2, 1, 12, 16)
            if model.depth is not None:
                torch.testing.assert_close(a.depth, b.depth, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_teacher_forcing_predicts_each_frame_from_the_true_ones(make_model, make_batch, n_steps):
    """Against single frames without a cache; in confidence order, since random draws differ."""
    model, batch = make_model(), make_batch(t=7)
    config = SamplingConfig(n_steps=n_steps, order="confidence")
    clip = prompt_of(batch, 7)
    together = teacher_forced(model, clip, batch.actions, config, generator())
    assert together.rgb.shape == (2, 6, 3, 4)
    plain = FullRecompute(model, batch.actions)
    for t in range(1, 7):
        alone = fill_one(model, plain.predict_at(clip, torch.tensor([t])), config)
        assert same(together[t - 1 : t], alone)


def test_teacher_forced_frames_ignore_later_true_frames(make_model, make_batch):
    model, batch, other = make_model(), make_batch(t=5), make_batch(seed=1, t=5)
    config = SamplingConfig(temperature=1.0)
    clip = prompt_of(batch, 5)
    changed = FrameTokens(
        torch.cat([clip.rgb[:, :3], other.rgb_tokens[:, 3:]], 1),
        torch.cat([clip.depth[:, :3], other.depth_tokens[:, 3:]], 1),
    )
    a, b = (teacher_forced(model, c, batch.actions, config, generator()) for c in (clip, changed))
    assert same(a[:3], b[:3]), "frame t comes from frames before t"
    assert not same(a[3:], b[3:])


def test_seeds_reproduce_and_prompts_are_kept(make_model, make_batch):
    model, batch = make_model(), make_batch()
    prompt, config = prompt_of(batch, 2), SamplingConfig(temperature=1.0)
    first = rollout(model, prompt, batch.actions, config, generator(5))
    assert same(first, rollout(model, prompt, batch.actions, config, generator(5)))
    assert not same(first, rollout(model, prompt, batch.actions, config, generator(6)))
    assert same(first[:2], prompt_of(make_batch(), 2)) and same(prompt, prompt_of(make_batch(), 2))


def test_on_frame_is_called_for_each_new_frame(make_model, make_batch):
    model, batch, called = make_model(), make_batch(), []
    rollout(
        model,
        prompt_of(batch, 2),
        batch.actions,
        SamplingConfig(),
        generator(),
        on_frame=called.append,
    )
    assert called == [2, 3, 4]


def test_random_orders_are_drawn_step_by_step():
    """They equal one draw per step from the same generator, as in the peer's loop."""
    config, noise = SamplingConfig(n_steps=4), generator(3)
    orders = torch.stack([draw_orders(config, (2, 1, 256), generator(3), torch.device("cpu"))])
    assert torch.equal(
        orders[0],
        torch.stack([torch.rand(2, 16, 16, generator=noise).view(2, 1, 256) for _ in "123"]),
    )
    assert (
        draw_orders(
            SamplingConfig(order="confidence"), (2, 1, 256), noise, torch.device("cpu")
        ).numel()
        == 0
    )


def test_changing_an_action_changes_only_that_and_later_frames(make_model, make_batch):
    model, batch = make_model(), make_batch(t=6)
    prompt = prompt_of(batch, 1)
    actions = batch.actions.clone()
    actions[:, 3] += 2.0
    before, after = (
        rollout(model, prompt, a, SamplingConfig(), generator()) for a in (batch.actions, actions)
    )
    assert same(before[:3], after[:3])
    for t in range(3, 6):
        assert not torch.equal(before.rgb[:, t], after.rgb[:, t])


def test_temperature_scales_the_logits():
    logits = torch.log(torch.tensor([0.6, 0.3, 0.1])).repeat(20_000, 2, 1)
    for temperature in (0.5, 1.0, 2.0):
        ids = draw(logits, SamplingConfig(temperature=temperature), generator())
        for factor in (ids % 512, ids // 512):
            share = torch.bincount(factor, minlength=3) / len(factor)
            expected = (logits[0, 0] / temperature).softmax(-1)
            torch.testing.assert_close(share, expected, atol=0.015, rtol=0)
    greedy = draw(logits, SamplingConfig(temperature=0.0), generator())
    assert not greedy.any()


@pytest.mark.parametrize(
    ("temperature", "top_k"), [(0.5, None), (1.0, None), (2.0, None), (1.0, 20)]
)
def test_a_rollout_draws_from_the_models_distribution(make_model, make_batch, temperature, top_k):
    """The mean log-probability of 1500 draws in one step is that distribution's expectation."""
    model, one, n = make_model(), make_batch(b=1, t=2), 1500
    prompt = FrameTokens(
        one.rgb_tokens[:, :1].repeat(n, 1, 1, 1), one.depth_tokens[:, :1].repeat(n, 1, 1, 1)
    )
    config = SamplingConfig(n_steps=1, temperature=temperature, top_k=top_k)
    made = rollout(model, prompt, one.actions.repeat(n, 1, 1), config, generator())
    with torch.no_grad():
        masked = torch.tensor([False, True]).view(1, 2, 1, 1).expand(1, 2, 3, 4)
        states = model(one.rgb_tokens, one.depth_tokens, one.actions, masked)
    for branch, tokens, of_branch in (
        (model.rgb, made.rgb, states.rgb),
        (model.depth, made.depth, states.depth),
    ):
        logits = branch.logits(of_branch[0, 1]).detach() / temperature  # (s, 2, v)
        kept = logits
        if top_k is not None:
            kept = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -math.inf)
        log_p, p = kept.log_softmax(-1), kept.softmax(-1)
        # (n, s, 2)
        drawn = torch.stack([tokens[:, 1].flatten(1) % 512, tokens[:, 1].flatten(1) // 512], -1)
        found = log_p.expand(n, -1, -1, -1).gather(-1, drawn[..., None])
        expected = torch.where(p > 0, p * log_p, 0.0).sum(-1)
        variance = torch.where(p > 0, p * log_p.square(), 0.0).sum(-1) - expected.square()
        error = (found.mean() - expected.mean()).item()
        assert abs(error) < 4 * (variance.mean() / found.numel()).sqrt().item() + 1e-4


def test_random_order_favours_no_cell(make_model):
    """After the first of two steps each cell is masked again in 9 of 12 cases."""
    model, n = make_model(depth_branch=False), 4000
    states = HiddenStates(
        torch.randn(1, 1, 12, 16, generator=generator(1)).expand(n, 1, 12, 16), None
    )
    watch = Watch(lambda tokens, masked: states)
    blank = FrameTokens(torch.zeros(n, 1, 3, 4, dtype=torch.long), None)
    config = SamplingConfig(n_steps=2)
    orders = draw_orders(config, (n, 1, 12), generator(), blank.rgb.device)
    fill(model, watch, blank, config, orders, generator())
    again = watch.masked[1].float().flatten(1)
    torch.testing.assert_close(
        again.mean(0), torch.full((12,), 0.75), atol=4 * (0.75 * 0.25 / n) ** 0.5, rtol=0
    )
    pairs = again.T @ again / n  # two cells share their fate as draws without replacement do
    others = pairs[~torch.eye(12, dtype=torch.bool)]
    torch.testing.assert_close(others, torch.full_like(others, 9 / 12 * 8 / 11), atol=0.04, rtol=0)


def test_the_two_factors_are_drawn_independently():
    logits = torch.zeros(50_000, 2, 2)
    ids = draw(logits, SamplingConfig(temperature=1.0), generator())
    pairs = torch.bincount((ids % 512) * 2 + ids // 512, minlength=4) / 50_000
    torch.testing.assert_close(pairs, torch.full((4,), 0.25), atol=0.01, rtol=0)


def test_top_k_keeps_the_likeliest():
    logits = torch.randn(5000, 2, 512)
    ids = draw(logits, SamplingConfig(temperature=3.0, top_k=4), generator())
    allowed = logits.topk(4, dim=-1).indices
    assert (ids[:, None] % 512 == allowed[:, 0]).any(-1).all() and (
        ids[:, None] // 512 == allowed[:, 1]
    ).any(-1).all()
    counts = torch.tensor([((ids % 512) == allowed[:, 0, i]).sum() for i in range(4)])
    assert (counts > 500).all(), "all four are drawn"


def test_log_probability_is_that_of_both_factors():
    logits = torch.randn(7, 2, 512)
    ids = torch.randint(2**18, (7,))
    for i in range(7):
        low, high = logits[i].softmax(-1)
        expected = math.log(low[ids[i] % 512]) + math.log(high[ids[i] // 512])
        assert log_probability(logits, ids)[i].item() == pytest.approx(expected, abs=1e-4)


class Watch:
    """A predictor that notes which cells were masked at each step and calls the model."""

    def __init__(self, predict):
        self.predict, self.masked, self.tokens = predict, [], []

    def __call__(self, tokens, masked):
        self.masked.append(masked.clone())
        self.tokens.append(tokens)
        return self.predict(tokens, masked)


def exact_cosine(angle: Fraction) -> Decimal:
    """Cosine of a multiple of 90°, to 50 digits; cos 60° is the only rational one in between."""
    if angle == Fraction(2, 3):
        return Decimal(1) / 2
    pi = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
    x = pi / 2 * angle.numerator / angle.denominator
    return sum(
        (Decimal((-1) ** k) * x ** (2 * k) / math.factorial(2 * k) for k in range(30)), Decimal(0)
    )


@pytest.mark.parametrize("n_cells", [12, 80, 256, 1024])
def test_the_schedule_is_exact(n_cells):
    with localcontext(prec=50):
        for n in range(2, 26):
            for i in range(1, n):
                exact = math.ceil(n_cells * exact_cosine(Fraction(i, n)))
                assert n_masked_after(i, n, n_cells) == exact, f"after step {i} of {n}"
    assert n_masked_after(2, 3, n_cells) == n_cells // 2


@pytest.mark.parametrize("order", ["random", "confidence"])
def test_cells_are_revealed_on_schedule_and_stay(make_model, make_batch, order):
    model, batch = make_model(), make_batch()
    watch = Watch(
        FullRecompute(model, batch.actions).predict_at(prompt_of(batch, 1), torch.tensor([1]))
    )
    final = fill_one(model, watch, SamplingConfig(n_steps=4, order=order, temperature=1.0))
    # 12 cos(0), 12 cos(22.5°) = 11.1, 12 cos(45°) = 8.5, 12 cos(67.5°) = 4.6, rounded up
    expected = [12, 12, 9, 5]
    for i, masked in enumerate(watch.masked):
        assert masked.sum((1, 2, 3)).tolist() == [expected[i]] * 2
        if i:
            assert not (masked & ~watch.masked[i - 1]).any(), "a kept cell is never masked again"
            kept = ~masked
            assert torch.equal(watch.tokens[i].rgb[kept], final.rgb[kept])
            assert torch.equal(watch.tokens[i].depth[kept], final.depth[kept])


def test_confidence_order_keeps_the_likeliest_cells(make_model, make_batch):
    model, batch = make_model(), make_batch()
    watch = Watch(
        FullRecompute(model, batch.actions).predict_at(prompt_of(batch, 1), torch.tensor([1]))
    )
    fill_one(model, watch, SamplingConfig(n_steps=2, order="confidence"))
    states = watch.predict(watch.tokens[0], watch.masked[0])
    best = model.rgb.logits(states.rgb).log_softmax(-1).amax(-1).sum(-1)
    best = (best + model.depth.logits(states.depth).log_softmax(-1).amax(-1).sum(-1)).flatten(1)
    masked = watch.masked[1].flatten(1)
    for i in range(2):
        assert best[i][masked[i]].max() < best[i][~masked[i]].min()


def flops_of(work) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return counter.get_total_flops()


def test_a_frame_costs_at_most_a_tenth_with_the_cache():
    """FLOPs at the published width, window and grid, against the whole window in each of 2 steps.

    The ratio is 32 / 3 in the blocks and 1 in the heads: both ways have logits of the new frame
    only. Every frame costs the same.
    """
    with torch.device("meta"):
        model = DualBranchWorldModel(small(n_layers=4))
        clip, actions = (
            FrameTokens(*torch.zeros(2, 1, 16, 16, 16, dtype=torch.long)),
            torch.zeros(1, 16, 16),
        )

    def generate(n_frames: int) -> int:
        config = SamplingConfig(n_steps=2)
        return flops_of(
            lambda: rollout(model, clip[:1], actions[:, :n_frames], config, generator())
        )

    def window() -> None:
        states = model(clip.rgb, clip.depth, actions)
        model.rgb.logits(states.rgb[:, -1:]), model.depth.logits(states.depth[:, -1:])

    one, two = (generate(n) for n in (2, 3))
    assert two == 2 * one
    assert 10 * one <= 2 * flops_of(window)


def test_impossible_requests_are_refused(make_model, make_batch):
    model, batch = make_model(), make_batch()
    with pytest.raises(ValueError, match="5 prompt frames and 5 actions"):
        rollout(model, prompt_of(batch, 5), batch.actions, SamplingConfig(), generator())
    with pytest.raises(ValueError, match="6 frames, but learned time positions end at 5"):
        rollout(
            make_model(time_positions="learned"),
            prompt_of(batch, 1),
            make_batch(t=6).actions,
            SamplingConfig(),
            generator(),
        )
    longer = make_batch(t=6)
    with pytest.raises(
        ValueError, match="6 frames, but table time positions end at 5; use 'rotary'"
    ):
        teacher_forced(
            make_model(time_positions="table"),
            prompt_of(longer, 6),
            longer.actions,
            SamplingConfig(),
            generator(),
        )
    with pytest.raises(ValueError, match="cuda_graph: expected a model on a GPU"):
        rollout(
            model,
            prompt_of(batch, 1),
            batch.actions,
            SamplingConfig(),
            generator(),
            cuda_graph=True,
        )
    with pytest.raises(ValueError, match="n_steps=0"):
        SamplingConfig(n_steps=0)
    with pytest.raises(ValueError, match="top_k=0"):
        SamplingConfig(top_k=0)
    with pytest.raises(ValueError, match="temperature=-1"):
        SamplingConfig(temperature=-1.0)
