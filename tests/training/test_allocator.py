"""Main memory that the C library keeps."""

import platform
import subprocess
import sys

import pytest

from library.training.allocator import keep_freed_memory

LEFT_RESIDENT = """
import psutil
from library.training.allocator import keep_freed_memory
assert keep_freed_memory()
before = psutil.Process().memory_info().rss
block = bytearray(b"x" * 2**28)
del block
print(psutil.Process().memory_info().rss - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory by other rules")
def test_freed_memory_stays_in_the_process():
    printed = subprocess.run([sys.executable, "-c", LEFT_RESIDENT], capture_output=True, text=True, check=True).stdout
    assert int(printed) > 2**27


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert keep_freed_memory() is False
