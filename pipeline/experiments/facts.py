"""Every fact that two parts of an experiment share, and every limit that one sets for another."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.training.checkpoint import from_plain, read_header
from model.world.config import TOKEN_VOCAB
from stages.annotator_training.spatial_tracker import TrainSpatialTracker
from stages.annotator_training.train import TrainAnnotator
from stages.annotator_training.video_depth import TrainVideoDepth
from stages.clip_format import ClipFormat
from stages.clips.arm_vectors import ARM_VECTOR
from stages.depth.stage import PseudoDepth
from stages.keypoints.stage import Keypoints
from stages.tokenizer.published import PublishedTokenizer
from stages.tokenizer.train import TrainTokenizer
from stages.world_model.train import TrainWorldModel

Parts = Mapping[str, Any]  # the fields of an experiment


@dataclass(frozen=True, kw_only=True)
class Shared:
    """A fact, the setting that decides it, and the fields that repeat it (dotted path -> value).

    binding: no follower may differ. Otherwise one that was set to another value keeps it.
    """

    what: str
    owner: str
    value: Any
    followers: Mapping[str, Any]
    binding: bool = True

    @property
    def disagreeing(self) -> dict[str, Any]:
        return {path: value for path, value in self.followers.items() if value != self.value}


def shared(parts: Parts) -> Iterator[Shared]:
    """Every fact that two parts share. Raises ValueError if an owner's own value is invalid."""
    formats = dict(found(parts, "clip_format"))
    yield Shared(
        what="the clips' format",
        owner="clip_format",
        value=formats.pop("clip_format"),
        followers=formats,
    )
    yield Shared(
        what="the folder of the episodes",
        owner="--source",
        value=parts["discover"].root,
        followers=dict(found(parts, "root")),
    )
    if "world_model" in parts:
        yield from shared_by_world_model(parts)


def shared_by_world_model(parts: Parts) -> Iterator[Shared]:
    size = parts["clip_format"].size
    for source in ("rgb", "depth"):
        tokenizer = parts[f"{source}_tokenizer"]
        grid = tokenizer.model.grid(size, size)
        grids = {f"{source}_tokens.grid": parts[f"{source}_tokens"].grid}
        if source == "rgb":
            grids["world_model.model.grid"] = parts["world_model"].model.grid
        yield Shared(
            what=f"the grid of {source} tokens",
            owner=f"{source}_tokenizer and clip_format.size",
            value=grid,
            followers=grids,
        )
        names = (f"{source}_tokenizer", f"{source}_tokens")
        yield Shared(
            what=f"the images of {' and '.join(names)}",
            owner="their names",
            value=source,
            followers={f"{name}.source": parts[name].source for name in names},
        )
    reads_depth = parts["keypoints"].annotator.depth_units
    yield Shared(
        what="the units of depth",
        owner="depth.annotator",
        value=parts["depth"].annotator.units,
        followers={} if reads_depth is None else {"keypoints.annotator.depth_units": reads_depth},
    )
    yield Shared(
        what="the dimension of an action",
        owner="stage clip",
        value=len(ARM_VECTOR),
        followers={"world_model.model.action_dim": parts["world_model"].model.action_dim},
    )
    yield Shared(
        what="the window of the world model",
        owner="clip_format.n_frames",
        value=parts["clip_format"].n_frames,
        followers={"world_model.model.n_frames": parts["world_model"].model.n_frames},
        binding=False,
    )
    tracks = parts["world_model"].tracks
    for name in ("n_active", "min_motion"):
        yield Shared(
            what="how active tracks are selected",
            owner=f"world_model.tracks.{name}",
            value=getattr(tracks, name),
            followers={f"label_scores.{name}": getattr(parts["label_scores"], name)},
            binding=False,
        )
    yield Shared(
        what="the flags whose clips are left out",
        owner="world_model.drop_flags",
        value=parts["world_model"].drop_flags,
        followers={"evaluation.drop_flags": parts["evaluation"].drop_flags},
        binding=False,
    )


