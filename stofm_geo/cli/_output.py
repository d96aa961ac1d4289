"""Output of the commands: plain lines, and errors as one line without a traceback."""

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

from stofm_geo._signals import check_signals, exit_by_signal, raise_on_signal

out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)


class _PipeSafe:
    """Standard output that stays silent once its reader is gone, as after ``| head``.

    The command goes on. Progress bars of other libraries write to it, too.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._discard()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._discard()

    def _discard(self) -> None:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, self._stream.fileno())
        os.close(devnull)


def cli_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Print errors that a user can mend, and warnings, as one line without a traceback."""

    @wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        shown = set()

        def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
            # Other categories are for developers; fitting and embedding may repeat a warning.
            if category is UserWarning and str(message) not in shown:
                shown.add(str(message))
                _err.print(f"[yellow]Warning:[/] {_one_line(message)}")

        with (
            warnings.catch_warnings(),
            redirect_stdout(_PipeSafe(sys.stdout)),
            raise_on_signal(),
            exit_by_signal(),
        ):
            warnings.showwarning = show
            try:
                command(*args, **kwargs)
                check_signals()
            except (ImportError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
                check_signals()  # it may be what became of a signal
                message = error.args[0] if isinstance(error, KeyError) and error.args else error
                _err.print(f"[red]Error:[/] {_one_line(message)}")
                raise typer.Exit(1) from None

    return wrapper


def _one_line(message: object) -> str:
    text = str(message).encode(errors="backslashreplace").decode()  # names of files may be no UTF-8
    return escape(" ".join(text.split()))


def echo(text: str) -> None:
    """Print a line as it is."""
    out.print(escape(text))
