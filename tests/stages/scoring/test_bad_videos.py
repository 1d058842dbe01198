"""What cannot be scored: one message that names the file, what was found and what was expected."""

from pathlib import Path

import numpy as np
import pytest
from odd_videos import write_numbers
from PIL import Image, ImageSequence
from scored_videos import (
    RATE_HZ,
    frames_of,
    write_array,
    write_frames,
    write_gif,
    write_movie,
    write_store,
)
from small_stores import run_stage

from stages.scoring.stage import Score
from stages.scoring.videos import read_video_set


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("bad")
    return root, write_store(root)


def score(world, place: Path, **changes):
    root, rows = world
    stage = Score(
        **{"method": "mine", "videos": read_video_set(place), "rate_hz": RATE_HZ, **changes}
    )
    return run_stage(root, stage, rows)


def truncated(path: Path) -> None:
    data = write_movie(path, frames_of(0)).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def other_codec(path: Path) -> None:
    data = write_movie(path, frames_of(0)).read_bytes()
    assert b"avc1" in data
    path.write_bytes(data.replace(b"avc1", b"none").replace(b"avcC", b"none"))


def with_nan(path: Path) -> None:
    frames = (frames_of(0) / 255).astype(np.float32)
    frames[3, 4, 5] = np.nan
    write_array(path, frames)


def uneven_sizes(folder: Path) -> None:
    write_frames(folder, frames_of(0))
    Image.fromarray(frames_of(0)[0, :20]).save(folder / "7.png")


def deep_picture(folder: Path) -> None:
    write_frames(folder, frames_of(0))
    Image.fromarray(np.zeros((32, 32), np.uint16)).save(folder / "7.png")


