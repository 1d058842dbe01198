"""The published file: listed keys, the ways a file may be wrapped, and what is refused."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from repository import SHARED
from torch import Tensor
from tracker_cases import SMALL

from model.spatial_tracker.config import published
from model.spatial_tracker.model import SpatialTracker
from model.spatial_tracker.published import UNUSED, load_published, published_state, unwrapped

KEYS = SHARED / "spec" / "spatracker_keys.txt"
TOTAL, USED = 34_039_303, 33_910_404  # values in the file, and in the network


def on_meta() -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {
            name: tuple(value.shape)
            for name, value in SpatialTracker(published()).state_dict().items()
        }


def listed_keys() -> dict[str, tuple[int, ...]]:
    if not KEYS.is_file():
        pytest.skip(f"key list absent: {KEYS}")
    lines = [
        line.split("\t")
        for line in KEYS.read_text().splitlines()
        if line and not line.startswith("#")
    ]
    return {
        name: tuple(int(side) for side in shape.strip("()").split(",") if side)
        for name, shape, _ in lines
    }


def small_file() -> dict[str, Tensor]:
    """A file like the published one for a small network, with unused entries."""
    torch.manual_seed(0)
    state = {
        name: torch.randn(value.shape) for name, value in SpatialTracker(SMALL).state_dict().items()
    }
    return {
        **state,
        "updateformer.RigidProj.weight": torch.zeros(4, 4),
        "embedProj.bias": torch.zeros(3),
    }


def count(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes.values())


def test_the_network_has_the_published_number_of_values():
    assert count(on_meta()) == USED


def test_names_and_shapes_are_the_published_ones():
    listed = listed_keys()
    assert count(listed) == TOTAL
    unused = {name for name in listed if name.startswith(UNUSED)}
    assert len(unused) == 8
    assert on_meta() == {name: shape for name, shape in listed.items() if name not in unused}


@pytest.mark.parametrize("wrap", [(), ("model",), ("state_dict",), ("model", "state_dict")])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_loads_files_however_wrapped(tmp_path: Path, wrap: tuple[str, ...], prefix: str):
    state = small_file()
    content: dict = {prefix + name: value for name, value in state.items()}
    for name in wrap:
        content = {name: content, "epoch": 3}
    torch.save(content, tmp_path / "spaT_final.pth")
    network = load_published(tmp_path / "spaT_final.pth", SMALL)
    assert not network.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name]) and value.dtype == torch.float32, name


def test_half_precision_weights_become_float32():
    state = {name: value.half() for name, value in small_file().items()}
    assert {value.dtype for value in published_state(state, SMALL).values()} == {torch.float32}


def test_the_same_weights_fit_another_window_and_size():
    published_state(small_file(), replace(SMALL, window=8, working_width=128, iterations=6))


def test_names_the_first_differing_entries():
    state = small_file()
    del state["fnet.conv1.weight"]
    state["fnet.conv1.bias"] = torch.zeros(5)
    state["rigid.extra"] = torch.zeros(1)
    with pytest.raises(ValueError) as error:
        published_state(state, SMALL)
    for part in (
        "missing: fnet.conv1.weight;",
        "not in this network: rigid.extra;",
        "of another shape: fnet.conv1.bias (5,), expected (8,)",
    ):
        assert part in str(error.value)


def test_leftovers_are_ignored_only_if_named():
    state = {**small_file(), "ema.a": torch.zeros(1), "ema.b": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"not in this network: ema\.a, ema\.b\."):
        published_state(state, SMALL)
    assert "ema.a" not in published_state(state, SMALL, ignore=("ema.",))


def test_long_lists_of_differences_are_cut(tmp_path: Path):
    torch.save({}, tmp_path / "empty.pth")
    with pytest.raises(
        ValueError, match=r"empty\.pth: .* missing: fnet\.conv1\.weight, .* and \d+ more\. Sizes"
    ):
        load_published(tmp_path / "empty.pth", SMALL)


def test_the_module_prefix_is_removed_only_from_all_names():
    state = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert unwrapped({"model": state}) == state


class Surprise:
    """An object that runs code when it is unpickled."""

    def __reduce__(self):
        return (pickle.loads, (pickle.dumps("run"),))


def test_files_with_more_than_tensors_are_not_unpickled(tmp_path: Path):
    torch.save({"model": small_file(), "args": Surprise()}, tmp_path / "x.pth")
    with pytest.raises(
        ValueError, match=r"x\.pth: damaged, or holds more than tensors, which is not read"
    ):
        load_published(tmp_path / "x.pth", SMALL)


@pytest.mark.parametrize(
    ("content", "found"), [([1], "list"), ({"model": {"a": 1}}, "a dict with 'a' of type int")]
)
def test_files_of_another_kind_are_refused(tmp_path: Path, content, found: str):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(
        ValueError, match=rf"x\.pth: expected a dict of tensors, or one under .*, found {found}"
    ):
        load_published(tmp_path / "x.pth", SMALL)
