"""Annotators and tokenizers by name, on the command line and in experiments."""

import io
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
from rich.console import Console

from model.magvit2.config import one_x, tencent
from model.spatial_tracker.config import published as tracker
from model.video_depth.config import vitl, vits
from model.world.config import paper_small
from pipeline.cli.run import print_limits
from pipeline.experiments import annotators, registry
from pipeline.experiments.experiment import Experiment
from pipeline.settings import Settings
from simulation.dataset import SampleSummary
from stages.depth.video_depth_anything import VideoDepthAnything
from stages.keypoints.lucas_kanade import LucasKanade
from stages.keypoints.spatial_tracker import SpatialTracking
from stages.tokenizer.published import PublishedTokenizer
from storage.errors import WeightsError
from storage.weights import catalogue as published_weights


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder with files of the published names, whose content is not checked."""
    folder = tmp_path / "weights"
    folder.mkdir()
    entries = tuple(replace(entry, sha256="") for entry in published_weights.PUBLISHED)
    monkeypatch.setattr(published_weights, "PUBLISHED", entries)
    for entry in entries:
        (folder / entry.file).write_text(entry.name)
    monkeypatch.setenv("ROBOSCAPE_WEIGHTS", str(folder))
    return folder


def named(name: str, tree: Path, **overrides: object) -> Experiment:
    changes = {path.replace("__", "."): value for path, value in overrides.items()}
    e = registry.named(name, str(tree), changes, Settings().weights)
    assert isinstance(e, Experiment)
    return e


def differing(a: Experiment, b: Experiment) -> set[str]:
    return {f.name for f in fields(a) if getattr(a, f.name) != getattr(b, f.name)}


def test_the_experiments_differ_in_their_annotators_only(weights: Path, tree: Path):
    sensor, pseudo = named("sensor-labels", tree), named("pseudo-labels", tree)
    assert differing(sensor, pseudo) == {"depth", "keypoints"}
    assert replace(pseudo.depth, annotator=sensor.depth.annotator) == sensor.depth
    assert replace(pseudo.keypoints, annotator=sensor.keypoints.annotator) == sensor.keypoints
    depth, tracks = pseudo.depth.annotator, pseudo.keypoints.annotator
    assert isinstance(depth, VideoDepthAnything) and isinstance(tracks, SpatialTracking)
    assert (depth.name, depth.model, depth.gpus) == ("vda-vits", vits(), 0.5)
    assert (tracks.name, tracks.model, tracks.depth_units) == ("spatracker", tracker(), "relative")


def test_the_cost_of_networks_is_shown_before_a_run(weights: Path, tree: Path):
    text = io.StringIO()
    print_limits(named("pseudo-labels", tree).stages, Console(file=text, width=200))
    lines = text.getvalue().splitlines()
    assert re.fullmatch(r"depth by vda-vits: [\d.]+ GB at the peak, \d+ GFLOP a clip", lines[0])
    assert re.fullmatch(
        r"keypoints by spatracker: [\d.]+ GB at the peak, \d+ GFLOP a clip", lines[1]
    )
    assert lines[2].startswith("Non-commercial: made with spatracker")
    print_limits(named("demo", tree).stages, Console(file=(nothing := io.StringIO())))
    # A tracker on a CPU: how many frames it sees, at 10 Hz and at the clip's own rate
    text = "keypoints by dense-flow: {} frames a clip, about {} CPU s\n"
    assert nothing.getvalue() == text.format(76, "0.6")
    slow = named("demo", tree, keypoints__annotator__annotation_rate_hz=None)
    print_limits(slow.stages, Console(file=(nothing := io.StringIO())))
    assert nothing.getvalue() == text.format(16, "0.1")


def test_the_papers_experiment_has_its_tokenizer_and_its_network(weights: Path, tree: Path):
    e = named("paper", tree)
    assert differing(e, named("pseudo-labels", tree)) == {
        "rgb_tokenizer",
        "depth_tokenizer",
        "world_model",
    }
    for source, tokenizer in (("rgb", e.rgb_tokenizer), ("depth", e.depth_tokenizer)):
        assert isinstance(tokenizer, PublishedTokenizer)
        assert (tokenizer.source, tokenizer.layout, tokenizer.weights.name) == (
            source,
            "1x",
            "magvit2-1x",
        )
        assert tokenizer.model == one_x()
    assert e.world_model.model == paper_small(grid=e.rgb_tokens.grid)


def test_a_name_replaces_an_annotator_and_the_tracker_follows(weights: Path, tree: Path):
    e = named(
        "pseudo-labels", tree, depth__annotator="vda-vitl-metric", depth__annotator__input_size=280
    )
    depth, tracks = e.depth.annotator, e.keypoints.annotator
    assert isinstance(depth, VideoDepthAnything) and isinstance(tracks, SpatialTracking)
    assert depth.model == vitl(metric=True) and depth.input_size == 280
    assert tracks.depth_units == depth.units == "1/m"
    back = named(
        "pseudo-labels", tree, depth__annotator="sensor", keypoints__annotator="dense-flow"
    )
    assert differing(back, named("sensor-labels", tree)) == set()


def test_a_name_replaces_a_tokenizer(weights: Path, tree: Path):
    e = named("sensor-labels", tree, depth_tokenizer="magvit2-tencent")
    assert isinstance(e.depth_tokenizer, PublishedTokenizer)
    assert e.depth_tokenizer.model == tencent()
    assert differing(e, named("sensor-labels", tree)) == {"depth_tokenizer"}


@pytest.mark.parametrize(
    ("role", "name", "message"),
    [
        (
            "depth.annotator",
            "midas",
            r"no depth annotator 'midas'; there is: sensor, truth, vda-tiny, vda-vits, ",
        ),
        (
            "keypoints.annotator",
            "raft",
            r"no keypoint annotator 'raft'; there is: dense-flow, lucas-kanade, truth, spat",
        ),
        ("rgb_tokenizer", "vqgan", r"no tokenizer 'vqgan'; there is: magvit2-1x, magvit2-tencent"),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(
    tree: Path, role: str, name: str, message: str
):
    with pytest.raises(ValueError, match=message):
        registry.named("demo", str(tree), {role: name}, Settings().weights)


@pytest.mark.parametrize("experiment", ["pseudo-labels", "paper"])
def test_without_its_weights_an_experiment_says_which_and_how_to_get_them(
    experiment: str, tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ROBOSCAPE_WEIGHTS", str(tmp_path))
    with pytest.raises(
        WeightsError, match=r"(?s)video_depth_anything_vits\.pth.*roboscape weights fetch vda-vits"
    ):
        named(experiment, tree)
    (tmp_path / "video_depth_anything_vits.pth").write_text("cut off")
    with pytest.raises(WeightsError, match=r"spaT_final\.pth"):
        named(experiment, tree)


def test_every_name_is_that_of_published_weights_or_ours():
    ours = {"sensor", "dense-flow", "lucas-kanade", "truth", "vda-tiny", "spatracker-tiny"}
    published = {entry.name for entry in published_weights.PUBLISHED}
    assert {*annotators.DEPTH, *annotators.KEYPOINTS, *annotators.TOKENIZERS} - ours <= published


@pytest.mark.parametrize(("given", "kept"), [(5, 5.0), ("native", "native"), (None, None)])
def test_a_rate_of_annotation_is_a_number_native_or_none(given: object, kept: object, tree: Path):
    e = named("demo", tree, keypoints__annotator__annotation_rate_hz=given)
    rate = e.keypoints.annotator.annotation_rate_hz
    assert rate == kept and type(rate) is type(kept)


def test_other_rates_are_refused_and_annotators_read_the_source_of_the_run(tree: Path):
    for wrong in ("fast", True):
        with pytest.raises(ValueError, match=r"annotation_rate_hz"):
            named("demo", tree, keypoints__annotator__annotation_rate_hz=wrong)
    assert named("demo", tree).keypoints.annotator.root == str(tree)
    with pytest.raises(ValueError, match=r"the folder of the episodes, which --source decides"):
        named("demo", tree, keypoints__annotator__root="elsewhere")


def test_exact_labels_are_taken_by_name_for_simulated_episodes_only(
    quick_sample: SampleSummary, tree: Path
):
    names = {"depth__annotator": "truth", "keypoints__annotator": "truth"}
    e = named("demo", quick_sample.root, **names)
    assert (e.depth.annotator.name, e.keypoints.annotator.name) == ("truth", "truth")
    assert e.depth.annotator.units == "1/m"
    for role in names:
        with pytest.raises(FileNotFoundError, match=r"no sample.json, so these are not simulated"):
            named("demo", tree, **{role: "truth"})


def test_the_evaluation_takes_a_tracker_by_name(weights: Path, tree: Path):
    changes = {"clip_format.size": 64, "evaluation__tracker": "lucas-kanade"}
    tracker = named("smoke", tree, **changes).evaluation.tracker
    assert isinstance(tracker, LucasKanade)
    assert tracker.clip_format.size == 64 and tracker.root == str(tree)
    changes |= {"evaluation__tracker__window_px": 15}
    tracker = named("smoke", tree, **changes).evaluation.tracker
    assert isinstance(tracker, LucasKanade) and tracker.window_px == 15
    with pytest.raises(ValueError, match=r"no keypoint annotator 'lucas'"):
        named("smoke", tree, evaluation__tracker="lucas")
    with pytest.raises(ValueError, match=r"tracker=spatracker reads depth"):
        named("smoke", tree, evaluation__tracker="spatracker")


def test_the_evaluation_takes_an_annotator_of_depth_by_name(weights: Path, tree: Path):
    annotator = named("smoke", tree, evaluation__depth_annotator="vda-tiny").evaluation
    assert isinstance(annotator.depth_annotator, VideoDepthAnything)
    assert annotator.depth_annotator.clip_format == annotator.clip_format
    with pytest.raises(ValueError, match=r"depth_annotator=sensor reads discover/depth"):
        named("smoke", tree, evaluation__depth_annotator="sensor")
