"""Every kind of bad input, against the command as a user starts it: one message, no traceback.

A row says the exit code and what the message must have: the item, what was found, what is expected
or what to do. No row may start a service or work: whatever can be refused is refused before that.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from agibot_tree import FakeEpisode, write_tree
from repository import ROOT
from small_workspace import make_workspace

from pipeline.cli.app import main
from pipeline.cli.console import FAILED, NO_SERVICE, USAGE
from pipeline.orchestration import services

CPU_LIMIT_S = 10.0  # 3 s are promised; the rest is for the slowest and busiest machine
PLAN = "run demo --source eps --plan --set "

# What --set gives -> fragments of the message
PARAMETERS: dict[str, tuple[str, ...]] = {
    # Missing, wrong names, wrong forms
    "size=3": ("--set size=3", "STAGE.FIELD=VALUE"),
    "=3": ("--set =3", "STAGE.FIELD=VALUE"),
    "..=1": ("--set ..=1", "STAGE.FIELD=VALUE"),
    "world_model.=1": ("world_model.=1", "STAGE.FIELD=VALUE"),
    "nonsense.size=3": ("no field 'nonsense'", "there is: clip_format"),
    "clip.size=3": ("no field 'size'", "clip_format.size"),
    "world_model.[/red]x=3": ("no field '[/red]x'", "there is: model"),
    # Null where there must be a value
    "clip_format.size=null": ("clip_format.size=null", "an integer >= 1"),
    "clip_format.rate_hz=null": ("clip_format.rate_hz=null", "a finite number > 0"),
    "clip.action_substeps=null": ("clip.action_substeps=null", "an integer >= 1"),
    "discover.val_share=null": ("discover.val_share=null", ">= 0 and <= 1"),
    "keypoints.grid=null": ("keypoints.grid=null", "an integer >= 1"),
    "world_model.training.steps=null": ("world_model.training.steps=null", ">= 1"),
    "world_model.clips_per_batch=null": ("world_model.clips_per_batch=null", ">= 1"),
    "world_model.resources=null": ("world_model.resources", "name one of them"),
    # Not finite, huge
    "clip_format.rate_hz=Infinity": ("clip_format.rate_hz=inf", "a finite number"),
    "clip_format.rate_hz=NaN": ("clip_format.rate_hz=nan", "a finite number"),
    "clip_format.rate_hz=1e9": ("clip_format.rate_hz=1000000000.0", "<= 1000"),
    f"discover.hop_s=1{'0' * 400}": ("discover.hop_s", "a finite number"),
    "clip.quality.min_motion=NaN": ("clip.quality.min_motion=nan", "finite"),
    "clip.quality.max_hand_speed=Infinity": ("clip.quality.max_hand_speed=inf", "finite"),
    "depth.annotator.min_median_m=NaN": ("depth.annotator.min_median_m=nan", "finite"),
    "world_model.training.learning_rate=Infinity": ("learning_rate=inf", "finite"),
    "world_model.loss.depth=NaN": ("world_model.loss.depth=nan", "finite"),
    "label_quality.max_flicker=NaN": ("label_quality.max_flicker=nan", "finite"),
    "evaluation.sampling.temperature=NaN": ("evaluation.sampling.temperature=nan", "finite"),
    "clip_format.n_frames=100000000000000000000": ("clip_format.n_frames", "<= 4096"),
    "keypoints.grid=1000000000": ("keypoints.grid=1000000000", "<= 1024"),
    "evaluation.seed=100000000000000000000": ("evaluation.seed", "<= 2147483647"),
    # Out of range
    "clip_format.size=0": ("clip_format.size=0", ">= 1"),
    "clip_format.size=-5": ("clip_format.size=-5", ">= 1"),
    "clip.action_substeps=0": ("clip.action_substeps=0", ">= 1"),
    "clip.quality.max_hand_speed=-1": ("clip.quality.max_hand_speed=-1", ">= 0"),
    "discover.hop_s=0": ("discover.hop_s=0", "> 0"),
    "discover.val_share=2": ("discover.val_share=2", "<= 1"),
    "discover.max_clips_per_episode=-3": ("discover.max_clips_per_episode=-3", ">= 0"),
    "discover.cameras=[]": ("discover.cameras=()", "at least 1"),
    "depth.max_hole_share=7": ("depth.max_hole_share=7", "<= 1"),
    "keypoints.grid=-2": ("keypoints.grid=-2", ">= 1"),
    "rgb_tokenizer.training.steps=0": ("rgb_tokenizer.training.steps=0", ">= 1"),
    "rgb_tokenizer.n_val_clips=0": ("rgb_tokenizer.n_val_clips=0", ">= 1"),
    'rgb_tokenizer.discriminator={"base_channels":0}': ("discriminator.base_channels=0", ">= 1"),
    "token_quality.min_named=2": ("token_quality.min_named=2", "<= 1"),
    "world_model.training.betas=[2,3]": ("world_model.training.betas", "< 1"),
    "world_model.training.seed=-1": ("world_model.training.seed=-1", ">= 0"),
    "world_model.clips_per_batch=0": ("world_model.clips_per_batch=0", ">= 1"),
    "world_model.n_val_clips=-1": ("world_model.n_val_clips=-1", ">= 1"),
    "world_model.model.n_heads=0": ("world_model.model.n_heads=0", ">= 1"),
    "world_model.workers=0": ("world_model.workers=0", ">= 1"),
    "world_model.tracks.n_active=0": ("world_model.tracks.n_active=0", ">= 1"),
    "world_model.watch.save_every=0": ("world_model.watch.save_every=0", ">= 1"),
    "world_model.resources.cpus=-1": ("world_model.resources.cpus=-1", "> 0"),
    "world_model.resources.clips_per_shard=0": ("clips_per_shard=0", ">= 1"),
    "evaluation.n_clips=0": ("evaluation.n_clips=0", ">= 1"),
    # Other types, other choices
    "clip_format.size=NaN": ("clip_format.size=nan", "expected int"),
    "clip_format.size=true": ("clip_format.size=True", "expected int"),
    "clip_format.size=[64]": ("clip_format.size=[64]", "expected int"),
    "discover.cameras=[1]": ("discover.cameras=(1,)", "a text"),
    "discover.split_salt=7": ("discover.split_salt=7", "expected str"),
    "world_model.training.betas=[0.9]": ("world_model.training.betas", "a list of 2"),
    "world_model.training.precision=float8": ("precision='float8'", "'bfloat16'"),
    "world_model.model.grid=[1,2,3]": ("world_model.model.grid=(1, 2, 3)", "a list of 2"),
    "world_model.device=tpu": ("world_model.device='tpu'", "cpu, cuda or cuda:N"),
    "world_model.device=7": ("world_model.device=7", "expected"),
    "evaluation.split=nope": ("evaluation.split='nope'", "'train' or 'val' or 'test'"),
    "depth.annotator=[/red]": ("no depth annotator '[/red]'", "there is: sensor"),
    "world_model.parallel.kind=x": ("no field 'kind'", "there is: strategy"),
    # Decided elsewhere, missing files, more than this machine has
    "discover.root=/tmp": ("discover.root", "--source"),
    "discover.source=abc": ("discover.source", "--source"),
    "world_model.start_from=garbage.bin": ("garbage.bin", "not a readable safetensors"),
    "world_model.start_from=empty": ("world_model.start_from", "no published weights 'empty'"),
    "world_model.resources.cpus=100000": ("asks for 100000 cores", "resources.cpus="),
    "world_model.resources.memory_gb=1e9": ("asks for 1e+09 GB", "resources.memory_gb="),
    "world_model.resources.gpus=640": ("asks for 640 GPUs", "resources.gpus=0"),
    "world_model.device=cuda:99": ("world_model.device", "cuda:99", "use one of these, or cpu"),
    "evaluation.device=cuda:99": ("evaluation.device", "cuda:99", "use one of these, or cpu"),
}

# Command -> (exit code, fragments of the message)
COMMANDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "nonsense": (USAGE, ("No such command 'nonsense'", "--help")),
    "run nonsense": (USAGE, ("no experiment 'nonsense'", "there is: demo")),
    "run '[/red]'": (USAGE, ("no experiment '[/red]'", "there is: demo")),
    "run demo extra": (USAGE, ("unexpected extra argument", "extra", "--help")),
    "run --nonsense": (USAGE, ("No such option", "--nonsense", "--help")),
    "run demo --source nowhere": (FAILED, ("no episodes at nowhere", "--source")),
    "run demo --source 'odd[/b]' --plan": (FAILED, ("no episodes at odd[/b]", "--source")),
    "run demo --source garbage.bin --plan": (USAGE, ("garbage.bin", "Give the folder")),
    "run demo --source empty --backend serial": (USAGE, ("empty", "Give the folder")),
    "run demo --source eps --backend slurm --plan": (USAGE, ("'slurm'", "'ray' or 'serial'")),
    "run demo --source eps --max-error-share 2": (USAGE, ("--max-error-share=2", "<= 1")),
    "run demo --source eps --max-error-share nan": (USAGE, ("--max-error-share=nan", "finite")),
    "run demo --source eps --max-error-share x": (USAGE, ("--max-error-share", "number")),
    "run paper --source eps --plan": (FAILED, ("vda-vits", "weights fetch")),
    "rerun nonsense --run 999": (USAGE, ("no run 999", "the latest runs are")),
    "rerun depth --run '[/red]'": (USAGE, ("no run [/red]", "the latest runs are")),
    "rerun depth --backend slurm": (USAGE, ("'slurm'", "'ray' or 'serial'")),
    "status ../../etc": (USAGE, ("no run ../../etc", "the latest runs are")),
    "publish ../../etc": (USAGE, ("no run ../../etc", "the latest runs are")),
    "publish '[/red]'": (USAGE, ("no run [/red]", "the latest runs are")),
    "lineage nope": (USAGE, ("no store 'nope'", "Stages with stores there")),
    "lineage '[/red]'": (USAGE, ("no store '[/red]'", "Stages with stores there")),
    "lineage ''": (USAGE, ("'' is ambiguous", "clip/")),
    "inspect clip 999999": (USAGE, ("no clip '999999'", "a row below 7")),
    "inspect clip -- -1": (USAGE, ("no clip '-1'", "a row below 7")),
    "inspect clip '[/bold]'": (USAGE, ("no clip '[/bold]'", "a row below 7")),
    "inspect world_model 1": (USAGE, ("world_model/", "no clip '1'", "such as clip")),
    "inspect clip 1 --picture gone/x.png": (USAGE, ("gone/x.png", "no folder", "make it")),
    "inspect clip 1 --picture empty": (USAGE, ("empty", "found a folder", "name of a file")),
    "inspect keypoints 1 --picture a.png": (USAGE, ("no pictures", "'clip' or 'depth'")),
    "generate nope 1": (USAGE, ("no store 'nope'", "Stages with stores there")),
    "generate clip 1": (USAGE, ("holds no world_model.safetensors", "expected")),
    "generate zero 1": (USAGE, ("zero", "not a readable safetensors", "make it again")),
    "generate garbage.bin 1": (USAGE, ("garbage.bin", "not a readable safetensors")),
    "generate world_model 99": (USAGE, ("no clip '99'", "a row below 7")),
    "generate world_model 1 --frames 0": (USAGE, ("--frames=0", ">= 2")),
    "generate world_model 1 --frames 1000000000000": (USAGE, ("--frames=10000", "<= 100000")),
    "generate world_model 1 --steps 0": (USAGE, ("--steps=0", ">= 1")),
    "generate world_model 1 --temperature nan": (USAGE, ("--temperature=nan", "finite")),
    "generate world_model 1 --temperature -1": (USAGE, ("--temperature=-1", ">= 0")),
    "generate world_model 1 --top-k 100000": (USAGE, ("--top-k=100000", "<= 512")),
    "generate world_model 1 --order foo": (USAGE, ("--order='foo'", "'confidence'")),
    "generate world_model 1 --seed -1": (USAGE, ("--seed=-1", ">= 0")),
    "generate world_model 1 --seed 99999999999999999999": (USAGE, ("--seed=9999", "<= 2147")),
    "generate world_model 1 --device tpu": (USAGE, ("--device='tpu'", "cpu, cuda or cuda:N")),
    "generate world_model 1 --device cuda:777": (USAGE, ("'cuda:777'", "CUDA devices", "cpu")),
    "generate world_model 1 --actions gone.npy": (USAGE, ("gone.npy", "cannot be read", "rows")),
    "generate world_model 1 --actions zero.npy": (USAGE, ("zero.npy", "expected rows of 16")),
    "generate world_model 1 --actions bad.csv": (USAGE, ("bad.csv", "expected rows of 16")),
    "generate world_model 1 --actions bad.json": (USAGE, ("bad.json", "expected rows of 16")),
    "generate world_model 1 --actions nan.json": (USAGE, ("nan.json", "NaN or infinite")),
    "generate world_model 1 --actions garbage.bin": (USAGE, ("garbage.bin", "convert it")),
    "generate world_model 1 --out garbage.bin": (USAGE, ("garbage.bin", "expected a folder")),
    "generate world_model 1 --out /proc/nope": (USAGE, ("--out", "/proc", "choose another")),
    "checkpoint x.safetensors": (USAGE, ("is complete", "roboscape inspect")),
    "checkpoint x.safetensors --training nope": (USAGE, ("no store 'nope'", "Stages with")),
    "checkpoint gone/x.safetensors": (USAGE, ("gone/x.safetensors", "no folder", "make it")),
    "train-annotator nope": (USAGE, ("no annotator 'nope'", "there is: vda-tiny")),
    "train-annotator vda-tiny --source eps": (FAILED, ("no sample.json", "roboscape sample")),
    "train-spec gone/x.json --source eps": (USAGE, ("gone/x.json", "no folder", "make it")),
    "train-spec x.json --experiment nope": (USAGE, ("no experiment 'nope'", "there is: demo")),
    "train-spec x.json --source eps": (FAILED, ("discover/", "not complete", "run the stages")),
    "sample out --size 640": (USAGE, ("--size 640", "WIDTHxHEIGHT")),
    "sample out --size 1x1": (USAGE, ("--size 1x1", ">= 32")),
    "sample out --size 999999x999999": (USAGE, ("--size 999999x999999", "<= 8192")),
    "sample out --rate nan": (USAGE, ("--rate=nan", "finite")),
    "sample out --rate 1e9": (USAGE, ("--rate=1000000000", "<= 1000")),
    "sample out --rate 0": (USAGE, ("--rate=0", "> 0")),
    "sample out --episodes -1": (USAGE, ("--episodes=-1", ">= 0")),
    "sample out --episodes 99999999999999": (USAGE, ("--episodes=9999", "<= 10000000")),
    "sample out --seed -1": (USAGE, ("--seed=-1", ">= 0")),
    "sample out --camera-motion 9": (USAGE, ("--camera-motion=9", "<= 5")),
    "sample out --workers -1": (USAGE, ("--workers=-1", ">= 0")),
    "sample garbage.bin --episodes 1": (USAGE, ("garbage.bin", "a file", "expected a folder")),
    "sample eps --episodes 1": (FAILED, ("eps is not empty", "a new folder")),
    "weights fetch": (USAGE, ("Missing argument", "--help")),
    "weights fetch '[/red]'": (USAGE, ("no published weights '[/red]'", "there is: vda-vits")),
    "verify nope": (USAGE, ("no store 'nope'", "Stages with stores there")),
    "repair nope": (USAGE, ("no store 'nope'", "Stages with stores there")),
    "repair depth --backend slurm": (USAGE, ("'slurm'", "'ray' or 'serial'")),
    "delete depth": (USAGE, ("'depth' is no key", "say depth/")),
    "delete ''": (USAGE, ("'' is ambiguous", "clip/")),
    "gc --older-than-h nan": (USAGE, ("--older-than-h=nan", "finite")),
    "gc --older-than-h -1": (USAGE, ("--older-than-h=-1", ">= 0")),
    "ui --no-open": (NO_SERVICE, ("no Prefect server answers", "roboscape up")),
}

# Environment variables, command -> (exit code, fragments of the message)
ENVIRONMENT: dict[str, tuple[int, tuple[str, ...]]] = {
    "ROBOSCAPE_BACKEND=slurm status": (USAGE, ("'slurm'", "'ray' or 'serial'")),
    "ROBOSCAPE_PREFECT_PORT=abc status": (USAGE, ("ROBOSCAPE_PREFECT_PORT=abc", "expected")),
    "ROBOSCAPE_PREFECT_PORT=inf status": (USAGE, ("ROBOSCAPE_PREFECT_PORT=inf", "expected")),
    "ROBOSCAPE_PREFECT_PORT=nan status": (USAGE, ("ROBOSCAPE_PREFECT_PORT=nan", "expected")),
    "ROBOSCAPE_PREFECT_PORT=-1 status": (USAGE, ("ROBOSCAPE_PREFECT_PORT=-1", "expected")),
    "ROBOSCAPE_PREFECT_PORT=1.5 status": (USAGE, ("PORT=1.5", "an integer up to 65535")),
    "ROBOSCAPE_PREFECT_PORT=99999999 status": (USAGE, ("PORT=99999999", "up to 65535")),
    "ROBOSCAPE_STALL_S=nan status": (USAGE, ("ROBOSCAPE_STALL_S=nan", "expected a number")),
    "ROBOSCAPE_SPACE_CHECK=no status": (USAGE, ("ROBOSCAPE_SPACE_CHECK=no", "expected on or off")),
    "ROBOSCAPE_STALL_S=0 status": (USAGE, ("ROBOSCAPE_STALL_S=0", "seconds above 0")),
    "ROBOSCAPE_STORES=ftp://x verify": (USAGE, ("ROBOSCAPE_STORES=ftp://x", "s3://bucket")),
    "ROBOSCAPE_STORES=s3:// verify": (USAGE, ("s3://", "no bucket", "s3://bucket/prefix")),
    "ROBOSCAPE_STORES=garbage.bin verify": (USAGE, ("STORES=garbage.bin", "expected a folder")),
    "ROBOSCAPE_HOME=garbage.bin status": (USAGE, ("garbage.bin", "expected a folder")),
    "ROBOSCAPE_WEIGHTS=garbage.bin weights list": (USAGE, ("WEIGHTS=garbage.bin", "a folder")),
    "ROBOSCAPE_CACHE=garbage.bin status": (USAGE, ("CACHE=garbage.bin", "expected a folder")),
    "HF_ENDPOINT=nonsense weights list": (USAGE, ("HF_ENDPOINT=nonsense", "http://HOST:PORT")),
    "PREFECT_API_URL=nonsense status": (USAGE, ("PREFECT_API_URL=nonsense", "http://HOST")),
    "PREFECT_API_URL=http://[::1/api status": (USAGE, ("PREFECT_API_URL=", "http://HOST")),
    "PREFECT_API_URL=http://127.0.0.1:9/api ui --no-open": (NO_SERVICE, ("127.0.0.1:9", "up")),
}

Run = Callable[..., tuple[object, str]]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a workspace `ws`, episodes `eps`, and files that are not what they should be.
    Read only.
    """
    folder = tmp_path_factory.mktemp("bad inputs [x]")  # as names of real folders may be
    make_workspace(folder / "ws")
    write_tree(folder / "eps", FakeEpisode(), FakeEpisode(episode=648649, task=351, n=260))
    (folder / "empty").mkdir()
    (folder / "garbage.bin").write_bytes(bytes(range(256)) * 12)
    for name in ("zero", "zero.npy"):
        (folder / name).write_bytes(b"")
    (folder / "bad.csv").write_text("a,b\n1,2\n3\n")
    (folder / "bad.json").write_text("{")
    (folder / "nan.json").write_text(f"[[{', '.join(['NaN'] * 16)}]]")
    return folder


