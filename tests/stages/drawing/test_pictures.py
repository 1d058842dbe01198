import io
import os
import subprocess
import sys

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_clips import still_clip, textured
from PIL import Image
from small_disk import fill, small_disk

from stages.drawing.pictures import (
    HOLE,
    PAPER,
    colour_depth,
    contact_sheet,
    draw_tracks,
    png_bytes,
    spread,
    strip,
    write_gif,
    write_mp4,
)
from storage.errors import DiskFull

LIMITS = np.array([0.5, 2.0], np.float32)


def find(page: np.ndarray, part: np.ndarray) -> list[tuple[int, int]]:
    """Where `part` is in `page`, pixel for pixel."""
    windows = np.lib.stride_tricks.sliding_window_view(page[..., 0], part.shape[:2])
    places = np.argwhere((windows == part[..., 0]).all((2, 3)))
    h, w = part.shape[:2]
    return [(int(y), int(x)) for y, x in places if np.array_equal(page[y : y + h, x : x + w], part)]


def test_holes_have_a_colour_that_no_depth_has():
    inverse = np.linspace(0, 3, 64, dtype=np.float32).reshape(1, 8, 8)
    valid = np.ones((1, 8, 8), bool)
    valid[0, 3, 3] = False
    picture = colour_depth(inverse, valid, LIMITS)
    is_hole = (picture == HOLE).all(-1)
    assert is_hole[0, 3, 3] and is_hole.sum() == 1


def test_near_is_red_far_is_blue_and_outside_is_clamped():
    inverse = np.array([[[0.0, 0.5, 1.0, 2.0, 9.0]]], np.float32)
    far, low, _, high, near = colour_depth(inverse, np.ones_like(inverse, bool), LIMITS)[
        0, 0
    ].astype(int)
    assert high[0] > high[2] and low[2] > low[0]
    np.testing.assert_array_equal(far, low)
    np.testing.assert_array_equal(near, high)


def test_an_empty_range_still_draws():
    inverse = np.ones((2, 4, 4), np.float16)
    assert colour_depth(inverse, inverse > 0, np.array([1, 1], np.float32)).shape == (2, 4, 4, 3)


def tracks_of(*points: tuple[float, float, float]) -> np.ndarray:
    """Points (x, y) that move right by the third number, px a frame."""
    t = np.arange(16)[:, None]
    x, y, step = np.array(points, np.float32).T
    return np.stack([x + step * t, y + 0 * t], axis=-1).astype(np.float32)


def test_tracks_are_drawn_where_the_points_are():
    rgb = np.zeros((16, 40, 60, 3), np.uint8)
    tracks = tracks_of((5, 10, 2), (50, 30, 0))
    drawn = draw_tracks(rgb, tracks, np.ones((16, 2), bool))
    assert drawn.shape == (16, 80, 120, 3)
    for t in (0, 7, 15):
        lit = np.argwhere(drawn[t].any(-1))[:, ::-1] / 2 - 0.25  # clip pixels
        assert (
            np.abs(lit - tracks[t, 0]).max(1).min() < 1
            and np.abs(lit - tracks[t, 1]).max(1).min() < 1
        )
        ahead = lit[:, 0] > tracks[t, 0, 0] + 2
        assert np.abs(lit[ahead] - tracks[t, 1]).max() < 2, (
            "nothing is drawn ahead of a moving point"
        )


def test_fast_slow_and_still_points_differ_in_colour():
    rgb = np.zeros((16, 60, 90, 3), np.uint8)
    tracks = tracks_of((5, 10, 4), (5, 30, 1), (5, 50, 0))
    drawn = draw_tracks(rgb, tracks, np.ones((16, 3), bool))
    colours = [drawn[0][2 * y, 2 * 5].astype(int) for y in (10, 30, 50)]
    assert colours[0][0] > colours[0][2] and colours[1][2] > colours[1][0]
    assert np.ptp(colours[2]) < 20, "still points are grey"


