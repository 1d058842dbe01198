"""Every video read once, before any is scored: what can be used, how it differs, what cannot."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stages.base import Progress
from stages.scoring.matching import Matched
from stages.scoring.reader import VideoReader
from stages.scoring.reading import BadVideo
from stages.scoring.videos import VideoFile

NAMED = 10  # bad videos that a message names


@dataclass(frozen=True, kw_only=True)
class Survey:
    """good: the usable videos with their clips' rows. bad: the others, with the reason.

    kinds: what the good ones have (frames, rate, size, numbers) -> how many have that.
    """

    good: Sequence[tuple[int, VideoFile]]
    bad: Sequence[tuple[VideoFile, str]]
    kinds: Mapping[str, int]

    @property
    def by_row(self) -> dict[int, list[VideoFile]]:
        found: dict[int, list[VideoFile]] = {}
        for row, video in self.good:
            found.setdefault(row, []).append(video)
        return found


def survey(matched: Matched, reader: VideoReader, progress: Progress, *, skip_bad: bool) -> Survey:
    """Raises ValueError, with reasons, if videos are bad; with `skip_bad` only if all are."""
    videos = [(row, video) for row, each in matched.by_row.items() for video in each]
    good, bad = list[tuple[int, VideoFile]](), list[tuple[VideoFile, str]]()
    kinds: Counter[str] = Counter()
    progress(0, len(videos), "reading")
    for done, (row, video) in enumerate(videos, start=1):
        try:
            _, kind = reader.frames(video)
            kinds[kind] += 1
            good.append((row, video))
        except BadVideo as error:
            bad.append((video, str(error)))
        progress(done, len(videos), f"reading {video}")
    found = Survey(good=good, bad=bad, kinds=dict(kinds.most_common()))
    if bad and not (skip_bad and good):
        raise ValueError(f"{matched.place}: {bad_text(found)}")
    return found


def bad_text(found: Survey) -> str:
    """How many of the videos are bad, the reasons, and what to do."""
    reasons = [why for _, why in found.bad[:NAMED]]
    if len(found.bad) > NAMED:
        reasons.append(f"and {len(found.bad) - NAMED} more")
    advice = "fix them, or leave them out with --skip-bad" if found.good else "fix them"
    n, n_all = len(found.bad), len(found.bad) + len(found.good)
    return "\n  ".join((f"{n} of {n_all} videos cannot be used: {advice}", *reasons))
