"""Videos whose container says something special about their presentation; frames show numbers."""

from fractions import Fraction
from pathlib import Path

import av
from agibot_tree import HEIGHT, WIDTH, picture

TICKS = 90_000  # a second


def write_numbers(
    path: Path,
    numbers: list[int],
    times: list[int] | None = None,
    turned: dict | None = None,
    hidden: int = 0,
) -> Path:
    """Frames that show `numbers`, at `times` (in 1/30 s; one after the other if None).

    turned: arguments of `set_display_rotation`. hidden: so many first packets are hidden by an edit
    list, as after a cut without encoding again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"avoid_negative_ts": "disabled", "use_editlist": "1"} if hidden else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 15, 0
        stream.time_base = stream.codec_context.time_base = Fraction(1, TICKS)
        if turned:
            stream.set_display_rotation(**turned)
        for number, time in zip(numbers, times or range(len(numbers)), strict=True):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = (time - hidden) * TICKS // 30, Fraction(1, TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
