"""Atomic replacement of files and folders, also if the process is killed.

New content is written to a *work folder* beside the old: ``.stofm-geo-*/new/NAME``. A file is
replaced by one rename, and so is a folder if the system can exchange two folders (Linux, macOS).
Elsewhere, for example on NFS, the old folder is first moved to ``.stofm-geo-*/old/NAME``. If the
process is killed between these two renames, the next process that reads or writes there does the
second (:func:`recover_folder`).

A work folder has a lock that the system releases at the end of its process. Work folders without a
process are removed when something is written beside them.
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
_DAY = 24 * 3600.0  # work folders older than a day are abandoned, if files cannot be locked
_AT_CWD, _EXCHANGE = -100, 2  # constants of Linux; macOS has the same flag


@contextmanager
def work_folder(path: Path) -> Iterator[Path]:
    """Yield a path in a new work folder for the content that will replace ``path``.

    Raises:
        OSError: No folder can be created beside ``path``.
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
    """Remove the work folders in ``folder`` whose processes have ended."""
    pattern = os.path.join(glob.escape(str(folder)), f"{_PREFIX}*")
    for found in map(Path, glob.glob(pattern, include_hidden=True)):
        with _held(found) as held:
            if held:
                _clear(found)


def replace_path(new: Path, path: Path) -> None:
    """Replace ``path`` by ``new``, made in a work folder, with the permissions of new files.

    Raises:
        OSError: The replacement failed; ``path`` is unchanged.
    """
    work = new.parent.parent
    check_signals()  # a library may have swallowed a signal
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
    """Restore a folder where a process was killed between two renames.

    Raises:
        OSError: The folder cannot be restored.
    """
    path = Path(path)
    if os.path.lexists(path):
        return
    parent = Path(os.path.abspath(path)).parent
    pattern = os.path.join(glob.escape(str(parent)), f"{_PREFIX}*", _OLD, glob.escape(path.name))
    for found in glob.glob(pattern, include_hidden=True):
        work = Path(found).parent.parent
        with _held(work, wait=True) as held:  # it may just be moved
            if not held:
                raise PermissionError(
                    f"{path}: its writing was interrupted, and you lack the permission to finish "
                    f"it; let the owner of {work} load it once"
                )
            _clear(work)


def exchange(a: Path, b: Path) -> None:
    """Exchange two folders in one step.

    Raises:
        OSError: The exchange failed, or the system or disk does not support it.
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
    except (AttributeError, OSError, TypeError):  # unsupported system
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
            continue  # removed as a leftover before it was locked
        _lock(lock)
        try:
            if os.path.samestat(os.fstat(lock), os.stat(work / _LOCK)):
                return work, lock
        except FileNotFoundError:
            pass
        os.close(lock)


@contextmanager
def _held(work: Path, wait: bool = False) -> Iterator[bool]:
    """Yield whether no living process uses a work folder; if so, it is locked meanwhile."""
    lock = None
    try:
        try:
            lock = os.open(work / _LOCK, os.O_RDWR)
            held = _lock(lock, wait)
        except FileNotFoundError:  # killed before the lock was created, or an older version
            held = None
        except OSError:  # of another user
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
    """Return whether the lock was acquired; ``None`` where files cannot be locked."""
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
    """Remove a work folder, after finishing a replacement that was interrupted."""
    old = work / _OLD
    for before in old.iterdir() if old.is_dir() else ():
        path, new = work.parent / before.name, work / _NEW / before.name
        if not os.path.lexists(path):
            os.replace(new if new.is_dir() else before, path)
    for name in (_NEW, _OLD, _DONE):
        shutil.rmtree(work / name, ignore_errors=True)
    shutil.rmtree(work, ignore_errors=True)  # the lock last, since it marks the owner


def _finish(new: Path, mode: int) -> None:
    """Set permissions and write to disk before the rename; some libraries write for the owner only.

    Files with other hard links are left unchanged.
    """
    if new.is_file():
        if new.stat().st_nlink == 1:
            if new.stat().st_mode & 0o777 != mode:
                new.chmod(mode)
            _sync(new)
        return
    for entry in new.iterdir():
        if not entry.is_symlink():
            _finish(entry, mode)
    _sync(new)


def _sync(path: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some disks cannot sync folders
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)
