"""What the stages of an experiment must agree on: each fact has one owner, the others follow it.

`follow` sets the followers to the owner's value, and refuses a contradicting value that a user set.
`check` refuses an experiment built by hand whose stages disagree.
"""

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from model.world.config import TOKEN_VOCAB
from stages.annotator_training.spatial_tracker import TrainSpatialTracker
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
    """A fact, the setting that decides it, and the fields that repeat it (dotted path -> value)."""

    what: str
    owner: str
    value: Any
    followers: Mapping[str, Any]

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
    if "world_model" in parts:
        yield from limits_of_labels(parts["depth"], parts["keypoints"], parts)
        yield from limits_of_tokens(parts["rgb_tokenizer"], parts["depth_tokenizer"], parts)
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
    rgb: TrainTokenizer | PublishedTokenizer,
    depth: TrainTokenizer | PublishedTokenizer,
    parts: Parts,
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


def check(parts: Parts) -> None:
    """Raises ValueError naming the first fact that two parts disagree on."""
    for fact in shared(parts):
        for path, value in fact.disagreeing.items():
            raise ValueError(contradiction(path, value, fact))
    for fits, complaint in limits(parts):
        if not fits:
            raise ValueError(complaint)


def follow(parts: Parts, given: Collection[str] = ()) -> dict[str, Any]:
    """The parts with every follower set to its owner's value. given: the paths that a user set.

    Raises ValueError if a user set a follower to another value.
    """
    changes: dict[str, Any] = {}
    for fact in shared(parts):
        for path, value in fact.disagreeing.items():
            if any(overlap(path, name) for name in given):
                raise ValueError(contradiction(path, value, fact))
            changes[path] = fact.value
    if "world_model" in parts and "world_model.model.n_frames" not in given:
        changes["world_model.model.n_frames"] = parts["clip_format"].n_frames  # the whole clip
    return {name: replaced(part, under(changes, name)) for name, part in parts.items()}


def overlap(path: str, other: str) -> bool:
    """Whether one of two dotted paths is, or contains, the other."""
    return f"{path}.".startswith(f"{other}.") or f"{other}.".startswith(f"{path}.")


def contradiction(path: str, value: Any, fact: Shared) -> str:
    return (
        f"{path}={value!r}, but {fact.what}, which {fact.owner} decides, is {fact.value!r}: "
        f"change {fact.owner} instead"
    )


def found(value: Any, name: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of every field of this name that is not None, at any depth."""
    fields = value if isinstance(value, Mapping) else vars(value)
    for field, inner in fields.items():
        if field == name and inner is not None:
            yield prefix + field, inner
        elif dataclasses.is_dataclass(inner) and not isinstance(inner, ClipFormat):
            yield from found(inner, name, f"{prefix}{field}.")


def under(changes: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The changes below this name, by the rest of their dotted path."""
    inner = {}
    for path, value in changes.items():
        first, _, rest = path.partition(".")
        if first == name:
            inner[rest] = value
    return inner


def replaced(value: Any, changes: Mapping[str, Any]) -> Any:
    """A copy with the fields at these dotted paths replaced, all fields of one part at once."""
    if not changes:
        return value
    if "" in changes:
        return changes[""]
    names = {path.partition(".")[0] for path in changes}
    new = {name: replaced(getattr(value, name), under(changes, name)) for name in names}
    return dataclasses.replace(value, **new)
