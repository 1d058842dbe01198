import csv
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from label_clips import T, box_truth, one_clip
from PIL import Image
from small_stores import opened, run_stage

from simulation.ground_truth import GroundTruth, truth_beside, write_ground_truth
from stages.base import DatasetStage
from stages.clip_format import ClipFormat
from stages.depth.sensor import SensorDepth
from stages.depth.stage import PseudoDepth
from stages.exact_labels import true_depth, true_tracks
from stages.keypoints.lucas_kanade import LucasKanade
from stages.keypoints.stage import Keypoints, grid_queries
from stages.label_quality.labels import LABEL_ARRAYS, AnnotatorInfo
from stages.label_quality.report import report
from stages.label_quality.score_stage import ScoreLabels, measured_means
from stages.label_quality.stage import LabelQuality
from stages.label_quality.truth_scores import (
    LabelledClip,
    score_depth_labels,
    score_labels,
    score_track_labels,
    true_labels,
)
from storage.stores import store
from storage.stores.key import content_key, parameters
from storage.stores.records import Manifest, Reject, StoreRef
from storage.stores.results import open_writer
from storage.stores.spec import ArraySpec

SIDE = 32
SIZE = (SIDE, SIDE)
FRAMES = np.arange(T) * 2
QUALITY = LabelQuality(max_repeated_frames=T)  # pictures made by code may be twice the same
STAND_INS = {
    "clip": {},
    "depth": {"annotator": "sensor", "stand_in_for": "Video Depth Anything"},
    "keypoints": {"annotator": "lucas-kanade", "stand_in_for": "SpatialTracker"},
}


@pytest.fixture(scope="module")
def truth() -> GroundTruth:
    return box_truth()


def labelled(truth: GroundTruth, **changes) -> LabelledClip:
    """A clip of the moving plate whose labels are exactly right."""
    depth, known = true_depth(truth, FRAMES, SIZE)
    points = true_tracks(truth, FRAMES, grid_queries(8, SIZE), SIZE)
    inverse = 1 / depth
    arrays = dict(
        rgb=np.repeat((120 * inverse).astype(np.uint8)[..., None], 3, axis=-1),
        frame_index=FRAMES,
        inverse_depth=inverse.astype(np.float16),
        valid=known,
        inverse_depth_range=np.array([0.45, 1.05], np.float32),
        tracks=points.tracks,
        visible=points.visible,
    )
    return LabelledClip(clip_id="c", task=1, episode=2, split="val", **(arrays | changes))


# -- the truth itself ------------------------------------------------------------------------------


def test_true_tracks_start_at_their_queries(truth):
    queries = grid_queries(10, SIZE)
    found = true_tracks(truth, FRAMES, queries, SIZE)
    np.testing.assert_allclose(found.tracks[0], queries, atol=1e-4)
    assert found.visible[0].all() and found.known.all()


def test_points_of_the_wall_stay_and_points_of_the_plate_move_as_far_as_it_does(truth):
    found = true_tracks(truth, FRAMES, grid_queries(32, SIZE), SIZE)
    moved = found.tracks[-1] - found.tracks[0]
    on_plate = moved[:, 0] > 1
    # 0.3 m at 1 m and fx = 40 px is 12 px of the source's 64, so 6 of the clip's 32
    np.testing.assert_allclose(moved[on_plate], [[6, 0]] * on_plate.sum(), atol=1e-3)
    np.testing.assert_allclose(moved[~on_plate], 0, atol=1e-4)
    x, y = found.tracks[0][
        on_plate
    ].T  # the plate: 0.24 m around -0.3 m, so 4.8 px wide (and 6.4 px high) around 9.5
    assert np.ptp(x) <= 4.8 and np.ptp(y) <= 6.4 and on_plate.sum() >= 20


def test_the_plate_hides_the_wall_while_it_passes(truth):
    queries = np.array([[15.5, 15.5], [15.5, 2.0]], np.float32)  # in its way, and above
    frames = np.arange(0, 40)
    found = true_tracks(truth, frames, queries, SIZE)
    # In m, at 1 m; the point's ray passes x = 0 there
    left, right = -0.42 + 0.01 * frames, -0.18 + 0.01 * frames
    hidden, free = (left < -0.03) & (right > 0.03), (left > 0.05) | (right < -0.05)
    assert not found.visible[hidden, 0].any() and found.visible[free, 0].all()
    assert found.visible[:, 1].all()
    assert hidden.any() and free[1:].any()


