"""Metrics of predicted videos, depths and tracks against true ones: one value per clip.

Videos are (b t c h w) floats; `value_range` says what black and white are, (-1, 1) for what a
tokenizer gives. It has no default: see `model.value_range`, also for what is refused. An optional
mask chooses the pixels that count, such as the moving region; a clip with an empty mask raises
ValueError.
"""

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from model.value_range import ValueRange, as_images

MAX_PSNR = 100.0  # dB

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # px
SSIM_EDGE = SSIM_WINDOW // 2
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # for values in [0, 1]

TAPVID_SIDE = 256  # px: frames are scaled to this square before distances are measured
TAPVID_THRESHOLDS = (1.0, 2.0, 4.0, 8.0, 16.0)  # px


def frame_psnr(
    predicted: Float[Tensor, "b t c h w"],
    target: Float[Tensor, "b t c h w"],
    mask: Bool[Tensor, "b t h w"] | None = None,
    *,
    value_range: ValueRange,
) -> Float[Tensor, "b t"]:
    """Peak signal-to-noise ratio of each frame: 10 log10(range^2 / mean squared error) dB.

    Larger is better. Equal frames, whose ratio is infinite, count as MAX_PSNR, so that averages
    stay finite (one 8-bit step in one channel of a 256 x 256 px frame is 101 dB). NaN for a frame
    with an empty mask.
    """
    predicted, target = as_images(predicted, target, value_range=value_range)
    error = reduce((predicted - target).double().square(), "b t c h w -> b t h w", "mean")
    weight = torch.ones_like(error) if mask is None else mask.to(error.dtype)
    # 0/0 = NaN for a frame without pixels
    mean_error = (error * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3))
    return (10 * torch.log10(4 / mean_error)).clamp(max=MAX_PSNR).to(predicted.dtype)


def psnr(
    predicted: Float[Tensor, "b t c h w"],
    target: Float[Tensor, "b t c h w"],
    mask: Bool[Tensor, "b t h w"] | None = None,
    *,
    value_range: ValueRange,
) -> Float[Tensor, " b"]:
    """Mean of `frame_psnr` over the frames in which the mask has pixels, in dB."""
    check_mask(mask)
    return frame_psnr(predicted, target, mask, value_range=value_range).nanmean(dim=1)


def delta_psnr(
    with_true_actions: Float[Tensor, "b t c h w"],
    with_other_actions: Float[Tensor, "b t c h w"],
    target: Float[Tensor, "b t c h w"],
    mask: Bool[Tensor, "b t h w"] | None = None,
    *,
    value_range: ValueRange,
) -> Float[Tensor, " b"]:
    """The dB of PSNR that are lost with the actions of another clip: controllability.

    0: the actions have no effect; larger is better. Delta-PSNR of Genie (Bruce et al. 2024,
    arXiv:2402.15391) as RoboScape reports it (arXiv:2506.23135: 3.34, and 1.99 for a model with
    weak control).
    """
    both = (with_true_actions, with_other_actions)
    true, other = (psnr(video, target, mask, value_range=value_range) for video in both)
    return true - other


def ssim(
    predicted: Float[Tensor, "b t c h w"],
    target: Float[Tensor, "b t c h w"],
    mask: Bool[Tensor, "b t h w"] | None = None,
    *,
    value_range: ValueRange,
) -> Float[Tensor, " b"]:
    """Structural similarity (Wang et al. 2004), mean over windows, channels and frames.

    1 for equal clips. The mask is read at a window's centre.
    """
    score = ssim_map(predicted, target, value_range=value_range)
    if mask is None:
        return score.mean(dim=(1, 2, 3)).to(predicted.dtype)
    return _masked_mean(score, mask[:, :, SSIM_EDGE:-SSIM_EDGE, SSIM_EDGE:-SSIM_EDGE]).to(
        predicted.dtype
    )


def ssim_map(
    predicted: Float[Tensor, "b t c h w"],
    target: Float[Tensor, "b t c h w"],
    *,
    value_range: ValueRange,
) -> Float[Tensor, "b t inner_h inner_w"]:
    """SSIM of each window, mean over channels.

    Gaussian windows of 11 x 11 px, sigma 1.5, that lie inside the frame (so their centres leave out
    its outer SSIM_EDGE pixels), on values moved to [0, 1]. Each colour channel is scored alone; the
    paper is about grey images.
    """
    predicted, target = as_images(predicted, target, value_range=value_range)
    h, w = predicted.shape[-2:]
    if min(h, w) < SSIM_WINDOW:
        raise ValueError(f"frames of {h} x {w} px: SSIM needs sides of at least {SSIM_WINDOW} px")
    x, y = ((video.double() + 1) / 2 for video in (predicted, target))
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x**2 + mean_y**2 + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (var_x + var_y + SSIM_C2)
    return reduce(luminance * structure, "b t c h w -> b t h w", "mean")


