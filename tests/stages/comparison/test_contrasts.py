"""Paired differences: which clips count, which sign is better, what is never compared."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_scores import COPIED, made_evaluation

from pipeline.experiments.annotators import depth_annotator, keypoint_annotator
from stages.clip_format import ClipFormat
from stages.comparison.contrasts import PSNR, Place, compare
from stages.comparison.page import comparison_csv, comparison_json, comparison_page
from stages.comparison.score_table import ScoreTable
from stages.comparison.verdicts import settle
from stages.evaluation.scores import (
    ACTIVE,
    CAMERA,
    CEILING,
    COPY,
    EDGES,
    ESTIMATED_DEPTH,
    FRAME,
    FREE,
    MODEL,
    PSEUDO_DEPTH,
    PSEUDO_TRACKS,
    Cell,
)
from storage.stores.key import parameters

CLIPS = [f"c{i}" for i in range(12)]
EPISODES = {clip: f"1/{i // 2}" for i, clip in enumerate(CLIPS)}


def scores(seed: int, mean: float) -> dict[str, float]:
    drawn = np.random.default_rng(seed).normal(mean, 2, len(CLIPS))
    return dict(zip(CLIPS, map(float, drawn), strict=True))


def table(root: Path, label: str, psnr: dict[str, float], **how) -> ScoreTable:
    return ScoreTable.read(made_evaluation(root, psnr, EPISODES, **how), label)


def row(found, who: str, place: Place = PSNR):
    (chosen,) = [r for r in found.rows if r.who == who and r.place == place]
    return chosen


def test_a_known_difference_is_found_although_clips_differ_more(tmp_path):
    ours = scores(0, 20)
    theirs = {clip: value + 0.5 + 0.1 * (i % 3) for i, (clip, value) in enumerate(ours.items())}
    found = compare([table(tmp_path, "a", ours), table(tmp_path, "b", theirs)])
    b = row(found, "b")
    assert b.difference.mean == pytest.approx(0.6, abs=1e-5)
    low, high = b.difference.interval
    assert 0.5 < low < 0.6 < high < 0.7
    assert (b.better, b.equal, b.difference.n_episodes, b.verdict) == (6, 0, 6, "better")
    # Unpaired, the two would overlap
    assert row(found, "a").value.interval[1] > b.value.interval[0]
    assert row(found, "a").difference is None and row(found, "a").verdict == ""
    page = comparison_page(found)
    assert "Free-running, **b** differs by: PSNR (dB) ↑ +0.60 (+0.5" in page
    assert "better in 6 of 6 episodes, **better**; SSIM" in page


def test_less_is_better_where_the_arrow_points_down(tmp_path):
    one, other = (table(tmp_path, label, scores(0, 20)) for label in "ab")
    worse = {Cell(FREE, PSEUDO_DEPTH, FRAME, MODEL, "abs_rel"): dict.fromkeys(CLIPS, 0.3)}
    less = {Cell(FREE, PSEUDO_DEPTH, FRAME, MODEL, "abs_rel"): dict.fromkeys(CLIPS, 0.2)}
    found = compare([replace(one, scores=worse), replace(other, scores=less)])
    place = Place(reference=PSEUDO_DEPTH, metric="abs_rel")
    assert (row(found, "b", place).better, row(found, "b", place).verdict) == (6, "better")


def test_nearer_to_1_is_better_where_that_is_the_target(tmp_path):
    place = Place(region=EDGES, metric="edge_sharpness")
    one, other = (
        replace(
            table(tmp_path, label, scores(0, 20)),
            scores={Cell(FREE, CAMERA, EDGES, MODEL, place.metric): dict.fromkeys(CLIPS, value)},
        )
        for label, value in (("sharp", 0.98), ("noisy", 1.4))
    )
    noisy = row(compare([one, other]), "noisy", place)
    assert noisy.difference.mean == pytest.approx(0.42) and noisy.value.mean == pytest.approx(1.4)
    assert (noisy.better, noisy.verdict) == (0, "worse")
    blurred = replace(
        one, label="blurred", scores={c: dict.fromkeys(CLIPS, 0.5) for c in one.scores}
    )
    assert row(compare([blurred, other]), "noisy", place).verdict == "better"
    assert settle([one], [other], place).verdict == "supported"
    assert settle([other], [one], place).verdict == "refuted"


def test_equal_scores_are_undecided_and_counted_as_equal(tmp_path):
    found = compare([table(tmp_path, label, scores(0, 20)) for label in "ab"])
    b = row(found, "b")
    assert (b.better, b.equal, b.verdict) == (0, 6, "undecided")
    assert "0 of 6 (6 equal)" in comparison_page(found)


def test_only_common_clips_count_and_the_others_are_named(tmp_path):
    ours = scores(0, 20)
    some = {clip: 100.0 for clip in CLIPS[:4]} | {"alone": 3.0}
    episodes = EPISODES | {"alone": "1/99"}
    other = ScoreTable.read(made_evaluation(tmp_path, some, episodes), "b")
    found = compare([table(tmp_path, "a", ours), other])
    assert found.clips == CLIPS[:4] and found.n_episodes == 2
    assert row(found, "a").value.mean == pytest.approx(np.mean([ours[c] for c in CLIPS[:4]]))
    assert found.left_out == {"a": sorted(CLIPS[4:]), "b": ["alone"]}
    assert row(found, "b").verdict == "too few episodes"
    page = comparison_page(found)
    assert "b: 1 clips that not all were scored on are left out (alone)" in page


def test_a_baseline_stands_once_if_it_is_the_same_for_all(tmp_path):
    tables = [table(tmp_path, label, scores(i, 20)) for i, label in enumerate("ab")]
    ceiling = Cell(FREE, CAMERA, FRAME, CEILING, "psnr")
    values = (dict.fromkeys(CLIPS, 25.0), dict.fromkeys(CLIPS, 26.0))
    tables = [
        replace(t, scores={**t.scores, ceiling: v}) for t, v in zip(tables, values, strict=True)
    ]
    found = compare(tables)
    whos = [r.who for r in found.rows if r.place == PSNR]
    assert whos == ["a", "b", COPY, f"{CEILING} (a)", f"{CEILING} (b)"]
    assert row(found, COPY).value.mean == COPIED["psnr"]
    assert row(found, COPY).difference.mean == pytest.approx(
        15 - row(found, "a").value.mean, abs=1e-5
    )


def test_scores_on_other_clips_or_without_common_ones_are_refused(tmp_path):
    one = table(tmp_path, "a", scores(0, 20))
    other = table(tmp_path, "b", scores(1, 20), inputs={"clip": "clip/1"})
    with pytest.raises(ValueError, match=r"a was scored on the clips clip/0, b on clip/1"):
        compare([one, other])
    none = ScoreTable.read(made_evaluation(tmp_path, {"x": 1.0}, {"x": "1/1"}), "b")
    with pytest.raises(ValueError, match=r"no clip was scored for all of them \(clips: a 12, b 1"):
        compare([one, none])
    with pytest.raises(ValueError, match="expected two or more, each another"):
        compare([one, one])


def test_another_depth_is_not_compared_and_said_so(tmp_path):
    cell = Cell(FREE, PSEUDO_DEPTH, FRAME, MODEL, "abs_rel")
    tables = [
        table(tmp_path, label, scores(i, 20), inputs={"clip": "clip/0", "depth": f"depth/{i}"})
        for i, label in enumerate("ab")
    ]
    tables = [replace(t, scores={**t.scores, cell: dict.fromkeys(CLIPS, 0.1)}) for t in tables]
    found = compare(tables)
    assert {r.place.reference for r in found.rows} == {CAMERA}
    assert "Not compared: pseudo depth" in comparison_page(found)
    assert "a: depth/0, b: depth/1" in comparison_page(found)


@pytest.mark.parametrize(
    ("place", "field", "ours", "theirs"),
    [
        (
            Place(reference=ESTIMATED_DEPTH, metric="abs_rel_aligned"),
            "depth_annotator",
            {"weights": {"name": "vda-tiny.safetensors", "sha256": "a"}, "version": 1},
            {"weights": {"name": "vda-tiny.safetensors", "sha256": "b"}, "version": 1},
        ),
        (
            Place(reference=PSEUDO_TRACKS, region=ACTIVE, metric="track_error"),
            "tracker",
            {"name": "lucas-kanade", "annotation_rate_hz": None},
            {"name": "dense-flow", "annotation_rate_hz": None},
        ),
        (Place(metric="delta_psnr_gaussian"), "gaussian_draws", 5, 1),
    ],
)
def test_what_other_annotators_measured_is_not_compared(tmp_path, place, field, ours, theirs):
    cell = Cell(place.protocol, place.reference, place.region, MODEL, place.metric)

    def made(label: str, value: object) -> ScoreTable:
        found = table(tmp_path, label, scores(0, 20), parameters={field: value})
        return replace(
            found, scores={**found.scores, cell: dict.fromkeys(CLIPS, float(len(label)))}
        )

    one, other = made("a", ours), made("bb", theirs)
    found = compare([one, other])
    assert place not in {r.place for r in found.rows}
    assert "Not compared: " in comparison_page(found) and len(found.apart) == 1
    assert settle([one], [other], place).verdict == "not measured"
    if isinstance(ours, dict):
        # Its rate is for labels: the videos have their own
        ours = {**ours, "annotation_rate_hz": 10.0}
    alike = made("bb", ours)
    assert row(compare([one, alike]), "bb", place).verdict and not compare([one, alike]).apart


@pytest.mark.parametrize("name", ["vda-tiny", "lucas-kanade", "dense-flow"])
def test_the_annotators_that_there_are_have_names(tmp_path, name):
    if name == "vda-tiny":
        field, made = "depth_annotator", depth_annotator(name, "", ClipFormat(), 0.0, tmp_path)
    else:
        field = "tracker"
        made = keypoint_annotator(name, "", "1/m", ClipFormat(), 0.0, tmp_path)
    found = table(tmp_path, "a", scores(0, 20), parameters={field: parameters(made)})
    assert found.inputs[field].startswith(name)


def test_fvd_is_compared_on_equal_sets_of_clips_only(tmp_path):
    def with_fvd(label: str, fvd: float, clips: list[str] = CLIPS) -> ScoreTable:
        own, copied = (Cell(FREE, CAMERA, FRAME, who, "fvd") for who in (MODEL, COPY))
        return table(tmp_path, label, dict.fromkeys(clips, 20.0), of_all={own: fvd, copied: 900.0})

    one, other = with_fvd("a", 400.0), with_fvd("b", 350.5)
    found = compare([one, other])
    assert [(each.who, each.value) for each in found.of_all] == [
        ("a", 400.0), ("b", 350.5), (COPY, 900.0),
    ]  # fmt: skip
    page = comparison_page(found)
    assert "| FVD ↓, free-running | 400.0 | 350.5 | 900.0 |" in page
    rows = list(csv.DictReader(io.StringIO(comparison_csv(found).decode())))
    (last,) = [row for row in rows if row["metric"] == "fvd" and row["who"] == "b"]
    assert (last["mean"], last["low"], last["clips"]) == ("350.500000", "", "12")
    assert ScoreTable.pooled([one, other], "both").of_all[
        Cell(FREE, CAMERA, FRAME, MODEL, "fvd")
    ] == pytest.approx(375.25)
    fewer = compare([one, with_fvd("c", 300.0, CLIPS[:-2])])
    assert not fewer.of_all and "Not compared: FVD" in comparison_page(fewer)


def test_seeds_of_a_clip_are_averaged(tmp_path):
    made = made_evaluation(tmp_path, scores(0, 20), EPISODES)
    path = made.file("tables/clips.csv")
    lines = path.read_text().splitlines()
    again = [line.rsplit(",", 1)[0] + ",0.0" for line in lines if line.startswith("c3,")]
    path.chmod(0o644)
    path.write_text("\n".join([*lines, *again]) + "\n")
    once = table(tmp_path / "other", "a", scores(0, 20))
    cell = Cell(FREE, CAMERA, FRAME, MODEL, "psnr")
    assert ScoreTable.read(made, "a").scores[cell]["c3"] == pytest.approx(
        once.scores[cell]["c3"] / 2
    )


def test_variants_of_one_folder_are_models_of_their_own(tmp_path):
    made = made_evaluation(tmp_path, scores(0, 20), EPISODES, method="irasim, small")
    path = made.file("tables/clips.csv")
    lines = path.read_text().splitlines()
    own = [line for line in lines if "irasim, small" in line and not line.startswith("c0,")]
    large = [line.replace("irasim, small", "irasim, large") for line in own]
    path.chmod(0o644)
    path.write_text("\n".join([*lines, *large]) + "\n")
    tables = ScoreTable.read_all(made, "other")
    assert [t.label for t in tables] == ["other irasim, small", "other irasim, large"]
    assert tables[0].video("c1") is None, "it could be the other variant's"
    found = compare(tables)
    assert found.clips == sorted(CLIPS[1:]) and found.left_out == {"other irasim, small": ["c0"]}
    assert [r.who for r in found.rows if r.place == PSNR] == [*(t.label for t in tables), COPY]


def test_every_number_is_in_the_csv_and_the_json(tmp_path):
    a, b = (table(tmp_path, label, scores(i, 20)) for i, label in enumerate("ab"))
    found = compare([a, b])
    rows = list(csv.DictReader(io.StringIO(comparison_csv(found).decode())))
    assert len(rows) == len(found.rows) == 6
    written = next(r for r in rows if r["who"] == "b" and r["metric"] == "psnr")
    assert float(written["difference"]) == pytest.approx(row(found, "b").difference.mean, abs=1e-6)
    assert (written["against"], written["of_episodes"]) == ("a", "6")
    document = json.loads(comparison_json(found, {"a": "x", "b": "y"}))
    assert document["stores"] == {"a": "x", "b": "y"}
    assert document["rows"][0]["value"]["n_episodes"] == 6


def test_an_evaluation_without_episodes_says_how_to_make_it_again(tmp_path):
    made = made_evaluation(tmp_path, scores(0, 20), EPISODES)
    path = made.file("tables/clips.csv")
    path.chmod(0o644)
    path.write_text("clip,other_clip,protocol,reference,region,method,metric,value\nc0,,,,,,,1\n")
    with pytest.raises(ValueError, match=r"expected the columns clip, episode.*rerun evaluation"):
        ScoreTable.read(made, "a")
