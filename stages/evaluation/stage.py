"""A trained world model on held-out clips -> metric tables and pictures.

Files of the result: `metrics.md` (to read), `metrics.csv` and `metrics.json` (means),
`tables/clips.csv` (every clip), `tables/objects.csv` (every object in every frame), `objects.png`
(the objects over the horizon), `rollout.png`, `rollout.gif` and `rollout.mp4` (true frames and
free-running predictions).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge
from jaxtyping import Int

from model.magvit2.batched import Precision
from model.training.device import DeviceName, pick_device
from model.world.config import SamplingConfig
from stages.annotation_frames import merged
from stages.base import DatasetStage, InputResults, InputRows, Inputs, Progress, Resources
from stages.batches import spread_rows
from stages.clip_choice import ChosenClips, choose_clips, needs_labels
from stages.clip_format import ClipFormat
from stages.depth.stage import DepthAnnotator
from stages.drawing.pictures import png_bytes, write_gif, write_mp4
from stages.evaluation.columns import in_order, mean_scores
from stages.evaluation.controls import ControlForms
from stages.evaluation.estimated_depth import EstimatedDepth, check_depth_annotator
from stages.evaluation.fvd import Fvd
from stages.evaluation.horizon import plot_horizon
from stages.evaluation.motion import MOTION_INPUTS, MotionScores, check_tracker
from stages.evaluation.numbers import report_numbers
from stages.evaluation.objects import objects_csv
from stages.evaluation.pictures import animate, picture_page
from stages.evaluation.predict import Networks, draw_others, load_networks, predicted_videos
from stages.evaluation.report import metrics_page
from stages.evaluation.scores import (
    CAMERA,
    FREE,
    ClipVideos,
    ScoredClip,
    Scores,
    candidates,
    scored,
)
from stages.evaluation.setting import Setting
from stages.evaluation.tables import (
    CLIPS_FILE,
    FRAMES_FILE,
    MEANS_FILE,
    VIDEOS,
    ClipNames,
    clips_csv,
    frames_csv,
    metrics_csv,
    metrics_json,
)
from stages.evaluation.true_depth import TrueDepthScores
from stages.flag_counts import counts_text, flag_counts
from stages.flags import all_flagged, check_names
from stages.keypoints.stage import KeypointAnnotator
from stages.label_quality.labels import AnnotatorInfo
from stages.lpips_weights import LpipsWeights
from stages.objects.true_objects import clip_objects
from stages.tokenizer.images import images_to_rgb
from storage.atomic import write_file
from storage.stores.results import ResultWriter
from storage.stores.rows import Rows
from storage.stores.size import DiskUse
from storage.weights.ref import WeightsRef

# Changes the numbers, since a batch draws its noise together
CLIPS_PER_BATCH = 4
PICTURE_BYTES = 3 << 20  # of a clip's row in picture, GIF and MP4
SHOWN_FPS = 4.0  # of the animations: clips at 2 Hz run twice as fast as life


@dataclass(frozen=True, kw_only=True)
class Evaluate(DatasetStage):
    """Scores teacher-forced and free-running predictions, with baselines and a ceiling.

    The baselines copy a frame, or carry motion on; the ceiling is what the tokenizer alone loses.
    The clips are held out unless `split` is `train`.
    """

    # Where the data set is, with or without `ground_truth`; None: no scores by exact truth
    root: str | None = field(default=None, metadata={"key": False})
    n_clips: Annotated[int, Ge(1)] = 16  # at most, spread evenly over the usable ones
    split: Literal["train", "val", "test"] = "val"
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: Annotated[int, Ge(0)] = 0
    n_pictures: Annotated[int, Ge(1)] = 3
    # For the times in pictures and tables
    clip_format: ClipFormat = field(default=ClipFormat(), metadata={"key": ("rate_hz",)})
    # Leaves out clips with one of these flags (`stages.flags`); the world model's, unless set
    drop_flags: tuple[str, ...] = field(default=(), metadata={"added": True})
    lpips: LpipsWeights | None = None
    # I3D, for FVD: "i3d-kinetics400"
    fvd: WeightsRef | None = field(default=None, metadata={"added": True})
    # Further forms of ΔPSNR (`stages.evaluation.controls`), off by default: each draw costs as much
    # as a prediction. Gaussian actions for each clip, of which HMA takes 5; actions held still;
    # the hands' movements turned round
    gaussian_draws: Annotated[int, Ge(0)] = field(default=0, metadata={"added": True})
    held_actions: bool = field(default=False, metadata={"added": True})
    mirrored_actions: bool = field(default=False, metadata={"added": True})
    # Run on predicted videos, by their names: "lucas-kanade", "vda-tiny". Off by default: they cost
    # as much as labels, for each method
    tracker: KeypointAnnotator | None = field(default=None, metadata={"added": True})
    depth_annotator: DepthAnnotator | None = field(default=None, metadata={"added": True})
    # Of world model and tokenizers; bfloat16 is for GPUs, and rounds the images that are scored
    precision: Precision = "float32"
    # None: a GPU where there is one
    device: DeviceName | None = field(default=None, metadata={"key": False})
    resources: Resources = field(
        default=Resources(cpus=2.0, memory_gb=4.0), metadata={"key": False}
    )

    name: ClassVar[str] = "evaluation"
    # 2: the number of cells masked again is rounded up; 3: free of float rounding; 4: objects;
    # 5: scores by frame and episode, predictions as videos; 6: ΔPSNR by frame, true depth
    version: ClassVar[int] = 6

    @property
    def inputs(self) -> Inputs:
        read: Inputs = {
            "discover": ("task", "episode", "split"),
            "clip": ("rgb", "actions", "frame_index", "flags"),
            "depth": ("inverse_depth", "valid", "inverse_depth_range"),
            "rgb_tokens": ("rgb_tokens",),
            "depth_tokens": ("depth_tokens",),
            "world_model": (),
            "rgb_tokenizer": (),
            "depth_tokenizer": (),
            **({"label_quality": ("flags",)} if needs_labels(self.drop_flags) else {}),
        }
        return merged(read, MOTION_INPUTS) if self.tracker else read

    def disk_use(self, n_clips: int) -> DiskUse:
        n, per_clip = min(self.n_clips, n_clips), 400_000  # numbers of frames and objects, a video
        return DiskUse(kept=PICTURE_BYTES * self.n_pictures + per_clip * n, inodes=40 + n)

    def __post_init__(self) -> None:
        check_names("evaluation.drop_flags", self.drop_flags)
        if self.tracker:
            check_tracker(self.tracker)
        if self.depth_annotator:
            check_depth_annotator(self.depth_annotator)
        if self.n_clips < 1 or self.n_pictures < 1:
            raise ValueError(
                f"n_clips={self.n_clips}, n_pictures={self.n_pictures}: expected 1 or more"
            )
        if self.gaussian_draws < 0:
            raise ValueError(f"gaussian_draws={self.gaussian_draws}: expected 0 or more")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision={self.precision!r}: expected 'float32' or 'bfloat16'")

    def run(
        self, rows: InputRows, results: InputResults, out: ResultWriter, progress: Progress
    ) -> dict[str, float]:
        # Generate and score
        candidates = choose_clips(rows, self.split, self.drop_flags)
        usable = candidates.rows
        if len(usable) == 0:
            raise ValueError(
                f"all {candidates.n_usable} clips of split {self.split} are flagged: "
                f"{counts_text(candidates.dropped)}. Name fewer evaluation.drop_flags"
            )
        chosen = spread_rows(usable, self.n_clips)
        others = draw_others(usable, chosen, self.seed) if len(usable) > 1 else None
        networks = load_networks(rows, results, pick_device(self.device), self.precision)
        fvd = Fvd.start(self.fvd, rows, networks.device)
        clips, shown = self.score(networks, rows, chosen, others, fvd, out, progress)
        # Write the tables, then the pictures
        per_clip = [clip.scores for clip in clips]
        means = in_order(mean_scores(per_clip) | (fvd.scores() if fvd else {}))
        numbers = report_numbers(means, len(chosen))
        setting = self.setting(rows, networks, chosen, candidates)
        names = ClipNames.of(rows, chosen, others)
        write_file(out.path / "metrics.md", metrics_page(means, clips, setting).encode())
        write_file(out.path / MEANS_FILE, metrics_csv(means))
        write_file(out.path / "metrics.json", metrics_json(self, setting, numbers, means))
        write_file(out.path / CLIPS_FILE, clips_csv(names, clips))
        write_file(out.path / FRAMES_FILE, frames_csv(names, clips))
        watched = {clip.clip_id: clip.watched for clip in clips if clip.watched}
        if watched:
            write_file(out.path / "tables" / "objects.csv", objects_csv(watched))
            picture = plot_horizon(list(watched.values()), setting.n_frames, setting.rate_hz)
            write_file(out.path / "objects.png", picture)
        self.draw(out, [clip for _, clip in shown], [per_clip[i] for i, _ in shown])
        return numbers

    def score(
        self,
        networks: Networks,
        rows: Mapping[str, Rows],
        chosen: Int[np.ndarray, " n"],
        others: Int[np.ndarray, " n"] | None,
        fvd: Fvd | None,
        out: ResultWriter,
        progress: Progress,
    ) -> tuple[list[ScoredClip], list[tuple[int, ClipVideos]]]:
        """Scores of all chosen clips, and (index, videos) of those to show.

        Also writes each free-running prediction, its given frame first, and adds the videos to
        `fvd`.
        """
        perceptual = self.lpips.load(networks.device) if self.lpips else None
        more = self.further_scores(rows, networks.device)
        pictured = set(spread_rows(np.arange(len(chosen)), self.n_pictures).tolist())
        clips: list[ScoredClip] = []
        root = Path(self.root) if self.root else None
        shown: list[tuple[int, ClipVideos]] = []
        progress(0, len(chosen), "generating")
        for number, start in enumerate(range(0, len(chosen), CLIPS_PER_BATCH)):
            part = slice(start, start + CLIPS_PER_BATCH)
            other = None if others is None else others[part]
            for clip in predicted_videos(
                networks,
                rows,
                chosen[part],
                other,
                self.sampling,
                self.seed,
                number,
                forms=self.forms,
            ):
                row, size = int(chosen[len(clips)]), (clip.camera.shape[-2], clip.camera.shape[-1])
                clip = replace(clip, objects=clip_objects(rows, row, root, size))
                if len(clips) in pictured:
                    shown.append((len(clips), clip))
                clips.append(scored(clip, perceptual, [scores(clip, row) for scores in more]))
                if fvd:
                    fvd.add(clip.camera, candidates(clip, CAMERA))
                frames = images_to_rgb(clip.predicted[FREE])
                write_mp4(
                    out.path / VIDEOS / f"{clip.clip_id}.mp4", frames, self.clip_format.rate_hz
                )
                progress(len(clips), len(chosen), f"clip {clip.clip_id}")
        return clips, shown

    @property
    def forms(self) -> ControlForms:
        return ControlForms(
            gaussian_draws=self.gaussian_draws,
            held=self.held_actions,
            mirrored=self.mirrored_actions,
        )

    def further_scores(
        self, rows: Mapping[str, Rows], device: torch.device
    ) -> list[Callable[[ClipVideos, int], Scores]]:
        """What scores the videos of a clip in a row by annotators that are on, and by the truth."""
        found: list[Callable[[ClipVideos, int], Scores]] = []
        if self.depth_annotator:
            depth = EstimatedDepth(self.depth_annotator, device)
            found.append(
                lambda clip, row: depth(clip.clip_id, clip.camera, candidates(clip, CAMERA))
            )
        if self.tracker:
            found.append(MotionScores(rows, self.tracker, device))
        if self.root:
            found.append(TrueDepthScores(rows, Path(self.root)))
        return found

    def setting(
        self,
        rows: Mapping[str, Rows],
        networks: Networks,
        chosen: Int[np.ndarray, " n"],
        candidates: ChosenClips,
    ) -> Setting:
        annotator, how = AnnotatorInfo.of(rows["depth"]), self.sampling
        return Setting(
            split=self.split,
            n_clips=len(chosen),
            n_usable=len(candidates.rows),
            flagged=counts_text(flag_counts(all_flagged(rows, chosen))),
            dropped=counts_text(candidates.dropped),
            rate_hz=self.clip_format.rate_hz,
            n_frames=rows["clip"].spec("rgb").shape[0],
            has_lpips=self.lpips is not None,
            has_fvd=self.fvd is not None,
            has_depth=networks.has_depth,
            depth_annotator=annotator.name + annotator.caveat,
            depth_units=annotator.units,
            depth_estimator=self.depth_annotator.name if self.depth_annotator else "",
            tracks_annotator=tracks_annotator(rows),
            tracker=self.tracker.name if self.tracker else "",
            sampling=(
                f"{how.n_steps} MaskGIT steps a frame, temperature {how.temperature:g}, "
                f"{how.order} order, {self.precision}"
            ),
            seed=self.seed,
            gaussian_draws=self.gaussian_draws,
            held_actions=self.held_actions,
            mirrored_actions=self.mirrored_actions,
        )

    def draw(self, out: ResultWriter, clips: list[ClipVideos], scores: list[Scores]) -> None:
        page = picture_page(clips, scores, self.clip_format.rate_hz)
        write_file(out.path / "rollout.png", png_bytes(page))
        frames = animate(clips, self.clip_format.rate_hz)
        write_gif(out.path / "rollout.gif", frames, SHOWN_FPS)
        write_mp4(out.path / "rollout.mp4", frames, SHOWN_FPS)


def tracks_annotator(rows: Mapping[str, Rows]) -> str:
    """Who made the true tracks, and what a reader must know of it; empty where none are read."""
    if "keypoints" not in rows:
        return ""
    annotator = AnnotatorInfo.of(rows["keypoints"])
    return annotator.name + annotator.caveat