def test_a_turning_plate_turns_its_points():
    turning = box_truth(turn=0.05)
    queries = np.array([[15.5 + 4, 15.5]], np.float32)  # 8 source px right of the axis
    found = true_tracks(turning, FRAMES, queries, SIZE)
    angle = 0.05 * FRAMES
    source = (found.tracks[:, 0] + 0.5) * (2, 1.5) - 0.5
    radius = 8.0
    expected = np.stack([31.5 + radius * np.cos(angle), 23.5 + radius * np.sin(angle)], axis=1)
    # the query is at y = 23.5 of the source only up to its own half pixel
    np.testing.assert_allclose(source, expected + (source[0] - expected[0]), atol=0.3)
    assert found.visible.all()


def test_points_that_leave_the_frame_are_not_visible():
    fast = box_truth(step_m=0.05)
    found = true_tracks(fast, FRAMES, grid_queries(32, SIZE), SIZE)
    x = found.tracks[..., 0]
    assert (x > SIDE).any() and not found.visible[(x < -0.5) | (x >= SIDE)].any()


def test_true_depth_is_what_is_seen(truth):
    depth, known = true_depth(truth, FRAMES, SIZE)
    assert known.all() and set(np.unique(depth)) == {1.0, 2.0}
    same, _ = true_depth(truth, FRAMES, truth.depth_m.shape[1:])
    np.testing.assert_array_equal(same, truth.depth_m[FRAMES])


def test_truth_of_another_video_is_refused(truth):
    clip = labelled(truth, frame_index=FRAMES + 20)
    with pytest.raises(
        ValueError, match="clip c of episode 1/2 uses frame 50, its true labels have 40 frames"
    ):
        true_labels(clip, truth)


# -- numbers of one clip ---------------------------------------------------------------------------


def test_right_labels_score_best(truth):
    clip = labelled(truth)
    scores = score_labels(clip, true_labels(clip, truth), is_metric=True)
    assert scores["abs_rel"] < 1e-3 and scores["abs_rel_aligned"] < 1e-3  # float16
    for name in (
        "delta1",
        "delta1_aligned",
        "average_jaccard",
        "position_accuracy",
        "occlusion_accuracy",
    ):
        assert scores[name] == 1, name
    for name in ("average_jaccard", "position_accuracy", "occlusion_accuracy"):
        assert scores[f"{name}_moving"] == 1
    for name in ("average_jaccard", "position_accuracy"):
        assert scores[f"{name}_moving_if_still"] < scores[f"{name}_if_still"] < 1
    assert 0 < scores["moving_points"] < 0.2 and scores["active_truly_moving"] == 1


def test_only_alignment_forgives_a_wrong_scale(truth):
    clip = labelled(truth)
    depth, known = true_depth(truth, FRAMES, SIZE)
    scores = score_depth_labels(
        2 * clip.inverse_depth + np.float16(0.25), clip.valid, depth, known, is_metric=True
    )
    assert scores["abs_rel"] > 0.3 and scores["delta1"] == 0
    assert scores["abs_rel_aligned"] < 2e-3 and scores["delta1_aligned"] == 1


def test_a_relative_depth_has_no_raw_score(truth):
    clip = labelled(truth)
    scores = score_labels(clip, true_labels(clip, truth), is_metric=False)
    assert "abs_rel" not in scores and "delta1" not in scores and "abs_rel_aligned" in scores


def test_only_pixels_that_both_know_count(truth):
    clip = labelled(truth)
    depth, known = true_depth(truth, FRAMES, SIZE)
    wrong, valid = clip.inverse_depth.copy(), clip.valid.copy()
    wrong[:, :5], valid[:, :5] = 0, False
    assert score_depth_labels(wrong, valid, depth, known, is_metric=True)["abs_rel"] < 1e-3
    depth[:, 5:9], known[:, 5:9] = 20, False
    assert score_depth_labels(wrong, valid, depth, known, is_metric=True)["abs_rel"] < 1e-3
    assert score_depth_labels(wrong, np.zeros_like(valid), depth, known, is_metric=True) == {}


