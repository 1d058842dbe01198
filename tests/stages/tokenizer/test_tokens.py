from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float, UInt8
from small_stores import new_result, opened, square_clips, write_clips, write_index
from small_trainings import GRID, TOKENIZER

from model.magvit2.autoencoder import MagvitTokenizer
from model.magvit2.config import MagvitConfig
from model.magvit2.config import tiny as tiny_tokenizer
from model.training.checkpoint import save_model
from model.training.device import seeded
from stages.base import ClipInputs, ClipStage
from stages.batches import raw_draws
from stages.clip_format import ClipFormat
from stages.tokenizer.decode import check_ids, decode_clips, load_tokenizer
from stages.tokenizer.images import READS, Source, images_of
from stages.tokenizer.measure import TOKENIZER_FILE
from stages.tokenizer.tokenize import Tokens, colour_ids
from storage.stores.results import Result, open_result, open_writer


def tokenizer_result(root: Path, network: MagvitTokenizer, source: str) -> Result:
    """A result as `TrainTokenizer` writes it."""
    ref = new_result(root, f"{source}_tokenizer", [repr(network.config), source])
    writer = open_writer(ref)
    save_model(writer.path / TOKENIZER_FILE, network, network.config, card={"source": source})
    writer.finish({})
    return open_result(ref)


def new_tokenizer(config: MagvitConfig = TOKENIZER, seed: int = 0) -> MagvitTokenizer:
    with seeded(seed):
        return MagvitTokenizer(config).eval()


def tokenize(stage: Tokens, result: Result, *clips: dict[str, np.ndarray]) -> list[np.ndarray]:
    process = stage.start("cpu", {"tokenizer": result})
    inputs = [
        ClipInputs(row=i, clip_id=f"clip{i}", arrays=arrays) for i, arrays in enumerate(clips)
    ]
    found = []
    for made in process(inputs):
        assert isinstance(made, dict)
        stage.outputs[0].check(made[stage.name], "clip")
        found.append(made[stage.name])
    return found


def arrays_of(source: Source, n: int = 3) -> list[dict[str, np.ndarray]]:
    role, names = READS[source]
    arrays = square_clips(n)[role]
    return [{name: arrays[name][i] for name in names} for i in range(n)]


@pytest.mark.parametrize("source", ["rgb", "depth"])
@pytest.mark.parametrize("config", [TOKENIZER, tiny_tokenizer(patch=8)], ids=["smallest", "tiny"])
def test_tokens_are_the_tokenizers_own_of_every_frame(tmp_path, source, config):
    """However many clips a call has, and frame by frame: a clip's tokens do not depend on its
    neighbours.
    """
    network, stage, clips = (
        new_tokenizer(config),
        Tokens(source=source, grid=GRID),
        arrays_of(source),
    )
    result = tokenizer_result(tmp_path, network, source)
    together = tokenize(stage, result, *clips)
    for clip, ids in zip(clips, together, strict=True):
        assert ids.dtype == np.int32 and ids.shape == (16, *GRID)
        assert ids.min() >= 0 and ids.max() < 2**18
        np.testing.assert_array_equal(tokenize(stage, result, clip)[0], ids)
        images = images_of(source, {name: array[None] for name, array in clip.items()})[0]
        with torch.no_grad():
            for t in (0, 9):
                (expected,), (z,) = (
                    network.to_ids(images[t : t + 1]),
                    network.encode(images[t : t + 1]),
                )
                agree = torch.from_numpy(ids[t]) == expected
                assert (agree | (z.abs().amin(dim=0) < 1e-4)).all()
                assert agree.float().mean() > 0.9


@given(st.integers(0, 2**18 - 1))
@settings(deadline=None)
def test_the_decoder_sees_the_bits_of_any_token(token):
    """Least significant first, and images come out in [-1, 1]."""
    ids = torch.full((1, 1, *GRID), token, dtype=torch.int32)
    seen = []
    handle = SMALLEST.decoder.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    images = decode_clips(SMALLEST, ids)
    handle.remove()
    assert images.shape == (1, 1, 3, 32, 32) and images.abs().max() <= 1
    bits = (seen[0] > 0).long()
    assert ((bits * (2 ** torch.arange(18)).view(18, 1, 1)).sum(1) == token).all()