def test_hidden_still_points_are_not_drawn_and_nothing_is_written_into_the_clip():
    rgb = still_clip(32)
    before = rgb.copy()
    tracks, hidden = tracks_of((16, 16, 0)), np.zeros((16, 1), bool)
    nothing = draw_tracks(rgb, tracks[:, :0], hidden[:, :0])
    np.testing.assert_array_equal(draw_tracks(rgb, tracks, hidden), nothing)
    assert (draw_tracks(rgb, tracks, ~hidden) != nothing).any()
    np.testing.assert_array_equal(rgb, before)


@given(st.integers(1, 300), st.integers(1, 40))
def test_spread_is_even_and_has_both_ends(n_frames: int, n_shown: int):
    shown = spread(n_frames, n_shown)
    assert len(shown) == min(n_frames, n_shown) and shown[0] == 0
    assert n_shown == 1 or shown[-1] == n_frames - 1
    assert len(shown) < 3 or np.ptp(np.diff(shown)) <= 1


def test_a_strip_holds_its_frames_unchanged_and_in_order():
    first, second = (
        np.stack([textured(48, 48, i) for i in range(3)]),
        np.stack([textured(48, 48, i) for i in (7, 8, 9)]),
    )
    page = strip(
        [("camera", first), ("depth\n(sensor)", second)],
        columns=["a", "b", "c"],
        title="δ₁",
        note="n",
        cell_px=48,
    )
    places = [find(page, frame) for frame in (*first, *second)]
    assert all(len(place) == 1 for place in places)
    ys, xs = np.array(places)[:, 0].T
    assert (
        (np.diff(xs[:3]) > 0).all()
        and (xs[:3] == xs[3:]).all()
        and len(set(ys[:3])) == 1
        and ys[3] > ys[0]
    )
    assert (page[0] == PAPER).all() and (page[:, 0] == PAPER).all()


def test_a_strip_is_wide_enough_for_its_title():
    frames = np.zeros((1, 8, 8, 3), np.uint8)
    page = strip([("a", frames)], title="a rather long title " * 4, cell_px=16)
    assert (page[:, -5:] == PAPER).all()
    assert page.shape[1] > 500


@pytest.mark.parametrize("cell_px", [20, 100, 400])
def test_frames_are_scaled_to_the_cell(cell_px: int):
    page = strip([("", np.zeros((2, 40, 80, 3), np.uint8))], cell_px=cell_px)
    dark = np.argwhere((page == 0).all(-1))
    assert np.ptp(dark[:, 0]) + 1 == cell_px
    assert np.ptp(dark[:, 1]) + 1 == 4 * cell_px + 3


def test_wrong_calls_are_named():
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"3 column captions for rows of \[2\] frames"):
        strip([("a", frames)], columns=["1", "2", "3"])
    with pytest.raises(ValueError, match="at least one row"):
        strip([])
    with pytest.raises(ValueError, match="at least one strip"):
        contact_sheet([])


def test_a_contact_sheet_stacks_strips_of_any_width():
    a, b = textured(10, 20), textured(12, 30, 1)
    sheet = contact_sheet([a, b])
    assert sheet.shape == (22, 30, 3)
    np.testing.assert_array_equal(sheet[:10, :20], a)
    assert (sheet[:10, 20:] == PAPER).all()
    np.testing.assert_array_equal(sheet[10:], b)


def test_a_contact_sheet_of_several_columns_is_filled_row_by_row():
    blocks = [textured(10 + i, 20 + i, i) for i in range(5)]
    sheet = contact_sheet(blocks, columns=2)
    assert sheet.shape == (11 + 13 + 14, 24 + 23, 3), (
        "rows as high, columns as wide as their largest"
    )
    places = [find(sheet, block)[0] for block in blocks]
    assert places == [(0, 0), (0, 24), (11, 0), (11, 24), (24, 0)]
    assert contact_sheet(blocks[:1], columns=3).shape == blocks[0].shape
    headed = contact_sheet(blocks, columns=2, title="a title", note="beside it")
    n_above = headed.shape[0] - sheet.shape[0]
    assert n_above > 20 and (headed[:n_above] != PAPER).any()
    np.testing.assert_array_equal(headed[n_above:, :47], sheet)