def test_labels_that_never_move_score_as_the_report_says_beforehand(truth):
    right = labelled(truth)
    lazy = labelled(
        truth, tracks=np.repeat(right.tracks[:1], T, 0), visible=np.ones_like(right.visible)
    )
    scores = score_labels(lazy, true_labels(lazy, truth), is_metric=True)
    for name in ("average_jaccard", "position_accuracy", "occlusion_accuracy"):
        for which in ("", "_moving"):
            assert scores[f"{name}{which}"] == scores[f"{name}{which}_if_still"]
    assert scores["active_points"] == 0 and "active_truly_moving" not in scores


def test_a_clip_in_which_nothing_moves_has_no_score_of_moving_points():
    still = box_truth(step_m=0.0)
    clip = labelled(still)
    scores = score_labels(clip, true_labels(clip, still), is_metric=True)
    assert scores["average_jaccard"] == 1 and scores["moving_points"] == 0
    assert not [name for name in scores if "_moving" in name]


def test_a_moving_camera_moves_the_background_in_the_picture_but_not_in_the_world():
    """The wall, 2 m away, shifts by 0.2 px of the source a frame: 3 of the clip's 32 in all."""
    seen = box_truth(travel_m=-0.01)
    tracks = true_tracks(seen, FRAMES, grid_queries(16, SIZE), SIZE).tracks
    clip = labelled(seen, tracks=tracks, visible=np.ones(tracks.shape[:2], bool))
    labels = true_labels(clip, seen)
    scores = score_labels(clip, labels, is_metric=True, n_active=256)
    on_plate = (labels.points.geom == 1).mean()
    assert scores["moving_points"] == 1 and scores["moving_in_world"] == on_plate
    assert scores["active_points"] > 200 and scores["active_truly_moving"] == 1
    assert scores["active_on_background"] > 0.95 and scores["active_moving_in_world"] < 0.05
    # What the camera's motion explains is the wall
    assert scores["active_points_compensated"] == 256 * on_plate > 5
    assert scores["active_moving_in_world_compensated"] == 1
    assert scores["active_on_background_compensated"] == 0
    few = score_labels(clip, labels, is_metric=True, n_active=3)
    assert few["active_points"] == few["active_points_compensated"] == 3
    none = score_labels(clip, labels, is_metric=True, min_motion=0.9)
    assert none["active_points"] == 0 and "active_on_background" not in none


def test_with_a_still_camera_the_world_and_the_picture_move_alike(truth):
    clip = labelled(truth)
    scores = score_labels(clip, true_labels(clip, truth), is_metric=True)
    assert scores["moving_in_world"] == scores["moving_points"]
    for suffix in ("", "_compensated"):
        assert scores[f"active_moving_in_world{suffix}"] == scores[f"active_truly_moving{suffix}"]
        assert scores[f"active_on_background{suffix}"] == 0


def test_noise_lowers_the_scores_step_by_step(truth):
    rng = np.random.default_rng(0)
    clip = labelled(truth)
    labels = true_labels(clip, truth)
    noise = rng.standard_normal(clip.tracks.shape).astype(np.float32)
    noise[0] = 0
    found = [
        score_track_labels(clip.tracks + px * noise, clip.visible, labels.points, SIZE)[
            "average_jaccard"
        ]
        for px in (0.0, 0.1, 0.5, 2.0)
    ]
    assert found == sorted(found, reverse=True) and found[0] == 1 and found[-1] < 0.3


def test_means_skip_what_was_not_measured():
    table = [{"clip": "a", "task": 3, "x": 1.0}, {"clip": "b", "task": 4, "x": 3.0, "y": 5.0}]
    assert measured_means(table) == {"x": 2.0, "y": 5.0}


# -- the stage -------------------------------------------------------------------------------------


def write_store(
    index: StoreRef, stage: str, clips: list[LabelledClip], names: tuple[str, ...], rejected=()
) -> StoreRef:
    """The named arrays of these clips, with the attributes that the stages themselves write."""
    units = "1/m" if stage == "depth" else ""
    arrays = {name: np.stack([getattr(clip, name) for clip in clips]) for name in names}
    specs = tuple(
        ArraySpec(
            n, a.dtype.name, tuple(f"axis{i}" for i in range(a.ndim - 1)), a.shape[1:], units, ""
        )
        for n, a in arrays.items()
    )
    return write_arrays(index, stage, arrays, specs, rejected)