def limits(parts: Parts) -> Iterator[tuple[bool, str]]:
    """What need not be equal, but must fit: (whether it does, the complaint if not)."""
    n_frames = parts["clip_format"].n_frames
    for name, part in parts.items():
        if isinstance(part, TrainTokenizer | TrainVideoDepth):
            yield (
                part.frames_per_clip <= n_frames,
                f"{name}.frames_per_clip={part.frames_per_clip}, but clips have {n_frames} frames "
                "(clip_format.n_frames)",
            )
        if isinstance(part, TrainTokenizer | TrainWorldModel | TrainAnnotator):
            yield from limits_of_start(name, part)
    if "world_model" in parts:
        yield from limits_of_labels(parts["depth"], parts["keypoints"], parts)
        yield from limits_of_tokens(parts["rgb_tokenizer"], parts["depth_tokenizer"])
        yield from limits_of_world_model(parts["world_model"], parts)
    if isinstance(trained := parts.get("annotator"), TrainSpatialTracker):
        tracked = parts["truth"].points
        for name, n in (("points", trained.points), ("val_points", trained.val_points)):
            yield (
                n <= tracked,
                f"annotator.{name}={n}, but stage truth tracks {tracked} (truth.points)",
            )


def limits_of_labels(
    depth: PseudoDepth, keypoints: Keypoints, parts: Parts
) -> Iterator[tuple[bool, str]]:
    cameras, supported = parts["discover"].cameras, depth.annotator.cameras
    others = sorted(set(cameras) - set(cameras if supported is None else supported))
    yield (
        not others,
        f"depth.annotator {depth.annotator.name} has depth for {supported} only, but "
        f"discover.cameras names {others}: choose an annotator that estimates it, such as vda-vits",
    )
    n_active, n_points = parts["world_model"].tracks.n_active, keypoints.n_points
    yield (
        n_active <= n_points,
        f"world_model.tracks.n_active={n_active}, but keypoints.grid={keypoints.grid} tracks "
        f"{n_points} points",
    )


def limits_of_tokens(
    rgb: TrainTokenizer | PublishedTokenizer, depth: TrainTokenizer | PublishedTokenizer
) -> Iterator[tuple[bool, str]]:
    cells = rgb.model.downscale, depth.model.downscale
    yield (
        cells[0] == cells[1],
        f"rgb_tokenizer makes a token of {cells[0]} px, depth_tokenizer one of {cells[1]} px: the "
        "world model reads both on one grid, so give both tokenizers the same downscale",
    )
    for name, tokenizer in (("rgb_tokenizer", rgb), ("depth_tokenizer", depth)):
        vocab = 2**tokenizer.model.n_bits
        yield (
            vocab == TOKEN_VOCAB,
            f"{name}.model.n_bits={tokenizer.model.n_bits} gives {vocab} different tokens, but the "
            f"world model reads {TOKEN_VOCAB} (n_bits=18)",
        )


def limits_of_world_model(stage: TrainWorldModel, parts: Parts) -> Iterator[tuple[bool, str]]:
    n_frames, model = parts["clip_format"].n_frames, stage.model
    reads, stored = model.action_substeps, parts["clip"].action_substeps
    yield (
        reads <= stored,
        f"world_model.model.action_substeps={reads}, but clip.action_substeps={stored} are stored "
        "between two frames: lower the first or raise the second",
    )
    yield (
        model.time_positions == "rotary" or model.n_frames >= n_frames,
        f"world_model.model.n_frames={model.n_frames} with time_positions="
        f"{model.time_positions!r}, but clips have {n_frames} frames (clip_format.n_frames)",
    )
    prompt = stage.masking.n_prompt_frames
    yield (
        prompt < n_frames,
        f"world_model.masking.n_prompt_frames={prompt} leaves no frame to predict: clips have "
        f"{n_frames} (clip_format.n_frames)",
    )


def limits_of_start(
    name: str, stage: TrainTokenizer | TrainWorldModel | TrainAnnotator
) -> Iterator[tuple[bool, str]]:
    """A training continues from a checkpoint only with the network that is in it."""
    path = Path(stage.start_from.path) if stage.start_from else Path()
    if not path.is_file():
        return
    there = from_plain(type(stage.model), read_header(path)["config"], str(path))
    names = [field.name for field in dataclasses.fields(there)]
    other = [n for n in names if getattr(there, n) != getattr(stage.model, n)]
    has, asked = ({n: getattr(model, n) for n in other} for model in (there, stage.model))
    yield (
        not other,
        f"{name}.start_from={path.name} has a network with {has}, but {name}.model asks for "
        f"{asked}: start from random weights (--set {name}.start_from=null), or from a "
        "checkpoint of that network",
    )


def found(value: Any, name: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of every field of this name that is not None, at any depth."""
    fields = value if isinstance(value, Mapping) else vars(value)
    for field, inner in fields.items():
        if field == name and inner is not None:
            yield prefix + field, inner
        elif dataclasses.is_dataclass(inner) and not isinstance(inner, ClipFormat):
            yield from found(inner, name, f"{prefix}{field}.")
