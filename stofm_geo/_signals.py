"""Handling of SIGINT and SIGTERM: they end a command by an exception, with a message.

Some libraries swallow exceptions: callbacks from C, and training loops that end normally. So
signals are also recorded, and checked (:func:`check_signals`) before a file is replaced and at the
end.
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
    """Exit because of a signal, with code 128 + its number, as in shells."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


@contextmanager
def raise_on_signal() -> Iterator[None]:
    """Raise :class:`Stopped` on signals within the context."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread handles signals
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
    """Print which signal ended the context, and exit with its code."""
    try:
        yield
    except BaseException:
        number = received_signal()
        if number is None:
            raise
        with suppress(OSError, ValueError):  # stderr may be closed
            name = signal.Signals(number).name
            print(f"Stopped by {name}; what is written is whole", file=sys.stderr, flush=True)
        raise Stopped(number) from None


@contextmanager
def defer_signals() -> Iterator[None]:
    """Record the first signal within the context for :func:`received_signal`; raise on a second."""
    _deferred.append(True)
    try:
        yield
    finally:
        _deferred.pop()


def received_signal() -> int | None:
    """Return the number of the first signal received, ``None`` if there was none."""
    return _received[0] if _received else None


def check_signals() -> None:
    """Raise :class:`Stopped` if a signal was received that is not deferred."""
    if _received and not _deferred:
        raise Stopped(_received[0])


def _stop(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    if not _deferred or len(_received) > 1:
        raise Stopped(number)