def test_a_note_of_several_lines_stands_below_the_title():
    frames = np.zeros((2, 40, 40, 3), np.uint8)
    beside, one, two = (
        strip([("a", frames)], title="t", note=note, cell_px=40)
        for note in ("first", "first\n", "first\nsecond")
    )
    assert beside.shape[0] + 10 < one.shape[0] < two.shape[0] - 10
    np.testing.assert_array_equal(beside[-60:], two[-60:])


def test_png_is_exact():
    image = textured(60, 80)
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(png_bytes(image)))), image)


def test_a_gif_has_every_frame_for_its_time(tmp_path):
    frames = np.stack([np.full((20, 30, 3), 10 * t, np.uint8) for t in range(5)])
    write_gif(tmp_path / "a.gif", frames, rate_hz=4.0)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 5 and gif.info["duration"] == 250 and gif.info["loop"] == 0
        for t in range(5):
            gif.seek(t)
            assert np.abs(np.array(gif.convert("RGB")).astype(int) - 10 * t).max() <= 4


@pytest.mark.parametrize(("height", "width", "rate_hz"), [(48, 64, 2.0), (47, 63, 7.5)])
def test_an_mp4_plays_what_was_written(tmp_path, height: int, width: int, rate_hz: float):
    frames = np.stack([np.full((height, width, 3), 20 * t, np.uint8) for t in range(8)])
    write_mp4(tmp_path / "a.mp4", frames, rate_hz)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate) == pytest.approx(rate_hz)
        played = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)])
    assert played.shape == (8, height + height % 2, width + width % 2, 3)
    assert np.abs(played.mean((1, 2, 3)) - 20 * np.arange(8)).max() < 4


WRITE_MP4 = """
import sys
from pathlib import Path
import numpy as np
from stages.drawing.pictures import write_mp4
noise = np.random.default_rng(0).normal(0, 12, (24, 104, 200, 3))
waves = 128 + 80 * np.sin(np.arange(200) / 17 + np.arange(24)[:, None] / 3)[:, None, :, None]
write_mp4(Path(sys.argv[1]), np.clip(waves + noise, 0, 255).astype(np.uint8), 6.0)
"""


def test_the_same_frames_give_the_same_mp4_whatever_memory_held_before(tmp_path):
    """The allocator fills new memory with another byte in each process."""
    for byte in ("0", "85"):
        memory = {"MALLOC_PERTURB_": byte, "MALLOC_MMAP_THRESHOLD_": str(1 << 30)}
        subprocess.run(
            [sys.executable, "-c", WRITE_MP4, str(tmp_path / f"{byte}.mp4")],
            env=os.environ | memory | {"PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
        )
    assert (tmp_path / "0.mp4").read_bytes() == (tmp_path / "85.mp4").read_bytes()


@pytest.mark.parametrize(("name", "write"), [("a.mp4", write_mp4), ("a.gif", write_gif)])
def test_a_video_on_a_full_disk_leaves_the_old_one(tmp_path, name, write):
    frames = np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), dtype=np.uint8)
    with small_disk(tmp_path / "disk") as disk:
        write(disk / name, frames[:2], 4.0)
        before = (disk / name).read_bytes()
        fill(disk, leave=20_000)
        with pytest.raises(DiskFull, match=rf"while writing {disk}/{name}"):
            write(disk / name, frames, 4.0)
        assert sorted(os.listdir(disk)) == sorted([name, "filler"])
        assert (disk / name).read_bytes() == before
