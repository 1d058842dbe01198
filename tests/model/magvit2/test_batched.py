"""Frames in chunks: they change nothing, and their memory is as predicted."""

import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from model.magvit2.autoencoder import MagvitTokenizer
from model.magvit2.batched import bytes_per_frame, chunk_sizes, decode_frames, encode_frames
from model.magvit2.config import MagvitConfig, one_x, tencent, tiny

SMALLEST = MagvitConfig(
    base_channels=8, channel_multipliers=(1, 2), n_res_blocks=1, norm_groups=4, stem_patch=4
)


def tokenizer(config: MagvitConfig = SMALLEST) -> MagvitTokenizer:
    torch.manual_seed(0)
    return MagvitTokenizer(config).eval().to(memory_format=torch.channels_last)


def frames(n: int = 7) -> torch.Tensor:
    return torch.rand(n, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors made inside it, alive now and at the peak."""

    def __init__(self):
        super().__init__()
        self.now, self.most, self.known = 0, 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                self.note(tensor.untyped_storage())
        return result

    def note(self, storage: torch.UntypedStorage) -> None:
        name, size = storage._cdata, storage.nbytes()
        if name not in self.known:
            self.known.add(name)
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self.forget, name, size)

    def forget(self, name: int, size: int) -> None:
        self.known.discard(name)
        self.now -= size


@pytest.mark.parametrize(
    ("config", "side"),
    [(one_x(), 256), (tencent(), 256), (tiny(8), 128), (tiny(16), 128)],
)
def test_memory_of_a_frame_is_what_is_predicted(config: MagvitConfig, side: int):
    """The peak of encoding and decoding is never more than predicted, and not much less."""
    with torch.device("meta"):
        network = MagvitTokenizer(config)
        images, ids = (
            torch.empty(3, 3, side, side),
            torch.zeros(3, *config.grid(side, side), dtype=torch.int32),
        )
    most = []
    for work in (lambda: network.to_ids(images), lambda: network.decode_ids(ids)):
        with Alive() as alive, torch.no_grad():
            work()
        most.append(alive.most / 3)
    predicted = bytes_per_frame(config, side, side)
    assert max(most) <= predicted <= 1.6 * max(most)


@given(n=st.integers(1, 200), frame_bytes=st.integers(1, 1000), budget=st.integers(1, 5000))
def test_chunks_have_all_frames_fit_the_budget_and_are_equal(n: int, frame_bytes: int, budget: int):
    sizes = chunk_sizes(n, frame_bytes, budget)
    assert sum(sizes) == n and max(sizes) - min(sizes) <= 1
    assert max(sizes) * frame_bytes <= budget or max(sizes) == 1
    assert len(sizes) == 1 or -(-n // (len(sizes) - 1)) * frame_bytes > budget, (
        "fewer would not fit"
    )


@pytest.mark.parametrize("n_at_once", [1, 3, 7])
def test_chunks_change_nothing(n_at_once: int):
    network, images, seen = tokenizer(), frames(), []
    network.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    budget = n_at_once * bytes_per_frame(SMALLEST, 32, 48)
    ids = encode_frames(network, images, budget=budget)
    assert seen == {1: [1] * 7, 3: [3, 2, 2], 7: [7]}[n_at_once]
    with torch.no_grad():
        assert torch.equal(ids, network.to_ids(images)) and ids.dtype == torch.int32
        torch.testing.assert_close(
            decode_frames(network, ids, budget=budget), network.decode_ids(ids)
        )


def test_bfloat16_is_close_and_gives_float32_images():
    network, images = tokenizer(), frames(2)
    ids, half = encode_frames(network, images), encode_frames(network, images, precision="bfloat16")
    differ = ((ids ^ half)[..., None] >> torch.arange(18)) & 1
    assert differ.float().mean() < 0.05
    decoded, rough = decode_frames(network, ids), decode_frames(network, ids, precision="bfloat16")
    assert rough.dtype == torch.float32 and (decoded - rough).abs().mean() < 0.02
    assert not torch.equal(decoded, rough)


def test_features_stay_channels_last():
    """A copy to channels first would cost what the layout gains. First inputs may have either."""
    network, first = tokenizer(tiny(8)), []

    def check(name: str, x: torch.Tensor) -> None:
        if not x.is_contiguous(memory_format=torch.channels_last):
            first.append(name)

    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d) and not name.endswith("conv_in"):
            module.register_forward_pre_hook(lambda _, x, name=name: check(name, x[0]))
    decode_frames(network, encode_frames(network, frames(2)))
    assert first == []
