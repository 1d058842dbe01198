"""Drawing for reports: arrays in, pictures out (uint8 RGB, h w c), in one style for every stage.

Pictures are for people: they may be scaled, and show a few frames of many.
"""

import io
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from storage.atomic import replacing

Image8 = UInt8[np.ndarray, "_ _ 3"]
Frames8 = UInt8[np.ndarray, "_ _ _ 3"]
Row = tuple[str, Frames8]  # label, frames of one size

DEPTH_COLOURS = "Spectral_r"  # near is red, far is blue
MOTION_COLOURS = "turbo"
HOLE = (34, 34, 40)  # a colour the depth map does not have
PAPER, INK, FAINT = (255, 255, 255), (32, 33, 38), (118, 120, 128)
TEXT_PX, TITLE_PX, GAP_PX, MARGIN_PX = 15, 18, 3, 14
SUBPIXEL_BITS = 4  # points are drawn at sixteenths of a pixel, so that slow motion looks smooth
SUBPIXEL = 1 << SUBPIXEL_BITS
STILL_COLOUR = (205, 208, 214)
STILL_PX = 4.0  # paths shorter than this, over a whole clip, are drawn as still points


def colour_depth(
    inverse_depth: Float[np.ndarray, "*b h w"],
    valid: Bool[np.ndarray, "*b h w"],
    inverse_depth_range: Float[np.ndarray, " 2"],
) -> UInt8[np.ndarray, "*b h w 3"]:
    """Near red, far blue, no measurement dark grey; values outside the range are clamped to it."""
    low, high = inverse_depth_range.astype(np.float64)
    unit = np.clip((inverse_depth.astype(np.float32) - low) / max(high - low, 1e-12), 0, 1)
    colours = _colours(DEPTH_COLOURS, unit)
    return np.where(valid[..., None], colours, np.array(HOLE, np.uint8))


def _colours(name: str, unit: Float[np.ndarray, "*b"]) -> UInt8[np.ndarray, "*b 3"]:
    """Colours of numbers in [0, 1], by a colour map of Matplotlib."""
    import matplotlib  # here, since stages that draw a preview must start without it

    return matplotlib.colormaps[name](unit, bytes=True)[..., :3]


def draw_tracks(
    rgb: UInt8[np.ndarray, "t h w 3"],
    tracks: Float32[np.ndarray, "t p 2"],
    visible: Bool[np.ndarray, "t p"],
    *,
    trail: int = 4,
    scale: int = 2,
) -> UInt8[np.ndarray, "t scaled_h scaled_w 3"]:
    """Tracks over their frames, enlarged `scale` times.

    A dot where visible, a ring where hidden, and a fading tail of `trail` frames. Colour is how far
    the point moves in the whole clip: still grey, slow blue, fast red.
    """
    path = np.linalg.norm(np.diff(tracks, axis=0), axis=-1).sum(0)
    moves = path > STILL_PX
    fastest = max(float(np.quantile(path, 0.98)), 2 * STILL_PX) if path.size else 1.0
    share = np.clip((path - STILL_PX) / (fastest - STILL_PX), 0, 1)
    colours = _colours(MOTION_COLOURS, 0.2 + 0.7 * share)
    size = (rgb.shape[2] * scale, rgb.shape[1] * scale)
    where = np.round(((tracks + 0.5) * scale - 0.5) * SUBPIXEL).astype(int)
    drawn = []
    for t, frame in enumerate(rgb):
        canvas = (cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC) * 0.8).astype(np.uint8)
        for k in range(max(0, t - trail), t):
            shown = moves & visible[k : k + 2].all(0)
            _draw_tail(canvas, where[k : k + 2], shown, colours, strength=1 - (t - 1 - k) / trail)
        for p in np.argsort(path):  # what moves most is drawn last, on top
            colour = tuple(colours[p].tolist()) if moves[p] else STILL_COLOUR
            _draw_head(canvas, where[t, p], colour, moves=bool(moves[p]), seen=bool(visible[t, p]))
        drawn.append(canvas)
    return np.stack(drawn)


