"""SIGINT and SIGTERM end a command: by an exception where it is, and never without a word.

Libraries swallow exceptions: of callbacks from C, of training loops that end as if all were well.
So a signal is remembered, too, and asked for (:func:`check`) before anything takes its place on
disk, and at the end.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_received: list[int] = []
_deferred: list[bool] = []


class Stopped(SystemExit):
    """A signal has asked the command to end; the code is 128 and its number, as of shells."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


@contextmanager
def raise_on_signal() -> Iterator[None]:
    """Signals raise :class:`Stopped` inside, and are forgotten after."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = {number: signal.signal(number, _stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()


@contextmanager
def exit_by_signal() -> Iterator[None]:
    """Say what signal has ended what is inside, and exit with its code."""
    try:
        yield
    except BaseException:
        number = received_signal()
        if number is None:
            raise
        with suppress(OSError, ValueError):  # nobody may be there to read it
            name = signal.Signals(number).name
            print(f"Stopped by {name}; what is written is whole", file=sys.stderr, flush=True)
        raise Stopped(number) from None


@contextmanager
def defer_signals() -> Iterator[None]:
    """Inside, a first signal waits, for who asks :func:`received`; a second one does not."""
    _deferred.append(True)
    try:
        yield
    finally:
        _deferred.pop()


def received_signal() -> int | None:
    """The number of the first signal that has come, if one has."""
    return _received[0] if _received else None


def check_signals() -> None:
    """Raise :class:`Stopped` if a signal has come that does not wait."""
    if _received and not _deferred:
        raise Stopped(_received[0])


def _stop(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    if not _deferred or len(_received) > 1:
        raise Stopped(number)
