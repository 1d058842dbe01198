import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.world.config import SamplingConfig, tiny
from model.world.dual_branch import DualBranchWorldModel
from model.world.sampling import (
    Tokens,
    _CachedPast,
    _RecomputedPast,
    draw,
    fill,
    log_probability,
    rollout,
    teacher_forced,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prompt_of(batch, n: int) -> Tokens:
    return Tokens(batch.rgb_tokens[:, :n], batch.depth_tokens[:, :n])


def same(a: Tokens, b: Tokens) -> bool:
    return torch.equal(a.rgb, b.rgb) and (a.depth is b.depth or torch.equal(a.depth, b.depth))


@pytest.mark.parametrize("n_steps", [1, 2, 3, 8])
@pytest.mark.parametrize("settings", [{}, {"order": "confidence"}, {"temperature": 1.0, "top_k": 50}])
def test_cached_generation_equals_full_recomputation(make_model, make_batch, n_steps, settings):
    """Past the window too: 9 frames with a window of 5, from 1 and from 3 given frames."""
    model, batch = make_model(), make_batch(t=9)
    config = SamplingConfig(n_steps=n_steps, **settings)
    for n_prompt in (1, 3):
        prompt = prompt_of(batch, n_prompt)
        cached = rollout(model, prompt, batch.actions, config, generator(1))
        assert same(cached, rollout(model, prompt, batch.actions, config, generator(1), use_cache=False))
        assert cached.rgb.shape == batch.rgb_tokens.shape


@pytest.mark.parametrize("changes", [{}, {"depth_branch": False, "qk_norm": True}, {"action_conditioning": "add"}])
@pytest.mark.parametrize("n_prompt", [1, 2, 5, 6, 8])
def test_cached_states_equal_recomputed_states(make_model, make_batch, changes, n_prompt):
    """To float tolerance, for a second pass over the same frame and for prompts longer than the window."""
    model, batch = make_model(**changes), make_batch(t=12)
    known = prompt_of(batch, n_prompt)
    cached, plain = _CachedPast(model, batch.actions), _RecomputedPast(model, batch.actions)
    for t in range(n_prompt, 12):
        looks = cached.predict_after(known), plain.predict_after(known)
        for seed in range(2):
            hidden = torch.rand((2, 1, 3, 4), generator=generator(seed)) < 0.5
            new = Tokens(batch.rgb_tokens[:, t : t + 1], batch.depth_tokens[:, t : t + 1])
            a, b = (look(new, hidden) for look in looks)
            torch.testing.assert_close(a.rgb, b.rgb, atol=2e-5, rtol=1e-4)
            assert a.rgb.shape == (2, 1, 12, 16)
            if model.depth is not None:
                torch.testing.assert_close(a.depth, b.depth, atol=2e-5, rtol=1e-4)
        known = known.then(new)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_teacher_forcing_predicts_each_frame_from_the_true_ones(make_model, make_batch, n_steps):
    """Frame by frame through the slow way; random order draws all frames at once, so confidence order is compared."""
    model, batch = make_model(), make_batch(t=7)
    config = SamplingConfig(n_steps=n_steps, order="confidence")
    clip = prompt_of(batch, 7)
    together = teacher_forced(model, clip, batch.actions, config, generator())
    assert together.rgb.shape == (2, 6, 3, 4)
    plain = _RecomputedPast(model, batch.actions)
    for t in range(1, 7):
        blank = Tokens(torch.zeros_like(clip.rgb[:, :1]), torch.zeros_like(clip.rgb[:, :1]))
        alone = fill(model, plain.predict_after(clip[:t]), blank, config, generator())
        assert same(together[t - 1 : t], alone)


def test_teacher_forced_frames_ignore_later_true_frames(make_model, make_batch):
    model, batch, other = make_model(), make_batch(t=5), make_batch(seed=1, t=5)
    config = SamplingConfig(temperature=1.0)
    clip = prompt_of(batch, 5)
    changed = Tokens(
        torch.cat([clip.rgb[:, :3], other.rgb_tokens[:, 3:]], 1),
        torch.cat([clip.depth[:, :3], other.depth_tokens[:, 3:]], 1),
    )
    a, b = (teacher_forced(model, c, batch.actions, config, generator()) for c in (clip, changed))
    assert same(a[:3], b[:3]), "frame t comes from frames before t"
    assert not torch.equal(a.rgb[:, 3], b.rgb[:, 3])


def test_seeds_reproduce_and_prompts_are_kept(make_model, make_batch):
    model, batch = make_model(), make_batch()
    prompt, config = prompt_of(batch, 2), SamplingConfig(temperature=1.0)
    first = rollout(model, prompt, batch.actions, config, generator(5))
    assert same(first, rollout(model, prompt, batch.actions, config, generator(5)))
    assert not same(first, rollout(model, prompt, batch.actions, config, generator(6)))
    assert same(first[:2], prompt_of(make_batch(), 2)) and same(prompt, prompt_of(make_batch(), 2))


def test_changing_an_action_changes_only_that_and_later_frames(make_model, make_batch):
    model, batch = make_model(), make_batch(t=6)
    prompt = prompt_of(batch, 1)
    actions = batch.actions.clone()
    actions[:, 3] += 2.0
    before, after = (rollout(model, prompt, a, SamplingConfig(), generator()) for a in (batch.actions, actions))
    assert same(before[:3], after[:3])
    for t in range(3, 6):
        assert not torch.equal(before.rgb[:, t], after.rgb[:, t])


def test_temperature_changes_the_distribution_as_it_says():
    logits = torch.log(torch.tensor([0.6, 0.3, 0.1])).repeat(20_000, 2, 1)
    for temperature in (0.5, 1.0, 2.0):
        ids = draw(logits, SamplingConfig(temperature=temperature), generator())
        for factor in (ids % 512, ids // 512):
            share = torch.bincount(factor, minlength=3) / len(factor)
            expected = (logits[0, 0] / temperature).softmax(-1)
            torch.testing.assert_close(share, expected, atol=0.015, rtol=0)
    greedy = draw(logits, SamplingConfig(temperature=0.0), generator())
    assert not greedy.any()


def test_the_two_factors_are_drawn_independently():
    logits = torch.zeros(50_000, 2, 2)
    ids = draw(logits, SamplingConfig(temperature=1.0), generator())
    pairs = torch.bincount((ids % 512) * 2 + ids // 512, minlength=4) / 50_000
    torch.testing.assert_close(pairs, torch.full((4,), 0.25), atol=0.01, rtol=0)


def test_top_k_leaves_the_likeliest():
    logits = torch.randn(5000, 2, 512)
    ids = draw(logits, SamplingConfig(temperature=3.0, top_k=4), generator())
    allowed = logits.topk(4, dim=-1).indices
    assert (ids[:, None] % 512 == allowed[:, 0]).any(-1).all() and (ids[:, None] // 512 == allowed[:, 1]).any(-1).all()
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
    """A predictor that notes which cells were hidden at each pass and passes on to the model."""

    def __init__(self, predict):
        self.predict, self.hidden, self.tokens = predict, [], []

    def __call__(self, tokens, hidden):
        self.hidden.append(hidden.clone())
        self.tokens.append(tokens)
        return self.predict(tokens, hidden)


@pytest.mark.parametrize("order", ["random", "confidence"])
def test_cells_are_revealed_on_schedule_and_stay(make_model, make_batch, order):
    model, batch = make_model(), make_batch()
    watch = Watch(_RecomputedPast(model, batch.actions).predict_after(prompt_of(batch, 1)))
    blank = Tokens(torch.zeros(2, 1, 3, 4, dtype=torch.long), torch.zeros(2, 1, 3, 4, dtype=torch.long))
    config = SamplingConfig(n_steps=4, order=order, temperature=1.0)
    final = fill(model, watch, blank, config, generator())
    expected = [12] + [int(12 * math.cos(math.pi / 2 * i / 4)) for i in (1, 2, 3)]
    for i, hidden in enumerate(watch.hidden):
        assert hidden.sum((1, 2, 3)).tolist() == [expected[i]] * 2
        if i:
            assert not (hidden & ~watch.hidden[i - 1]).any(), "a kept cell is never hidden again"
            kept = ~hidden
            assert torch.equal(watch.tokens[i].rgb[kept], final.rgb[kept])
            assert torch.equal(watch.tokens[i].depth[kept], final.depth[kept])


def test_confidence_order_keeps_the_likeliest_cells(make_model, make_batch):
    model, batch = make_model(), make_batch()
    watch = Watch(_RecomputedPast(model, batch.actions).predict_after(prompt_of(batch, 1)))
    blank = Tokens(torch.zeros(2, 1, 3, 4, dtype=torch.long), torch.zeros(2, 1, 3, 4, dtype=torch.long))
    fill(model, watch, blank, SamplingConfig(n_steps=2, order="confidence"), generator())
    states = watch.predict(blank, watch.hidden[0])
    best = model.rgb.logits(states.rgb).log_softmax(-1).amax(-1).sum(-1)
    best = (best + model.depth.logits(states.depth).log_softmax(-1).amax(-1).sum(-1)).flatten(1)
    hidden = watch.hidden[1].flatten(1)
    for i in range(2):
        assert best[i][hidden[i]].max() < best[i][~hidden[i]].min()


def test_the_cache_costs_at_most_a_tenth():
    """Counted, not timed, against the plain way: the whole window of 16 frames in each of 2 passes over 15 new frames.

    The ratio is 32 / 3 in the blocks and 1 in the heads; both ways make logits for the new frame alone.
    """
    model = DualBranchWorldModel(tiny(n_layers=5, grid=(4, 4)))
    actions = torch.zeros(1, 16, 16)
    clip = Tokens(torch.zeros(1, 16, 4, 4, dtype=torch.long), torch.zeros(1, 16, 4, 4, dtype=torch.long))
    with FlopCounterMode(display=False) as cached:
        rollout(model, clip[:1], actions, SamplingConfig(n_steps=2), generator())
    with FlopCounterMode(display=False) as window, torch.no_grad():
        states = model(clip.rgb, clip.depth, actions)
        model.rgb.logits(states.rgb[:, -1]), model.depth.logits(states.depth[:, -1])
    assert cached.get_total_flops() <= 15 * 2 * window.get_total_flops() / 10


def test_impossible_requests_are_refused(make_model, make_batch):
    model, batch = make_model(), make_batch()
    with pytest.raises(ValueError, match="5 prompt frames and 5 actions"):
        rollout(model, prompt_of(batch, 5), batch.actions, SamplingConfig(), generator())
    with pytest.raises(ValueError, match="n_steps=0"):
        SamplingConfig(n_steps=0)
    with pytest.raises(ValueError, match="top_k=0"):
        SamplingConfig(top_k=0)
    with pytest.raises(ValueError, match="temperature=-1"):
        SamplingConfig(temperature=-1.0)
