"""Small real stages for tests of orchestration: an index of numbered clips, stages that can fail.

A file in a folder arms a fault, in worker processes too; deleting the file disarms it.
"""

import errno
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.base import (
    Arrays,
    ClipFunction,
    ClipStage,
    DatasetStage,
    InputResults,
    InputRows,
    Inputs,
    Progress,
    Rejected,
    Resources,
    per_clip,
)
from storage.stores.results import Result, ResultWriter
from storage.stores.spec import ArraySpec

N = 22  # clips; not a multiple of the shard size, so that the last shard is short


@dataclass(frozen=True, kw_only=True)
class Index(DatasetStage):
    n: int = N
    name: ClassVar[str] = "discover"
    version: ClassVar[int] = 1
    kind = "index"
    inputs: ClassVar[Inputs] = {}
    resources: ClassVar[Resources] = Resources()

    def run(
        self, rows: InputRows, results: InputResults, out: ResultWriter, progress: Progress
    ) -> dict[str, float]:
        table = pa.table(
            {"clip_id": [f"clip{i:04d}" for i in range(self.n)], "number": np.arange(self.n)}
        )
        pq.write_table(table, out.path / "index.parquet")
        progress(self.n, self.n)
        return {"clips": float(self.n)}


def armed(folder: str, fault: str, number: int) -> bool:
    return bool(folder) and (Path(folder) / f"{fault}-{number}").exists()


@dataclass(frozen=True, kw_only=True)
class Frames(ClipStage):
    """Random frames, from the clip's number; every seventh clip is rejected."""

    seed: int = 0
    name: ClassVar[str] = "clip"
    version: ClassVar[int] = 1
    inputs: ClassVar[Inputs] = {"discover": ("number",)}
    outputs: ClassVar[tuple[ArraySpec, ...]] = (
        ArraySpec("rgb", "uint8", ("t", "h", "w", "c"), (4, 8, 8, 3), "sRGB", "random"),
    )
    resources: ClassVar[Resources] = Resources(cpus=0.5, clips_per_shard=4, clips_per_call=3)

    def start(self, device: str, results: Mapping[str, Result]) -> ClipFunction:
        return per_clip(self.frames)

    def frames(self, number: np.ndarray) -> Arrays:
        if int(number) % 7 == 3:
            raise Rejected("unlucky", f"number {int(number)}, expected no 3 modulo 7")
        rng = np.random.default_rng([self.seed, int(number)])
        return {"rgb": rng.integers(0, 256, (4, 8, 8, 3), dtype="uint8")}


@dataclass(frozen=True, kw_only=True)
class Brightness(ClipStage):
    """Mean brightness per frame; tests arm faults by clip number in the folder `faults`."""

    gain: float = 2.0
    faults: str = field(default="", metadata={"key": False})
    name: ClassVar[str] = "depth"
    version: ClassVar[int] = 1
    inputs: ClassVar[Inputs] = {"discover": ("number",), "clip": ("rgb",)}
    outputs: ClassVar[tuple[ArraySpec, ...]] = (
        ArraySpec("brightness", "float32", ("t",), (4,), "1", "mean", fill=-1.0),
        ArraySpec("darkest", "int32", ("t",), (4,), "1", "least", codec="raw", fill=-1),
    )
    resources: ClassVar[Resources] = Resources(cpus=0.5, clips_per_shard=3, clips_per_call=2)

    def start(self, device: str, results: Mapping[str, Result]) -> ClipFunction:
        return per_clip(self.brightness)

    def brightness(self, number: np.ndarray, rgb: np.ndarray) -> Arrays:
        self.misbehave(int(number))
        grey = rgb.reshape(4, -1)
        return {
            "brightness": (grey.mean(axis=1) * self.gain).astype("float32"),
            "darkest": grey.min(axis=1).astype("int32"),
        }

    def misbehave(self, number: int) -> None:
        if armed(self.faults, "wait", number):
            (Path(self.faults) / f"hanging-{number}").touch()
            while armed(self.faults, "wait", number):
                time.sleep(0.05)
        if armed(self.faults, "raise", number):
            raise RuntimeError(f"no brightness for number {number}")
        if armed(self.faults, "full", number):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if armed(self.faults, "kill-once", number):
            (Path(self.faults) / f"kill-once-{number}").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if armed(self.faults, "kill", number):
            os.kill(os.getpid(), signal.SIGKILL)
        if armed(self.faults, "hang", number):
            (Path(self.faults) / f"hanging-{number}").touch()
            signal.pause()


@dataclass(frozen=True, kw_only=True)
class Total(DatasetStage):
    """A result from a whole store, with a table, a note and a picture."""

    name: ClassVar[str] = "evaluation"
    version: ClassVar[int] = 1
    inputs: ClassVar[Inputs] = {"depth": ("brightness",)}
    resources: ClassVar[Resources] = Resources(cpus=0.5)

    def run(
        self, rows: InputRows, results: InputResults, out: ResultWriter, progress: Progress
    ) -> dict[str, float]:
        depth = rows["depth"]
        values = depth.gather("brightness", np.flatnonzero(depth.ok))
        (out.path / "values.csv").write_text(
            "row,mean\n" + "".join(f"{i},{v.mean()}\n" for i, v in enumerate(values))
        )
        (out.path / "notes.md").write_text("# Notes\nall good\n")
        progress(1, 1, "done")
        return {"total": float(values.sum()), "clips": float(len(values))}


def say_nothing(done: int, total: int, note: str = "") -> None:
    """A progress callback."""
