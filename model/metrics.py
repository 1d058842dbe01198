"""How close predicted videos, depths and tracks are to true ones: one value per clip; averaging
clips is the caller's.

Videos are (b t c h w) in [-1, 1], as the tokenizer gives them. A mask, where one is taken, chooses
the pixels that count (such as the region that moves); a clip in which it is empty has no value and
raises ValueError.
"""

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

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
) -> Float[Tensor, "b t"]:
    """Peak signal-to-noise ratio of each frame in dB: 10 log10(2^2 / mean squared error), larger is
    better.

    Equal frames, whose ratio is infinite, count as MAX_PSNR, so that averages stay finite (a single
    8-bit step in one channel of one 256 x 256 px frame is 101 dB). A frame in which the mask is
    empty is NaN.
    """
    _check_range(predicted, target)
    error = reduce((predicted - target).double().square(), "b t c h w -> b t h w", "mean")
    weight = torch.ones_like(error) if mask is None else mask.to(error.dtype)
    mean_error = (error * weight).sum(dim=(2, 3)) / weight.sum(
        dim=(2, 3)
    )  # 0/0 = NaN: no pixel, no value
    return (10 * torch.log10(4 / mean_error)).clamp(max=MAX_PSNR).to(predicted.dtype)


def psnr(
    predicted: Float[Tensor, "b t c h w"],
    target: Float[Tensor, "b t c h w"],
    mask: Bool[Tensor, "b t h w"] | None = None,
) -> Float[Tensor, " b"]:
    """Mean of `frame_psnr` over the clip's frames (those in which the mask has pixels), in dB, at
    most MAX_PSNR.
    """
    _check_mask(mask)
    return frame_psnr(predicted, target, mask).nanmean(dim=1)


def delta_psnr(
    with_true_actions: Float[Tensor, "b t c h w"],
    with_other_actions: Float[Tensor, "b t c h w"],
    target: Float[Tensor, "b t c h w"],
    mask: Bool[Tensor, "b t h w"] | None = None,
) -> Float[Tensor, " b"]:
    """How many dB of PSNR are lost when the model is given the actions of another clip:
    controllability.

    0: the actions do nothing; larger is better. Delta-PSNR of Genie (Bruce et al. 2024,
    arXiv:2402.15391) in the form RoboScape reports (arXiv:2506.23135: 3.34, and 1.99 for a model
    under weak control).
    """
    return psnr(with_true_actions, target, mask) - psnr(with_other_actions, target, mask)


def ssim(
    predicted: Float[Tensor, "b t c h w"],
    target: Float[Tensor, "b t c h w"],
    mask: Bool[Tensor, "b t h w"] | None = None,
) -> Float[Tensor, " b"]:
    """Structural similarity (Wang et al. 2004), mean over window positions, channels and frames; 1
    for equal clips.

    The mask is read at the window's centre.
    """
    score = ssim_map(predicted, target)
    if mask is None:
        return score.mean(dim=(1, 2, 3)).to(predicted.dtype)
    return _masked_mean(score, mask[:, :, SSIM_EDGE:-SSIM_EDGE, SSIM_EDGE:-SSIM_EDGE]).to(
        predicted.dtype
    )


def ssim_map(
    predicted: Float[Tensor, "b t c h w"], target: Float[Tensor, "b t c h w"]
) -> Float[Tensor, "b t inner_h inner_w"]:
    """SSIM of each window position, mean over channels; a frame's outer SSIM_EDGE pixels are no
    window's centre.

    Gaussian window of 11 x 11 px, sigma 1.5, only where it lies inside the frame, on values moved
    to [0, 1]. Each colour channel is scored alone (the paper is about grey images).
    """
    _check_range(predicted, target)
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

    A sum of shifted pictures: ten times as fast on a CPU as a convolution of one channel in double
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
    network: nn.Module, predicted: Float[Tensor, "b t c h w"], target: Float[Tensor, "b t c h w"]
) -> Float[Tensor, " b"]:
    """Learned perceptual distance, mean over the clip's frames; 0 for equal clips. `network`: see
    model/lpips.py.
    """
    _check_range(predicted, target)
    distance = network(
        *(rearrange(video, "b t c h w -> (b t) c h w") for video in (predicted, target))
    )
    return reduce(distance, "(b t) -> b", "mean", b=predicted.shape[0])


def align_scale_shift(
    predicted: Float[Tensor, "b t h w"],
    target: Float[Tensor, "b t h w"],
    valid: Bool[Tensor, "b t h w"],
) -> Float[Tensor, "b t h w"]:
    """The predicted inverse depth of each clip, scaled and shifted to the target by least squares
    over valid pixels.

    Both are inverse depths: relative predictions are known up to scale and shift there (MiDaS,
    arXiv:1907.01341). One scale and one shift serve the whole clip, so flicker stays an error. A
    constant becomes the target's mean.
    """
    _check_mask(valid)
    weight = valid.double()
    x, y = (
        predicted.double(),
        torch.where(valid, target, 0.0).double(),
    )  # what is not valid may be NaN
    count = weight.sum(dim=(1, 2, 3), keepdim=True)
    known = torch.where(valid, x, 0.0)
    x_mean = known.sum(dim=(1, 2, 3), keepdim=True) / count
    y_mean = y.sum(dim=(1, 2, 3), keepdim=True) / count
    variance = (weight * (known - x_mean) ** 2).sum(dim=(1, 2, 3), keepdim=True)
    covariance = (weight * (known - x_mean) * (y - y_mean)).sum(dim=(1, 2, 3), keepdim=True)
    scale = torch.where(variance > 0, covariance / variance, 0.0)
    return (y_mean + scale * (x - x_mean)).to(predicted.dtype)