SMALLEST = new_tokenizer()


def test_clips_are_decoded_one_by_one_to_the_same_images(tmp_path):
    ids = torch.from_numpy(
        np.random.default_rng(0).integers(0, 2**18, (3, 2, *GRID)).astype(np.int32)
    )
    images = decode_clips(SMALLEST, ids)
    for clip, of_clip in zip(images, ids, strict=True):
        with torch.no_grad():
            torch.testing.assert_close(clip, SMALLEST.decode_ids(of_clip), atol=0, rtol=0)


def test_a_grid_that_is_not_the_frames_own_is_refused(tmp_path):
    result = tokenizer_result(tmp_path, SMALLEST, "rgb")
    stage = Tokens(source="rgb", grid=(8, 8))
    message = (
        r"rgb_tokens: frames of \(32, 32\) px give a \(4, 4\) grid of tokens, "
        r"the stage says \(8, 8\).*over 8 px"
    )
    with pytest.raises(ValueError, match=message):
        tokenize(stage, result, *arrays_of("rgb", 1))


def test_a_tokenizer_of_the_other_kind_of_image_is_refused(tmp_path):
    result = tokenizer_result(tmp_path, SMALLEST, "rgb")
    with pytest.raises(
        ValueError, match=f"{result.ref} is a tokenizer of rgb images, expected one of depth images"
    ):
        Tokens(source="depth", grid=GRID).start("cpu", {"tokenizer": result})
    assert not any(p.requires_grad for p in load_tokenizer(result, "rgb").parameters())


@pytest.mark.parametrize("wrong", [-1, 2**18])
def test_an_invalid_token_is_an_error_that_names_its_clip(wrong):
    ids = torch.zeros(3, 2, *GRID, dtype=torch.int32)
    check_ids(ids, 2**18, ["a", "b", "c"])
    ids[1, 1, 0, 0] = wrong
    with pytest.raises(ValueError, match=rf"clip b: tokens from .*{wrong}.*, expected 0 to 262143"):
        check_ids(ids, 2**18, ["a", "b", "c"])


def test_precision_reaches_the_network(tmp_path):
    result, (clip,) = tokenizer_result(tmp_path, SMALLEST, "rgb"), arrays_of("rgb", 1)
    (exact,), (rough,) = (
        tokenize(Tokens(source="rgb", grid=GRID, precision=p), result, clip)
        for p in ("float32", "bfloat16")
    )
    other = ((exact ^ rough)[..., None] >> np.arange(18)) & 1
    assert 0 < other.mean() < 0.05


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    ref = new_result(tmp_path, "rgb_tokenizer", "linear")
    writer = open_writer(ref)
    save_model(
        writer.path / TOKENIZER_FILE,
        torch.nn.Linear(1, 1),
        ClipInputs(row=0, clip_id=""),
        card={"source": "rgb"},
    )
    writer.finish({})
    with pytest.raises(ValueError, match="expected MagvitConfig: this is another kind of network"):
        load_tokenizer(open_result(ref), "rgb")


def test_the_stage_says_what_it_reads_and_writes():
    rgb, depth = (
        Tokens(source="rgb", grid=(16, 16)),
        Tokens(source="depth", grid=(2, 3), clip_format=ClipFormat(n_frames=4)),
    )
    assert isinstance(rgb, ClipStage) and (rgb.name, depth.name) == ("rgb_tokens", "depth_tokens")
    assert rgb.inputs == {"clip": ("rgb",), "tokenizer": ()}
    assert depth.inputs == {"depth": ("inverse_depth", "inverse_depth_range"), "tokenizer": ()}
    assert [(s.name, s.shape, s.codec, s.fill) for s in depth.outputs] == [
        ("depth_tokens", (4, 2, 3), "raw", -1)
    ]


