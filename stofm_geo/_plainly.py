"""How the commands speak: plain lines, and what a user can mend in one of them."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import wraps
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from stofm_geo._signals import check, naming_signals, stoppable

out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)


class _Heard:
    """Standard output, whose reader may leave, as ``| head`` does; the work goes on without.

    All who print meet it, progress bars of other libraries, too.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._leave()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._leave()

    def _leave(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def plainly(command: Callable[..., None]) -> Callable[..., None]:
    """Say what a user can mend in one line, without a traceback; warnings alike."""

    @wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        shown = set()

        def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
            # Other kinds are for developers; fitting and embedding may find the same thing.
            if category is UserWarning and str(message) not in shown:
                shown.add(str(message))
                _err.print(f"[yellow]Warning:[/] {_one_line(message)}")

        with (
            warnings.catch_warnings(),
            redirect_stdout(_Heard(sys.stdout)),
            stoppable(),
            naming_signals(),
        ):
            warnings.showwarning = show
            try:
                command(*args, **kwargs)
                check()
            except (ImportError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
                check()  # it may be what became of a signal
                message = error.args[0] if isinstance(error, KeyError) and error.args else error
                _err.print(f"[red]Error:[/] {_one_line(message)}")
                raise typer.Exit(1) from None

    return wrapper


def _one_line(message: object) -> str:
    text = str(message).encode(errors="backslashreplace").decode()  # names of files may be no UTF-8
    return escape(" ".join(text.split()))


def say(text: str) -> None:
    """A line, as it is."""
    out.print(escape(text))
