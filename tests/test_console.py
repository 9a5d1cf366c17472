"""A bar on a console that can take no more, such as a file on a full disk, does not end the program."""

import errno
import io
import sys

from library.console import Patient, progress_bar


class Full(io.StringIO):
    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_bar_goes_on_where_nothing_can_be_written(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Full())
    monkeypatch.setattr(sys, "stdout", Full())
    with progress_bar(range(3), mininterval=0) as bar:
        bar.write("epoch 1", file=Patient("stdout"))
        assert list(bar) == [0, 1, 2]


def test_what_can_be_written_is(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    list(progress_bar(range(3), desc="steps"))
    assert "steps" in sys.stderr.getvalue()
