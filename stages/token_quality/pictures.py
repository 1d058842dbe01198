"""Frames beside what their tokens decode to, and the places where most is lost, enlarged."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from model.colour import lab
from model.detail_metrics import SQUARES
from stages.drawing.pictures import Image8, contact_sheet, spread, strip
from stages.token_quality.measures import ClipQuality, DecodedClip
from stages.tokenizer.images import images_to_rgb

CLIPS_SHOWN, FRAMES_SHOWN = 2, 6
CROPS = 10
CROP = 1 / 5  # side of an enlarged place, in frame widths


def quality_sheet(clips: Sequence[DecodedClip], measured: Sequence[ClipQuality]) -> Image8:
    """The worst places of all clips, then whole frames of the clips with the lowest PSNR."""
    order = np.argsort([clip.values["psnr"] for clip in measured])
    blocks = [worst_places(clips, measured)]
    for i in order[:CLIPS_SHOWN]:
        clip, shown = clips[i], spread(len(clips[i].camera), FRAMES_SHOWN)
        rows = [
            ("camera", images_to_rgb(clip.camera[shown])),
            ("from tokens", images_to_rgb(clip.decoded[shown])),
        ]
        note = f"{clip.clip_id} (held out), {measured[i].values['psnr']:.1f} dB"
        columns = [f"frame {t}" for t in shown]
        blocks.append(strip(rows, columns=columns, title="lowest PSNR", note=note))
    return contact_sheet(blocks)


def worst_places(clips: Sequence[DecodedClip], measured: Sequence[ClipQuality]) -> Image8:
    """Places of largest colour error: objects where there are masks, else squares of a grid."""
    places = worst_objects(clips, measured) or worst_squares(clips)
    drawn = [
        (crop(clips[i].camera[t], centre), crop(clips[i].decoded[t], centre), text)
        for i, t, centre, text in places[:CROPS]
    ]
    rows = [
        ("camera", np.stack([camera for camera, _, _ in drawn])),
        ("from tokens", np.stack([decoded for _, decoded, _ in drawn])),
    ]
    return strip(
        rows,
        columns=[text for _, _, text in drawn],
        title="largest colour errors",
        note="one place of each clip, enlarged; ΔE76",
        cell_px=88,
    )


Place = tuple[int, int, tuple[float, float], str]  # clip, frame, centre (y, x), caption


def worst_objects(clips: Sequence[DecodedClip], measured: Sequence[ClipQuality]) -> list[Place]:
    """The object with the largest colour error of each clip, the worst first."""
    found = []
    for i, (clip, quality) in enumerate(zip(clips, measured, strict=True)):
        if clip.objects is None or not quality.seen:
            continue
        worst = max(quality.seen, key=lambda seen: seen.colour_error)
        at = np.argwhere(clip.objects.masks[worst.frame] == worst.object).mean(0)
        text = f"{worst.colour_error:.0f}"
        found.append((worst.colour_error, (i, worst.frame, (float(at[0]), float(at[1])), text)))
    return [place for _, place in sorted(found, key=lambda item: -item[0])]


def worst_squares(clips: Sequence[DecodedClip]) -> list[Place]:
    """The square with the largest mean colour error of each clip, the worst first."""
    found = []
    for i, clip in enumerate(clips):
        error = (lab(clip.decoded) - lab(clip.camera)).norm(dim=1)
        squares = F.adaptive_avg_pool2d(error[:, None], (SQUARES, SQUARES))[:, 0]
        t, y, x = np.unravel_index(int(squares.argmax()), tuple(squares.shape))
        h, w = error.shape[-2:]
        centre = (float((y + 0.5) / SQUARES * h), float((x + 0.5) / SQUARES * w))
        value = float(squares[t, y, x])
        found.append((value, (i, int(t), centre, f"{value:.0f}")))
    return [place for _, place in sorted(found, key=lambda item: -item[0])]


def crop(image: Float[Tensor, "c h w"], centre: tuple[float, float]) -> UInt8[np.ndarray, "k k 3"]:
    """A square around a place (y, x in px), moved into the frame where it would leave it."""
    h, w = image.shape[-2:]
    side = max(8, round(CROP * w))
    y = int(np.clip(round(centre[0] - side / 2), 0, max(0, h - side)))
    x = int(np.clip(round(centre[1] - side / 2), 0, max(0, w - side)))
    return images_to_rgb(torch.as_tensor(image[:, y : y + side, x : x + side]))
