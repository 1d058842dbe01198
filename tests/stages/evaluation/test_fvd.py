"""FVD of the methods' videos, as a set, and its column in the tables."""

from dataclasses import replace

import pytest
import torch
from small_world import World, make_world
from tiny_i3d import write_script

from model.frechet import frechet_distance
from model.i3d import I3d
from model.value_range import IMAGES
from stages.evaluation.fvd import Fvd, check_length, fvd_note
from stages.evaluation.scores import (
    CAMERA,
    CEILING,
    COPY,
    FRAME,
    FREE,
    LINEAR,
    MODEL,
    PREVIOUS,
    TEACHER,
    Cell,
    ClipVideos,
    candidates,
)
from stages.evaluation.stage import Evaluate
from storage.stores.key import parameters
from storage.weights.ref import WeightsRef


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> WeightsRef:
    folder = tmp_path_factory.mktemp("weights")
    return WeightsRef.of(write_script(folder / "i3d_torchscript.pt"), name="i3d-kinetics400")


def clips(n: int = 5) -> list[ClipVideos]:
    noise = torch.Generator().manual_seed(0)
    found = []
    for i in range(n):
        camera = torch.rand(12, 3, 16, 16, generator=noise) - 0.5
        free = (camera + 0.1 * torch.randn(1, 3, 1, 1, generator=noise)).clamp(-1, 1)
        found.append(
            ClipVideos(
                clip_id=f"{i}", camera=camera, decoded=camera * 0.9, depth=None,
                predicted={FREE: free, TEACHER: camera},
            )
        )  # fmt: skip
    return found


def scores_of(weights: WeightsRef, videos: list[ClipVideos]) -> dict[Cell, float]:
    fvd = Fvd(I3d(weights.resolve()))
    for clip in videos:
        fvd.add(clip.camera, candidates(clip, CAMERA))
    return fvd.scores()


def test_it_is_the_frechet_distance_to_the_cameras_videos(weights):
    found = scores_of(weights, clips())
    network = I3d(weights.resolve())
    ours, true = (
        network(torch.stack([video[1:] for video in videos]), value_range=IMAGES)
        for videos in ([c.predicted[FREE] for c in clips()], [c.camera for c in clips()])
    )
    expected = frechet_distance(ours, true)
    assert found[Cell(FREE, CAMERA, FRAME, MODEL, "fvd")] == pytest.approx(expected, rel=1e-3)
    assert found[Cell(TEACHER, CAMERA, FRAME, MODEL, "fvd")] == pytest.approx(0, abs=1e-4)
    assert expected > 0.01
    methods = {(cell.protocol, cell.method) for cell in found}
    both = {(protocol, m) for protocol in (FREE, TEACHER) for m in (MODEL, COPY, CEILING)}
    assert methods == both | {(TEACHER, PREVIOUS), (TEACHER, LINEAR)}


def test_frame_0_is_not_scored_and_one_clip_has_no_distance(weights):
    spoiled = [
        replace(clip, predicted={p: torch.cat([-v[:1], v[1:]]) for p, v in clip.predicted.items()})
        for clip in clips()
    ]
    assert scores_of(weights, spoiled) == scores_of(weights, clips())
    assert scores_of(weights, clips(1)) == {}


def test_short_clips_are_refused_before_anything_is_generated():
    with pytest.raises(ValueError, match=r"clips of 10 frames leave 9 .* evaluation.fvd=null"):
        check_length(10)
    check_length(11)


def test_the_note_warns_of_few_videos():
    assert "fewer than the 400 features" in fvd_note(True, 16) and "of 16 videos" in fvd_note(
        True, 16
    )
    assert "fewer than the 400" not in fvd_note(True, 2048)
    assert "FVD was not measured: no weights of I3D" in fvd_note(False, 16)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("fvd"))


def test_the_column_is_in_the_cameras_tables_and_says_where_weights_are_missing(
    world, weights, monkeypatch
):
    monkeypatch.setattr(Evaluate, "draw", lambda *arguments: None)
    result, plain = world.evaluate(fvd=weights), world.evaluate()
    text = result.file("metrics.md").read_text()
    assert result.numbers["fvd_free"] > 0 and result.numbers["fvd_copy"] > 0
    assert text.count("FVD ↓") == 2  # one for each protocol
    assert "of 3 videos" in text and "fvd" not in result.file("tables/clips.csv").read_text()
    assert "fvd" in result.file("metrics.csv").read_text()
    missing = plain.file("metrics.md").read_text()
    assert missing.count("FVD ↓") == 2 and "fvd_free" not in plain.numbers
    assert "FVD was not measured: no weights of I3D" in missing
    for name in ("psnr_free", "delta_psnr", "abs_rel"):
        assert result.numbers[name] == plain.numbers[name]
    assert parameters(Evaluate(fvd=None)) == parameters(Evaluate())
    moved = replace(weights, path="/elsewhere/i3d.pt")
    assert parameters(Evaluate(fvd=moved)) == parameters(Evaluate(fvd=weights))
