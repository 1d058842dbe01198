"""Laws of the network, its initial state, and what it refuses."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from golden_weights import sinusoid_table
from repository import ROOT
from torch import Tensor
from torch.testing import assert_close
from vda_small import SMALL, lively, timeless

from model.training.checkpoint import load_model, save_model
from model.video_depth import temporal_head
from model.video_depth.config import MAX_FRAMES, VideoDepthConfig, tiny
from model.video_depth.encoder import Encoder
from model.video_depth.model import VideoDepth

# Laws are checked in float64, where rounding cannot hide a leak
EXACT = {
    "atol": 1e-10,
    "rtol": 0.0,
}


def clips(b: int = 2, t: int = 5, height: int = 28, width: int = 42) -> Tensor:
    return torch.randn(b, t, 3, height, width, generator=torch.Generator().manual_seed(0))


def exact_network() -> VideoDepth:
    return lively().double()


def exact_clips(b: int = 2, t: int = 5) -> Tensor:
    return clips(b, t).double()


@torch.no_grad()
def test_clips_in_a_batch_are_independent():
    network, frames = exact_network(), exact_clips(b=3)
    together = network(frames)
    assert together.shape == (3, 5, 28, 42) and (together >= 0).all()
    for clip, depth in zip(frames, together, strict=True):
        assert_close(network(clip[None])[0], depth, **EXACT)
    assert_close(network(frames.flip(0)).flip(0), together, **EXACT)


@torch.no_grad()
@pytest.mark.parametrize("n", [1, 3, 100])
def test_frames_per_step_changes_no_number(n: int):
    network, frames = exact_network(), exact_clips()
    assert_close(network(frames, frames_per_step=n), network(frames), **EXACT)


@torch.no_grad()
def test_frames_of_a_clip_see_each_other_and_their_order():
    network, frames = exact_network(), exact_clips(b=1)
    depth = network(frames)
    changed = frames.clone()
    changed[:, 4] = 0
    # The first frame depends on the last one
    assert (network(changed)[:, 0] - depth[:, 0]).abs().max() > 1e-2
    assert (network(frames.flip(1)).flip(1) - depth).abs().max() > 1e-2


@torch.no_grad()
def test_before_training_frames_are_independent():
    """Motion modules start as identities; with random weights, frame numbers matter."""
    torch.manual_seed(0)
    network, frames = VideoDepth(SMALL).eval(), clips(b=1)
    depth = network(frames)
    for i in range(5):
        assert_close(network(frames[:, i : i + 1])[:, 0], depth[:, i], atol=1e-6, rtol=0)
    still = network(frames[:, :1].expand(-1, 5, -1, -1, -1))
    assert_close(still, still[:, :1].expand_as(still), atol=1e-6, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("n_frames", [2, 5, 32])
def test_still_video_is_still_without_frame_numbers(n_frames: int):
    """Attention among equal frames returns their value, if it mixes no clips or places."""
    stills = exact_clips(t=1).expand(-1, n_frames, -1, -1, -1)
    numbered = exact_network()(stills)
    assert (numbered - numbered[:, :1]).abs().max() > 1e-2
    network = timeless(exact_network())
    depth = network(stills)
    assert_close(depth, network(stills[:, :1]).expand_as(depth), **EXACT)
    moving = network(exact_clips(t=2))
    # Different frames matter
    assert (moving - network(exact_clips(t=2)[:, :1])).abs().max() > 1e-2


def test_a_new_network_predicts_about_one_and_every_used_weight_gets_a_gradient():
    torch.manual_seed(0)
    network = VideoDepth(SMALL)
    # Zero at first, which stops the gradient of what lies before
    for module in network.head.motion_modules:
        torch.nn.init.normal_(module.temporal_transformer.proj_out.weight, std=0.02)
    depth = network(clips())
    assert 0.5 < depth.mean() < 1.5 and (depth > 0).all()
    depth.square().mean().backward()
    unused = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    named = ("pretrained.mask_token", "head.scratch.refinenet4.resConfUnit1.")
    assert all(name.startswith(named) for name in unused) and len(unused) == 5, unused
    assert all(not p.requires_grad for name, p in network.named_parameters() if name in unused)


@torch.no_grad()
def test_attention_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch):
    network, frames = exact_network(), exact_clips()
    whole = network(frames)
    monkeypatch.setattr(temporal_head, "MAX_SEQUENCES", 5)
    assert_close(network(frames), whole, **EXACT)


def test_temporal_positions_are_the_sinusoid_table():
    table = temporal_head.PositionTable(96).pe
    assert_close(table, torch.from_numpy(sinusoid_table(MAX_FRAMES, 96)).float(), atol=1e-5, rtol=0)


def cubic_weight(distance: float) -> float:
    """Keys' kernel with a = -0.75, which PyTorch and OpenCV use."""
    d, a = abs(distance), -0.75
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def slow_resample(row: list[float], n: int, scale: float) -> list[float]:
    out = []
    for i in range(n):
        place = (i + 0.5) / scale - 0.5
        first = math.floor(place) - 1
        reached = range(first, first + 4)
        out.append(
            sum(cubic_weight(place - j) * row[min(max(j, 0), len(row) - 1)] for j in reached)
        )
    return out


