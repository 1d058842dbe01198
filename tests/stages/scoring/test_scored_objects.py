"""On simulated episodes, whether another model's video shows the objects."""

import csv

from scored_videos import frames_of, write_movie
from small_stores import T, run_stage
from small_world import make_world, write_square_truth

from stages.evaluation.scores import COPY
from stages.scoring.stage import Score
from stages.scoring.videos import read_video_set
from storage.stores.rows import open_rows


def test_objects_are_looked_for_where_there_is_a_truth(tmp_path):
    world = make_world(tmp_path / "world")
    write_square_truth(world)
    clips = open_rows(world.rows["clip"])
    write_movie(tmp_path / "v" / "clip001.mp4", clips.read(["rgb"], 1)["rgb"])
    rows = {role: world.rows[role] for role in ("discover", "clip")}

    def score(root):
        stage = Score(method="right", videos=read_video_set(tmp_path / "v"), rate_hz=2.0, root=root)
        return run_stage(world.root, stage, rows)

    result = score(str(world.root))
    assert result.numbers["psnr_free_objects"] == 100.0 > result.numbers["psnr_copy_objects"]
    page = result.file("metrics.md").read_text()
    assert "## Free-running, objects, against the camera frames" in page
    assert "They were looked for in 1 of 1 clips." in page
    with result.file("tables/objects.csv").open(newline="") as lines:
        seen = list(csv.DictReader(lines))
    for method in ("right", COPY):
        frames = {int(line["frame"]) for line in seen if line["method"] == method}
        assert frames and frames <= set(range(1, T))
    assert all(line["present"] == "True" for line in seen if line["method"] == "right")


def test_without_a_truth_the_page_says_that_objects_were_not_measured(tmp_path):
    world = make_world(tmp_path / "world")
    write_movie(tmp_path / "v" / "clip000.mp4", frames_of(0))
    rows = {role: world.rows[role] for role in ("discover", "clip")}
    why = {
        None: "the folder of the clips' episodes was not found",
        str(tmp_path / "gone"): "the folder of the clips' episodes was not found",
        str(world.root): "the clips' episodes have no exact masks",
    }
    for number, root in enumerate(why):
        stage = Score(method="m", videos=read_video_set(tmp_path / "v"), rate_hz=2.0, root=root)
        result = run_stage(world.root / str(number), stage, rows)
        page = result.file("metrics.md").read_text()
        assert f"Objects were not measured: {why[root]}" in page and "objects, against" not in page
        assert "tables/objects.csv" not in result.files
