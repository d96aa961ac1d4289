"""How the commands speak: plain lines, and what a user can mend in one of them."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from stofm_geo._signals import check, naming_signals, stoppable


class _Console(Console):
    """Of a command that goes on where nobody reads any more, ``| head``."""

    def on_broken_pipe(self) -> None:
        """Let what follows, of other libraries, too, go nowhere; rich would exit."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


out = _Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)


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

        with warnings.catch_warnings(), stoppable(), naming_signals():
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
