"""Of two processes that want one lock, the second is told who has it, and gets it afterwards."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage.locks import locked

HOLD = """
import sys
from pathlib import Path
from storage.locks import locked
with locked(Path(sys.argv[1]), print):
    print("held", flush=True)
    sys.stdin.readline()
"""


def holding(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_the_holder_is_named_once_and_waited_for(tmp_path: Path):
    path, said = tmp_path / "lock", []
    other = holding(path)

    def held(who: str) -> None:
        said.append(who)
        assert other.stdin is not None
        other.stdin.write("\n")
        other.stdin.flush()

    with locked(path, held):
        assert said == [f"process {other.pid}"]
        assert path.read_text() == str(os.getpid())
    assert other.wait(10) == 0


def test_who_does_not_wait_raises_and_a_killed_holder_is_none(tmp_path: Path):
    path = tmp_path / "lock"
    other = holding(path)

    def refuse(who: str) -> None:
        raise BlockingIOError(who)

    with pytest.raises(BlockingIOError, match=rf"process {other.pid}"), locked(path, refuse):
        pytest.fail("two hold it")
    other.kill()
    other.wait()
    with locked(path, refuse):
        pass
