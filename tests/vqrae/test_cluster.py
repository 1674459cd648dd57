from __future__ import annotations

import subprocess
import sys

import pytest

HANDLED = """
import signal, sys, time
from vqrae.cluster import cluster

def told(*_):
    raise SystemExit(143)

signal.signal(signal.SIGTERM, told)
with cluster(None, cpus=1):
    if sys.argv[1] == "while":
        print("ready", flush=True)
        time.sleep(60)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["while", "after"])
def test_ray_does_not_take_the_handler_of_sigterm_away(when: str) -> None:
    """While it runs its own would end with 15, and after it the system's would end the process as it stands."""
    command = [sys.executable, "-c", HANDLED, when]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.terminate()
        assert child.wait(60) == 143
