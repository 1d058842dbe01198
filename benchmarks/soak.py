"""Soak: the real run under random deaths and full disks, and what is left of it afterwards.

    python benchmarks/soak.py                        # 104 faults, an hour and a half on 2 cores
    python benchmarks/soak.py --faults 6 --episodes 4 --out folder

An undisturbed run of the experiment `smoke` gives the reference. Then the same command runs in a
fresh workspace and is struck by one fault after another, each at a random moment: a fault ends the
command (which is then started again) or does not (then it must get on). When it has completed,
arrays, files and checkpoints are compared with the reference bit by bit, every store is verified in
full, `roboscape gc` is run and what remains is looked at; then the next round begins. The exit code
is 1 if anything was lost, wrong, or took longer than the limit. Faults that need a small disk are
left out, by name, where this user may not mount one. Ctrl-C ends it with the page of what was done.
"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import store_digests
import torch
from measuring import Conditions
from soak_faults import DISK_FULL, FAULTS, Fault, Scene, empty_disk, small_disk
from soak_report import Report, Strike, losses
from soak_run import Workspace, wait_for

from pipeline.experiments.registry import SAMPLES
from simulation.dataset import make_sample

LIMIT_S = 60.0  # no wait may be longer
GIVEN_UP_S = 240.0
MEAN_DELAY_S = 5.0
DISK_MB = 1200
# Many shards, saved states all the time, several processes in the training
OPTIONS = {
    "discover.hop_s": 0.25,
    "keypoints.annotator.frame_px": 64,
    "rgb_tokenizer.training.steps": 30,
    "rgb_tokenizer.watch.save_every": 5,
    "depth_tokenizer.training.steps": 30,
    "depth_tokenizer.watch.save_every": 5,
    "world_model.workers": 2,
    "world_model.training.steps": 30,
    "world_model.watch.save_every": 3,
    "evaluation.n_clips": 4,
    "evaluation.n_pictures": 1,
}


@dataclass
class Soak:
    workspace: Workspace
    reference: dict[str, dict[str, str]]
    logs: Path
    deck: list[Fault]  # struck from its end
    random: random.Random
    strikes: list[Strike] = field(default_factory=list)
    rounds: int = 0
    commands: int = 0
    losses: list[str] = field(default_factory=list)

    def run(self) -> None:
        while self.deck:
            self.rounds += 1
            shutil.rmtree(f"{self.workspace.root}/stores", ignore_errors=True)
            while self.attempt() != 0:
                if self.commands > 20 * self.rounds + 3 * len(self.strikes):
                    raise RuntimeError(f"round {self.rounds} does not end: see {self.logs}")
            found = losses(self.workspace, self.reference)
            self.losses += [f"round {self.rounds}: {text}" for text in found]
            print(f"round {self.rounds}: {'; '.join(found) or 'equal'}", flush=True)

    def attempt(self) -> int:
        """One command, struck until it ends; its exit code."""
        self.commands += 1
        log = self.logs / f"{self.commands:03d}.log"
        driver = self.workspace.start(log)
        while driver.poll() is None:
            wait_for(lambda: driver.poll() is not None, self.random.expovariate(1 / MEAN_DELAY_S))
            if not self.deck:
                driver.wait(GIVEN_UP_S * 4)
            elif driver.poll() is None:
                fault = self.deck.pop()
                scene = Scene(
                    driver=driver,
                    services=self.workspace.services(),
                    disk=self.workspace.disk,
                    random=self.random,
                )
                stage = self.workspace.stage(driver)
                did = fault.strike(scene)
                if did is None:  # nothing to hit now: at another moment
                    self.deck.insert(0, fault)
                    continue
                strike = self.watch(driver, fault, stage, did)
                self.strikes.append(replace(strike, wrong=strike.wrong + traces(log)))
                print(f"{len(self.strikes)}: {strike}", flush=True)
        empty_disk(self.workspace.disk)
        self.losses += self.workspace.false_status(driver)
        return driver.returncode

    def watch(self, driver: subprocess.Popen[bytes], fault: Fault, stage: str, did: str) -> Strike:
        """Waits for what the fault is to lead to, and says what is wrong with it."""
        wrong = []
        seconds, stuck = self.workspace.longest_wait(
            driver, until_progress=fault.survives, limit_s=GIVEN_UP_S
        )
        code = driver.poll()
        if stuck:
            wrong.append("neither got on nor ended")
            driver.kill()
            driver.wait()
        elif seconds > LIMIT_S:
            wrong.append(f"{seconds:.0f} s")
        # A run may complete in spite of a fault that comes late
        expected = (0,) if fault.survives else (0, *fault.codes)
        if code is not None and code not in expected:
            wrong.append(f"exit code {code}, expected {' or '.join(map(str, expected))}")
        wrong += self.workspace.false_status(driver)
        return Strike(
            round=self.rounds,
            fault=fault.name,
            stage=stage,
            did=did,
            seconds=seconds,
            code=code,
            wrong=tuple(wrong),
        )


def traces(log: Path) -> tuple[str, ...]:
    """A command that ends says why in words."""
    found = log.read_bytes().count(b"Traceback (most recent call last)")
    return (f"{found} tracebacks in {log.name}",) if found else ()


def shuffled_deck(n: int, of: random.Random) -> list[Fault]:
    """n faults in random order, each kind by its share and at least once."""
    total = sum(fault.share for fault in FAULTS)
    deck = [fault for fault in FAULTS for _ in range(max(1, round(n * fault.share / total)))]
    of.shuffle(deck)
    return deck


def reference_run(folder: Path, options: Sequence[str]) -> dict[str, dict[str, str]]:
    """Digests of what the undisturbed run makes. Raises RuntimeError if it fails."""
    workspace = Workspace.at(folder, options)
    driver = workspace.start(folder.with_suffix(".log"))
    try:
        if driver.wait():
            raise RuntimeError(f"the undisturbed run failed: see {folder.with_suffix('.log')}")
    finally:
        workspace.command("down")
    return store_digests.digests(str(folder))


def soak(
    out: Path,
    deck: Sequence[Fault],
    n_episodes: int,
    of: random.Random,
    changes: Mapping[str, object] = OPTIONS,
) -> Report:
    """All of it below the folder, which keeps episodes, logs and stores for a look afterwards.

    changes: what `--set` changes in the experiment.
    """
    source = out / "episodes"
    sample = replace(SAMPLES["smoke"], n_episodes=n_episodes, duration_s=12.0)
    make_sample(source, sample)
    changed = [word for name, value in changes.items() for word in ("--set", f"{name}={value}")]
    options = ["smoke", "--source", str(source), *changed]
    reference = reference_run(out / "reference", options)
    print("reference: made", flush=True)
    (out / "logs").mkdir(exist_ok=True)
    with small_disk(out / "disk", DISK_MB) as mounted:
        possible = [fault for fault in deck if mounted or fault.name != DISK_FULL]
        left_out = len(deck) - len(possible)
        workspace = Workspace.at(
            out / "disk" / "home", options, disk=out / "disk" if mounted else None
        )
        run = Soak(workspace, reference, out / "logs", possible, of)
        try:
            run.run()
        except KeyboardInterrupt:
            run.losses.append(f"interrupted: {len(run.deck)} faults were still to come")
        finally:
            workspace.command("down")
        run.losses += workspace.left_running()
    return Report(
        strikes=run.strikes,
        losses=run.losses,
        commands=run.commands,
        rounds=run.rounds,
        left_out=left_out,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=104, help="about this many in all")
    parser.add_argument("--episodes", type=int, default=16, help="of 18 clips each")
    parser.add_argument("--seed", type=int, default=0, help="of the faults and their moments")
    parser.add_argument("--out", type=Path, help="keeps everything here; default: a temporary one")
    arguments = parser.parse_args()
    # In the background of a shell it is ignored, and so it would be by the commands
    signal.signal(signal.SIGINT, signal.default_int_handler)
    conditions = Conditions(torch.device("cpu"))
    temporary = nullcontext(arguments.out) if arguments.out else tempfile.TemporaryDirectory()
    with temporary as folder:
        out = Path(folder).absolute()
        out.mkdir(parents=True, exist_ok=True)
        of = random.Random(arguments.seed)
        report = soak(out, shuffled_deck(arguments.faults, of), arguments.episodes, of)
    print(report.page(conditions))
    sys.exit(bool(report.faults))


if __name__ == "__main__":
    main()
