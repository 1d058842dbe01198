"""A change to what two stages share is followed by all, or refused."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from model.world.config import TOKEN_VOCAB
from pipeline.experiments import registry
from pipeline.experiments.experiment import AnnotatorTraining, Experiment
from pipeline.experiments.facts import found
from stages.clip_format import ClipFormat
from stages.clips.arm_vectors import ARM_VECTOR
from storage.stores.spec import ArraySpec

KINDS = ("demo", "smoke", "vda-tiny", "spatracker-tiny")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data set's folder; experiments need only its fingerprint and the sample's digest."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "sample.json").write_text('{"digest": "0"}')
    (folder / "ground_truth").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.clips.discover.fingerprint", lambda root: "0" * 64)
        yield folder


def named(name: str, source: Path, changes: Mapping[str, Any]) -> Experiment | AnnotatorTraining:
    return registry.named(name, str(source), changes, source / "no weights")


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted path, value, annotation) of every field that holds no further fields."""
    hints = get_type_hints(type(value))
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            yield from leaves(inner, f"{prefix}{field.name}.")
        elif field.init:
            yield prefix + field.name, inner, hints[field.name]


def others(value: Any, hint: Any) -> list[Any]:
    """Some other values of a field."""
    if get_origin(hint) is Literal:
        return [other for other in get_args(hint) if other != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value * 2, max(1, value // 2), 10 * value + 7]
    if isinstance(value, float):
        return [value * 2 + 0.25, value / 2]
    if isinstance(value, str):
        return [f"{value}x"]
    if isinstance(value, tuple) and value and isinstance(value[0], int):
        return [[2 * number for number in value], [max(1, number // 2) for number in value]]
    if isinstance(value, tuple):
        return [["hand_left_color"]] if value and isinstance(value[0], str) else []
    return []


def at(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = getattr(value, name)
    return value


def shapes(specs: tuple[ArraySpec, ...]) -> dict[str, tuple[int, ...]]:
    return {spec.name: spec.shape for spec in specs}


def assert_fits(e: Experiment | AnnotatorTraining) -> None:
    """What each stage writes has the shape that the next one reads."""
    t, side = e.clip_format.n_frames, e.clip_format.size
    assert set(dict(found(vars(e), "clip_format")).values()) == {e.clip_format}
    assert len(set(dict(found(vars(e), "root")).values())) == 1
    clip = shapes(e.clip.outputs)
    assert clip["rgb"] == (t, side, side, 3)
    if isinstance(e, AnnotatorTraining):
        truth = shapes(e.truth.outputs)
        assert truth["depth_m"] == clip["rgb"][:3] and truth["tracks"][0] == t
        return
    depth, tracks = shapes(e.depth.outputs), shapes(e.keypoints.outputs)
    assert depth["inverse_depth"] == clip["rgb"][:3] and tracks["tracks"][0] == t
    world = e.world_model.model
    for tokens, tokenizer in ((e.rgb_tokens, e.rgb_tokenizer), (e.depth_tokens, e.depth_tokenizer)):
        cell = tokenizer.model.downscale
        assert shapes(tokens.outputs)[tokens.name] == (t, side // cell, side // cell)
        assert tokens.grid == world.grid and side % cell == 0
        assert tokens.source == tokenizer.source
        assert 2**tokenizer.model.n_bits == TOKEN_VOCAB
    assert [stage.name for stage in e.stages] == [
        field.name for field in dataclasses.fields(e) if field.name != "clip_format"
    ]
    assert world.action_dim == clip["actions"][2] == len(ARM_VECTOR)
    assert world.action_substeps <= clip["actions"][1]
    assert world.time_positions == "rotary" or world.n_frames >= t
    assert e.world_model.tracks.n_active <= tracks["tracks"][1]
    read = e.keypoints.annotator.depth_units
    assert read in (None, e.depth.annotator.units)


@pytest.mark.parametrize("experiment", KINDS)
def test_every_change_of_every_field_is_followed_or_refused(experiment: str, source: Path):
    e, followed, refused = named(experiment, source, {}), 0, 0
    assert_fits(e)
    for path, value, hint in leaves(e):
        for other in others(value, hint):
            try:
                changed = named(experiment, source, {path: other})
            except ValueError as error:
                assert str(error)
                refused += 1
                continue
            new = at(changed, path)
            assert (list(new) if isinstance(new, tuple) else new) == other, path
            assert_fits(changed)
            followed += 1
    assert followed > 30 and refused > 30, (followed, refused)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"clip.size": 64}, r"no field 'size'.*is set once: clip_format\.size"),
        ({"clip.clip_format.size": 32}, r"clip\.clip_format=.*change clip_format instead"),
        ({"depth.clip_format.size": 32}, r"give both the same clip_format"),
        (
            {"world_model.model.grid": [8, 8]},
            r"world_model\.model\.grid=\(8, 8\), but the grid of rgb",
        ),
        ({"rgb_tokens.source": "depth"}, r"rgb_tokens\.source='depth'"),
        ({"clip.root": "/elsewhere"}, r"clip\.root='/elsewhere', but the folder of the episodes"),
        ({"clip_format.size": 100}, r"100 x 100 px: each side must be a multiple of 16"),
        ({"depth_tokenizer.model.stem_patch": 8}, r"depth_tokenizer one of 32 px"),
        ({"rgb_tokenizer.model.n_bits": 10}, r"n_bits=10 gives 1024 different tokens"),
        ({"world_model.model.action_substeps": 16}, r"clip\.action_substeps=15 are stored"),
        ({"clip.action_substeps": 1, "world_model.model.action_substeps": 2}, r"=1 are stored"),
        ({"keypoints.grid": 4}, r"n_active=64, but keypoints\.grid=4 tracks 16 points"),
        ({"discover.cameras": ["hand_left_color"]}, r"has depth for \('head_color',\) only"),
        ({"rgb_tokenizer.frames_per_clip": 17}, r"but clips have 16 frames"),
        ({"world_model.masking.n_prompt_frames": 16}, r"leaves no frame to predict: clips have 16"),
    ],
)
def test_what_contradicts_another_stage_is_refused_with_what_to_change(
    source: Path, changes: dict[str, Any], complaint: str
):
    with pytest.raises(ValueError, match=complaint):
        named("smoke", source, changes)


def test_a_clips_size_is_changed_in_one_place(source: Path):
    """96 px at 8 px a token becomes 64: the tokens' grid and the world model follow."""
    e = named("pretrain", source, {"clip_format.size": 64})
    assert isinstance(e, Experiment)
    assert e.rgb_tokens.grid == e.depth_tokens.grid == e.world_model.model.grid == (8, 8)
    assert e.depth.annotator.clip_format == e.clip.clip_format == ClipFormat(size=64)


def test_the_units_of_depth_follow_the_annotator(source: Path):
    names = {"depth.annotator": "vda-tiny"}
    e = named("demo", source, names)
    assert isinstance(e, Experiment) and e.depth.annotator.units == "1/m"
    assert e.depth.annotator.clip_format == e.clip_format


def test_the_window_follows_the_clips_unless_it_was_set(source: Path):
    def window(e: Experiment | AnnotatorTraining) -> int:
        assert isinstance(e, Experiment)
        return e.world_model.model.n_frames

    assert window(named("pretrain", source, {"clip_format.n_frames": 8})) == 8
    short = named("pretrain", source, {"world_model.model.n_frames": 4})
    assert window(short) == 4
    assert window(short.vary({"clip_format": ClipFormat(n_frames=8, size=96)})) == 4


def test_scores_of_labels_select_tracks_as_training_does(source: Path):
    e = named("demo", source, {"world_model.tracks.n_active": 16})
    assert isinstance(e, Experiment)
    assert (e.label_scores.n_active, e.label_scores.min_motion) == (16, 0.03)
    other = named("demo", source, {"label_scores.min_motion": 0.1})
    assert isinstance(other, Experiment)
    assert (other.label_scores.min_motion, other.world_model.tracks.min_motion) == (0.1, 0.03)


def test_a_checkpoint_of_another_network_is_refused_before_anything_runs(source: Path):
    """The demo continues from shipped weights, whose tokens have a grid of 12 x 12."""
    complaint = r"start_from=world_model\.safetensors has a network with \{'grid': \(12, 12\)\}.*"
    with pytest.raises(ValueError, match=complaint + r"--set world_model\.start_from=null"):
        named("demo", source, {"clip_format.size": 64})
    e = named("demo", source, {"clip_format.size": 64, "world_model.start_from": None})
    assert_fits(e)


def test_an_experiment_built_by_hand_is_checked(source: Path):
    e = named("pretrain", source, {})
    with pytest.raises(ValueError, match=r"clip\.clip_format=.*size=64"):
        replace(e, clip=replace(e.clip, clip_format=ClipFormat(size=64)))  # type: ignore[arg-type]
    assert e.vary({"clip_format": ClipFormat(n_frames=8, size=64)}).clip.clip_format.n_frames == 8