@pytest.mark.parametrize(("rows", "columns"), [(3, 5), (7, 4), (2, 2), (5, 5), (4, 5)])
def test_position_table_is_scaled_with_a_tenth_of_a_patch_added(rows: int, columns: int):
    encoder = Encoder(SMALL)
    table = encoder.pos_embed.detach()[0, 1:, 7].reshape(4, 4).double()
    across = [slow_resample(line, columns, (columns + 0.1) / 4) for line in table.tolist()]
    down = [slow_resample(list(line), rows, (rows + 0.1) / 4) for line in zip(*across, strict=True)]
    expected = torch.tensor(down).T.flatten()
    made = encoder.positions(rows, columns)
    assert made.shape == (1, 1 + rows * columns, 64)
    assert_close(made[0, 1:, 7].double(), expected, atol=1e-6, rtol=0, check_dtype=False)
    assert torch.equal(made[:, 0], encoder.pos_embed[:, 0])


def test_position_table_is_used_as_it_is_on_its_own_grid():
    encoder = Encoder(SMALL)
    assert encoder.positions(4, 4) is encoder.pos_embed


COMPILE = """
import torch
from torch._dynamo.utils import counters
from model.video_depth.config import tiny
from model.video_depth.model import VideoDepth, compile_blocks
network, frames = VideoDepth(tiny()).eval(), torch.randn(1, 2, 3, 28, 42)
with torch.no_grad():
    plain = network(frames)
    compile_blocks(network, backend="eager", fullgraph=True)
    assert torch.equal(network(frames), plain)
assert counters["stats"]["unique_graphs"] == 1, counters["stats"]
"""


def test_compiled_blocks_share_one_graph_and_change_nothing():
    """Through TorchDynamo only, without code generation. In a process of its own, since annotation
    checks break graphs.
    """
    run = subprocess.run([sys.executable, "-c", COMPILE], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_save_and_load(tmp_path):
    torch.manual_seed(0)
    config = replace(SMALL, metric=True)
    network = VideoDepth(config).eval()
    save_model(tmp_path / "depth.safetensors", network, config)
    loaded, found = load_model(tmp_path / "depth.safetensors", VideoDepth, VideoDepthConfig)
    assert found == config and found.units == "metres"
    with torch.no_grad():
        assert torch.equal(loaded(clips()), network(clips()))


def test_tiny_is_small():
    with torch.device("meta"):
        network = VideoDepth(tiny())
        assert sum(p.numel() for p in network.parameters()) == 3_520_177
        assert network(torch.empty(1, 16, 3, 140, 140)).shape == (1, 16, 140, 140)
    assert len(network.head.motion_modules) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"taps": (2, 5, 8)}, "expected 4 of each"),
        ({"taps": (2, 5, 5, 11)}, "must ascend and end with the last"),
        ({"taps": (2, 5, 8, 10)}, r"end with the last of n_blocks=12 blocks, 11"),
        ({"n_heads": 7}, "width=384 is not a multiple of n_heads=7"),
        ({"head_width": 48}, "width 48 of a motion module .* is not a multiple of 32"),
        ({"tap_widths": (48, 96, 200, 384)}, "width 200 of a motion module"),
        ({"position_grid": 0}, "at least 1 patch"),
    ],
)
def test_impossible_layouts_are_refused(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        VideoDepthConfig(**changes)


@torch.no_grad()
def test_signed_depth_is_cut_at_zero_by_the_last_relu():
    network, frames = exact_network(), exact_clips()
    network.head.get_parameter("scratch.output_conv2.2.bias").sub_(3)
    signed = network(frames, signed=True)
    assert (signed < 0).any() and (signed > 0).any()
    assert_close(network(frames), signed.clamp(min=0), **EXACT)


def test_inputs_that_do_not_fit_are_refused():
    network = lively()
    with pytest.raises(
        ValueError, match=r"frames of 28 x 40 px: each side must be a multiple of 14"
    ):
        network(clips(width=40))
    with pytest.raises(ValueError, match="a clip of 33 frames: a forward pass takes at most 32"):
        network(clips(b=1, t=33))
