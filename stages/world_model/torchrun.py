"""The program of each process that trains a world model together with others.

    torchrun --nproc-per-node 8 -m stages.world_model.torchrun training.json

`roboscape train-spec` writes `training.json`: the stage, its inputs (complete stores) and the place
of the result. Neither Prefect nor Ray is needed. The pipeline starts the same program, or calls
`train_together` on Ray Train's workers. After a kill, start the same again, with any number of
processes: the training resumes from its last saved state.
"""

import argparse
import json
import os
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from model.training.checkpoint import from_plain
from model.training.parallel import Workers, join, leave
from stages.base import Stage
from stages.training.working_files import FOLDER_CHECK_FILE, PARTIAL_FILE, PROGRESS_FILE, STOP_FILE
from stages.world_model.train import TrainWorldModel
from storage.atomic import write_file
from storage.disk_space import explain_disk_full
from storage.stores import leases
from storage.stores.records import StoreRef
from storage.stores.results import open_writer
from storage.stores.rows import open_rows
from storage.stores.store import is_complete

PROGRESS_EVERY_S = 0.2


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """One training, as each process gets it. The store `out` has its manifest already."""

    stage: TrainWorldModel
    inputs: dict[str, StoreRef]
    out: StoreRef

    @classmethod
    def of(cls, stage: Stage, inputs: dict[str, StoreRef], out: StoreRef) -> "TrainingSpec":
        """The spec of this stage; raises TypeError if it does not train a world model."""
        if not isinstance(stage, TrainWorldModel):
            raise TypeError(
                f"stage '{stage.name}' is a {type(stage).__name__}, expected a TrainWorldModel: "
                "no other training can have several workers"
            )
        return cls(stage=stage, inputs=inputs, out=out)

    def to_json(self) -> str:
        inputs = {role: ref.uri for role, ref in self.inputs.items()}
        plain = {"stage": asdict(self.stage), "inputs": inputs, "out": self.out.uri}
        return json.dumps(plain, indent=1)

    @staticmethod
    def from_json(text: str) -> "TrainingSpec":
        """Raises ValueError for a field that the stage does not have."""
        plain = json.loads(text)
        return TrainingSpec(
            stage=from_plain(TrainWorldModel, plain["stage"], "training spec"),
            inputs={role: StoreRef(uri) for role, uri in plain["inputs"].items()},
            out=StoreRef(plain["out"]),
        )


def train_together(spec: TrainingSpec, workers: Workers, *, clear_stop: bool = False) -> None:
    """One worker's part, from the stores to the sealed result, which the first worker writes.

    clear_stop: deletes a stop file of an earlier start. (Ray's launcher does that itself, and may
    already have written a new one.)
    """
    torch.set_num_threads(max(1, int(spec.stage.resources.cpus)))
    writer = open_writer(spec.out) if workers.is_first else None
    try:
        if writer and clear_stop:
            (writer.path / STOP_FILE).unlink(missing_ok=True)
        folder = agree_on_folder(writer.path if writer else None, workers)
        rows = {role: open_rows(ref) for role, ref in spec.inputs.items()}
        progress = ProgressFile(folder, workers)
        with explain_disk_full(folder):
            numbers = spec.stage.work(rows, folder, progress, workers)
            if writer:
                writer.finish(numbers)
        workers.barrier()
    finally:
        if writer:
            writer.close()


def agree_on_folder(folder: Path | None, workers: Workers) -> Path:
    """The first worker's working folder. Raises OSError on every rank if one does not see it."""
    token = uuid.uuid4().hex
    if folder is not None:
        write_file(folder / FOLDER_CHECK_FILE, token.encode())
    place, token = workers.broadcast((folder, token))
    assert place is not None
    seen = (place / FOLDER_CHECK_FILE).exists() and (place / FOLDER_CHECK_FILE).read_text() == token
    found = workers.gather((socket.gethostname(), seen))
    if folder is not None:
        (folder / FOLDER_CHECK_FILE).unlink()
    blind = [(rank, host) for rank, (host, sees) in enumerate(found) if not sees]
    if blind:
        raise OSError(
            f"worker {blind[0][0]} on {blind[0][1]} does not see {place}, where the first worker "
            f"(on {found[0][0]}) saves the training: several machines need ROBOSCAPE_STORES in a "
            "folder that all of them share"
        )
    return place


class Stopped(RuntimeError):
    """The training was asked to stop; the next start resumes from its last saved state."""


class ProgressFile:
    """The stage's progress as a file, for the launcher of the processes."""

    def __init__(self, folder: Path, workers: Workers):
        self.path, self.active, self.written = folder / PROGRESS_FILE, workers.is_first, 0.0

    def __call__(self, done: int, total: int, note: str = "") -> None:
        if self.active and self.path.with_name(STOP_FILE).exists():
            raise Stopped("the launcher of this training asked it to stop")
        if self.active and (done == total or time.monotonic() - self.written > PROGRESS_EVERY_S):
            self.written = time.monotonic()
            # Renamed, but not flushed: after a power cut nobody needs it
            partial = self.path.with_name(PARTIAL_FILE)
            partial.write_text(json.dumps([done, total, note]))
            os.replace(partial, self.path)


def exit_with(parent: int) -> None:
    """Ends this process when its parent is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def record_failure(path: Path, error: BaseException) -> None:
    what = {
        "type": type(error).__name__,
        "message": str(error),
        "at": time.time(),
        "trace": "".join(traceback.format_exception(error)),
    }
    write_file(path, json.dumps(what).encode())


def is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def registered(spec: TrainingSpec) -> Iterator[None]:
    """Tells others who share the stores' root what this training reads and makes."""
    root, here = spec.out.root, str(Path.cwd())
    with leases.hold(root, home=here, what="a training by torchrun") as lease:
        lease.acquire(uses={str(ref) for ref in spec.inputs.values()})
        with lease.making(spec.out, lambda message: print(message, flush=True)):
            yield


def main() -> None:
    parser = argparse.ArgumentParser(
        description="One process of a training; started by torchrun or the pipeline."
    )
    parser.add_argument("spec", type=Path, help="what `roboscape train-spec` wrote")
    parser.add_argument(
        "--failures", type=Path, help="folder for a record of the error that ends this process"
    )
    parser.add_argument("--parent", type=int, help="process id; this process ends with it")
    arguments = parser.parse_args()
    if arguments.parent:
        exit_with(arguments.parent)
    spec = TrainingSpec.from_json(arguments.spec.read_text())
    if is_complete(spec.out):
        print(f"{spec.out.uri} is complete; nothing to do")
        return
    alone = not arguments.parent  # else the run that started this process holds a lease
    try:
        with registered(spec) if alone and is_first() else nullcontext():
            train_together(spec, join(spec.stage.device), clear_stop=True)
    except Exception as error:
        if arguments.failures:
            record_failure(arguments.failures / f"{os.environ.get('RANK', '0')}.json", error)
        raise
    finally:
        leave()


if __name__ == "__main__":
    main()
