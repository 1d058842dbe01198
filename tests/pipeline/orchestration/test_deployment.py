"""The deployment obeys its server, and nobody who takes the server's place."""

import subprocess
import sys
import time

END_AFTER = """
import subprocess, sys, time
from multiprocessing import resource_tracker
from pipeline.orchestration.deployment import end_after
resource_tracker.ensure_running()  # as after the first run
run = subprocess.Popen(["sleep", sys.argv[2]])  # stands for a run of the flow
end_after(int(sys.argv[1]))
print("serves", flush=True)
run.wait()
time.sleep(60)
"""


def ended_after(run_s: float) -> float:
    """Seconds from the server's death to the deployment's end, with a run that takes `run_s`."""
    server = subprocess.Popen(["sleep", "60"])
    deployment = subprocess.Popen(
        [sys.executable, "-c", END_AFTER, str(server.pid), str(run_s)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert deployment.stdout and deployment.stdout.readline() == "serves\n"
    server.kill()
    server.wait()
    began = time.monotonic()
    text, _ = deployment.communicate(timeout=30)
    assert deployment.returncode == 1 and "`roboscape up`" in text
    return time.monotonic() - began


def test_it_ends_with_its_server():
    assert ended_after(run_s=0) < 2


def test_it_waits_for_a_run_that_is_under_way():
    assert 2 < ended_after(run_s=4) < 20