# -- golden ----------------------------------------------------------------------------------------


def golden_tokenizer() -> MagvitTokenizer:
    """Uniform weights that follow from their names alone, scaled by each layer's width; biases are
    0.
    """
    network = MagvitTokenizer(TOKENIZER).eval()
    for name, value in network.state_dict().items():
        uniform = raw_draws(value.numel(), "golden", name).reshape(value.shape) / 2.0**63 - 1
        scale = (6 / np.prod(value.shape[1:])) ** 0.5 if value.ndim > 1 else 0.0
        value.copy_(
            torch.from_numpy(scale * uniform + (value.ndim == 1 and name.endswith("weight")))
        )
    return network


def golden_frames() -> UInt8[np.ndarray, "t h w 3"]:
    """Waves of three colours and a square that moves; nothing of it is drawn at random."""
    t, y, x, c = np.ogrid[:16, :32, :32, :3]
    waves = 120 + 70 * np.sin(x / 3 + c) * np.cos(y / 4 - c)
    square = (abs(x - 4 - 1.5 * t) < 4) & (abs(y - 15) < 4)
    return np.where(square, np.array([230, 40, 90]), waves).astype(np.uint8)


def test_golden_tokens(tmp_path):
    """Tied to `Tokens.version`: other ids mean a new version. Bits may differ where z is next to
    nothing.
    """
    frames = golden_frames()
    (ids,) = tokenize(
        Tokens(source="rgb", grid=GRID),
        tokenizer_result(tmp_path, golden_tokenizer(), "rgb"),
        {"rgb": frames},
    )
    images = images_of("rgb", {"rgb": frames[None]})[0]
    for t, expected in GOLDEN_IDS.items():
        assert_same_bits(
            ids[t], np.array(expected), golden_tokenizer().encode(images[t : t + 1])[0]
        )


def assert_same_bits(
    found: np.ndarray, expected: np.ndarray, z: Float[torch.Tensor, "d gh gw"]
) -> None:
    other = ((found ^ expected)[None] >> np.arange(18)[:, None, None]) & 1
    sure = z.abs().detach().numpy() > 1e-4
    assert sure.mean() > 0.99
    assert not (other.astype(bool) & sure).any(), (found.tolist(), expected.tolist())


GOLDEN_IDS = {  # frame -> its tokens
    0: [
        [206861, 153347, 207630, 132900],
        [217009, 41327, 197925, 167727],
        [223753, 221825, 248640, 215952],
        [74063, 216065, 90228, 215041],
    ],
    15: [
        [234534, 225929, 215944, 160821],
        [188300, 77805, 221217, 171789],
        [248512, 74877, 233229, 136231],
        [75519, 215680, 213808, 215076],
    ],
}


# -- pictures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["rgb", "depth"])
def test_preview_shows_frames_over_tokens(tmp_path, source):
    n, stage = 4, Tokens(source=source, grid=GRID)
    index, role, clips = (
        write_index(tmp_path, ["train"] * n),
        READS[source][0],
        arrays_of(source, n),
    )
    ids = np.stack(tokenize(stage, tokenizer_result(tmp_path, SMALLEST, source), *clips))
    arrays = {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}
    own = write_clips(index, stage.name, {stage.name: ids}, rejected=(1,))
    rows = opened({"own": own, role: write_clips(index, role, arrays)})
    one, two = (stage.preview(rows["own"], {role: rows[role]}, picks) for picks in ([0], [0, 3]))
    assert two.shape[0] == 2 * one.shape[0]
    colours = {tuple(colour) for colour in one.reshape(-1, 3).tolist()}
    assert {
        tuple(colour) for colour in colour_ids(ids[0, [0, 15]]).reshape(-1, 3).tolist()
    } <= colours


def test_colours_tell_tokens_apart():
    every = colour_ids(np.arange(2**18)).astype(int)
    assert len(np.unique(every @ [1, 256, 65536])) == 2**18
    assert colour_ids(np.array([0b000001_000010_111111])).tolist() == [[252, 8, 4]]
