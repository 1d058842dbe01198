"""What a container says about how its frames are to be shown, and files that are no videos."""

from pathlib import Path

import numpy as np
import pytest
from agibot_tree import FakeEpisode, number_of, write_video
from odd_videos import write_numbers

from storage.sources import video as video_file
from storage.sources.file_ref import SourceError
from storage.sources.video import Video

LEAD = 7


def test_packets_hidden_by_an_edit_list_are_no_frames(tmp_path: Path):
    numbers = [2000 + i for i in range(LEAD)] + list(range(60))
    with Video(write_numbers(tmp_path / "a.mp4", numbers, hidden=LEAD)) as video:
        assert video.n_frames == 60
        for wanted in ([0], list(range(60)), [59, 3], [7, 8, 9]):
            assert [number_of(frame) for frame in video.frames(wanted)] == wanted


@pytest.mark.parametrize(
    "turned", [{"degrees": 180}, {"degrees": 90}, {"degrees": 0, "vflip": True}], ids=str
)
def test_a_video_to_be_shown_turned_is_refused(tmp_path: Path, turned: dict):
    path = write_numbers(tmp_path / "a.mp4", list(range(30)), turned=turned)
    with Video(path) as video, pytest.raises(SourceError, match=r"turned_video: .*ffmpeg"):
        video.frames([3])


@pytest.mark.parametrize("text", ["ffconcat version 1.0\nfile real.mp4\n", "#EXTM3U\nreal.mp4\n"])
def test_a_playlist_opens_no_other_file(tmp_path: Path, text: str):
    write_video(tmp_path / "real.mp4", FakeEpisode(n=30))
    (tmp_path / "a.mp4").write_text(text)
    with pytest.raises(SourceError, match=r"a\.mp4: no_video_file: found a text that begins with"):
        Video(tmp_path / "a.mp4")


def test_the_size_of_frames_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_video(tmp_path / "a.mp4", FakeEpisode(n=5))
    monkeypatch.setattr(video_file, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(SourceError, match="corrupt_video: found pictures of 64x48 px"):
        Video(tmp_path / "a.mp4")


def test_a_late_beginning_is_known(tmp_path: Path):
    times = list(range(3, 40))
    with Video(write_numbers(tmp_path / "a.mp4", times, times)) as video:
        assert video.start_s == pytest.approx(0.1) and video.times_s[0] == 0
        np.testing.assert_allclose(video.times_s[1], 1 / 30, atol=1e-3)
