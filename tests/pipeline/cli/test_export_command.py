"""`roboscape export`: what other programs find in the folders that it writes."""

import csv
import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from scored_videos import frames_of, warped, write_movie, write_store
from small_stores import SIDE, T, square_clips
from small_world import make_world
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.cli.console import FAILED, USAGE
from stages.clips.arm_vectors import ARM_VECTOR
from stages.evaluation.scores import COPY, DETAIL, FRAME, MOVING_CAMERA
from storage.stores.records import StoreRef
from storage.stores.results import open_result


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A workspace with clips; returns what runs a command there: exit code, output as a line."""
    home = tmp_path / "workspace"
    rows = write_store(home)
    monkeypatch.setenv("ROBOSCAPE_HOME", str(home))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    return rows


def roboscape(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    return result.exit_code, " ".join(result.output.split())


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as movie:
        return np.stack([f.to_ndarray(format="rgb24") for f in movie.decode(video=0)])


def nearest(video: np.ndarray) -> tuple[str, int]:
    """Which of the clips this is; H.264 in 4:2:0 loses much of such small frames."""
    known = {("true", row): frames_of(row) for row in range(3)}
    known |= {("warped", row): warped(frames_of(row), 3.0) for row in range(3)}
    return min(known, key=lambda name: abs(video.astype(int) - known[name]).mean())


def test_prompts_hold_what_a_model_needs(workspace, tmp_path):
    folder = tmp_path / "prompts"
    code, said = roboscape("export", "prompts", "clip", folder)
    assert code == 0 and f"3 clips of {workspace['clip']}, of split 'val'" in said, said
    lines = table(folder / "index.csv")
    assert [line["clip_id"] for line in lines] == ["clip000", "clip001", "clip002"]
    actions = square_clips(5)["clip"]["actions"]
    for row, line in enumerate(lines):
        assert (line["n_frames"], line["rate_hz"], line["width"]) == (str(T), "2", str(SIDE))
        with Image.open(folder / line["image"]) as image:
            assert (np.array(image) == frames_of(row)[0]).all()
        with np.load(folder / line["actions_npz"]) as arrays:
            assert (arrays["actions"] == actions[row]).all()
            assert arrays["names"].tolist() == list(ARM_VECTOR)
            units = dict(zip(arrays["names"].tolist(), arrays["units"].tolist(), strict=True))
            assert (units["left_x"], units["left_qx"], units["right_closed"]) == ("m", "1", "1")
            assert arrays["rate_hz"] == 2.0
        rows = table(folder / line["actions_csv"])
        assert len(rows) == T * 15 and list(rows[0])[:5] == [
            "frame", "command", "time_s", "left_x (m)", "left_y (m)",
        ]  # fmt: skip
        at = rows[3 * 15 + 6]  # the 7th command that leads into frame 3
        assert (at["frame"], at["command"]) == ("3", "6")
        assert float(at["time_s"]) == pytest.approx((2 + 6 / 15) / 2)
        assert float(at["left_x (m)"]) == pytest.approx(actions[row, 3, 6, 0], abs=1e-6)
    text = (folder / lines[1]["text_file"]).read_text()
    assert text == "Move a square. Push it. Let go.\n" == lines[1]["text"] + "\n"
    readme = (folder / "README.txt").read_text()
    assert "16 frames at 2 Hz (7.5 s)" in readme and f"--clips {workspace['clip']}" in readme
    assert "its 15 commands" in readme
    assert not list(tmp_path.glob("*.tmp-*"))


def test_the_scored_files_of_the_prompts_are_scored(workspace, tmp_path):
    """The round trip: prompts, a model that copies the first frame, scores equal to the copy's."""
    roboscape("export", "prompts", "clip", tmp_path / "prompts", "--clips", "2")
    for line in table(tmp_path / "prompts" / "index.csv"):
        with Image.open(tmp_path / "prompts" / line["image"]) as image:
            still = np.repeat(np.array(image)[None], int(line["n_frames"]), axis=0)
        write_movie(tmp_path / "made" / f"{line['clip_id']}.mp4", still)
    code, said = roboscape("score", tmp_path / "made", "--name", "still")
    assert code == 0, said
    store = next(word for word in said.split() if word.startswith("scoring/"))
    numbers = open_result(StoreRef.at(str(tmp_path / "workspace"), *store.split("/"))).numbers
    assert numbers["clips"] == 2
    assert numbers["psnr_free_camera"] == pytest.approx(numbers["psnr_copy_camera"], abs=1e-4)
    # What it scored are the clips of the next model's prompts
    code, said = roboscape("export", "prompts", store, tmp_path / "again")
    assert code == 0 and "2 clips" in said and f"those that {store} scored" in said
    ids = [line["clip_id"] for line in table(tmp_path / "again" / "index.csv")]
    assert ids == ["clip000", "clip002"]


