"""Locks of a corpus folder: one build at a time, or several parts of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import filelock

_LOCK = ".lock"


@contextmanager
def locked(folder: Path, part: str | None) -> Iterator[None]:
    """Keep other builds out of a folder, of a part only those of all and of the same part.

    Args:
        folder: Of the corpus.
        part: ``"i/n"``, or ``None`` for all.

    Raises:
        RuntimeError: Another build is writing there.
    """
    with ExitStack() as held:
        if part is None:
            for name in (_LOCK, *sorted(file.name for file in folder.glob(f"{_LOCK}-*"))):
                held.enter_context(_acquired(folder, name))
        else:
            held.enter_context(_acquired(folder, f"{_LOCK}-{part.replace('/', '-of-')}"))
            with _acquired(folder, _LOCK):  # no build of all is going on
                pass
        yield


@contextmanager
def _acquired(folder: Path, name: str) -> Iterator[None]:
    lock = filelock.FileLock(folder / name)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RuntimeError(f"{folder}: another build is writing there; wait for it") from None
    try:
        yield
    finally:
        lock.release()
