"""What was scored and how, for the page, its numbers and `metrics.json`."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from stages.scoring.matching import Matched
from stages.scoring.reader import VideoReader
from stages.scoring.scores import ScoredClip
from stages.scoring.survey import Survey
from stages.scoring.videos import VideoFile


@dataclass(frozen=True, kw_only=True)
class ScoreSetting:
    """no_clip, bad: with the reasons. kinds: of videos, with their numbers."""

    method: str
    clips_of_method: Mapping[str, int]  # one, or one a variant
    place: str
    store: str
    times: str
    size: str
    splits: tuple[str, ...]
    n_clips_of_splits: int
    n_videos: int
    kinds: Mapping[str, int]
    no_clip: tuple[str, ...]
    no_video: tuple[str, ...]
    bad: tuple[str, ...]
    has_lpips: bool
    has_episodes: bool  # whether the folder was found that may have exact masks
    rate_given: float | None
    has_fvd: bool
    depth_estimator: str  # annotator that was run on the videos; empty if none was


def setting_of(
    method: str,
    method_of: Callable[[VideoFile], str],
    place: str,
    matched: Matched,
    found: Survey,
    clips: Sequence[ScoredClip],
    reader: VideoReader,
    has_lpips: bool,
    has_fvd: bool,
    depth_estimator: str,
    has_episodes: bool,
) -> ScoreSetting:
    height, width = reader.size
    counts = Counter(
        name for clip in clips for name in dict.fromkeys(method_of(v.video) for v in clip.videos)
    )
    return ScoreSetting(
        method=method,
        clips_of_method=dict(counts),
        place=place,
        store=str(reader.clips.ref),
        times=str(reader.times),
        size=f"{width} x {height} px",
        splits=tuple(matched.splits),
        n_clips_of_splits=matched.n_clips,
        n_videos=len(found.good),
        kinds=found.kinds,
        no_clip=tuple(f"{video}: {why}" for video, why in matched.no_clip),
        no_video=tuple(matched.no_video),
        bad=tuple(why for _, why in found.bad),
        has_lpips=has_lpips,
        has_fvd=has_fvd,
        depth_estimator=depth_estimator,
        has_episodes=has_episodes,
        rate_given=reader.video_rate_hz,
    )