@pytest.fixture
def run(workspace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command's entry in this process; returns its exit code and all that it printed."""

    def started(*_: object) -> None:
        raise AssertionError("a service was started on a bad input")

    monkeypatch.setattr(services, "up", started)
    monkeypatch.chdir(workspace)
    for name in ("PREFECT_API_URL", "RAY_ADDRESS", "ROBOSCAPE_BACKEND", "ROBOSCAPE_STORES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ROBOSCAPE_HOME", str(workspace / "ws"))
    monkeypatch.setenv("ROBOSCAPE_PREFECT_PORT", "9")  # nothing of ours answers there
    monkeypatch.setenv("COLUMNS", "200")

    def run_(line: str, environment: dict[str, str] | None = None) -> tuple[object, str]:
        for name, value in (environment or {}).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["roboscape", *shlex.split(line)])
        before, began = dict(os.environ), time.process_time()
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            seconds = time.process_time() - began
            os.environ.clear()
            os.environ.update(before)
        printed = capfd.readouterr()
        assert seconds < CPU_LIMIT_S
        return ended.value.code, " ".join((printed.out + printed.err).split())

    return run_


def check(ended: tuple[object, str], code: int, fragments: tuple[str, ...]) -> None:
    found, text = ended
    assert [each for each in fragments if each not in text] == [], text
    assert found == code, text
    assert "Traceback" not in text and "Internal error" not in text, text