def _blur(images: Float[Tensor, "*any h w"]) -> Float[Tensor, "*any inner_h inner_w"]:
    """Gaussian means over the SSIM window, at the positions where it fits.

    A sum of shifted images: on a CPU ten times as fast as a one-channel convolution in double
    precision.
    """
    offset = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_EDGE
    kernel = torch.exp(-(offset**2) / (2 * SSIM_SIGMA**2))
    weights = (kernel / kernel.sum()).tolist()
    for dim in (-2, -1):
        n = images.shape[dim] - SSIM_WINDOW + 1
        blurred = images.narrow(dim, 0, n) * weights[0]
        for i in range(1, SSIM_WINDOW):
            blurred.add_(images.narrow(dim, i, n), alpha=weights[i])
        images = blurred
    return images


def lpips(
    network: nn.Module,
    predicted: Float[Tensor, "b t c h w"],
    target: Float[Tensor, "b t c h w"],
    *,
    value_range: ValueRange,
) -> Float[Tensor, " b"]:
    """Distance by `network` (see model/lpips.py), mean over frames; 0 for equal clips."""
    videos = as_images(predicted, target, value_range=value_range)
    distance = network(*(rearrange(video, "b t c h w -> (b t) c h w") for video in videos))
    return reduce(distance, "(b t) -> b", "mean", b=predicted.shape[0])


def align_scale_shift(
    *,
    predicted_inverse: Float[Tensor, "b t h w"],
    target_inverse: Float[Tensor, "b t h w"],
    valid: Bool[Tensor, "b t h w"],
) -> Float[Tensor, "b t h w"]:
    """Each clip's predicted inverse depth, fitted to the target by least squares over valid pixels.

    Both are inverse depths: relative predictions are known up to scale and shift there (MiDaS,
    arXiv:1907.01341). A clip has one scale and one shift, so flicker stays an error. A constant
    becomes the target's mean.
    """
    check_mask(valid)
    weight, x = valid.double(), predicted_inverse.double()
    y = torch.where(valid, target_inverse, 0.0).double()  # invalid pixels may be NaN
    count = weight.sum(dim=(1, 2, 3), keepdim=True)
    known = torch.where(valid, x, 0.0)
    x_mean = known.sum(dim=(1, 2, 3), keepdim=True) / count
    y_mean = y.sum(dim=(1, 2, 3), keepdim=True) / count
    variance = (weight * (known - x_mean) ** 2).sum(dim=(1, 2, 3), keepdim=True)
    covariance = (weight * (known - x_mean) * (y - y_mean)).sum(dim=(1, 2, 3), keepdim=True)
    scale = torch.where(variance > 0, covariance / variance, 0.0)
    return (y_mean + scale * (x - x_mean)).to(predicted_inverse.dtype)


def depth_from_inverse(
    inverse_depth: Float[Tensor, "b t h w"], *, farthest: float
) -> Float[Tensor, "b t h w"]:
    """1 / inverse depth, at most `farthest`, also where the inverse is 0 or below."""
    return 1 / inverse_depth.clamp(min=1 / farthest)


def abs_rel(
    *,
    predicted_depth: Float[Tensor, "b t h w"],
    target_depth: Float[Tensor, "b t h w"],
    valid: Bool[Tensor, "b t h w"],
) -> Float[Tensor, " b"]:
    """Mean over valid pixels of |predicted - target| / target; 0 is perfect.

    Both are depth (not inverse depth), in the same units, and > 0 where valid: align scale first.
    Abs Rel of Eigen et al. 2014 (arXiv:1406.2283).
    """
    _check_depth(predicted_depth, target_depth, valid)
    relative = (predicted_depth - target_depth).abs() / torch.where(valid, target_depth, 1.0)
    return _masked_mean(relative, valid)


def delta_accuracy(
    *,
    predicted_depth: Float[Tensor, "b t h w"],
    target_depth: Float[Tensor, "b t h w"],
    valid: Bool[Tensor, "b t h w"],
    n: int = 1,
) -> Float[Tensor, " b"]:
    """Share of valid pixels whose depths differ by a factor below 1.25^n; 1 is perfect.

    Arguments as for `abs_rel`.
    """
    _check_depth(predicted_depth, target_depth, valid)
    ours, true = (torch.where(valid, depth, 1.0) for depth in (predicted_depth, target_depth))
    factor = torch.maximum(ours / true, true / ours)
    return _masked_mean((factor < 1.25**n).to(predicted_depth.dtype), valid)


def frames_after_query(query_frame: Int[Tensor, "b p"], n_frames: int) -> Bool[Tensor, "b t p"]:
    """The frames of each track that count in TAP-Vid's "first" mode: those after its query."""
    frame = torch.arange(n_frames, device=query_frame.device)
    return rearrange(frame, "t -> 1 t 1") > rearrange(query_frame, "b p -> b 1 p")


