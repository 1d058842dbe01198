"""Videos scored by networks: I3D from the weights folder, a depth annotator by name."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from brightness_depth import Brightness
from scored_videos import RATE_HZ, frames_of, warped, write_movie, write_store
from small_stores import run_stage
from tiny_i3d import write_script

from model.frechet import frechet_distance
from model.i3d import I3d
from model.value_range import IMAGES
from stages.depth.sensor import SensorDepth
from stages.evaluation.estimated_depth import FOUND
from stages.evaluation.scores import CAMERA, COPY, ESTIMATED_DEPTH, FRAME, FREE, Cell
from stages.scoring.reader import VideoReader
from stages.scoring.stage import Score
from stages.scoring.videos import read_video_set
from stages.tokenizer.images import rgb_to_images
from storage.stores.results import Result
from storage.stores.rows import open_rows
from storage.weights.ref import WeightsRef


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("networks")
    rows = write_store(root / "workspace")
    for row, shift in ((0, 2.0), (1, 4.0)):
        write_movie(root / "v" / f"clip00{row}.mp4", warped(frames_of(row), shift))
    return root, rows


def score(world, place: Path | None = None, **changes) -> Result:
    root, rows = world
    videos = read_video_set(place or root / "v")
    stage = Score(method="mine", videos=videos, rate_hz=RATE_HZ, **changes)
    return run_stage(root / "workspace", stage, rows)


def values(result: Result, method: str, metric: str) -> dict[str, float]:
    cell = Cell(FREE, ESTIMATED_DEPTH, FRAME, method, metric)
    with result.file("tables/clips.csv").open(newline="") as file:
        return {
            row["clip"]: float(row["value"])
            for row in csv.DictReader(file)
            if Cell(**{k: row[k] for k in Cell._fields}) == cell
        }


def test_the_depth_that_videos_seem_to_have(world):
    plain, result = score(world), score(world, depth_annotator=Brightness())
    ours, copied = (values(result, who, "abs_rel") for who in ("mine", COPY))
    assert ours.keys() == copied.keys() == {"clip000", "clip001"}
    # The copy of frame 0, by hand: the annotator sees 0.2 + grey / 64
    frames = open_rows(world[1]["clip"]).read(("rgb",), 0)["rgb"]
    grey = frames.mean(axis=3)
    known = (grey >= 3) & (grey <= 250)
    depth, first = 1 / (0.2 + grey / 64), 1 / (0.2 + grey[0] / 64)
    both = known[1:] & known[0]
    expected = (np.abs(first - depth[1:]) / depth[1:])[both].mean()
    assert copied["clip000"] == pytest.approx(expected, rel=0.02)
    page = result.file("metrics.md").read_text()
    assert "against the estimated depth (of the camera frames, by brightness)" in page
    assert (
        "Depth was not estimated: `--depth-annotator vda-tiny`"
        in plain.file("metrics.md").read_text()
    )
    assert values(plain, "mine", "abs_rel") == {}


def test_a_video_without_a_depth_takes_its_clip_out_for_all(world, tmp_path):
    write_movie(tmp_path / "v" / "clip000.mp4", np.zeros_like(frames_of(0)))
    write_movie(tmp_path / "v" / "clip001.mp4", warped(frames_of(1), 2.0))
    result = score(world, tmp_path / "v", depth_annotator=Brightness())
    assert values(result, "mine", FOUND) == {"clip000": 0, "clip001": 1}
    for who in ("mine", COPY):
        assert values(result, who, "abs_rel").keys() == {"clip001"}


def test_an_annotator_of_recordings_is_refused(world):
    with pytest.raises(ValueError, match="which a predicted video has not"):
        score(world, depth_annotator=SensorDepth(root=""))


def test_fvd_of_the_videos_as_a_set(world, tmp_path):
    weights = WeightsRef.of(write_script(tmp_path / "i3d.pt"), name="i3d-kinetics400")
    root, rows = world
    result = score(world, fvd=weights)
    network = I3d(weights.resolve())
    reader = VideoReader(
        clips=open_rows(rows["clip"]), rate_hz=RATE_HZ, video_rate_hz=None, value_range=None
    )
    ours = torch.stack([reader.images(video)[1:] for video in read_video_set(root / "v").videos])
    camera = [rgb_to_images(reader.clips.read(["rgb"], row)["rgb"])[1:] for row in (0, 1)]
    expected = frechet_distance(
        network(ours, value_range=IMAGES), network(torch.stack(camera), value_range=IMAGES)
    )
    assert result.numbers["fvd_free"] == pytest.approx(expected, rel=1e-3)
    assert result.numbers["fvd_copy"] > 0
    assert f"{FREE},{CAMERA},{FRAME},mine,fvd," in result.file("metrics.csv").read_text()
