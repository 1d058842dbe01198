"""The peer 1xgpt with the same weights as ours, run by its own loop.

PEER_1XGPT names a checkout of 1x-technologies/1xgpt. It runs as shipped for machines without
xformers ("basic"), and with PyTorch's fused attention in xformers' place ("fused").
"""

import importlib
import os
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measuring import Conditions, Row, Variant, commit, interleave
from peer_weights import from_peer
from torch import Tensor, nn
from world_cases import SEED, Case, noise
from world_generation import Plan, require_equal

from model.world.cache import FrameTokens
from model.world.config import TOKEN_VOCAB

KINDS = ("fused", "basic")
N_LAYERS, N_HEADS, D_MODEL = 32, 8, 256  # its published 35 M model


@dataclass(frozen=True, kw_only=True)
class Peer:
    network: Any  # its STMaskGIT
    attentions: Mapping[str, type[nn.Module]]  # by kind; all have the same weights
    n_heads: int
    commit: str

    def with_attention(self, kind: str) -> "Peer":
        for layer in self.network.modules():
            if isinstance(layer, tuple(self.attentions.values())):
                layer.__class__ = self.attentions[kind]
        return self

    def frame(self, window: Tensor, t: int, n_steps: int) -> Tensor:
        """Frame t from those before it in a window of ids (b, T, 16, 16); greedy, random order."""
        masked = window.clone()
        masked[:, t:] = self.network.mask_token_id
        return self.network.maskgit_generate(masked, t, maskgit_steps=n_steps, temperature=0.0)[0]


def load_peer(device: torch.device) -> Peer | str:
    """The peer with random weights, or why there is none."""
    folder = os.environ.get("PEER_1XGPT")
    if not folder:
        return "PEER_1XGPT names no checkout of 1xgpt"
    stand_in_for_xformers()
    sys.path.insert(0, folder)
    try:
        genie, attention, config = (
            importlib.import_module(f"genie.{n}") for n in ("st_mask_git", "attention", "config")
        )
    except ImportError as error:
        return f"the checkout of 1xgpt in {folder} does not load: {error}"
    vars(genie)["tqdm"] = lambda steps: steps  # its progress bar takes time and lines
    sizes = {"num_layers": N_LAYERS, "num_heads": N_HEADS, "d_model": D_MODEL}
    network = genie.STMaskGIT(config.GenieConfig(**sizes, num_factored_vocabs=2, qk_norm=False))
    torch.manual_seed(SEED)
    for weight in network.parameters():
        nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    return Peer(
        network=network.eval().requires_grad_(False).to(device),
        attentions={
            "basic": attention.BasicSelfAttention,
            "fused": attention.MemoryEfficientAttention,
        },
        n_heads=N_HEADS,
        commit=commit(Path(folder)),
    )


def stand_in_for_xformers() -> None:
    """Without xformers, provides the three names that the peer uses, by PyTorch's attention."""
    try:
        importlib.import_module("xformers.ops")
    except ImportError:
        ops = types.ModuleType("xformers.ops")
        mask = type("LowerTriangularMask", (), {})
        vars(ops).update(
            LowerTriangularMask=mask, unbind=torch.unbind, memory_efficient_attention=_attend
        )
        sys.modules |= {"xformers": types.ModuleType("xformers"), "xformers.ops": ops}


def _attend(
    q: Tensor, k: Tensor, v: Tensor, attn_bias: object = None, scale: float | None = None
) -> Tensor:
    """Attention of (b, length, heads, e); the peer's only bias is the causal one."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(
        q, k, v, is_causal=attn_bias is not None, scale=scale
    ).transpose(1, 2)


def against_the_peer(
    peer: Peer, n_steps: int, n_clips: int, plan: Plan, seen: Conditions
) -> Iterator[Row]:
    """G1: our rollout with the peer's weights against its own loop, with its faster attention."""
    device = peer.network.pos_embed_TSC.device
    ours = our_case(peer, n_clips, device)
    require_the_peers_tokens(ours, peer, n_steps)
    window, t = ours.clip.rgb, 8  # every frame costs the peer the same
    variants = {
        "ours": Variant(work=lambda: ours.generate(n_steps, plan.n_new), n_items=plan.n_new)
    }
    for kind in KINDS:
        variants[f"peer, {kind} attention"] = Variant(
            work=lambda kind=kind: peer.with_attention(kind).frame(window, t, n_steps)
        )
    times = interleave(variants, plan.rounds, device)
    best = min((times[name] for name in variants if name != "ours"), key=lambda found: found.least)
    floor = 4.0 if device.type == "cuda" else {2: 8.0}.get(n_steps, 10.0)
    for name, found in times.items():
        ratio, verdict = found.least / times["ours"].least, ""
        if found is best:
            verdict = f"{seen.verdict(ratio, floor, (found, times['ours']))} (at least {floor:g})"
        yield {
            "weights": f"1xgpt {peer.commit}",
            "steps": n_steps,
            "clips": n_clips,
            "way": name,
            "a frame: least (median)": found,
            "over ours": f"{ratio:.2f} ({found.median / times['ours'].median:.2f})",
            "G1": verdict,
        }


def our_case(peer: Peer, n_clips: int, device: torch.device) -> Case:
    model = from_peer(peer.network.state_dict(), peer.n_heads).requires_grad_(False).to(device)
    config = model.config
    ids = torch.randint(
        TOKEN_VOCAB, (n_clips, config.n_frames, *config.grid), generator=noise(torch.device("cpu"))
    )
    actions = torch.zeros(n_clips, config.n_frames, config.action_dim, device=device)
    return Case(name="1xgpt", model=model, clip=FrameTokens(ids.to(device), None), actions=actions)


def require_the_peers_tokens(ours: Case, peer: Peer, n_steps: int) -> None:
    """Ends the benchmark if both predict different tokens for two frames, from equal noise."""
    made = ours.generate(n_steps, 2).rgb
    torch.manual_seed(SEED)  # the peer draws from the global generator, of the CPU or of the GPU
    window = ours.clip.rgb.clone()
    for t in (1, 2):
        window[:, t] = peer.frame(window, t, n_steps)
    require_equal(
        FrameTokens(made, None), FrameTokens(window[:, :3], None), f"1xgpt, {n_steps} steps"
    )