def test_worldarena_reads_its_layout_back(workspace, tmp_path):
    """As its scripts do: the task five names from the end, the episode from the file's name."""
    for row in (0, 2):
        write_movie(tmp_path / "made" / f"clip00{row}.mp4", warped(frames_of(row), 3.0), rate=2)
    folder = tmp_path / "arena"
    code, said = roboscape(
        "export", "worldarena", tmp_path / "made", folder, "--clips", "clip", "--name", "opencv"
    )
    assert code == 0 and "2 videos of opencv" in said, said
    videos = folder / "opencv_sort"
    assert sorted(path.name for path in videos.iterdir()) == [
        "327_episode_0.mp4", "327_episode_1.mp4",
    ]  # fmt: skip
    clip_of = {line["video"]: line["clip_id"] for line in table(folder / "index.csv")}
    items = json.loads((folder / "summary.json").read_text())
    assert len(items) == 2 and all(set(item) == {"gt_path", "image", "prompt"} for item in items)
    for item in items:
        truth = Path(item["gt_path"])
        task, episode = truth.parts[-5], truth.parts[-1].split(".")[0]
        generated = videos / f"{task}_{episode}.mp4"
        row = int(clip_of[generated.name].removeprefix("clip"))
        assert nearest(frames(truth)) == ("true", row)
        assert nearest(frames(generated)) == ("warped", row)
        with Image.open(item["image"]) as image:
            assert (np.array(image) == frames_of(row)[0]).all()
        assert item["prompt"] == ["Move a square."]


def test_an_evaluation_gives_its_own_videos_and_clips(tmp_path, monkeypatch):
    world = make_world(tmp_path / "world")
    evaluation = world.evaluate()
    monkeypatch.setenv("ROBOSCAPE_HOME", str(world.root))
    code, said = roboscape("export", "worldarena", "evaluation", tmp_path / "arena")
    model = f"roboscape-{evaluation.ref.key[:8]}"
    assert code == 0 and f"3 videos of {model}" in said, said
    assert len(list((tmp_path / "arena" / f"{model}_sort").iterdir())) == 3
    scored = {line["clip"] for line in table(evaluation.file("tables/clips.csv"))}
    assert {line["clip_id"] for line in table(tmp_path / "arena" / "index.csv")} == scored
    code, said = roboscape("export", "prompts", "evaluation", tmp_path / "prompts")
    assert code == 0 and f"those that {evaluation.ref} scored" in said
    assert {line["clip_id"] for line in table(tmp_path / "prompts" / "index.csv")} == scored
    # Its kept videos, scored as another program's, are as good but for H.264
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    code, said = roboscape("score", evaluation.path / "videos", "--name", "kept")
    assert code == 0 and "kept" in said, said
    store = next(word for word in said.split() if word.startswith("scoring/"))
    code, said = roboscape("compare", f"ours={evaluation.ref}", f"kept={store}")
    assert code == 0, said
    kept = open_result(StoreRef.at(str(world.root), *store.split("/")))
    ours = evaluation.numbers["psnr_free_camera"]
    assert kept.numbers["psnr_free_camera"] == pytest.approx(ours, abs=1.0)
    # The copy of frame 0 is the same video in both, so all that both measure is equal
    places = ("clip", "episode", "protocol", "reference", "region", "metric")
    both = [
        {
            tuple(line[name] for name in places): float(line["value"])
            for line in table(result.file("tables/clips.csv"))
            if line["method"] == COPY
        }
        for result in (evaluation, kept)
    ]
    common = both[0].keys() & both[1].keys()
    assert {place[4] for place in common} == {FRAME, MOVING_CAMERA, DETAIL}
    for place in common:
        assert both[0][place] == pytest.approx(both[1][place], abs=1e-5), place


