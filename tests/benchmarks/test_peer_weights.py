"""Our model with 1xgpt's weights against 1xgpt's layers, written here as matrix products."""

import pytest
import torch
import torch.nn.functional as F
from peer_weights import from_peer
from torch import Tensor

from model.world.cache import FrameTokens
from model.world.config import SamplingConfig
from model.world.sampling import rollout

T, SIDE, D, HEADS, LAYERS, HIDDEN = 4, 3, 12, 2, 2, 48
S = SIDE * SIDE


def peer_state() -> dict[str, Tensor]:
    """Random weights under the peer's names, in the peer's shapes."""
    noise = torch.Generator().manual_seed(0)
    shapes = {f"token_embed.factored_embeds.{i}.weight": (512, D) for i in range(2)}
    shapes |= {"token_embed.mask_token_embed": (1, D), "pos_embed_TSC": (1, T, S, D)}
    shapes |= {"out_x_proj.weight": (1024, D), "out_x_proj.bias": (1024,)}
    for i in range(LAYERS):
        at = f"decoder.layers.{i}."
        shapes |= {
            f"{at}{norm}.{part}": (D,) for norm in ("norm1", "norm2") for part in ("weight", "bias")
        }
        for attention in ("spatial_attn", "temporal_attn"):
            shapes |= {
                f"{at}{attention}.qkv.weight": (3 * D, D),
                f"{at}{attention}.proj.weight": (D, D),
            }
            shapes |= {f"{at}{attention}.proj.bias": (D,)}
        shapes |= {f"{at}mlp.fc1.weight": (HIDDEN, D), f"{at}mlp.fc1.bias": (HIDDEN,)}
        shapes |= {f"{at}mlp.fc2.weight": (D, HIDDEN), f"{at}mlp.fc2.bias": (D,)}
    return {
        name: torch.randn(shape, generator=noise) * shape[-1] ** -0.5
        for name, shape in shapes.items()
    }


def attend(state: dict[str, Tensor], at: str, x: Tensor, mask: Tensor) -> Tensor:
    """Attention within each row of x (rows, length, D)."""
    parts = F.linear(x, state[at + "qkv.weight"]).view(*x.shape[:2], 3, HEADS, D // HEADS)
    heads = []
    for h in range(HEADS):
        q, k, v = (parts[:, :, i, h] for i in range(3))
        scores = (q @ k.transpose(1, 2)) * (D // HEADS) ** -0.5
        heads.append(scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v)
    return F.linear(torch.cat(heads, -1), state[at + "proj.weight"], state[at + "proj.bias"])


def peer_logits(state: dict[str, Tensor], ids: Tensor, masked: Tensor) -> Tensor:
    """(T, S) ids and masked cells of one clip -> (T, S, 2, 512)."""
    tables = [state[f"token_embed.factored_embeds.{i}.weight"] for i in range(2)]
    x = tables[0][ids % 512] + tables[1][ids // 512]
    x = (
        torch.where(masked[..., None], state["token_embed.mask_token_embed"], x)
        + state["pos_embed_TSC"][0]
    )
    everywhere, past = torch.ones(S, S, dtype=torch.bool), torch.ones(T, T, dtype=torch.bool).tril()
    for i in range(LAYERS):
        at = f"decoder.layers.{i}."

        def norm(y: Tensor, name: str, at: str = at) -> Tensor:
            return F.layer_norm(
                y, (D,), state[f"{at}{name}.weight"], state[f"{at}{name}.bias"], eps=1e-5
            )

        x = x + attend(state, at + "spatial_attn.", norm(x, "norm1"), everywhere)
        x = x + attend(state, at + "temporal_attn.", x.transpose(0, 1), past).transpose(0, 1)
        inner = F.gelu(
            F.linear(norm(x, "norm2"), state[at + "mlp.fc1.weight"], state[at + "mlp.fc1.bias"])
        )
        x = x + F.linear(inner, state[at + "mlp.fc2.weight"], state[at + "mlp.fc2.bias"])
    return F.linear(x, state["out_x_proj.weight"], state["out_x_proj.bias"]).view(T, S, 2, 512)


def clip() -> Tensor:
    return torch.randint(2**18, (1, T, SIDE, SIDE), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_logits_are_the_peers():
    state, ids = peer_state(), clip()
    masked = torch.rand(1, T, SIDE, SIDE, generator=torch.Generator().manual_seed(2)) < 0.5
    model = from_peer(state, HEADS)
    ours = model.rgb.logits(model(ids, None, torch.randn(1, T, 1), masked).rgb)[0]
    theirs = peer_logits(state, ids[0].flatten(1), masked[0].flatten(1))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert theirs.std() > 0.1


@torch.no_grad()
def test_cached_generation_gives_the_peers_tokens():
    """Greedy, one step a frame: the peer's likeliest tokens with later frames masked."""
    state, ids = peer_state(), clip()
    model = from_peer(state, HEADS)
    start, actions = FrameTokens(ids[:, :1], None), torch.zeros(1, T, 1)
    made = rollout(model, start, actions, SamplingConfig(n_steps=1), torch.Generator())
    expected = ids[0].flatten(1).clone()
    for t in range(1, T):
        masked = (torch.arange(T) >= t)[:, None].expand(T, S)
        best = peer_logits(state, expected, masked)[t].argmax(-1)
        expected[t] = best[:, 0] + 512 * best[:, 1]
    assert torch.equal(made.rgb[0].flatten(1), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("out_x_proj.bias"), "out_x_proj.bias is missing"),
        (
            lambda s: s.update({"decoder.layers.1.spatial_attn.norm.weight": torch.ones(6)}),
            "norm.weight has no place",
        ),
        (
            lambda s: s.update({"out_x_proj.bias": torch.ones(7)}),
            "out_x_proj.bias has 7 numbers, expected 1024",
        ),
        (lambda s: s.pop("pos_embed_TSC"), "not a state dict of 1xgpt"),
    ],
)
def test_other_weights_are_refused(change, message):
    state = peer_state()
    change(state)
    with pytest.raises(ValueError, match=message):
        from_peer(state, HEADS)
