import pytest

from stages.clip_format import ClipFormat


def test_the_papers_clips():
    assert str(ClipFormat()) == "16 frames of 256 px at 2 Hz"
    assert ClipFormat().seconds == 7.5


@pytest.mark.parametrize(
    "wrong", [{"n_frames": 1}, {"rate_hz": 0.0}, {"rate_hz": float("nan")}, {"size": 0}]
)
def test_senseless_clips_are_refused(wrong):
    with pytest.raises(ValueError, match="expected 2 or more frames, a rate above 0"):
        ClipFormat(**wrong)
