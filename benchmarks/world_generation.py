"""Generation, timed: against the plain way, product rates and one branch, and with pixels."""

import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from measuring import Conditions, Row, Variant, interleave, synchronize
from world_cases import Case, flops_per_frame, make_case, unfused

from model.magvit2.autoencoder import MagvitTokenizer
from model.magvit2.batched import decode_frames
from model.magvit2.config import one_x
from model.magvit2.config import tiny as tiny_tokenizer
from model.world.cache import FrameTokens, KVCache, as_pair
from model.world.config import small
from model.world.dual_branch import parameter_counts
from model.world.sampling import compile_blocks

EQUAL = 0.999  # share of tokens: factors whose scores agree to six digits may swap


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much to measure."""

    rounds: int
    n_new: int  # frames of a rollout
    compiled: bool  # also with compiled blocks


def against_the_plain_way(s: Case, n_steps: int, plan: Plan, seen: Conditions) -> Iterator[Row]:
    """G2: compiled blocks are compared with compiled blocks, all others with eager ones."""
    require_equal_tokens(s, n_steps, plan)
    s = s.in_its_precision()
    made, new = s.generate(n_steps, 15), plan.n_new
    variants = {
        "ours": Variant(work=lambda: s.generate(n_steps, new), n_items=new),
        "window": Variant(work=lambda: s.window_frame(made, 15, n_steps)),
        "window, unfused attention": Variant(
            work=unfused(lambda: s.window_frame(made, 15, n_steps))
        ),
    }
    if plan.compiled:
        fast = compiled(s)
        variants["ours, compiled"] = Variant(work=lambda: fast.generate(n_steps, new), n_items=new)
        variants["window, compiled"] = Variant(work=lambda: fast.window_frame(made, 15, n_steps))
    if s.device.type == "cuda":
        variants["ours, CUDA graph"] = Variant(
            work=lambda: s.generate(n_steps, new, graph=True), n_items=new
        )
    times = interleave(variants, plan.rounds, s.device)
    floor = 4.0 if s.device.type == "cuda" else 9.0
    for name, found in times.items():
        ours = times["ours, compiled" if "compiled" in name else "ours"]
        ratio, verdict = found.least / ours.least, ""
        if name in ("window", "window, compiled") and n_steps == 2:
            verdict = f"{seen.verdict(ratio, floor, (found, ours))} (at least {floor:g})"
        yield {
            "model": s.name,
            "steps": n_steps,
            "clips": s.n_clips,
            "way": name,
            "a frame: least (median)": found,
            "frames/s": f"{s.n_clips / found.least:.3g}",
            "over ours": f"{ratio:.2f} ({found.median / ours.median:.2f})",
            "G2": verdict,
        }


def require_equal_tokens(s: Case, n_steps: int, plan: Plan) -> None:
    """Ends the benchmark if ways differ in a frame's tokens; in float32, where few are close."""
    made, what = s.generate(n_steps, 15), f"{s.name}, {n_steps} steps"
    for t in (1, 9, 15):
        require_equal(made[t : t + 1], s.window_frame(made, t, n_steps), f"{what}, frame {t}")
    if plan.compiled:
        require_equal(made[:3], compiled(s).generate(n_steps, 2), f"{what}, compiled blocks")
    if s.device.type == "cuda":
        require_equal(made[:3], s.generate(n_steps, 2, graph=True), f"{what}, CUDA graph")


def compiled(s: Case) -> Case:
    """A copy with compiled blocks."""
    copy = replace(s, model=deepcopy(s.model))
    compile_blocks(copy.model)
    return copy


def require_equal(a: FrameTokens, b: FrameTokens, what: str) -> None:
    """Ends the benchmark if two ways give different tokens."""
    pairs = zip(as_pair(a), as_pair(b), strict=True)
    shares = [(x == y).float().mean().item() for x, y in pairs if x is not None and y is not None]
    if min(shares) < EQUAL:
        raise SystemExit(
            f"{what}: {min(shares):.2%} of the tokens are equal, expected {EQUAL:.1%}; "
            "nothing is timed"
        )


def against_the_machine(s: Case, n_steps: int, product_rate: float, plan: Plan) -> Row:
    """G7: frames a second over those at the measured product rate; on a GPU also latencies."""
    s = s.in_its_precision()
    on_gpu, flops = s.device.type == "cuda", flops_per_frame(s.model.config, n_steps)
    variant = Variant(
        work=lambda: s.generate(n_steps, plan.n_new, graph=on_gpu), n_items=plan.n_new
    )
    rate = s.n_clips / interleave({"ours": variant}, plan.rounds, s.device)["ours"].least
    latency = latencies(s, n_steps, plan.n_new) if on_gpu else "not measured"
    return {
        "model": s.name,
        "steps": n_steps,
        "clips": s.n_clips,
        "GFLOP a frame": f"{flops / 1e9:.1f}",
        "frames/s": f"{rate:.3g}",
        "frames/s that products allow": f"{product_rate / flops:.3g}",
        "share": f"{100 * rate * flops / product_rate:.0f} %",
        "ms a frame, 10 / 50 / 90 %": latency,
    }


