"""Our checkpoint files: round trips, atomic writes, and what is refused."""

import json
import os
import resource
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from model.training.checkpoint import (
    HEADER_KEY,
    from_plain,
    load_model,
    read_header,
    save_half,
    save_model,
    write_whole,
)
from storage.files import sha256_file


@dataclass(frozen=True, kw_only=True)
class InnerConfig:
    widths: tuple[int, ...] = (1, 2)
    pair: tuple[str, float] = ("a", 0.5)


@dataclass(frozen=True, kw_only=True)
class NetConfig:
    width: int = 3
    name: str | None = None
    inner: InnerConfig = field(default_factory=InnerConfig)
    stages: tuple[InnerConfig, ...] = ()


class Net(nn.Module):
    def __init__(self, config: NetConfig):
        super().__init__()
        self.linear = nn.Linear(config.width, 2)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))


@dataclass(frozen=True, kw_only=True)
class OtherConfig:
    width: int = 3


def net(seed: int = 0, config: NetConfig | None = None) -> Net:
    torch.manual_seed(seed)
    return Net(config or NetConfig())


configs = st.builds(
    NetConfig,
    width=st.integers(1, 9),
    name=st.none() | st.text(max_size=5),
    inner=st.builds(
        InnerConfig,
        widths=st.lists(st.integers(), max_size=3).map(tuple),
        pair=st.tuples(st.text(max_size=2), st.floats(allow_nan=False)),
    ),
    stages=st.lists(st.builds(InnerConfig, widths=st.just((7,))), max_size=2).map(tuple),
)


@settings(max_examples=30, deadline=None)
@given(config=configs)
def test_weights_and_config_come_back_equal(
    tmp_path_factory: pytest.TempPathFactory, config: NetConfig
):
    path = tmp_path_factory.getbasetemp() / "round_trip.safetensors"
    saved = net(config=config)
    saved.count += 5
    save_model(path, saved, config, card={"step": 12, "scores": {"psnr": 20.5}})
    loaded, loaded_config = load_model(path, Net, NetConfig)
    assert loaded_config == config
    assert not loaded.training
    for name, value in saved.state_dict().items():
        assert (
            torch.equal(loaded.state_dict()[name], value)
            and loaded.state_dict()[name].dtype == value.dtype
        )
    assert read_header(path)["card"] == {"step": 12, "scores": {"psnr": 20.5}}


def test_equal_contents_give_equal_files_and_others_do_not(tmp_path: Path):
    paths = [tmp_path / name for name in ("a", "b", "c", "d")]
    digests = [
        save_model(paths[0], net(), NetConfig(), card={"x": 1, "y": 2}),
        save_model(paths[1], net(), NetConfig(), card={"y": 2, "x": 1}),
        save_model(paths[2], net(seed=1), NetConfig(), card={"x": 1, "y": 2}),
        save_model(paths[3], net(), NetConfig(), card={"x": 1, "y": 3}),
    ]
    assert digests == [sha256_file(path) for path in paths]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "folder" / "net.safetensors"
    digest = save_model(path, net(), NetConfig())

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(path, net(seed=1), NetConfig())
    assert sha256_file(path) == digest
    assert os.listdir(path.parent) == [path.name]


def test_write_whole_replaces(tmp_path: Path):
    write_whole(tmp_path / "x", b"long old content")
    write_whole(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["x"]


def test_another_kind_of_network_is_refused(tmp_path: Path):
    save_model(tmp_path / "net", net(), NetConfig())
    with pytest.raises(ValueError, match="built from NetConfig, expected OtherConfig"):
        load_model(tmp_path / "net", Net, OtherConfig)


def test_differing_entries_are_named(tmp_path: Path):
    wide = net(config=NetConfig(width=5))
    save_model(tmp_path / "net", wide, NetConfig(width=4))
    with pytest.raises(
        ValueError, match=r"(?s)net: entries differ from those of NetConfig.*linear\.weight"
    ):
        load_model(tmp_path / "net", Net, NetConfig)


def test_damaged_and_foreign_files_are_refused(tmp_path: Path):
    path = tmp_path / "net"
    save_model(path, net(), NetConfig())
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_model(path, Net, NetConfig)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="no 'roboscape' entry in its header"):
        read_header(path)


def test_unknown_fields_are_refused_and_absent_ones_take_their_defaults():
    with pytest.raises(ValueError, match="InnerConfig has no field depth"):
        from_plain(NetConfig, {"inner": {"depth": 2}})
    assert from_plain(NetConfig, {"width": 8}) == NetConfig(width=8)


def test_a_float16_file_gives_the_same_network_up_to_half_precision(tmp_path: Path):
    module = Net(NetConfig(width=5))
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    save_model(full, module, NetConfig(width=5), card={"step": 3})
    assert save_half(full, half) == sha256_file(half)
    loaded, config = load_model(half, Net, NetConfig)
    assert config == NetConfig(width=5) and read_header(half)["card"] == {"step": 3}
    for name, value in module.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=1e-3, atol=1e-6)
    assert half.stat().st_size < full.stat().st_size


class Deep(nn.Module):
    """A network whose depth its config names."""

    def __init__(self, config: NetConfig):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(config.width))


def with_header(path: Path, source: Path, header: object) -> Path:
    with safe_open(str(source), framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    text = header if isinstance(header, str) else json.dumps(header)
    save_file(state, path, metadata={HEADER_KEY: text})
    return path


@pytest.mark.parametrize("build", [Net, Deep])
@pytest.mark.parametrize("width", [10**9, 10**15, -1, 2**70, "wide"])
def test_sizes_in_a_header_allocate_nothing_before_they_agree_with_the_file(
    tmp_path: Path, build: type[nn.Module], width: object
):
    save_model(tmp_path / "a", net(), NetConfig())
    header = read_header(tmp_path / "a")
    header["config"]["width"] = width
    hostile = with_header(tmp_path / "b", tmp_path / "a", header)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=f"{tmp_path}/b: (its header describes|entries differ)"):
        load_model(hostile, build, NetConfig)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "in KB"


@pytest.mark.parametrize(
    "header", ["", "{", "[" * 100_000, "3", '{"config": {}}', {"config_type": 1, "config": {}}]
)
def test_a_header_that_is_none_of_ours_is_named(tmp_path: Path, header: object):
    save_model(tmp_path / "a", net(), NetConfig())
    with pytest.raises(ValueError, match=f"{tmp_path}/b: its 'roboscape' entry is no header"):
        read_header(with_header(tmp_path / "b", tmp_path / "a", header))


def test_loading_draws_no_random_numbers_twice(tmp_path: Path):
    """The check before it builds a network, too, and must not change what is drawn next."""
    save_model(tmp_path / "a", net(), NetConfig())
    torch.manual_seed(5)
    Net(NetConfig())
    expected = torch.rand(2)
    torch.manual_seed(5)
    load_model(tmp_path / "a", Net, NetConfig)
    assert torch.equal(torch.rand(2), expected)
