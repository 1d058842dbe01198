"""Published checkpoints: listed keys, both kinds of weights, and what is refused."""

import pickle
from pathlib import Path

import pytest
import torch
from repository import SHARED

from model.magvit2.autoencoder import MagvitTokenizer
from model.magvit2.config import MagvitConfig, one_x, tencent
from model.magvit2.discriminator import PatchDiscriminator
from model.magvit2.published import ema_name, load_published, published_state

KEYS = SHARED / "spec" / "magvit2_keys.txt"
SMALL = MagvitConfig(
    base_channels=8, channel_multipliers=(1, 2), n_res_blocks=1, adaptive_decoder=True
)


def listed_keys() -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Names and shapes of the 1X file and of TencentARC's encoder and decoder."""
    if not KEYS.is_file():
        pytest.skip(f"key list absent: {KEYS}")
    parts: list[dict[str, tuple[int, ...]]] = []
    for line in KEYS.read_text().splitlines():
        if line.startswith("# PART"):
            parts.append({})
        elif line and not line.startswith("#"):
            name, shape, _dtype = line.split("\t")
            parts[-1][name] = tuple(int(side) for side in shape.strip("[]").split(",") if side)
    return parts[0], parts[1]


def on_meta(config: MagvitConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {
            name: tuple(value.shape) for name, value in MagvitTokenizer(config).state_dict().items()
        }


def small_checkpoint() -> dict[str, torch.Tensor]:
    """A file like the published ones: raw weights, averages (here negated), unused entries."""
    torch.manual_seed(0)
    raw = {
        name: torch.randn(value.shape)
        for name, value in MagvitTokenizer(SMALL).state_dict().items()
    }
    averages = {ema_name(name): -value for name, value in raw.items()}
    scalars = {
        "model_ema.decay": torch.tensor(0.999),
        "model_ema.num_updates": torch.tensor(7, dtype=torch.int32),
    }
    return {**raw, **averages, **scalars, "loss.discriminator.main.0.weight": torch.zeros(1)}


def test_names_and_shapes_are_the_published_ones():
    x_file, tencent_parts = listed_keys()
    own = {
        name: shape for name, shape in x_file.items() if name.startswith(("encoder.", "decoder."))
    }
    assert on_meta(one_x()) == own
    assert on_meta(tencent()) == tencent_parts
    averages = {
        name: shape
        for name, shape in x_file.items()
        if name.startswith(("model_ema.encoder", "model_ema.decoder"))
    }
    assert {ema_name(name): shape for name, shape in own.items()} == averages


def test_discriminator_names_and_shapes_are_the_published_ones():
    x_file, _ = listed_keys()
    prefix = "loss.discriminator."
    listed = {
        name.removeprefix(prefix): shape
        for name, shape in x_file.items()
        if name.startswith(prefix)
    }
    assert {
        name: tuple(value.shape) for name, value in PatchDiscriminator().state_dict().items()
    } == listed


@pytest.mark.parametrize(("weights", "sign"), [("raw", 1), ("ema", -1)])
@pytest.mark.parametrize("nested", [True, False])
def test_loads_the_chosen_weights(tmp_path: Path, weights, sign: int, nested: bool):
    state = small_checkpoint()
    path = tmp_path / "published.ckpt"
    torch.save({"state_dict": state, "global_step": 3} if nested else state, path)
    loaded = load_published(path, SMALL, weights)
    assert not loaded.training
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, sign * state[name]), name
    path.write_bytes(b"")  # the file may go: nothing is left mapped
    assert torch.isfinite(loaded(torch.zeros(1, 3, 8, 8)).z).all()


def test_names_the_first_differing_entries():
    state = small_checkpoint()
    del state["encoder.conv_in.weight"]
    state["decoder.extra.weight"] = torch.zeros(1)
    state["decoder.conv_in.bias"] = torch.zeros(3)
    with pytest.raises(ValueError) as error:
        published_state(state, SMALL, "raw")
    for part in (
        "missing: encoder.conv_in.weight;",
        "not in this network: decoder.extra.weight;",
        "of another shape: decoder.conv_in.bias (3,), expected (16,)",
    ):
        assert part in str(error.value)


def test_long_lists_of_differences_are_cut():
    with pytest.raises(
        ValueError, match=r"missing: encoder\.conv_in\.weight, .* and \d+ more\. Layouts are in"
    ):
        published_state({}, SMALL, "raw")


def test_absent_averages_and_the_other_layout_are_refused():
    state = {
        name: value
        for name, value in small_checkpoint().items()
        if not name.startswith("model_ema")
    }
    with pytest.raises(
        ValueError, match=r"ema weights do not fit .* missing: model_ema\.encoderconv_inweight"
    ):
        published_state(state, SMALL, "ema")
    plain = MagvitConfig(base_channels=8, channel_multipliers=(1, 2), n_res_blocks=1)
    with pytest.raises(
        ValueError, match=r"not in this network: decoder\.adaptive\.0\.gamma\.weight"
    ):
        published_state(state, plain, "raw")


class Surprise:
    """An object that runs code when it is unpickled."""

    def __reduce__(self):
        return (pickle.loads, (pickle.dumps("run"),))


def test_files_with_more_than_tensors_are_not_unpickled(tmp_path: Path):
    torch.save(
        {"state_dict": small_checkpoint(), "hyper_parameters": Surprise()}, tmp_path / "x.ckpt"
    )
    with pytest.raises(
        ValueError, match=r"x\.ckpt: damaged, or holds more than tensors, which is not read"
    ):
        load_published(tmp_path / "x.ckpt", SMALL, "raw")


def test_files_of_another_kind_are_refused(tmp_path: Path):
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(
        ValueError,
        match=r"list\.ckpt: expected a dict of tensors or one under 'state_dict', found list",
    ):
        load_published(tmp_path / "list.ckpt", SMALL, "raw")


def test_nan_weights_are_refused_naming_the_first_entry(tmp_path: Path):
    state = small_checkpoint()
    state["decoder.conv_in.bias"][2] = float("nan")
    torch.save(state, tmp_path / "diverged.ckpt")
    with pytest.raises(
        ValueError, match=r"diverged\.ckpt: decoder\.conv_in\.bias has 1 of \d+ values that are NaN"
    ):
        load_published(tmp_path / "diverged.ckpt", SMALL, "raw")
    load_published(tmp_path / "diverged.ckpt", SMALL, "ema")  # which are whole
