"""How the end of a training's processes is judged: which one is the cause, and whether to go on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.orchestration.errors import StageFailed
from pipeline.orchestration.training.errors import WorkerDied
from pipeline.orchestration.training.local_processes import FAILURES, judge
from stages.world_model.torchrun import record_failure

BROKEN = ValueError("clip 7 is broken")
LEFT = RuntimeError(
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Connection reset by peer"
)


def ended(folder: Path, codes: tuple[int, ...], errors: dict[int, Exception]) -> None:
    """Judges processes that ended with these codes, having noted these errors in this order."""
    for rank, error in errors.items():
        record_failure(folder / FAILURES / f"{rank}.json", error)
    processes: list[Any] = [SimpleNamespace(poll=lambda code=code: code) for code in codes]
    logs = [(folder / f"{rank}.log").open("w+") for rank in range(len(codes))]
    try:
        judge(processes, logs, folder)
    finally:
        for log in logs:
            log.close()


@pytest.mark.parametrize(
    ("codes", "errors"),
    [
        ((1, 0), {0: BROKEN}),
        ((1, 1), {0: BROKEN, 1: LEFT}),
        ((-6, 1), {1: BROKEN}),  # torch aborts a process whose peer has gone
        ((-6, 1, 1), {2: LEFT, 1: BROKEN}),
    ],
)
def test_an_error_of_its_own_ends_the_stage_whatever_it_did_to_the_others(tmp_path, codes, errors):
    rank = next(rank for rank, error in errors.items() if error is BROKEN)
    with pytest.raises(StageFailed, match=f"worker {rank}: ValueError: clip 7 is broken"):
        ended(tmp_path, codes, errors)


@pytest.mark.parametrize(
    ("codes", "errors", "said"),
    [
        ((1, -9), {0: LEFT}, "worker 1 was ended by SIGKILL"),
        (
            (1, -9),
            {0: BROKEN},
            "worker 1 was ended by SIGKILL",
        ),  # broken perhaps by the other one's absence
        ((1, -6), {0: LEFT}, "worker 1 was ended by SIGABRT"),
        (
            (0, -6),
            {1: BROKEN},
            "worker 1 was ended by SIGABRT",
        ),  # noted, but it did not end by that
        ((-6, -11), {}, "worker 0 was ended by SIGABRT"),
        ((0, 3), {}, "worker 1 ended with code 3"),
    ],
)
def test_a_death_is_told_from_what_it_did_to_the_others(tmp_path, codes, errors, said):
    with pytest.raises(WorkerDied, match=said):
        ended(tmp_path, codes, errors)


def test_all_ended_well(tmp_path):
    ended(tmp_path, (0, 0), {})
