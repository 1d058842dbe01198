"""How close predicted videos are to true ones: the metrics of the evaluation, for one video or a
set.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from model.frechet import frechet_distance
from model.i3d import I3d
from model.lpips import Lpips, load_lpips
from model.metrics import frame_psnr as psnr_of_frames
from model.steadiness import flicker as flicker_of
from model.value_range import IMAGES, ValueRange
from roboscape.clip import Clip
from roboscape.errors import RejectedClip
from roboscape.video import Video
from stages.evaluation import scores
from stages.evaluation.scores import DETAIL, FRAME, MOVING, ClipDepth, copy_first
from stages.frame_values import frames_to_images
from stages.tokenizer.images import moving_mask

__all__ = ["Scores", "compare", "flicker", "frame_psnr", "fvd"]

UNITS = {"psnr": "dB"}
REGION_SUFFIXES = {FRAME: "", MOVING: "_moving", DETAIL: "_detail"}


class Scores(Mapping[str, float]):
    """Metric -> value, over the frames that were predicted. What could not be measured is not in
    it, and `missing` says why.

    psnr (dB), ssim: larger is better; `psnr_moving`: of the region that moves in the true video;
    `psnr_detail`: of the tenth of the picture with most detail; `psnr_chroma`: of the colours. The
    last two fall where small things are lost, which `psnr` hides.
    lpips: smaller is better. abs_rel (smaller), delta1, delta2 (larger) of depth: raw, and
    `abs_rel_aligned` after one scale and one shift for the whole clip. With `_copy` at its end: of
    copying the last given frame instead, which a prediction should beat.
    """

    def __init__(
        self,
        values: Mapping[str, float],
        *,
        n_frames: int,
        against: str,
        missing: Mapping[str, str],
    ):
        self._values, self._against = dict(values), against
        self._n_frames, self._missing = n_frames, dict(missing)

    @property
    def n_frames(self) -> int:
        """How many frames were scored."""
        return self._n_frames

    @property
    def missing(self) -> dict[str, str]:
        """Metrics that could not be measured, and why."""
        return dict(self._missing)

    def __getitem__(self, name: str) -> float:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        lines = [f"{self.n_frames} predicted frames against {self._against}"]
        lines.append(f"  {'':<16}{'predicted':>10}{'copied':>10}")
        for name, value in self.items():
            if "_copy" not in name:
                copied, metric = self.get(f"{name}_copy"), name.partition("_")[0]
                other = "" if copied is None else f"{copied:10.3f}"
                unit = f"  {UNITS[metric]}" if metric in UNITS else ""
                lines.append(f"  {name:<16}{value:10.3f}{other:>10}{unit}".rstrip())
        return "\n".join([*lines, *(f"  {name:<16}  {why}" for name, why in self.missing.items())])


def compare(
    video: Video | np.ndarray,
    target: Clip | np.ndarray,
    *,
    against: str = "camera",
    value_range: ValueRange | None = None,
    n_given: int | None = None,
    lpips: tuple[str | Path, str | Path] | None = None,
) -> Scores:
    """Scores of a predicted video, frame by frame at the same time, as far as both go.

    video, target: a `Video` and its `Clip`, or arrays (t, h, w, 3).
    against: the clip's `camera` frames, or its `decoded` ones (through the model's tokenizer, whose
    own loss is then left out); the latter needs a `Video`.
    value_range: lowest and highest value that a pixel of a float array can have, such as (0, 1);
    uint8 arrays need none. It is not guessed: a video in [0, 1] that is taken for one in [-1, 1]
    has 6 dB too much. So an array whose values all lie in [0, 1] is refused under a wider range;
    one that truly has no darker pixel can be given as uint8.
    n_given: frames at the start that were not predicted and are not scored; 1 for a `Video`, 0
    for an array by default.
    lpips: the two files of LPIPS (AlexNet), the trunk's and the linear heads'; docs/weights.md says
    where they come from.
    Raises ValueError for a float array without a range, with values outside it or all in [0, 1] of
    a wider one, for other numbers than float and uint8, for frames of other sizes, for no predicted
    frame in common, and for a clip that is not the video's.
    """
    ours, true, still = _images(video, target, against, value_range)
    given = (1 if isinstance(video, Video) else 0) if n_given is None else n_given
    if not 0 <= given < len(true):
        raise ValueError(
            f"n_given={given}: nothing is left to score of {len(true)} frames in common"
        )
    moving = moving_mask(still, still=still[:1])
    # The functions of the evaluation leave out one given frame.
    ours, true, moving = (_after_one(frames, given) for frames in (ours, true, moving))
    network = None if lpips is None else _lpips(*(str(Path(path).absolute()) for path in lpips))
    values: dict[str, float] = {}
    for suffix, candidate in (("", ours), ("_copy", copy_first(true))):
        for (region, metric), value in scores.compare(
            candidate, true, moving, network
        ).scores.items():
            values[f"{metric}{REGION_SUFFIXES[region]}{suffix}"] = value
    missing = {} if lpips else {"lpips": "not measured: no weights, lpips=(trunk, linear)"}
    if not moving[1:].any():
        missing["psnr_moving"] = "not measured: nothing moves in the true video"
    if isinstance(video, Video) and isinstance(target, Clip):
        depth, why = _depth_scores(video, target, given)
        values, missing = values | depth, missing | why
    whose = f" of clip {target.clip_id}" if isinstance(target, Clip) else ""
    what = "the decoded true frames" if against == "decoded" else "the true frames"
    return Scores(values, n_frames=len(true) - 1, against=what + whose, missing=missing)


def frame_psnr(
    video: Video | np.ndarray,
    target: Clip | np.ndarray,
    *,
    against: str = "camera",
    value_range: ValueRange | None = None,
) -> Float32[np.ndarray, " t"]:
    """PSNR of every frame in dB, given ones too; equal frames count as 100.

    Arguments and errors are those of `compare`.
    """
    ours, true, _ = _images(video, target, against, value_range)
    return psnr_of_frames(ours[None], true[None], value_range=IMAGES)[0].numpy()


def flicker(
    video: Video | np.ndarray,
    target: Clip | np.ndarray,
    *,
    value_range: ValueRange | None = None,
) -> float:
    """Mean change from frame to frame, in grey levels of 255, where the true video never moves.

    0 for a still video; smaller is better. Over the frames in common, after the first. Arguments
    and errors are those of `compare`; also raises ValueError where everything moves, or for fewer
    than three frames in common.
    """
    ours, _, still = _images(video, target, "camera", value_range)
    n, unmoved = len(ours), ~moving_mask(still, still=still[:1]).any(0)
    if n < 3:
        raise ValueError(
            f"{n} frames in common: flicker needs 3 or more, as the first is not scored"
        )
    if not unmoved.any():
        raise ValueError("all of the true video moves: flicker is measured where it does not")
    return flicker_of(ours[None, 1:], unmoved[None], value_range=IMAGES).item()


def fvd(
    videos: Sequence[Video | np.ndarray],
    targets: Sequence[Clip | np.ndarray],
    weights: str | Path,
    *,
    value_range: ValueRange | None = None,
    n_given: int = 1,
) -> float:
    """Fréchet video distance of predicted videos, as a set, from true ones; smaller is better.

    It is too large for few videos: papers have 2,048, and only distances of equal numbers compare.
    weights: the I3D file `i3d-kinetics400`, see docs/weights.md. n_given: frames at the start of
    each video, predicted and true, that are not scored. Videos and targets may differ in number and
    in size; other arguments are those of `compare`.
    Raises ValueError for fewer than two of either, or fewer than ten frames of one.
    """
    if min(len(videos), len(targets)) < 2:
        raise ValueError(
            f"{len(videos)} videos and {len(targets)} targets: FVD needs 2 or more of both"
        )
    network = _i3d(str(Path(weights).absolute()))

    def features(frames: Float[Tensor, "t c h w"]) -> Float[Tensor, " d"]:
        return network(frames[None, n_given:], value_range=IMAGES)[0]

    ours = [
        video._made.predicted["rgb"]
        if isinstance(video, Video)
        else _to_images(video, value_range, f"video {i}")
        for i, video in enumerate(videos)
    ]
    true = [
        _to_images(target.rgb if isinstance(target, Clip) else target, value_range, f"target {i}")
        for i, target in enumerate(targets)
    ]
    found, wanted = (torch.stack([features(x) for x in each]) for each in (ours, true))
    return frechet_distance(found, wanted)


def _images(
    video: Video | np.ndarray,
    target: Clip | np.ndarray,
    against: str,
    value_range: ValueRange | None,
) -> tuple[Float[Tensor, "t c h w"], Float[Tensor, "t c h w"], Float[Tensor, "t c h w"]]:
    """The frames in common, in [-1, 1]: predicted, true, and those that say where it moves."""
    if against not in ("camera", "decoded"):
        raise ValueError(f"against={against!r}: expected 'camera' or 'decoded'")
    frames = target.rgb if isinstance(target, Clip) else target
    true = still = _to_images(frames, value_range, "target")
    if isinstance(video, Video):
        ours, decoded = video._made.predicted["rgb"], video._made.true["rgb"]
        true = decoded if against == "decoded" else true
        still = decoded if isinstance(target, Clip) else still
    elif against == "decoded":
        raise ValueError("against='decoded' needs a Video: an array knows no tokenizer")
    else:
        ours = _to_images(video, value_range, "video")
    if isinstance(video, Video) and isinstance(target, Clip) and video.clip_id != target.clip_id:
        raise ValueError(
            f"the video is of clip {video.clip_id}, not of {target.clip_id}: to compare it with "
            "another clip give the other's frames, `clip.rgb`"
        )
    if ours.shape[1:] != true.shape[1:]:
        raise ValueError(
            f"the video has frames of {tuple(ours.shape[-2:])} px, the target of "
            f"{tuple(true.shape[-2:])} px: expected the same size"
        )
    n = min(len(ours), len(true))
    assert len(still) >= n, (len(still), n)
    return ours[:n], true[:n], still[:n]


def _to_images(
    frames: np.ndarray, value_range: ValueRange | None, name: str
) -> Float[Tensor, "t c h w"]:
    """In [-1, 1]."""
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"{name} of shape {frames.shape}: expected (frames, height, width, 3)")
    return frames_to_images(frames, value_range, name)


def _after_one(frames: Tensor, n_given: int) -> Tensor:
    """The last given frame and those after it; without one the first stands there twice."""
    return frames[n_given - 1 :] if n_given else torch.cat([frames[:1], frames])


def _depth_scores(
    video: Video, clip: Clip, n_given: int
) -> tuple[dict[str, float], dict[str, str]]:
    """Scores, and why there are none."""
    try:
        predicted = video.depth
        if predicted is None:
            return {}, {"abs_rel": "not measured: the world model has no depth branch"}
        learned, labelled = video.depth_store, str(clip._stores.ref("depth"))
        if learned != labelled:
            why = f"not measured: the model's depth is that of {learned}, the clip's {labelled}"
            return {}, {"abs_rel": why}
        inverse, valid, limits = (
            clip[f"depth/{name}"] for name in ("inverse_depth", "valid", "inverse_depth_range")
        )
    except (LookupError, RejectedClip) as error:
        return {}, {"abs_rel": f"not measured: {error.args[0]}"}
    n = min(len(predicted), len(inverse))
    ours, target, known = (
        _after_one(torch.from_numpy(np.array(array)), n_given)
        for array in (predicted[:n], inverse[:n].astype(np.float32), valid[:n])
    )
    if not known[1:].any():
        return {}, {"abs_rel": "not measured: the true depth is not known in any of these frames"}
    depth = ClipDepth(
        target=target,
        valid=known,
        limits=(float(limits[0]), float(limits[1])),
        decoded=target,
        predicted={},
    )
    found = scores.compare_depth(ours, depth)
    copied = scores.compare_depth(copy_first(ours), depth)
    return found | {f"{name}_copy": value for name, value in copied.items()}, {}


@lru_cache(maxsize=1)
def _lpips(trunk: str, linear: str) -> Lpips:
    return load_lpips(trunk, linear)


@lru_cache(maxsize=1)
def _i3d(weights: str) -> I3d:
    return I3d(weights)
