"""Output of the commands: plain lines or JSON, and errors as one line without a traceback.

With ``--json``, standard output is one JSON object: what :func:`record` was given, or
``{"error": message}``. Lines go to standard error.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import wraps
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from stofm_geo._signals import check_signals, exit_by_signal, raise_on_signal

out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)

_Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object to standard output, other lines to stderr."),
]
_facts: dict[str, Any] = {}
_lines = out  # where echo prints


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
    """Print errors that a user can mend, and warnings, as one line without a traceback.

    Adds the option ``--json`` to the command. Exit codes: 0, 1 after an error, 2 for a wrong
    command line, 128 + n after signal n.
    """

    @wraps(command)
    def wrapper(*args: Any, json: bool = False, **kwargs: Any) -> None:
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
            _json_output(json),
        ):
            warnings.showwarning = show
            try:
                command(*args, **kwargs)
                check_signals()
            except (ImportError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
                check_signals()  # it may be what became of a signal
                message = error.args[0] if isinstance(error, KeyError) and error.args else error
                _err.print(f"[red]Error:[/] {_one_line(message)}")
                record(error=" ".join(str(message).split()))
                raise typer.Exit(1) from None

    signature = inspect.signature(command, eval_str=True)  # typer evaluates no strings in it
    option = inspect.Parameter(
        "json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_Json
    )
    parameters = [*signature.parameters.values(), option]
    wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return wrapper


@contextmanager
def _json_output(on: bool) -> Iterator[None]:
    """Print what was recorded as JSON at the end, and all else to standard error before."""
    global _lines
    _facts.clear()
    if not on:
        yield
        return
    _lines = _err
    try:
        with redirect_stdout(sys.stderr):  # progress bars of other libraries, too
            yield
    finally:
        _lines = out
        print(json.dumps(_facts, indent=2, default=str))


def record(**facts: Any) -> None:
    """Add facts to the JSON object; dictionaries of the same name are merged."""
    for name, value in facts.items():
        if isinstance(value, dict) and isinstance(_facts.get(name), dict):
            for key, inner in value.items():
                old = _facts[name].get(key)
                both = isinstance(old, dict) and isinstance(inner, dict)
                _facts[name][key] = {**old, **inner} if both else inner
        else:
            _facts[name] = value


def _one_line(message: object) -> str:
    text = str(message).encode(errors="backslashreplace").decode()  # names of files may be no UTF-8
    return escape(" ".join(text.split()))


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural if need be."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def echo(text: str) -> None:
    """Print a line as it is."""
    _lines.print(escape(text))