def write_arrays(
    index: StoreRef, stage: str, arrays: dict, specs: tuple[ArraySpec, ...], rejected=()
) -> StoreRef:
    n = len(arrays[specs[0].name])
    ref = StoreRef.at(index.root, stage, f"{n:04d}{len(rejected):04d}")
    manifest = Manifest(
        stage=stage, key=ref.key, kind="clips", version=1, inputs={}, specs=specs, n_clips=n,
        clips_per_shard=n, parameters=parameters(QUALITY) if stage == QUALITY.name else {},
        index_uri=index.uri, attributes=STAND_INS.get(stage, {}),
    )  # fmt: skip
    store.create(ref, manifest)
    lost = [
        Reject(row=r, clip_id=f"clip{r:03d}", reason="test", detail="", kind="rejected")
        for r in rejected
    ]
    store.commit(ref, store.write_part(ref, 0, arrays, lost, 0.0))
    store.seal(ref)
    return ref


def measured_quality(clip: LabelledClip) -> dict[str, np.ndarray]:
    arrays = {name: getattr(clip, name) for names in LABEL_ARRAYS.values() for name in names}
    return QUALITY.measure(**arrays, fb_error=np.zeros(clip.visible.shape, np.float32))


def stores(
    root: Path, clips: list[LabelledClip], rejected: tuple[int, ...] = ()
) -> dict[str, StoreRef]:
    index = new_result(root, "discover", [c.episode for c in clips], kind="index")
    writer = open_writer(index)
    columns = {"clip_id": [f"clip{i:03d}" for i in range(len(clips))]}
    columns |= {name: [getattr(c, name) for c in clips] for name in ("task", "episode", "split")}
    pq.write_table(pa.table(columns), writer.path / "index.parquet")
    writer.finish({})
    quality = [measured_quality(clip) for clip in clips]
    numbers = {spec.name: np.stack([one[spec.name] for one in quality]) for spec in QUALITY.outputs}
    return {
        "discover": index,
        "label_quality": write_arrays(index, QUALITY.name, numbers, QUALITY.outputs, rejected),
        "clip": write_store(index, "clip", clips, ("rgb", "frame_index")),
        "depth": write_store(
            index, "depth", clips, ("inverse_depth", "valid", "inverse_depth_range"), rejected
        ),
        "keypoints": write_store(index, "keypoints", clips, ("tracks", "visible")),
    }


def new_result(root: Path, stage: str, recipe: object, kind="result") -> StoreRef:
    ref = StoreRef.at(str(root), stage, content_key(recipe))
    store.create(
        ref, Manifest(stage=stage, key=ref.key, kind=kind, version=1, parameters={}, inputs={})
    )
    return ref


def score(root: Path, clips: list[LabelledClip], rejected: tuple[int, ...] = (), **fields):
    """The stage on real stores: its result, with the page, the numbers and the table."""
    inputs = stores(root / "stores", clips, rejected)
    result = run_stage(root / "stores", ScoreLabels(root=str(root), **fields), inputs)
    with result.file("label_scores.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    return (
        result,
        result.file("labels.md").read_text(),
        json.loads(result.file("scores.json").read_text()),
        table,
    )


def test_an_episode_that_is_made_again_is_read_again(tmp_path, truth):
    write_ground_truth(tmp_path / "ground_truth/1/2", truth)
    first = truth_beside(tmp_path, 1, 2)
    assert truth_beside(tmp_path, 1, 2) is first  # one read for the clips of an episode
    write_ground_truth(tmp_path / "ground_truth/1/2", truth)
    os.utime(tmp_path / "ground_truth/1/2/truth.npz", ns=(1, 1))
    assert truth_beside(tmp_path, 1, 2) is not first
    assert truth_beside(tmp_path, 1, 3) is None


