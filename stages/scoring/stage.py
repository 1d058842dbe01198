"""Any model's videos of a store's clips -> scores beside those of copying the first frame.

Files of the result: `metrics.md` (to read), `metrics.csv` and `metrics.json` (means),
`tables/clips.csv` (every clip and seed), `tables/frames.csv` (every frame), `tables/objects.csv`
(every object in every frame, where there is a truth), `videos.png` (the best clip, the median one
and the worst), `videos/` (each clip's first video at the clip's times and size, to look at).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Interval

from model.training.device import DeviceName, pick_device
from model.value_range import ValueRange
from stages.base import DatasetStage, InputResults, InputRows, Inputs, Progress, Resources
from stages.depth.stage import DepthAnnotator
from stages.drawing.pictures import png_bytes, write_mp4
from stages.evaluation.columns import METHODS, in_order, mean_scores
from stages.evaluation.estimated_depth import EstimatedDepth, check_depth_annotator
from stages.evaluation.fvd import Fvd
from stages.evaluation.objects import objects_csv
from stages.evaluation.scores import COPY, FREE, copy_first
from stages.evaluation.tables import (
    CLIPS_FILE,
    FRAMES_FILE,
    MEANS_FILE,
    VIDEOS,
    episode_names,
    metrics_csv,
    metrics_json,
)
from stages.lpips_weights import LpipsWeights
from stages.objects.true_objects import clip_objects
from stages.scoring.matching import match
from stages.scoring.pictures import Shown, extremes, picture_page
from stages.scoring.reader import VideoReader
from stages.scoring.report import metrics_page, report_numbers
from stages.scoring.scores import ScoredClip, Target, score_clip
from stages.scoring.setting import setting_of
from stages.scoring.survey import Survey, survey
from stages.scoring.tables import clips_csv, frames_csv
from stages.scoring.videos import VideoFile, VideoSet
from stages.tokenizer.images import images_to_rgb, rgb_to_images
from storage.atomic import write_file
from storage.stores.results import ResultWriter
from storage.stores.rows import Rows
from storage.stores.size import DiskUse
from storage.weights.ref import WeightsRef

CLIP_BYTES = 400_000  # of a clip's lines in the tables, and its video
PAGE_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Score(DatasetStage):
    """Scores videos by those of the evaluation's measures that need only frames: free-running,
    against the camera's.
    """

    method: str  # what the tables call the model
    # The digest says which videos they are, wherever they are stored
    videos: VideoSet = field(metadata={"key": ("digest",)})
    # Of the clips' frames, which the store of clips says, too
    rate_hz: Annotated[float, Interval(gt=0, le=1000)]
    # Frames per second of the videos, in place of what their files say
    video_rate_hz: Annotated[float, Interval(gt=0, le=10_000)] | None = None
    value_range: ValueRange | None = None  # of videos in floats: black and white
    skip_bad: bool = False  # scores the others; else a video that cannot be used is an error
    lpips: LpipsWeights | None = None
    # I3D, for FVD; an annotator that is run on the videos, for the depth that they seem to have
    fvd: WeightsRef | None = field(default=None, metadata={"added": True})
    depth_annotator: DepthAnnotator | None = field(default=None, metadata={"added": True})
    # Where the episodes are, with or without `ground_truth`; None: objects are not looked for
    root: str | None = field(default=None, metadata={"key": False})
    device: DeviceName | None = field(default=None, metadata={"key": False})
    resources: Resources = field(
        default=Resources(cpus=2.0, memory_gb=2.0), metadata={"key": False}
    )

    name: ClassVar[str] = "scoring"
    version: ClassVar[int] = 1
    inputs: ClassVar[Inputs] = {
        "discover": ("task", "episode", "split"),
        "clip": ("rgb", "frame_index"),
    }

    def __post_init__(self) -> None:
        if self.depth_annotator:
            check_depth_annotator(self.depth_annotator)
        if not self.method.strip() or self.method in METHODS:
            raise ValueError(
                f"name {self.method!r}: expected a name of the model that is none of "
                f"{', '.join(map(repr, METHODS))}, which the tables have already"
            )
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ValueError(
                f"value range {self.value_range}: expected the value of black, then of white"
            )

    @property
    def attributes(self) -> Mapping[str, str]:
        return {"videos": f"{self.videos.place}, {len(self.videos)} of them"}

    def disk_use(self, n_clips: int) -> DiskUse:
        return DiskUse(
            kept=PAGE_BYTES + CLIP_BYTES * len(self.videos), inodes=40 + len(self.videos)
        )

    def method_of(self, video: VideoFile) -> str:
        return f"{self.method}, {video.variant}" if video.variant else self.method

    def run(
        self, rows: InputRows, results: InputResults, out: ResultWriter, progress: Progress
    ) -> dict[str, float]:
        # What can be scored, before anything is
        matched = match(self.videos, rows)
        reader = VideoReader(
            clips=rows["clip"],
            rate_hz=self.rate_hz,
            video_rate_hz=self.video_rate_hz,
            value_range=self.value_range,
        )
        surveyed = survey(matched, reader, progress, skip_bad=self.skip_bad)
        fvd = Fvd.start(self.fvd, rows, pick_device(self.device))
        clips = self.score(surveyed, rows, reader, fvd, out, progress)
        # Write the tables, then the pictures
        means = in_order(
            mean_scores([clip.scores for clip in clips]) | (fvd.scores() if fvd else {})
        )
        setting = setting_of(
            self.method, self.method_of, str(self.videos.place), matched, surveyed, clips, reader,
            has_lpips=self.lpips is not None,
            has_fvd=fvd is not None,
            depth_estimator=self.depth_annotator.name if self.depth_annotator else "",
            has_episodes=self.root is not None and Path(self.root).is_dir(),
        )  # fmt: skip
        numbers = report_numbers(means, clips, setting)
        write_file(out.path / "metrics.md", metrics_page(means, clips, setting).encode())
        write_file(out.path / MEANS_FILE, metrics_csv(means))
        write_file(out.path / "metrics.json", metrics_json(self, setting, numbers, means))
        write_file(out.path / CLIPS_FILE, clips_csv(clips))
        write_file(out.path / FRAMES_FILE, frames_csv(clips))
        watched = {clip.clip_id: clip.watched for clip in clips if clip.watched}
        if watched:
            write_file(out.path / "tables" / "objects.csv", objects_csv(watched))
        self.draw(out, clips, surveyed, reader)
        return numbers

    def score(
        self,
        found: Survey,
        rows: Mapping[str, Rows],
        reader: VideoReader,
        fvd: Fvd | None,
        out: ResultWriter,
        progress: Progress,
    ) -> list[ScoredClip]:
        """Scores every clip, writes its first video, and adds its videos to `fvd`."""
        device = pick_device(self.device)
        perceptual = self.lpips.load(device) if self.lpips else None
        depth = EstimatedDepth(self.depth_annotator, device) if self.depth_annotator else None
        clips: list[ScoredClip] = []
        by_row = found.by_row
        progress(0, len(by_row), "scoring")
        for row, videos in by_row.items():
            target = self.target(rows, row)
            images = {video: reader.images(video) for video in videos}
            methods = {video: self.method_of(video) for video in videos}
            clips.append(score_clip(target, images, methods, perceptual, depth))
            if fvd:
                of_video = [((FREE,), methods[video], images[video]) for video in videos]
                copied = ((FREE,), COPY, copy_first(target.camera))
                fvd.add(target.camera, [*of_video, copied])
            shown = images_to_rgb(images[videos[0]])
            write_mp4(out.path / VIDEOS / f"{target.clip_id}.mp4", shown, self.rate_hz)
            progress(len(clips), len(by_row), f"clip {target.clip_id}")
        return clips

    def target(self, rows: Mapping[str, Rows], row: int) -> Target:
        camera = rgb_to_images(rows["clip"].read(["rgb"], row)["rgb"])
        root = Path(self.root) if self.root else None
        return Target(
            clip_id=rows["clip"].clip_ids[row],
            episode=episode_names(rows["discover"], np.array([row]))[0],
            camera=camera,
            objects=clip_objects(rows, row, root, (camera.shape[-2], camera.shape[-1])),
        )

    def draw(
        self, out: ResultWriter, clips: list[ScoredClip], found: Survey, reader: VideoReader
    ) -> None:
        """The clips of the highest, the median and the lowest PSNR, by their first video."""
        row_of = {reader.clips.clip_ids[row]: row for row in found.by_row}
        method, shown = self.method_of(clips[0].videos[0].video), list[Shown]()
        for label, clip in extremes(clips, method):
            drawn = next(v for v in clip.videos if self.method_of(v.video) == method)
            each = Shown(
                label=label,
                clip=clip,
                drawn=drawn,
                camera=reader.clips.read(["rgb"], row_of[clip.clip_id])["rgb"],
                images=reader.images(drawn.video),
            )
            shown.append(each)
        write_file(out.path / "videos.png", png_bytes(picture_page(shown, self.rate_hz)))