@pytest.mark.parametrize("setting", PARAMETERS, ids=lambda text: text[:60])
def test_parameters_that_cannot_be_built_are_refused_by_the_plan(run: Run, setting: str):
    check(run(PLAN + shlex.quote(setting)), USAGE, PARAMETERS[setting])


@pytest.mark.parametrize("line", COMMANDS)
def test_arguments_and_files(run: Run, line: str):
    check(run(line), *COMMANDS[line])


@pytest.mark.parametrize("line", ENVIRONMENT)
def test_environment_variables(run: Run, line: str):
    assignment, _, command = line.partition(" ")
    name, _, value = assignment.partition("=")
    check(run(command, {name: value}), *ENVIRONMENT[line])


def test_a_bucket_that_does_not_answer(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:9")
    ended = run("verify", {"ROBOSCAPE_STORES": "s3://bad-inputs/prefix"})
    check(ended, FAILED, ("s3://bad-inputs/prefix", "does not answer", "AWS_ENDPOINT"))


def test_what_the_plan_refuses_a_run_refuses_before_it_starts_anything(run: Run):
    line = "run demo --source eps --backend serial --set clip_format.size=null"
    check(run(line), USAGE, ("clip_format.size=null", "an integer >= 1"))


def test_names_with_brackets_are_shown_as_they_are(run: Run, workspace: Path):
    """The folder's own name has brackets, see `workspace`."""
    for line in ("lineage evaluation -p", "inspect world_model", "weights list", "status"):
        code, text = run(line)
        assert code in (0, None) and "Error" not in text, text
    assert "bad inputs [x]" in run("inspect world_model")[1]


@pytest.mark.parametrize(
    ("line", "fragment"),
    [
        ("run nonsense", "no experiment 'nonsense'; there is: demo"),
        (PLAN + "clip_format.size=null", "clip_format.size=null: expected an integer"),
    ],
)
def test_as_a_process_of_its_own(workspace: Path, line: str, fragment: str):
    environment = os.environ | {"ROBOSCAPE_HOME": str(workspace / "ws"), "PYTHONPATH": str(ROOT)}
    code = "from pipeline.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *shlex.split(line)],
        capture_output=True, text=True, env=environment, cwd=workspace,
    )  # fmt: skip
    assert done.returncode == USAGE and fragment in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_that_nobody_foresaw_is_one_message_with_a_file(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def slip(*_: object, **__: object) -> None:
        raise TypeError("None is no [number]")

    monkeypatch.setattr("pipeline.cli.status.print_status", slip)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, text = run("status")
    assert code == FAILED and "Internal error: TypeError: None is no [number]" in text
    (report,) = tmp_path.glob("roboscape-error-*.txt")
    assert str(report) in text and "in slip" in report.read_text()


def test_a_file_that_cannot_be_used_is_named_with_what_to_do(
    run: Run, monkeypatch: pytest.MonkeyPatch
):
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/data/[secret]")

    monkeypatch.setattr("pipeline.cli.status.print_status", refused)
    check(run("status"), FAILED, ("/data/[secret]: Permission denied", "check its permissions"))
