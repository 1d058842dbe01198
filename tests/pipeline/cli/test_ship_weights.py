"""The result of a training becomes a shipped file, and an experiment is built with it."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from model import weights
from model.spatial_tracker.model import SpatialTracker
from model.training.checkpoint import load_model, read_header, save_model
from model.video_depth.config import VideoDepthConfig
from model.video_depth.model import VideoDepth
from pipeline.cli import ship_weights
from pipeline.experiments import annotator_training, registry
from pipeline.experiments.experiment import Experiment
from stages.annotator_training.train import ANNOTATOR_FILE
from storage.stores import store
from storage.stores.key import content_key
from storage.stores.records import Manifest, StoreRef
from storage.stores.results import open_writer

LIMIT_MB = 12


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Takes the place of the package's folder of weights, with the files shipped so far."""
    made = tmp_path / "weights"
    made.mkdir()
    for path in weights.FOLDER.glob("*.safetensors"):
        (made / path.name).symlink_to(path)
    monkeypatch.setattr(weights, "FOLDER", made)
    return made


@pytest.fixture
def trained(tmp_path: Path) -> dict[str, torch.nn.Module]:
    """Stores in `tmp_path` in which both annotators have been trained; their networks by name."""
    torch.manual_seed(0)
    networks = {
        "vda-tiny": VideoDepth(annotator_training.DEPTH_MODEL),
        "spatracker-tiny": SpatialTracker(annotator_training.TRACK_MODEL),
    }
    for name, config in (
        ("vda-tiny", annotator_training.DEPTH_MODEL),
        ("spatracker-tiny", annotator_training.TRACK_MODEL),
    ):
        stage, _ = ship_weights.SOURCES[name]
        ref = StoreRef.at(str(tmp_path), stage, content_key(name))
        store.create(
            ref,
            Manifest(stage=stage, key=ref.key, kind="result", version=1, parameters={}, inputs={}),
        )
        writer = open_writer(ref)
        save_model(
            writer.path / ANNOTATOR_FILE, networks[name], config, card={"numbers": {"AbsRel": 0.1}}
        )
        writer.finish({})
        writer.close()
    return networks


def test_shipped_weights_are_the_trained_ones_halved(
    tmp_path: Path, folder: Path, trained: dict[str, torch.nn.Module]
):
    line = ship_weights.ship("vda-tiny", str(tmp_path), folder)
    assert re.search(
        r"vda-tiny\.safetensors [\d.]+ MB, SHA-256 [0-9a-f]{64}, from .*depth_annotator", line
    )
    path = weights.shipped("vda-tiny")
    assert path.stat().st_size < LIMIT_MB * 1e6
    found, config = load_model(path, VideoDepth, VideoDepthConfig)
    assert config == annotator_training.DEPTH_MODEL and read_header(path)["card"] == {
        "numbers": {"AbsRel": 0.1}
    }
    for name, value in trained["vda-tiny"].state_dict().items():
        np.testing.assert_array_equal(found.state_dict()[name], value.half().float(), err_msg=name)


def test_the_demo_takes_the_annotators_that_are_shipped(
    tmp_path: Path, folder: Path, trained: dict[str, torch.nn.Module], tree: Path
):
    for name in annotator_training.NAMES:
        ship_weights.ship(name, str(tmp_path), folder)
    names = dict(
        zip(("depth.annotator", "keypoints.annotator"), annotator_training.NAMES, strict=True)
    )
    e = registry.named("demo", str(tree), names, folder)
    assert isinstance(e, Experiment)
    assert (e.depth.annotator.name, e.keypoints.annotator.name) == annotator_training.NAMES
    for about in (e.depth.attributes, e.keypoints.attributes):
        assert about["licence"] == "Apache-2.0" and "stand_in_for" not in about
    e.depth.start("cpu", {})  # the file is of the network that the experiment asks for
    e.keypoints.start("cpu", {})
    with pytest.raises(
        ValueError,
        match=r"depth_units='relative', but the units of depth, which depth\.annotator .* is '1/m'",
    ):
        registry.named(
            "demo", str(tree), names | {"keypoints.annotator.depth_units": "relative"}, folder
        )


def test_the_shipped_depth_network_is_the_one_that_its_name_builds(tree: Path):
    e = registry.named("demo", str(tree), {"depth.annotator": "vda-tiny"}, tree)
    assert isinstance(e, Experiment)
    e.depth.start("cpu", {})
    card = read_header(weights.shipped("vda-tiny"))["card"]
    assert (
        card["numbers"]["val/AbsRel in metres, after"]
        < 0.06
        < card["numbers"]["val/AbsRel in metres, before"]
    )


def test_without_a_training_it_says_what_to_run(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setenv("ROBOSCAPE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["ship_weights", "vda-tiny"])
    with pytest.raises(SystemExit) as stopped:
        ship_weights.main()
    message = capsys.readouterr().err
    assert (
        stopped.value.code == 1
        and "vda-tiny: no store 'depth_annotator'" in message
        and "Train it first" in message
    )
    monkeypatch.setattr("sys.argv", ["ship_weights", "vda-tiny", "vda-large"])
    with pytest.raises(SystemExit) as stopped:
        ship_weights.main()
    assert stopped.value.code == 2 and "no weights ['vda-large']" in capsys.readouterr().err


def test_weights_that_are_not_shipped_are_named(folder: Path):
    with pytest.raises(
        FileNotFoundError,
        match=r"no shipped weights 'vda-huge'; there are \[.*'world_model'.*\]\. .*README",
    ):
        weights.shipped("vda-huge")