def depth_from_inverse(
    inverse_depth: Float[Tensor, "b t h w"], *, farthest: float
) -> Float[Tensor, "b t h w"]:
    """1 / inverse depth, at most `farthest` (in the depth's unit), also where the inverse is 0 or
    below.
    """
    return 1 / inverse_depth.clamp(min=1 / farthest)


def abs_rel(
    predicted: Float[Tensor, "b t h w"],
    target: Float[Tensor, "b t h w"],
    valid: Bool[Tensor, "b t h w"],
) -> Float[Tensor, " b"]:
    """Mean over valid pixels of |predicted - target| / target; 0 is perfect.

    Both are depth (not inverse depth), in the same units, and > 0 where valid: align scale first.
    Abs Rel of Eigen et al. 2014 (arXiv:1406.2283).
    """
    _check_depth(predicted, target, valid)
    relative = (predicted - target).abs() / torch.where(valid, target, 1.0)
    return _masked_mean(relative, valid)


def delta_accuracy(
    predicted: Float[Tensor, "b t h w"],
    target: Float[Tensor, "b t h w"],
    valid: Bool[Tensor, "b t h w"],
    n: int = 1,
) -> Float[Tensor, " b"]:
    """Share of valid pixels whose depths differ by a factor under 1.25^n; 1 is perfect. Arguments
    as `abs_rel`.
    """
    _check_depth(predicted, target, valid)
    predicted, target = torch.where(valid, predicted, 1.0), torch.where(valid, target, 1.0)
    factor = torch.maximum(predicted / target, target / predicted)
    return _masked_mean((factor < 1.25**n).to(predicted.dtype), valid)


def frames_after_query(query_frame: Int[Tensor, "b p"], n_frames: int) -> Bool[Tensor, "b t p"]:
    """Which frames of each track count in TAP-Vid's "first" mode: those after the one in which the
    point was given.
    """
    frame = torch.arange(n_frames, device=query_frame.device)
    return rearrange(frame, "t -> 1 t 1") > rearrange(query_frame, "b p -> b 1 p")


def position_accuracy(
    predicted: Float[Tensor, "b t p 2"],
    target: Float[Tensor, "b t p 2"],
    target_visible: Bool[Tensor, "b t p"],
    counted: Bool[Tensor, "b t p"],
    size: tuple[int, int],
) -> Float[Tensor, " b"]:
    """Share of truly visible points within 1, 2, 4, 8 and 16 px of their place, mean of the five; 1
    is perfect.

    Tracks are (x, y) in pixels of frames of `size` = (height, width); distances are measured after
    scaling the frames to 256 x 256 px. TAP-Vid's <delta^x_avg (Doersch et al. 2022,
    arXiv:2211.03726).
    """
    seen = target_visible & counted
    _check_points(seen, "truly visible")
    within = _within_thresholds(predicted, target, size)
    shares = [(near & seen).sum(dim=(1, 2)) / seen.sum(dim=(1, 2)) for near in within]
    return torch.stack(shares).mean(dim=0)


def occlusion_accuracy(
    predicted_visible: Bool[Tensor, "b t p"],
    target_visible: Bool[Tensor, "b t p"],
    counted: Bool[Tensor, "b t p"],
) -> Float[Tensor, " b"]:
    """Share of counted points whose visibility is right; 1 is perfect (TAP-Vid's OA)."""
    _check_points(counted, "counted")
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
    """TAP-Vid's AJ, position and visibility in one: hits / (hits + misses + false positives); 1 is
    perfect.

    At each threshold a hit is a visible point, predicted visible and near enough; a visible point
    that is not is a miss; any other point predicted visible is a false positive. So one visible but
    far off counts twice.
    """
    _check_points((target_visible | predicted_visible) & counted, "visible or predicted visible")
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
    _check_mask(mask)
    return torch.where(mask, values, 0.0).sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3))


def _check_range(*videos: Float[Tensor, "b t c h w"]) -> None:
    for video in videos:
        low, high = video.min().item(), video.max().item()
        if not (low >= -1.001 and high <= 1.001):  # also catches NaN
            raise ValueError(
                f"video with values in [{low:.3g}, {high:.3g}]: expected [-1, 1]; clamp or rescale it first"
            )


def _check_mask(mask: Bool[Tensor, "b t h w"] | None) -> None:
    if mask is not None:
        _check_points(mask.flatten(2), "chosen by the mask", "pixel")


def _check_points(chosen: Bool[Tensor, "b t i"], what: str, unit: str = "point") -> None:
    empty = (~chosen.any(dim=2).any(dim=1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"clip {empty[0]} of the batch: no {unit} is {what}, so it has no value; leave it out"
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
                f"{name} depth is not above 0 at {wrong} valid pixels: mark them invalid or align first"
            )