def test_scores_stand_in_a_table_a_page_and_a_picture(tmp_path, truth):
    write_ground_truth(tmp_path / "ground_truth/1/2", truth)
    good = labelled(truth)
    lazy = replace(
        good, tracks=np.repeat(good.tracks[:1], T, 0), visible=np.ones_like(good.visible)
    )
    result, page, document, table = score(tmp_path, [good, lazy])
    assert result.numbers["clips"] == result.numbers["clips_with_truth"] == 2
    alone = score_labels(good, true_labels(good, truth), is_metric=True)
    lazily = score_labels(lazy, true_labels(lazy, truth), is_metric=True)
    for name in ("average_jaccard", "average_jaccard_moving", "abs_rel"):
        mean = (alone[name] + lazily[name]) / 2
        assert result.numbers[name] == pytest.approx(mean) and document["means"][
            name
        ] == pytest.approx(mean)
        assert [float(line[name]) for line in table] == pytest.approx(
            [alone[name], lazily[name]], abs=1e-5
        )
    assert [line["clip"] for line in table] == ["clip000", "clip001"] and table[0]["episode"] == "2"
    assert document["depth"] == {
        "name": "sensor",
        "units": "1/m",
        "stand_in_for": "Video Depth Anything",
        "exact": "",
        "spoiled": "",
    }
    assert "keypoints: **lucas-kanade**, a stand-in for SpatialTracker" in page
    assert f"| lucas-kanade, all points | {100 * result.numbers['average_jaccard']:.1f} |" in page
    assert "| if nothing moved, moving points |" in page and "| as it is |" in page
    assert "| compensate_camera=false | 1 | 100% | 100% | 0% |" in page
    assert "on the still background" in page and "| compensate_camera=true | 1 |" in page
    picture = np.array(Image.open(result.file("labels.png")))
    assert picture.shape[0] > 5 * 112 and picture.shape[1] > 2 * 3 * 112, (
        "two clips, side by side, of five rows"
    )


def test_stages_show_a_few_of_their_clips(tmp_path, truth):
    rows = opened(stores(tmp_path, [labelled(truth)] * 3))
    clips = ClipFormat(size=SIDE)
    depth = PseudoDepth(annotator=SensorDepth(root="", clip_format=clips), clip_format=clips)
    tracks = Keypoints(annotator=LucasKanade(), grid=8)
    for stage, cell_px in ((depth, 144), (tracks, 192)):
        one, two = (stage.preview(rows[stage.name], rows, picks) for picks in ([1], [0, 2]))
        assert one.shape[0] > cell_px and two.shape[0] == 2 * one.shape[0] and np.ptp(one) > 200
    alone = depth.preview(rows["depth"], {}, [1])
    assert alone.shape[0] < depth.preview(rows["depth"], rows, [1]).shape[0], (
        "no frames, no row of frames"
    )


def test_without_ground_truth_it_says_so_and_measures_nothing(tmp_path, truth):
    result, page, document, table = score(tmp_path, [labelled(truth)])
    quality = {
        name: float(value)
        for name, value in measured_quality(labelled(truth)).items()
        if name != "flags"
    }
    del quality["fb_error"]  # not measured
    assert result.numbers == {"clips": 1, "clips_with_truth": 0, "clips_flagged": 0, **quality}
    assert (
        "0 have exact ground truth" in page
        and "Without ground truth the accuracy of the labels is not known" in page
    )
    assert "AbsRel" not in page and "Jaccard" not in page
    assert document["clips_with_truth"] == 0
    assert set(table[0]) == {"clip", "task", "episode", "split", "flags", *quality}
    assert result.file("labels.png").stat().st_size > 1000


def test_clips_with_and_without_truth_are_counted_apart(tmp_path, truth):
    write_ground_truth(tmp_path / "ground_truth/1/2", truth)
    result, page, _, table = score(tmp_path, [labelled(truth), replace(labelled(truth), episode=3)])
    assert result.numbers["clips"] == 2 and result.numbers["clips_with_truth"] == 1
    assert result.numbers["average_jaccard"] == 1 and table[1]["average_jaccard"] == ""
    assert "2 clips looked at; 1 have exact ground truth" in page


