"""`roboscape score`: the videos of any model, against the clips that they are of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from model.value_range import ValueRange
from pipeline.cli.clips import clips_of
from pipeline.cli.progress_bar import progress_bar
from pipeline.cli.run import SHOWN, SUMMARY_FILE, first_paragraph
from pipeline.experiments.annotators import depth_annotator
from pipeline.lineage.clips import episodes_root
from pipeline.orchestration.command_store import make_result, publish_page
from pipeline.settings import Settings
from stages.clip_format import ClipFormat
from stages.depth.stage import DepthAnnotator
from stages.lpips_weights import LpipsWeights
from stages.scoring.stage import Score
from stages.scoring.videos import read_video_set
from storage.stores.results import Result
from storage.stores.rows import ClipRows
from storage.weights.catalogue import find_published
from storage.weights.folder import resolve_weights
from storage.weights.ref import WeightsRef

I3D = "i3d-kinetics400"
LPIPS = {"trunk": "lpips-alexnet", "linear": "lpips-linear"}
WHY = {
    "bad": "videos cannot be used",
    "no_clip": "videos are of no clip",
    "no_video": "clips have no video",
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """Arguments of the command."""

    videos: Path
    clips: str
    name: str
    rate_hz: float | None = None
    value_range: ValueRange | None = None
    skip_bad: bool = False
    depth_annotator: str | None = None
    device: str | None = None


def score(request: Request, settings: Settings, out: Console) -> Result:
    """Makes a store of the videos' scores, prints its summary, and publishes its page.

    Raises LookupError for a store that is not there, ValueError for videos that cannot be scored,
    WeightsError for files of LPIPS that are damaged.
    """
    clips = clips_of(request.clips, settings)
    root = episodes_root(clips)
    stage = Score(
        method=request.name,
        videos=read_video_set(request.videos),
        rate_hz=clips.rate_hz,
        video_rate_hz=request.rate_hz,
        value_range=request.value_range,
        skip_bad=request.skip_bad,
        lpips=lpips_if_there(settings.weights),
        fvd=fvd_if_there(settings.weights),
        depth_annotator=annotator_of(request, clips, settings),
        root=str(root) if root else None,
        device=request.device,  # type: ignore[arg-type]
    )
    inputs = {"discover": clips.index.ref, "clip": clips.ref}

    def say(text: str) -> None:
        out.print(text, markup=False)

    with progress_bar("score", out) as progress:
        result, made = make_result(stage, inputs, settings, "`roboscape score`", progress, say)
    show(result, out)
    say(publish_page(result.ref, settings, made=made))
    return result


def lpips_if_there(weights: Path) -> LpipsWeights | None:
    """LPIPS's two files from the folder of weights; None if one is missing.

    Raises WeightsError if they are there, but are not the published ones.
    """
    if not all(is_there(name, weights) for name in LPIPS.values()):
        return None
    files: dict[str, Any] = {role: resolve_weights(name, weights) for role, name in LPIPS.items()}
    return LpipsWeights(**files)


def fvd_if_there(weights: Path) -> WeightsRef | None:
    """I3D's file from the folder of weights. Raises WeightsError if it is another one."""
    return resolve_weights(I3D, weights) if is_there(I3D, weights) else None


def is_there(name: str, weights: Path) -> bool:
    return (weights / find_published(name).file).is_file()


def annotator_of(request: Request, clips: ClipRows, settings: Settings) -> DepthAnnotator | None:
    """The annotator to be run on the videos, by its name."""
    if request.depth_annotator is None:
        return None
    n_frames, side, _, _ = clips.spec("rgb").shape
    clip_format = ClipFormat(n_frames=n_frames, rate_hz=clips.rate_hz, size=side)
    root = str(episodes_root(clips) or "")
    return depth_annotator(request.depth_annotator, root, clip_format, 0.0, settings.weights)


def show(result: Result, out: Console) -> None:
    out.print(f"\n{first_paragraph(result.file(SUMMARY_FILE).read_text())}\n", markup=False)
    for number, what in WHY.items():
        if n := int(result.numbers[number]):
            out.print(f"  {n} {what}: the page names them", style="yellow", markup=False)
    for name in sorted(result.files):
        if name.endswith(SHOWN) and "/" not in name:
            out.print(f"  {result.file(name)}", markup=False)
    out.print(f"Store: {result.ref}", markup=False)
