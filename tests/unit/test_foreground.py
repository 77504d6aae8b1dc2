"""A program that has the terminal, and signals that end forge meanwhile."""

import signal
import subprocess
import sys

import pytest

WAITS = """
import os, signal, time
from forgefile.foreground import unwinding
with unwinding():
    try:
        os.kill(os.getpid(), {number})
        time.sleep(60)
    finally:
        print("unwound", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_what_ends_this_process_unwinds_it_first(number):
    code = WAITS.format(number=int(number))
    ended = subprocess.run((sys.executable, "-c", code), stdout=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (-number, "unwound\n")
