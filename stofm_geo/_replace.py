"""One file or folder put in the place of another: a kill at any moment leaves one of them whole.

What is new is made in a *work folder* beside the old: ``.stofm-geo-*/new/NAME``. A file takes its
place by one rename, and so does a folder where the two can be exchanged (Linux, macOS). Elsewhere,
on NFS for one, the old folder goes to ``.stofm-geo-*/old/NAME`` first. Between these two renames
there is none at its place; whoever loads or writes there next makes the second (:func:`settle`).

A work folder has a lock that ends with its process, however that ends. Those that nobody holds any
more are removed when the next thing is written beside them.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from stofm_geo._signals import check_signals

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PREFIX = ".stofm-geo-"
_LOCK, _NEW, _OLD, _DONE = "lock", "new", "old", "done"
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY)
_DAY = 24 * 3600.0  # older than anything that is being written, where locks do not tell
_AT_CWD, _EXCHANGE = -100, 2  # of Linux; macOS has the same number for its own


@contextmanager
def work_folder(path: Path) -> Iterator[Path]:
    """Where to make what is to take the place of ``path``: a name in a new work folder.

    Raises:
        OSError: There can be none beside ``path``.
    """
    recover_folder(path)
    clear_leftovers(path.parent)
    work, lock = _new_work_folder(path.parent)
    try:
        (work / _NEW).mkdir()
        yield work / _NEW / path.name
    finally:
        try:
            _clear(work)
        finally:
            os.close(lock)


def clear_leftovers(folder: Path) -> None:
    """Remove the work folders in a folder whose processes have died."""
    pattern = os.path.join(glob.escape(str(folder)), f"{_PREFIX}*")
    for found in map(Path, glob.glob(pattern, include_hidden=True)):
        with _held(found) as held:
            if held:
                _clear(found)


def replace_path(new: Path, path: Path) -> None:
    """What was made in a work folder takes its place, with the rights that new files get.

    Raises:
        OSError: It cannot; what was there is there still.
    """
    work = new.parent.parent
    check_signals()  # a signal that was swallowed while it was written
    _finish(new, (work / _LOCK).stat().st_mode & 0o666)
    if not path.is_dir():
        os.replace(new, path)
    else:
        try:
            exchange(new, path)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            _in_two_steps(new, path, work / _OLD)
            os.replace(work / _OLD, work / _DONE)
    _sync(path.parent)


def recover_folder(path: str | Path) -> None:
    """Put back what a kill between two renames has left beside its place.

    Raises:
        OSError: It cannot be put there.
    """
    path = Path(path)
    if os.path.lexists(path):
        return
    parent = Path(os.path.abspath(path)).parent
    pattern = os.path.join(glob.escape(str(parent)), f"{_PREFIX}*", _OLD, glob.escape(path.name))
    for found in glob.glob(pattern, include_hidden=True):
        work = Path(found).parent.parent
        with _held(work, wait=True) as held:  # it may be being moved just now
            if not held:
                raise PermissionError(
                    f"{path}: its writing was stopped half-way, and you may not finish it; "
                    f"let the owner of {work} load it once"
                )
            _clear(work)


def exchange(a: Path, b: Path) -> None:
    """Let two folders change places, at once.

    Raises:
        OSError: Among others, that the system or this disk has no such call.
    """
    result = _exchange()(os.fsencode(a), os.fsencode(b))
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(b))


@cache
def _exchange() -> Callable[[bytes, bytes], int]:
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            swap = library.renamex_np
            return lambda a, b: swap(a, b, _EXCHANGE)
        rename = library.renameat2
    except (AttributeError, OSError, TypeError):  # another system, or an old one
        return _no_exchange
    return lambda a, b: rename(_AT_CWD, a, _AT_CWD, b, _EXCHANGE)


def _no_exchange(a: bytes, b: bytes) -> int:
    ctypes.set_errno(errno.ENOSYS)
    return -1


def _in_two_steps(new: Path, path: Path, old: Path) -> None:
    old.mkdir()
    os.replace(path, old / path.name)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(old / path.name, path)
        raise


def _new_work_folder(parent: Path) -> tuple[Path, int]:
    while True:
        work = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        try:
            lock = os.open(work / _LOCK, os.O_CREAT | os.O_RDWR, 0o666)
        except FileNotFoundError:
            continue  # taken for a leftover before it was locked
        _lock(lock)
        try:
            if os.path.samestat(os.fstat(lock), os.stat(work / _LOCK)):
                return work, lock
        except FileNotFoundError:
            pass
        os.close(lock)


@contextmanager
def _held(work: Path, wait: bool = False) -> Iterator[bool]:
    """Whether a work folder is of no living process; if so, others are kept out meanwhile."""
    lock = None
    try:
        try:
            lock = os.open(work / _LOCK, os.O_RDWR)
            held = _lock(lock, wait)
        except FileNotFoundError:  # its process died before it had one, or is of an older version
            held = None
        except OSError:  # another user's
            held = False
        yield (wait or _abandoned(work)) if held is None else held
    finally:
        if lock is not None:
            os.close(lock)


def _abandoned(work: Path) -> bool:
    try:
        return time.time() - work.stat().st_mtime > _DAY or not os.listdir(work)
    except OSError:
        return False


def _lock(lock: int, wait: bool = True) -> bool | None:
    """Whether it is ours now; ``None`` where files cannot be locked."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _clear(work: Path) -> None:
    """Remove a work folder; what was to take its place and was stopped half-way does so first."""
    old = work / _OLD
    for before in old.iterdir() if old.is_dir() else ():
        path, new = work.parent / before.name, work / _NEW / before.name
        if not os.path.lexists(path):
            os.replace(new if new.is_dir() else before, path)
    for name in (_NEW, _OLD, _DONE):
        shutil.rmtree(work / name, ignore_errors=True)
    shutil.rmtree(work, ignore_errors=True)  # the lock last: without it, it is nobody's


def _finish(new: Path, mode: int) -> None:
    """Bytes reach the disk before the name does; libraries that write for the owner alone do not.

    Files that others have a name for, too, are not ours to change.
    """
    if new.is_file():
        if new.stat().st_nlink == 1:
            if new.stat().st_mode & 0o777 != mode:
                new.chmod(mode)
            _sync(new)
        return
    for part in new.iterdir():
        if not part.is_symlink():
            _finish(part, mode)
    _sync(new)


def _sync(path: Path) -> None:
    if os.name != "posix":
        return
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:  # some disks have no such call for folders
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(opened)