def position_accuracy(
    predicted: Float[Tensor, "b t p 2"],
    target: Float[Tensor, "b t p 2"],
    target_visible: Bool[Tensor, "b t p"],
    counted: Bool[Tensor, "b t p"],
    size: tuple[int, int],
) -> Float[Tensor, " b"]:
    """TAP-Vid's <delta^x_avg (Doersch et al. 2022, arXiv:2211.03726); 1 is perfect.

    The share of visible points within 1, 2, 4, 8 and 16 px of their true position, mean of the
    five. Tracks are (x, y) in pixels of frames of `size` = (height, width); distances are measured
    after scaling the frames to 256 x 256 px.
    """
    seen = target_visible & counted
    check_points(seen, "truly visible")
    check_pixels(target, seen, size)
    within = _within_thresholds(predicted, target, size)
    shares = [(near & seen).sum(dim=(1, 2)) / seen.sum(dim=(1, 2)) for near in within]
    return torch.stack(shares).mean(dim=0)


def occlusion_accuracy(
    predicted_visible: Bool[Tensor, "b t p"],
    target_visible: Bool[Tensor, "b t p"],
    counted: Bool[Tensor, "b t p"],
) -> Float[Tensor, " b"]:
    """Share of counted points whose visibility is right (TAP-Vid's OA); 1 is perfect."""
    check_points(counted, "counted")
    right = (predicted_visible == target_visible) & counted
    return right.sum(dim=(1, 2)) / counted.sum(dim=(1, 2))


def average_jaccard(
    predicted: Float[Tensor, "b t p 2"],
    predicted_visible: Bool[Tensor, "b t p"],
    target: Float[Tensor, "b t p 2"],
    target_visible: Bool[Tensor, "b t p"],
    counted: Bool[Tensor, "b t p"],
    size: tuple[int, int],
) -> Float[Tensor, " b"]:
    """TAP-Vid's AJ, position and visibility together: hits / (hits + misses + false positives).

    1 is perfect. At each threshold a hit is a visible point, predicted visible and near enough; a
    visible point that is not is a miss; any other point predicted visible is a false positive. So
    a visible point that is predicted visible but too far away counts twice.
    """
    check_points((target_visible | predicted_visible) & counted, "visible or predicted visible")
    check_pixels(target, target_visible & counted, size)
    scores = []
    for near in _within_thresholds(predicted, target, size):
        hit = near & predicted_visible & target_visible & counted
        wrong = predicted_visible & ~(near & target_visible) & counted
        n_visible = (target_visible & counted).sum(dim=(1, 2))  # hits and misses
        scores.append(hit.sum(dim=(1, 2)) / (n_visible + wrong.sum(dim=(1, 2))))
    return torch.stack(scores).mean(dim=0)


def _within_thresholds(
    predicted: Float[Tensor, "b t p 2"], target: Float[Tensor, "b t p 2"], size: tuple[int, int]
) -> list[Bool[Tensor, "b t p"]]:
    height, width = size
    scale = torch.tensor(
        (TAPVID_SIDE / width, TAPVID_SIDE / height), dtype=target.dtype, device=target.device
    )
    distance = ((predicted - target) * scale).square().sum(dim=-1).sqrt()
    return [distance < threshold for threshold in TAPVID_THRESHOLDS]


def _masked_mean(
    values: Float[Tensor, "b t h w"], mask: Bool[Tensor, "b t h w"]
) -> Float[Tensor, " b"]:
    check_mask(mask)
    return torch.where(mask, values, 0.0).sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3))


def check_mask(mask: Bool[Tensor, "b t h w"] | None) -> None:
    if mask is not None:
        check_points(mask.flatten(2), "chosen by the mask", "pixel")


def check_points(chosen: Bool[Tensor, "b t i"], what: str, unit: str = "point") -> None:
    empty = (~chosen.any(dim=2).any(dim=1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"clip {empty[0]} of the batch: no {unit} is {what}, so it has no value; leave it out"
        )


def check_pixels(
    target: Float[Tensor, "b t p 2"], seen: Bool[Tensor, "b t p"], size: tuple[int, int]
) -> None:
    """Raises ValueError for shares of a frame's sides in place of pixels."""
    height, width = size
    points = target[seen]
    if len(points) > 1 and min(size) > 8 and ((points >= 0) & (points <= 1)).all():
        raise ValueError(
            f"all {len(points)} visible true points lie in [0, 1]: expected pixels of frames of "
            f"{width} x {height} px, not shares of their sides"
        )


def _check_depth(
    predicted: Float[Tensor, "b t h w"],
    target: Float[Tensor, "b t h w"],
    valid: Bool[Tensor, "b t h w"],
) -> None:
    for name, depth in (("predicted", predicted), ("target", target)):
        wrong = (valid & ~(depth > 0)).sum().item()
        if wrong:
            raise ValueError(
                f"{name} depth is not above 0 at {wrong} valid pixels: mark them invalid or align "
                "first"
            )
