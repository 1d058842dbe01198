"""Published checkpoints: listed keys, loading, licences, and what is refused."""

import pickle
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from repository import SHARED
from vda_small import SMALL, lively

from model.published_files import differences
from model.video_depth import published
from model.video_depth.config import VideoDepthConfig, tiny, vitb, vitl, vits
from model.video_depth.model import VideoDepth
from model.video_depth.published import NON_COMMERCIAL, licence, load_published

SPEC = SHARED / "spec"
SIZES = {
    "vits": (vits(), 351, 29_035_137),
    "vitb": (vitb(), 351, 114_441_409),
    "vitl": (vitl(), 519, 384_390_337),
}


def on_meta(config: VideoDepthConfig) -> VideoDepth:
    with torch.device("meta"):
        return VideoDepth(config)


@pytest.mark.parametrize("size", SIZES)
def test_entries_and_parameters_are_as_many_as_published(size: str):
    config, n_entries, n_parameters = SIZES[size]
    network = on_meta(config)
    assert len(network.state_dict()) == n_entries
    assert sum(value.numel() for value in network.parameters()) == n_parameters


@pytest.mark.parametrize("size", SIZES)
def test_names_and_shapes_are_the_published_ones(size: str):
    path = SPEC / f"vda_{size}_keys.txt"
    if not path.is_file():
        pytest.skip(f"key list absent: {path}")
    lines = [
        line.split("\t")
        for line in path.read_text().splitlines()
        if line and not line.startswith("#")
    ]
    listed = {
        name: tuple(int(side) for side in shape.strip("()").split(",") if side)
        for name, shape, _ in lines
    }
    network = on_meta(SIZES[size][0])
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == listed
    buffers = {name for name, _, kind in lines if kind == "buffer"}
    assert {name for name, _ in network.named_buffers()} == buffers


def saved(folder: Path, changes: dict | None = None, name: str = "x.pth") -> Path:
    """A file like the published ones; entries in `changes` are replaced, or removed if None."""
    state = {**lively().state_dict(), **(changes or {})}
    torch.save({name: value for name, value in state.items() if value is not None}, folder / name)
    return folder / name


def test_loads_every_entry(tmp_path: Path):
    path = saved(tmp_path)
    loaded, original = load_published(path, SMALL), lively()
    assert not loaded.training
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, original.state_dict()[name]), name
    trained = {name for name, p in loaded.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in original.named_parameters() if p.requires_grad}
    path.write_bytes(b"")  # the file may go: nothing is left mapped
    frames = torch.randn(1, 2, 3, 28, 28)
    with torch.no_grad():
        assert torch.equal(loaded(frames), original(frames))


def test_half_precision_files_become_float32(tmp_path: Path):
    halves = {name: value.half() for name, value in lively().state_dict().items()}
    loaded = load_published(saved(tmp_path, halves), SMALL)
    assert all(value.dtype == torch.float32 for value in loaded.state_dict().values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # Unused, but strict is strict
        (
            {"pretrained.mask_token": None},
            r"missing: pretrained\.mask_token\. Layouts",
        ),
        (
            {"head.scratch.refinenet4.resConfUnit1.conv1.bias": None},
            r"missing: head\.scratch\.refinenet4",
        ),
        (
            {"head.scratch.stem_transpose.weight": torch.zeros(1)},
            "not in this network: head.scratch.stem_transpose",
        ),
        (
            {"pretrained.norm.bias": torch.zeros(7)},
            r"of another shape: pretrained\.norm\.bias \(7,\), expected \(64,\)",
        ),
    ],
)
def test_names_the_first_differing_entries(tmp_path: Path, changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        load_published(saved(tmp_path, changes), SMALL)


def test_long_lists_of_differences_are_cut():
    (complaint,) = differences({}, {f"entry{i}": (1,) for i in range(5)})
    assert complaint == "missing: entry0, entry1, entry2 and 2 more"


class Surprise:
    """An object that runs code when it is unpickled."""

    def __reduce__(self):
        return (pickle.loads, (pickle.dumps("run"),))


def test_other_files_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"x\.pth: damaged, or holds more than tensors"):
        load_published(saved(tmp_path, {"more": Surprise()}), SMALL)
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"page\.pth: damaged"):
        load_published(tmp_path / "page.pth", SMALL)
    whole = saved(tmp_path)
    (tmp_path / "part.pth").write_bytes(whole.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"part\.pth: damaged"):
        load_published(tmp_path / "part.pth", SMALL)
    torch.save({"model": {}}, tmp_path / "nested.pth")
    with pytest.raises(ValueError, match=r"nested\.pth: expected one flat dict of tensors"):
        load_published(tmp_path / "nested.pth", SMALL)


@pytest.mark.parametrize("metric", [True, False])
def test_a_published_name_says_whether_depth_is_metric(tmp_path: Path, metric: bool):
    path = saved(tmp_path, name=f"{'metric_' if metric else ''}video_depth_anything_vits.pth")
    assert load_published(path, replace(SMALL, metric=metric)).config.metric == metric
    with pytest.raises(
        ValueError, match=f"by its name its output is {'metres' if metric else 'relative'}"
    ):
        load_published(path, replace(SMALL, metric=not metric))


def test_licences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert licence(vits()) == licence(vits(metric=True)) == "Apache-2.0"
    assert {licence(vitb()), licence(vitl(metric=True))} == {"CC-BY-NC-4.0"}
    assert licence(tiny()) == "unknown"
    path = saved(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_published(path, SMALL)
    # As if it were vitb, without 460 MB
    monkeypatch.setitem(published.LICENCES, SMALL, NON_COMMERCIAL)
    with pytest.warns(
        UserWarning, match=r"x\.pth: weights under CC-BY-NC-4\.0: not for commercial use"
    ):
        load_published(path, SMALL)
