"""Signals, which become a request to stop, and a console without which a run goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from types import FrameType

# Ctrl-C, the cluster's end, a closed terminal, and what schedulers send before time or processor time is over.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
ENDING = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


class Interrupt:
    """Turns signals that would end the process into a flag, so that a step is never left half done.

    Signals that are ignored stay ignored, such as SIGHUP under ``nohup``. Ctrl-C does not, since shells ignore it
    for jobs in the background. A second Ctrl-C stops at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self._former = {}
        for number in ENDING:
            former = signal.getsignal(number)
            if former is not signal.SIG_IGN or number == signal.SIGINT:
                self._former[number] = former
                signal.signal(number, self._request)

    def restore(self) -> None:
        """Give the signals back to whom they belonged."""
        for number, former in self._former.items():
            signal.signal(number, signal.SIG_DFL if former is None else former)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)


def leave_signals_to_parent(worker: int) -> None:
    """In a process that loads data: ignore what is sent to the whole group; the training process answers."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


class Console:
    """Standard error. Where it is closed, full or a pipe that nobody reads any more, the run goes on."""

    def write(self, text: str) -> None:
        """Write ``text`` if it can be."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(text)

    def flush(self) -> None:
        """Flush what can be."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()

    def fileno(self) -> int:
        """Of the terminal, whose width a progress bar asks for.

        Raises:
            OSError: there is none.
        """
        if sys.stderr is None:
            raise OSError("standard error is closed")
        return sys.stderr.fileno()

    @property
    def encoding(self) -> str:
        """Of the terminal, by which a progress bar chooses its characters."""
        return getattr(sys.stderr, "encoding", None) or "ascii"


def say(text: str, *, error: bool = False) -> None:
    """Lines on standard output or standard error, if there is one."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr if error else sys.stdout, flush=True)


def open_standard_streams() -> None:
    """Give a process that was started without stdin, stdout or stderr empty ones.

    Otherwise the next file that is opened takes their number, and messages of C libraries are written into it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # a file takes the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115