# name of the file -> (what writes it, fields of the stage, fragments of the message)
BAD = {
    "truncated.mp4": (truncated, {}, ("truncated.mp4", "expected a video that decodes")),
    "codec.mp4": (other_codec, {}, ("in a codec that is not known here",)),
    "text.mp4": (lambda p: p.write_text("no video"), {}, ("expected a video that decodes",)),
    "empty.gif": (lambda p: p.write_bytes(b""), {}, ("found no picture that can be read",)),
    "zip.npz": (lambda p: p.write_bytes(b"PK\3\4"), {}, ("zip.npz",)),
    "three.mp4": (
        lambda p: write_movie(p, frames_of(0)[:3]), {},
        ("found 3 frames at 2 Hz, up to 1.00 s", "expected 16 frames at 2 Hz, up to 7.50 s"),
    ),
    "short.mp4": (lambda p: write_movie(p, frames_of(0)[:15]), {}, ("15 frames", "up to 7.00 s")),
    "one.npz": (lambda p: write_array(p, frames_of(0)[:1]), {}, ("1 frames", "--rate")),
    "norate.npz": (lambda p: write_array(p, frames_of(0)[:12]), {}, ("12 frames", "--rate")),
    "still.gif": (lambda p: write_gif(p, frames_of(0)[:1]), {}, ("1 frames",)),
    "timeless.gif": (
        lambda p: write_gif(p, frames_of(0)[:9], 0), {}, ("frames without a rate", "--rate"),
    ),
    "tiny.npz": (
        lambda p: write_array(p, frames_of(0)[:, :1, :1]), {},
        ("found frames of 1 x 1 px", "at least 16 px"),
    ),
    "tiny": (lambda p: write_frames(p, frames_of(0)[:, :, :3]), {}, ("3 x 32 px",)),
    "nan.npz": (
        with_nan, {"value_range": (0.0, 1.0)}, ("3 of 49152 values", "NaN", "expected finite"),
    ),
    "floats.npz": (
        lambda p: write_array(p, frames_of(0) / 255), {},
        ("values in [0", "of float64", "--value-range 0 1"),
    ),
    "unit.npz": (
        lambda p: write_array(p, frames_of(0) / 255), {"value_range": (-1.0, 1.0)},
        ("all of them in [0, 1]", "--value-range 0 1"),
    ),
    "wide.npz": (
        lambda p: write_array(p, frames_of(0) / 127.5 - 1), {"value_range": (0.0, 1.0)},
        ("values in [-0", "outside"),
    ),
    "int64.npz": (
        lambda p: write_array(p, frames_of(0).astype(np.int64)), {}, ("int64", "expected uint8"),
    ),
    "grey.npz": (
        lambda p: write_array(p, frames_of(0)[..., 0]), {}, ("(16, 32, 32)", "in RGB"),
    ),
    "two.npz": (
        lambda p: np.savez(p, a=frames_of(0), b=frames_of(0)), {}, ("['a', 'b']", "a single one"),
    ),
    "objects.npz": (
        lambda p: np.savez(p, video=np.array([{}, 2], object)), {}, ("objects.npz", "pickle"),
    ),
    "uneven": (uneven_sizes, {}, ("7.png has 32 x 20 px", "one size")),
    "deep": (deep_picture, {}, ("7.png", "mode I;16", "8 bits")),
    "turned.mp4": (
        lambda p: write_numbers(p, list(range(250)), turned={"degrees": 90.0}), {},
        ("turned by", "upright"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_video_is_an_error_or_left_out_by_name(world, tmp_path, name):
    write, changes, fragments = BAD[name]
    suffix, videos = Path(name).suffix, tmp_path / "videos"
    videos.mkdir()
    write(videos / f"clip000{suffix}")
    (videos / f"clip000{suffix}").rename(tmp_path / name)
    listed = [f"clip000,{name}"]
    (tmp_path / "list.csv").write_text("\n".join(["clip_id,path", *listed]))
    with pytest.raises(ValueError, match="1 of 1 videos cannot be used") as error:
        score(world, tmp_path / "list.csv", skip_bad=True, **changes)
    said = " ".join(str(error.value).split())
    assert all(fragment in said for fragment in (name, *fragments)), said
    # With a good one beside it
    write_movie(tmp_path / "good.mp4", frames_of(1))
    (tmp_path / "list.csv").write_text("\n".join(["clip_id,path", *listed, "clip001,good.mp4"]))
    with pytest.raises(
        ValueError, match=r"1 of 2 videos cannot be used: fix them, or leave them out"
    ):
        score(world, tmp_path / "list.csv", **changes)
    result = score(world, tmp_path / "list.csv", skip_bad=True, **changes)
    assert (result.numbers["clips"], result.numbers["bad"]) == (1, 1)
    page = result.file("metrics.md").read_text()
    assert f"- 1 videos that cannot be used: {name}" in page


def test_errors_of_our_own_are_no_faults_of_a_video(world, tmp_path, monkeypatch):
    write_movie(tmp_path / "clip000.mp4", frames_of(0))
    monkeypatch.setattr("stages.scoring.reader.clock_of", lambda *too_few: None.period_s)  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="period_s"):
        score(world, tmp_path, skip_bad=True)


def two_kinds(folder: Path) -> Path:
    for write in (write_movie, write_array):
        write(folder / f"clip000.{'mp4' if write is write_movie else 'npz'}", frames_of(0))
    return folder


def lines(folder: Path, *rows: str) -> Path:
    write_movie(folder / "a.mp4", frames_of(0))
    (folder / "notes.txt").write_text("no video")
    (folder / "list.csv").write_text("\n".join(rows))
    return folder / "list.csv"


# What stands in a folder or a CSV -> (what writes it, fragments of the message)
PLACES = {
    "nothing": (lambda p: p / "nothing", ("found nothing", "a folder of videos or a .csv")),
    "a file": (lambda p: write_movie(p / "a.mp4", frames_of(0)), ("a '.mp4' file",)),
    "an empty folder": (lambda p: p, ("found no video", "named by the clips' ids")),
    "frames without a folder": (
        lambda p: write_frames(p / "x", frames_of(0)), ("16 pictures and no video", "folders of"),
    ),
    "two videos": (two_kinds, ("2 videos for clip clip000", "clip000.mp4", "seed or variant")),
    "a column less": (
        lambda p: lines(p, "clip_id,file", "clip000,a.mp4"),
        ("column path is missing", "['clip_id', 'file']", "clip_id, path"),
    ),
    "no line": (lambda p: lines(p, "clip_id,path"), ("no line below the heading",)),
    "an empty cell": (lambda p: lines(p, "clip_id,path", ",a.mp4"), ("line 2: clip_id is empty",)),
    "no such file": (
        lambda p: lines(p, "clip_id,path", "clip000,b.mp4"), ("line 2: found nothing at", "b.mp4"),
    ),
    "no video": (
        lambda p: lines(p, "clip_id,path", "clip000,notes.txt"), ("line 2", "that is no video"),
    ),
    "two lines": (
        lambda p: lines(p, "clip_id,path,seed", "clip000,a.mp4,1", "clip000,a.mp4,1"),
        ("2 videos for clip clip000, seed 1",),
    ),
    "other bytes": (
        lambda p: lines(p, "clip_id,path") and (p / "l.csv").write_bytes(b"\xff\xfe\0")
        and p / "l.csv", ("no CSV in UTF-8",),
    ),
    "unknown clips": (
        lambda p: write_movie(p / "unknown.mp4", frames_of(0)).parent,
        ("none of the 1 videos is of a clip", "no such clip", "such as clip000, clip001"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PLACES)
def test_a_place_without_videos_is_refused(world, tmp_path, what):
    make, fragments = PLACES[what]
    with pytest.raises(ValueError) as error:
        score(world, make(tmp_path))
    said = " ".join(str(error.value).split())
    assert all(fragment in said for fragment in fragments), said


@pytest.mark.parametrize("name", ["", "  ", "world model", "copy of frame 0"])
def test_a_name_that_the_tables_have_is_refused(world, tmp_path, name):
    write_movie(tmp_path / "clip000.mp4", frames_of(0))
    with pytest.raises(ValueError, match="expected a name of the model"):
        score(world, tmp_path, method=name)


def test_frames_are_in_the_order_of_their_numbers(world, tmp_path):
    write_frames(tmp_path / "clip000", frames_of(0), name="frame_{}.png")
    (tmp_path / "clip000" / ".hidden.png").write_bytes(b"")
    assert score(world, tmp_path).numbers["psnr_free_camera"] == 100.0


def test_frames_that_a_writer_left_out_are_shown_for_longer(world, tmp_path):
    """Pillow merges equal frames of a GIF."""
    frames = frames_of(0)[[0, 1, 1, 1, 4, 4, 6, 7, 8, 9, 10, 10, 12, 13, 14, 15]]
    write_gif(tmp_path / "gif" / "clip000.gif", frames)
    seen = []
    with Image.open(tmp_path / "gif" / "clip000.gif") as gif:
        assert gif.n_frames < 16
        for frame in ImageSequence.Iterator(gif):
            seen += [np.array(frame.convert("RGB"))] * round(frame.info["duration"] / 500)
    write_array(tmp_path / "npz" / "clip000.npz", np.stack(seen))
    merged, whole = (score(world, tmp_path / kind).numbers for kind in ("gif", "npz"))
    assert merged["psnr_free_camera"] == whole["psnr_free_camera"]
    write_gif(tmp_path / "fast" / "clip000.gif", frames, frame_ms=120)
    fast = score(world, tmp_path / "fast", video_rate_hz=2.0).numbers
    assert fast["psnr_free_camera"] == merged["psnr_free_camera"]


def test_of_a_long_video_only_the_needed_frames_are_in_memory(world, tmp_path, monkeypatch):
    from storage.sources.video import Video

    faster = frames_of(0).repeat(20, 0)  # 320 frames at 40 Hz
    write_movie(tmp_path / "clip000.mp4", faster, rate=40)
    asked, frames = [], Video.frames

    def count(self, indices, size=None):
        asked.append(len(indices))
        return frames(self, indices, size)

    monkeypatch.setattr(Video, "frames", count)
    assert score(world, tmp_path).numbers["psnr_free_camera"] == 100.0
    assert set(asked) == {16}