def latencies(s: Case, n_steps: int, n_new: int) -> str:
    """Quantiles of a frame's ms; each frame is finished before the next one is queued."""
    ends: list[float] = []

    def wait(t: int) -> None:
        synchronize(s.device)
        ends.append(time.perf_counter())

    s.generate(n_steps, n_new, graph=True, on_frame=wait)
    between = torch.tensor(ends).double().diff()[2:] * 1e3  # the first ones warm up and capture
    quantiles = between.quantile(torch.tensor([0.1, 0.5, 0.9]).double())
    return " / ".join(f"{q:.2f}" for q in quantiles.tolist())


def with_pixels(s: Case, n_steps: int, plan: Plan) -> Row:
    """Frames a second as tokens alone, and with RGB pixels decoded from them."""
    config, name = one_x(), "published"
    if s.name == "tiny":
        config, name = tiny_tokenizer(16), "tiny(16)"
    tokenizer = MagvitTokenizer(config).eval().requires_grad_(False).to(s.device)
    tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    s = s.in_its_precision()
    precision = "bfloat16" if s.device.type == "cuda" else "float32"
    ids = s.generate(n_steps, 1).rgb[:, 1]
    graph = s.device.type == "cuda"
    variants = {
        "tokens": Variant(
            work=lambda: s.generate(n_steps, plan.n_new, graph=graph),
            n_items=plan.n_new * s.n_clips,
        ),
        "pixels": Variant(
            work=lambda: decode_frames(tokenizer, ids, precision=precision), n_items=s.n_clips
        ),
    }
    times = interleave(variants, plan.rounds, s.device)
    return {
        "model": s.name,
        "steps": n_steps,
        "clips": s.n_clips,
        "frames/s, tokens only": f"{1 / times['tokens'].least:.3g}",
        "decoder": f"{name}, {config.downscale * s.model.config.grid[0]} px",
        "to decode a frame": times["pixels"],
        "frames/s with RGB pixels": f"{1 / (times['tokens'].least + times['pixels'].least):.3g}",
    }


def two_branches_against_one(
    device: torch.device, n_clips: int, plan: Plan, seen: Conditions
) -> Row:
    """G3: two branches of 16 layers against one of 32, with about as many parameters."""
    two = make_case(
        "two", small(n_layers=16, action_conditioning="add"), device, n_clips
    ).in_its_precision()
    one = make_case(
        "one", small(action_conditioning="add", depth_branch=False), device, n_clips
    ).in_its_precision()
    work = {
        s.name: Variant(work=lambda s=s: s.generate(2, plan.n_new), n_items=plan.n_new)
        for s in (two, one)
    }
    times = interleave(work, plan.rounds, device)
    ratio, ceiling = (
        times["two"].least / times["one"].least,
        1.15 if device.type == "cuda" else 1.10,
    )
    return {
        "parameters": " / ".join(
            f"{parameter_counts(s.model)['total'] / 1e6:.1f} M" for s in (two, one)
        ),
        "a frame, two": times["two"],
        "a frame, one": times["one"],
        "ratio": f"{ratio:.2f} ({times['two'].median / times['one'].median:.2f})",
        "G3": f"{seen.verdict(1 / ratio, 1 / ceiling, times.values())} (at most {ceiling:g})",
    }


def cache_memory(s: Case) -> Row:
    """G13: the cache's bytes against the formula: keys and values of a window and a frame."""
    s = s.in_its_precision()
    c = s.model.config
    cache = KVCache(s.model, s.actions).cache
    found = sum(
        x.nbytes for block in cache for part in block.values() for x in (part.keys, part.values)
    )
    formula = (
        2 * c.n_layers * len(c.branches) * s.n_clips * (c.n_frames + 1) * c.n_cells * c.d_model
    )
    formula *= s.model.rgb.head.weight.itemsize
    return {
        "model": s.name,
        "clips": s.n_clips,
        "cache": f"{found / 1e6:.1f} MB",
        "formula": f"{formula / 1e6:.1f} MB",
        "G13": "holds" if abs(found / formula - 1) <= 0.05 else "missed",
    }