def test_quality_of_all_clips_stands_in_the_page_whether_they_are_scored_or_not(tmp_path, truth):
    good = labelled(truth)
    flickers = np.where(np.arange(T) % 2, 1.2, 1.0)[:, None, None].astype(np.float16)
    bad = replace(good, inverse_depth=good.inverse_depth * flickers)
    gone = replace(good, visible=np.zeros_like(good.visible))
    clips = [good, replace(bad, visible=np.zeros_like(good.visible)), good, good, gone]
    result, page, document, table = score(tmp_path, clips, rejected=(2,), max_clips=1)
    assert document["clips_flagged"] == result.numbers["clips_flagged"] == 2 and len(table) == 1
    assert "4 clips, 2 of them flagged: flicker 1, depth_jump 1, tracks_hidden 2." in page
    assert f"| visible_share | {measured_share(truth) / 2:.0%} | 0% | `clip001` | 50% | 2 |" in page
    assert re.search(r"\| flicker \| 0\.\d\d% \| \d+\.\d\d% \| `clip001` \| 2\.00% \| 1 \|", page)
    assert "| fb_error | not measured |" in page
    lines = page.splitlines()
    most, fewer = (
        lines.index("| 1 | `clip001` | flicker, depth_jump, tracks_hidden |"),
        "| 4 | `clip004` | tracks_hidden |",
    )
    assert lines[most + 1] == fewer and "`clip002`" not in page


def test_flags_of_a_clip_stand_in_the_table(tmp_path, truth):
    gone = replace(labelled(truth), visible=np.zeros_like(labelled(truth).visible))
    _, page, _, table = score(tmp_path, [labelled(truth), gone])
    assert [line["flags"] for line in table] == ["", "tracks_hidden"]
    assert [float(line["visible_share"]) for line in table] == pytest.approx(
        [measured_share(truth), 0], abs=1e-5
    )
    assert (
        "flagged clip" in page
        and "flagged clip" not in score(tmp_path / "other", [labelled(truth)])[1]
    )


def measured_share(truth: GroundTruth) -> float:
    return float(measured_quality(labelled(truth))["visible_share"])


def test_rejected_clips_are_left_out(tmp_path, truth):
    result, _, _, table = score(tmp_path, [labelled(truth)] * 3, rejected=(1,))
    assert [line["clip"] for line in table] == ["clip000", "clip002"] and result.numbers[
        "clips"
    ] == 2


def test_a_limit_spreads_over_the_index(tmp_path, truth):
    _, _, _, table = score(tmp_path, [labelled(truth)] * 7, max_clips=3, n_pictures=1)
    assert [line["clip"] for line in table] == ["clip000", "clip003", "clip006"]


def test_no_clip_at_all_is_an_error_that_counts(tmp_path, truth):
    with pytest.raises(
        ValueError, match=r"no clip has both depth and keypoints \(.*0 of 1 in 'depth'"
    ):
        score(tmp_path, [labelled(truth)], rejected=(0,))


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="max_clips=0, n_pictures=3"):
        ScoreLabels(root="", max_clips=0)


def test_it_is_a_dataset_stage_whose_key_ignores_the_place():
    assert isinstance(ScoreLabels(root="a"), DatasetStage)
    assert content_key(ScoreLabels(root="a")) == content_key(ScoreLabels(root="b"))


def test_the_report_of_a_network_names_no_stand_in(tmp_path, truth):
    clip = labelled(truth)
    means = score_labels(clip, true_labels(clip, truth), is_metric=False)
    network = {
        "depth": AnnotatorInfo("vda-small", "relative", ""),
        "keypoints": AnnotatorInfo("spatracker", "px", ""),
    }
    page = report(means, 1, 1, network, opened(stores(tmp_path, [clip]))["label_quality"])
    assert "stand-in" not in page and "- depth: **vda-small**\n" in page
    assert "one scale and shift a clip" in page and "as it is" not in page


def test_golden_scores_of_lucas_kanade(truth):
    """Tied to `ScoreLabels.version`, and to the versions of what it scores. The plate has no
    texture of its own, so flow finds its corners at best.
    """
    clip = labelled(truth)
    rgb = clip.rgb.repeat(4, axis=1).repeat(4, axis=2)
    side = 4 * SIDE
    inverse, valid = np.ones((T, side, side), np.float16), np.ones((T, side, side), bool)
    stage = Keypoints(annotator=LucasKanade(), grid=32)
    arrays = stage.start("cpu", {})([one_clip(rgb=rgb, inverse_depth=inverse, valid=valid)])[0]
    assert isinstance(arrays, dict)
    labels = true_tracks(truth, FRAMES, arrays["tracks"][0], (side, side))
    scores = score_track_labels(arrays["tracks"], arrays["visible"], labels, (side, side))
    assert scores == pytest.approx(GOLDEN_SCORES, abs=0.01)


GOLDEN_SCORES = {"average_jaccard": 0.930, "position_accuracy": 0.969, "occlusion_accuracy": 0.986}