def _draw_tail(
    canvas: Image8,
    where: Int[np.ndarray, "2 p 2"],
    shown: Bool[np.ndarray, " p"],
    colours: UInt8[np.ndarray, "p 3"],
    *,
    strength: float,
) -> None:
    """Mixes one time step of all tails into `canvas`, with the given strength."""
    layer = canvas.copy()
    for p in np.nonzero(shown)[0]:
        ends = (tuple(where[0, p].tolist()), tuple(where[1, p].tolist()))
        cv2.line(layer, *ends, tuple(colours[p].tolist()), 1, cv2.LINE_AA, SUBPIXEL_BITS)
    cv2.addWeighted(layer, 0.75 * strength, canvas, 1 - 0.75 * strength, 0, dst=canvas)


def _draw_head(
    canvas: Image8,
    where: Int[np.ndarray, " 2"],
    colour: tuple[int, ...],
    *,
    moves: bool,
    seen: bool,
) -> None:
    if moves or seen:
        radius, thickness = int(2.4 * SUBPIXEL) if moves else SUBPIXEL, -1 if seen else 1
        at = tuple(where.tolist())
        cv2.circle(canvas, at, radius, colour, thickness, cv2.LINE_AA, SUBPIXEL_BITS)


def spread(n_frames: int, n_shown: int) -> list[int]:
    """At most `n_shown` frame numbers, evenly spread, first and last included."""
    return sorted({round(x) for x in np.linspace(0, n_frames - 1, min(n_frames, n_shown))})


def strip(
    rows: Sequence[Row],
    *,
    columns: Sequence[str] = (),
    title: str = "",
    note: str = "",
    cell_px: int = 144,
) -> Image8:
    """Rows of frames under each other, labels at the left, all frames scaled to `cell_px` high.

    columns: a caption per frame (its time); title and note are above, in bold and in grey. A note
    with a line break is below the title, else beside it.
    """
    if not rows:
        raise ValueError("a strip needs at least one row")
    drawn = [_row_of_frames(frames, cell_px) for _, frames in rows]
    n_columns = {len(frames) for _, frames in rows}
    if columns and n_columns != {len(columns)}:
        raise ValueError(f"{len(columns)} column captions for rows of {sorted(n_columns)} frames")
    # Sizes: labels at the left, heading and captions above
    label_px = max(_text_width(line) for label, _ in rows for line in label.split("\n"))
    left = label_px + 2 * MARGIN_PX
    heading = _heading(title, note)
    top = heading.shape[0] + (TEXT_PX + 8 if columns else 0)
    width = max(left + max(d.shape[1] for d in drawn) + MARGIN_PX, heading.shape[1])
    height = top + len(rows) * (cell_px + GAP_PX) - GAP_PX + MARGIN_PX
    # Frames, then text
    page = np.full((height, width, 3), PAPER, np.uint8)
    page[: heading.shape[0], : heading.shape[1]] = heading
    for i, pixels in enumerate(drawn):
        y = top + i * (cell_px + GAP_PX)
        page[y : y + cell_px, left : left + pixels.shape[1]] = pixels
    image = Image.fromarray(page)
    pen = ImageDraw.Draw(image)
    cell = (drawn[0].shape[1] + GAP_PX) / len(rows[0][1])
    for i, caption in enumerate(columns):
        x = left + (i + 0.5) * cell - GAP_PX / 2
        pen.text((x, top - 10), caption, FAINT, _font(), anchor="ms")
    for i, (label, _) in enumerate(rows):
        y = top + i * (cell_px + GAP_PX) + cell_px / 2
        pen.multiline_text((left - MARGIN_PX, y), label, INK, _font(), anchor="rm", align="right")
    return np.array(image)


def contact_sheet(
    blocks: Sequence[Image8], *, columns: int = 1, title: str = "", note: str = ""
) -> Image8:
    """Strips on one page, row by row, under a heading if there is a title or note."""
    if not blocks:
        raise ValueError("a contact sheet needs at least one strip")
    columns = min(columns, len(blocks))
    widths = [max(block.shape[1] for block in blocks[i::columns]) for i in range(columns)]
    bands = [_heading(title, note)] if title or note else []
    for i in range(0, len(blocks), columns):
        band = blocks[i : i + columns]
        height = max(block.shape[0] for block in band)
        padded = [_pad(block, height, w) for block, w in zip(band, widths, strict=False)]
        bands.append(np.concatenate(padded, axis=1))
    width = max(band.shape[1] for band in bands)
    return np.concatenate([_pad(band, band.shape[0], width) for band in bands])