def test_kept_videos_of_several_models_are_refused(workspace, tmp_path):
    """One video of a clip is kept, of whichever variant."""
    lines = ["clip_id,path,variant"]
    for row, variant, shift in ((0, "long", 1.0), (1, "short", 3.0)):
        write_movie(tmp_path / "v" / f"{row}.mp4", warped(frames_of(row), shift))
        lines.append(f"clip00{row},v/{row}.mp4,{variant}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    code, said = roboscape("score", tmp_path / "list.csv", "--name", "opencv")
    assert code == 0, said
    code, said = roboscape("export", "worldarena", "scoring", tmp_path / "out")
    assert code == USAGE and "scored 2 models (opencv, long, opencv, short)" in said, said
    assert "the folder or the CSV that it was made from" in said
    assert not (tmp_path / "out").exists()
    code, said = roboscape("export", "worldarena", tmp_path / "list.csv", tmp_path / "out")
    assert code == 0 and "2 videos of list-long, list-short" in said, said


@pytest.mark.parametrize("name", ["cosmos-predict2.5", "evaluation", "clip"])
def test_a_folder_of_videos_has_its_own_name(workspace, tmp_path, monkeypatch, name):
    """Though a store has that name, too, or a key that begins so."""
    monkeypatch.chdir(tmp_path)
    for folder in (name, workspace["clip"].key[:2]):
        write_movie(Path(folder) / "clip000.mp4", warped(frames_of(0), 3.0))
        code, said = roboscape("export", "worldarena", folder, f"arena-{folder}")
        assert code == 0 and f"1 videos of {folder}:" in said, said
    code, said = roboscape("score", name)
    assert code == 0 and f"camera frames, {name} **" in said, said


def test_an_evaluation_that_is_not_complete_is_an_error(tmp_path, monkeypatch):
    """And not the same as none, for which the prompts are those of a split."""
    world = make_world(tmp_path / "world")
    evaluation = world.evaluate()
    monkeypatch.setenv("ROBOSCAPE_HOME", str(world.root))
    (evaluation.path.parent / "complete.json").unlink()
    for command in ("prompts", "worldarena"):
        code, said = roboscape("export", command, "evaluation", tmp_path / "out")
        assert code == FAILED and "is not complete" in said, said
    code, said = roboscape("export", "prompts", "evaluation", tmp_path / "out", "--split", "val")
    assert code == 0 and "of split 'val'" in said, said


def test_bad_exports_leave_nothing(workspace, tmp_path):
    write_movie(tmp_path / "made" / "clip000.mp4", frames_of(0)[:3])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("mine")
    there = {path.name for path in tmp_path.iterdir()}
    export, made = ("export", "worldarena"), tmp_path / "made"
    for arguments, status, message in (
        (("export", "prompts", "clip", tmp_path / "full"), FAILED, "there is something already"),
        (("export", "prompts", "depth", tmp_path / "out"), USAGE, "no store 'depth'"),
        (("export", "prompts", "clip", tmp_path / "out", "--split", "all"), USAGE, "--split"),
        (("export", "prompts", "clip", tmp_path / "out", "--clips", "0"), USAGE, "--clips"),
        (("export", "prompts", "clip", tmp_path / "out", "--split", "test"), USAGE, "no clip of"),
        (("export", "prompts", "clip", tmp_path / "full" / "a"), USAGE, "is a file"),
        ((*export, made, tmp_path / "out"), USAGE, "clip000.mp4: found 3 frames at 2 Hz"),
        ((*export, "clip", tmp_path / "out"), USAGE, "'clip' has kept no videos"),
        ((*export, made, tmp_path / "out", "--rate", "-1"), USAGE, "--rate"),
        ((*export, made, tmp_path / "out", "--rate", "0.4", "--name", "a/b"), USAGE, "'a/b'"),
    ):
        code, said = roboscape(*arguments)
        assert code == status and message in said and "Traceback" not in said, said
        assert {path.name for path in tmp_path.iterdir()} == there, arguments
