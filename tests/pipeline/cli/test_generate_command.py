"""`roboscape generate`: it finds all it needs from the checkpoint, and needs no service."""

import json
import shutil
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image
from small_stores import opened
from small_world import World, add_world_model, make_world
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.cli.console import USAGE
from stages.world_model.data import WORLD_MODEL_FILE
from storage.stores.results import open_result


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("generate"))


@pytest.fixture
def generate(world, tmp_path, monkeypatch):
    """Runs the command in the world's workspace; returns its exit code and output, as one line."""
    monkeypatch.setenv("ROBOSCAPE_HOME", str(world.root))

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(
            app, ["generate", *arguments, "--out", str(tmp_path / "out"), "--device", "cpu"]
        )
        return result.exit_code, " ".join(result.output.split())

    return run


def test_it_writes_a_video_and_how_it_was_made(generate, world, tmp_path):
    code, said = generate("world_model", "clip001", "--frames", "18", "--seed", "3", "--steps", "1")
    assert code == 0, said
    assert "clip clip001, row 1 of split val: 18 frames" in said
    assert "under its own actions from frame 16 on the last action is held PSNR" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"rollout.{kind}" for kind in ("mp4", "gif", "png", "json")
    }
    with (
        av.open(str(tmp_path / "out" / "rollout.mp4")) as movie,
        Image.open(tmp_path / "out" / "rollout.gif") as gif,
    ):
        assert sum(1 for _ in movie.decode(video=0)) == 18 + 3
        assert gif.n_frames > 2
    about = json.loads((tmp_path / "out" / "rollout.json").read_text())
    assert about["clip"] == {"id": "clip001", "row": 1, "split": "val"} and about["frames"] == 18
    assert (
        about["sampling"]["n_steps"] == 1
        and about["seed"] == 3
        and about["last_action_held_from_frame"] == 16
    )
    assert about["data"]["clip"] == str(world.rows["clip"]) and about["tokenizers"]["rgb_tokens"]


def test_no_service_is_needed(world, tmp_path):
    """Neither Prefect nor Ray is even imported."""
    code = (
        "import sys; from pipeline.cli.app import app\n"
        "try: app(['generate', 'world_model', '2', '--frames', '3', '--device', 'cpu', '--out',"
        f" {str(tmp_path)!r}])\n"
        "except SystemExit as exit: assert not exit.code, exit.code\n"
        "assert not {'ray', 'prefect'} & set(sys.modules)"
    )
    environment = {
        "ROBOSCAPE_HOME": str(world.root),
        "PATH": "/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "rollout.mp4").exists() and "clip clip002, row 2" in done.stdout


def test_a_checkpoint_has_many_names(generate, world, tmp_path):
    """All of them give the same video; a copy elsewhere finds its stores in the workspace."""
    ref, made = world.results["world_model"], set()
    file = open_result(ref).file(WORLD_MODEL_FILE)
    copy = shutil.copy(file, tmp_path / "mine.safetensors")
    for name in (ref.key, str(ref), ref.uri, str(file), str(copy)):
        code, said = generate(name, "1", "--frames", "3")
        assert code == 0, said
        made.add((tmp_path / "out" / "rollout.png").read_bytes())
    assert len(made) == 1


def test_another_request_never_overwrites_a_video(world, tmp_path, monkeypatch):
    """Without --out, checkpoint, clip, actions, frames, sampling and seed decide the folder."""
    home = world.root / "generated"
    monkeypatch.setenv("ROBOSCAPE_HOME", str(world.root))
    own = opened({"clip": world.rows["clip"]})["clip"].read(["actions"], 1)["actions"]
    for i, name in enumerate(("mine.npy", "same.npy", "other.npy")):
        np.save(tmp_path / name, own[:3] + (0.1 if i == 2 else 0))
    requests = [
        ("1",), ("2",), ("1", "--seed", "1"), ("1", "--steps", "1"), ("1", "--frames", "4"),
        ("1", "--actions", "mine.npy"), ("1", "--actions", "other.npy"),
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for request in (*requests, ("1", "--frames", "3"), ("1", "--actions", "same.npy")):
        frames = () if "--frames" in request else ("--frames", "3")
        found = CliRunner().invoke(
            app, ["generate", "world_model", *request, *frames, "--device", "cpu"]
        )
        assert found.exit_code == 0, found.output
    names = sorted(path.name for path in home.iterdir())
    assert len(names) == len(requests), "the last two requests repeat earlier ones"
    rows = [name.split("-")[2] for name in names]
    assert rows == ["row1"] * (len(requests) - 1) + ["row2"]
    assert all(
        json.loads((home / name / "rollout.json").read_text())["frames"] in (3, 4) for name in names
    )


def test_own_actions(generate, world, tmp_path):
    own = opened({"clip": world.rows["clip"]})["clip"].read(["actions"], 1)["actions"]
    np.save(tmp_path / "actions.npy", own[:6])
    code, said = generate("world_model", "1", "--actions", str(tmp_path / "actions.npy"))
    assert code == 0 and "6 frames under other actions than its own" in said and "held" not in said
    assert json.loads((tmp_path / "out" / "rollout.json").read_text())["actions"]["path"].endswith(
        "actions.npy"
    )
    (tmp_path / "actions.csv").write_text("1,2,3\n4,5,6\n")
    code, said = generate("world_model", "1", "--actions", str(tmp_path / "actions.csv"))
    assert code == USAGE and "shape (2, 3), expected (frames, 16)" in said


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nonsense", "1"], USAGE, "no store 'nonsense' in"),
        (
            ["rgb_tokenizer", "1"],
            USAGE,
            "holds no world_model.safetensors: expected a version of the stage 'world_model'",
        ),
        (["clip", "1"], USAGE, "holds no world_model.safetensors"),
        (["world_model", "77"], USAGE, "no clip '77' in clip/"),
        (["world_model", "3"], USAGE, "clip 3 has no data in clip/"),
        (["world_model", "1", "--frames", "1"], USAGE, "--frames=1: expected an integer >= 2"),
        (["world_model", "1", "--actions", "gone.npy"], USAGE, "gone.npy"),
        (
            ["world_model", "1", "--temperature", "-1"],
            USAGE,
            "--temperature=-1.0: expected a finite number >= 0",
        ),
    ],
)
def test_mistakes_are_explained(generate, arguments, code, message):
    found, said = generate(*arguments)
    assert found == code and message in said, said


def test_stores_that_are_gone_are_named(generate, world, tmp_path):
    """As with shipped weights, whose episodes are on another machine."""
    ref = add_world_model(
        tmp_path, world.results, depth_branch=True, data={"discover": "discover/0123456789abcdef"}
    )
    code, said = generate(str(open_result(ref).file(WORLD_MODEL_FILE)), "1")
    assert (
        code == USAGE
        and "belongs with the store discover/0123456789abcdef, which is not under" in said
    )


def test_a_tokenizer_file_is_no_world_model(generate, world):
    from stages.tokenizer.measure import TOKENIZER_FILE

    code, said = generate(
        str(open_result(world.results["rgb_tokenizer"]).file(TOKENIZER_FILE)), "1"
    )
    assert code == USAGE and "its card names no data and no tokenizers" in said
