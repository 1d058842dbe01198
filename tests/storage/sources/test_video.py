import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
import pytest
from agibot_tree import FakeEpisode, number_of, pack, picture, write_video
from hypothesis import given
from hypothesis import strategies as st

from storage.sources.agibot.tree import list_episodes
from storage.sources.file_ref import FileRef, SourceError
from storage.sources.video import Video, nearest, probe, resized

N = 100


@pytest.fixture(scope="module", params=["gop15", "gop250", "av1", "tar"])
def source(request, tmp_path_factory) -> FileRef:
    """The same 100 frames: every 15th a key frame, only the first one, in AV1, inside a tar."""
    folder = tmp_path_factory.mktemp("video")
    if request.param == "tar":
        root = folder / "root"
        e = FakeEpisode(n=N)
        for name in (e.camera, Path(e.proprio).parent, f"task_info/{e.task}"):
            (root / name).mkdir(parents=True)
        (root / e.proprio).write_bytes(b"")
        write_video(root / e.videos / "head_color.mp4", e)
        return list_episodes(pack(root, folder / "packed")).episodes[0].videos["head_color"]
    e = FakeEpisode(n=N, gop=250 if request.param == "gop250" else 15)
    if request.param == "av1":
        # As root, SVT-AV1 gives its process real-time priority, which starves all others for good
        with ProcessPoolExecutor(1, get_context("spawn")) as child:
            child.submit(write_video, folder / "a.mp4", replace(e, codec="libsvtav1")).result()
    else:
        write_video(folder / "a.mp4", e)
    return FileRef(path=folder / "a.mp4")


def test_the_tests_have_no_real_time_priority(source):
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def frames_at(source: FileRef | Path, indices: Sequence[int]) -> np.ndarray:
    with Video(source) as video:
        return video.frames(indices)


@pytest.mark.parametrize(
    "indices",
    [
        range(N),
        range(0, N, 15),
        range(7, N, 15),
        [99],
        [0],
        [50, 3, 3, 99, 50],
        [14, 15, 16, 44, 45],
        [],
    ],
    ids=str,
)
def test_returns_the_requested_frames(source, indices):
    frames = frames_at(source, list(indices))
    assert frames.shape == (len(indices), 48, 64, 3)
    assert [number_of(frame) for frame in frames] == list(indices)


def test_seeking_gives_the_same_pixels_as_decoding_everything(source):
    whole = frames_at(source, range(N))
    np.testing.assert_array_equal(frames_at(source, range(5, N, 29)), whole[5::29])
    with Video(source) as video:  # back and forth in one open file
        for i in (90, 10, 11, 60, 0):
            np.testing.assert_array_equal(video.frames([i])[0], whole[i])


def test_pixels_are_those_of_the_picture(source):
    """A golden frame, loose enough for any FFmpeg: the codec blurs edges, nothing may shift or
    change colour.
    """
    error = np.abs(frames_at(source, [33])[0].astype(int) - picture(33))
    assert error.mean() < 6 and np.percentile(error, 90) < 16
    flat = frames_at(source, [33])[0, 40:46, 2:8].reshape(-1, 3).mean(0)
    np.testing.assert_allclose(flat, [90, 120, 150], atol=4)


def test_times_and_probe(source):
    with Video(source) as video:
        assert video.n_frames == N
        np.testing.assert_allclose(video.times_s, np.arange(N) / 30, atol=1e-4)
    found = probe(source)
    assert (found.n_frames, found.width, found.height, found.pixel_format) == (N, 64, 48, "yuv420p")
    assert found.rate_hz == pytest.approx(30, rel=1e-3)
    assert found.codec in ("h264", "av1")


@given(
    times=st.sets(st.integers(-1000, 1000), min_size=1),
    wanted=st.lists(st.integers(-2000, 2000), max_size=20),
)
def test_nearest_agrees_with_a_full_search(times, wanted):
    rising = sorted(times)
    found = nearest(np.array(rising), np.array(wanted, int))
    expected = [min(range(len(rising)), key=lambda i: (abs(rising[i] - t), i)) for t in wanted]
    assert found.tolist() == expected


def test_shrinking_averages_and_enlarging_interpolates():
    stripes = np.tile(np.array([0, 255], "uint8"), (32, 16))[..., None].repeat(3, 2)
    half = resized(stripes, (16, 16))
    assert np.abs(half.astype(int) - 127.5).max() < 1
    ramp = np.tile(np.arange(16, dtype="uint8")[:, None, None] * 16, (1, 16, 3))
    large = resized(ramp, (64, 64))
    assert large.shape == (64, 64, 3) and np.diff(large[:, 0, 0].astype(int)).max() <= 8
    assert resized(stripes, None) is stripes


def test_a_frame_beyond_the_end_is_named(source):
    with pytest.raises(
        SourceError, match=r"short_video: found 100 frames; expected frames 3\.\.100 asked for"
    ):
        frames_at(source, [100, 3])


def faststart(path: Path) -> None:
    """With the index before the pictures, so that a truncated copy still opens."""
    moved = path.with_suffix(".moved.mp4")
    with (
        av.open(str(path)) as old,
        av.open(str(moved), "w", options={"movflags": "faststart"}) as new,
    ):
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    moved.replace(path)


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    write_video(tmp_path / "head_color.mp4", FakeEpisode(n=60))
    return tmp_path / "head_color.mp4"


@pytest.mark.parametrize("missing", [400, 3000])
def test_a_truncated_file_with_its_index_at_the_end_does_not_open(movie, missing):
    movie.write_bytes(movie.read_bytes()[:-missing])
    with pytest.raises(SourceError, match=r"head_color\.mp4: corrupt_video"):
        Video(movie)


def test_a_truncated_file_with_its_index_at_the_start_gives_its_frames_and_no_more(movie):
    faststart(movie)
    movie.write_bytes(movie.read_bytes()[: movie.stat().st_size // 2])
    try:
        with Video(movie) as video:
            n = video.n_frames  # what the header says is 60
    except SourceError as error:
        assert error.reason == "corrupt_video"
        return
    assert 1 < n < 60
    assert [number_of(f) for f in frames_at(movie, range(n - 1))] == list(range(n - 1))


def test_damaged_pictures_raise(movie):
    data = bytearray(movie.read_bytes())
    start, end = data.index(b"mdat") + 1500, data.index(b"moov") - 500
    for i in range(start, end, 3):
        data[i] ^= 0xFF
    movie.write_bytes(data)
    with pytest.raises(SourceError, match=r"head_color\.mp4: corrupt_video"):
        frames_at(movie, range(60))


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100])
def test_other_files_are_named(tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.mp4: corrupt_video"):
        probe(tmp_path / "a.mp4")


def test_a_file_with_sound_only_is_named(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 8000), "float32"), format="fltp", layout="mono"
        )
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(SourceError, match="no video stream"):
        Video(tmp_path / "a.mp4")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SourceError, match="missing_file"):
        Video(tmp_path / "a.mp4")