def _pad(image: Image8, height: int, width: int) -> Image8:
    """The image with paper to the right and below."""
    margins = ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0))
    return np.pad(image, margins, constant_values=PAPER[0])


def _heading(title: str, note: str) -> Image8:
    """A band with the title in bold and the note in grey; only its margin if there is neither."""
    lines = note.removesuffix("\n").split("\n") if "\n" in note else []
    beside = "" if lines else note
    n_bold = _text_width(title, bold=True)
    widths = [n_bold + 12 + _text_width(beside), *(_text_width(line) for line in lines)]
    width = 2 * MARGIN_PX + max(widths)
    height = MARGIN_PX + (TITLE_PX + 10 if title or note else 0) + len(lines) * (TEXT_PX + 2)
    image = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((MARGIN_PX, MARGIN_PX - 3), title, INK, _font(bold=True))
    pen.text((MARGIN_PX + n_bold + 12 * bool(title), MARGIN_PX), beside, FAINT, _font())
    for i, line in enumerate(lines):
        pen.text((MARGIN_PX, MARGIN_PX + TITLE_PX + 4 + i * (TEXT_PX + 2)), line, FAINT, _font())
    return np.array(image)


def png_bytes(image: Image8) -> bytes:
    data = io.BytesIO()
    Image.fromarray(image).save(data, format="PNG", compress_level=4)
    return data.getvalue()


def write_gif(path: Path, frames: Frames8, rate_hz: float) -> None:
    """Writes an endless GIF, whole or not at all.

    All frames share one palette, so that still parts do not flicker.
    """
    montage = Image.fromarray(np.concatenate(list(frames)))
    palette = montage.quantize(255, method=Image.Quantize.MEDIANCUT)
    images = [
        Image.fromarray(f).quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
        for f in frames
    ]
    centiseconds = max(2, round(100 / rate_hz))  # GIF's unit of time; players slow anything below 2
    with replacing(path) as temp:
        images[0].save(
            temp,
            format="GIF",
            save_all=True,
            append_images=images[1:],
            duration=10 * centiseconds,
            loop=0,
            optimize=False,
        )


def write_mp4(path: Path, frames: Frames8, rate_hz: float) -> None:
    """Writes H.264 for browsers, whole or not at all; repeats an odd last row or column, as 4:2:0
    needs even sizes.

    The same frames give the same file. x264 by itself does not promise that: with several threads
    it divides the work by their speed, and its macroblock tree reads memory that it has not set.
    """
    odd = ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0))
    frames = np.pad(frames, odd, mode="edge")
    rate = Fraction(rate_hz).limit_denominator(1001)
    with (
        replacing(path) as temp,
        av.open(str(temp), "w", format="mp4", options={"movflags": "+faststart"}) as container,
    ):
        options = {"crf": "18", "preset": "medium", "mbtree": "0"}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _row_of_frames(frames: Frames8, cell_px: int) -> Image8:
    height, width = frames.shape[1:3]
    size = (max(1, round(width * cell_px / height)), cell_px)
    how = cv2.INTER_NEAREST if cell_px >= 4 * height else cv2.INTER_CUBIC
    if cell_px < height:
        how = cv2.INTER_AREA
    cells = frames
    if size != (width, height):
        cells = [cv2.resize(frame, size, interpolation=how) for frame in frames]
    gap = np.full((cell_px, GAP_PX, 3), PAPER, np.uint8)
    return np.concatenate([part for cell in cells for part in (cell, gap)][:-1], axis=1)


@cache
def _font(*, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as Matplotlib ships it: the same everywhere, and it has δ, λ and ²."""
    import matplotlib  # here, see `_colours`

    name, size = ("DejaVuSans-Bold", TITLE_PX) if bold else ("DejaVuSans", TEXT_PX)
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}.ttf", size - 2)


def _text_width(text: str, *, bold: bool = False) -> int:
    return int(np.ceil(_font(bold=bold).getlength(text)))
