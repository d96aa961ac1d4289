"""A process may die at any call that changes what is in a folder: the old or the new is there."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path

import pytest

from stofm_geo import _replace
from stofm_geo._files import atomic_folder, atomic_path, check_folder, check_writable
from stofm_geo._replace import recover_folder
from tests.helpers import killed_at_each_call

FILES = ("a", "b")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")


@pytest.fixture(params=["exchange", "two renames"])
def disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One that can exchange folders, and one that cannot (NFS)."""

    def cannot(a: Path, b: Path) -> None:
        raise OSError(errno.EINVAL, "Invalid argument", str(b))

    if request.param == "two renames":
        monkeypatch.setattr(_replace, "exchange", cannot)
    return request.param


def write(folder: Path, text: str) -> None:
    for name in FILES:
        (folder / name).write_text(text)


def texts(folder: Path) -> set[str]:
    return {(folder / name).read_text() for name in FILES}


def leftovers(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(".stofm-geo-")]


def test_a_kill_at_any_call_leaves_the_old_or_the_new_folder(tmp_path: Path, disk: str) -> None:
    parent, seen = tmp_path / "parent", set()
    path = parent / "model"

    def prepare() -> None:
        shutil.rmtree(parent, ignore_errors=True)
        path.mkdir(parents=True)
        write(path, "old")
        (path / "notes.txt").write_text("mine")

    def work() -> None:
        with atomic_folder(path, FILES, keep_others=True) as temporary:
            write(temporary, "new")

    gaps = 0
    for _ in killed_at_each_call(work, prepare):
        gaps += not path.exists()
        recover_folder(path)  # as all do that load
        found = texts(path)
        assert found in ({"old"}, {"new"})
        assert (path / "notes.txt").read_text() == "mine"
        seen |= found
        work()  # and what was left over is gone when something is written there again
        assert texts(path) == {"new"} and leftovers(parent) == []
    assert seen == {"old", "new"}
    assert gaps == (0 if disk == "exchange" else 1)


def test_a_kill_at_any_call_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "out.h5ad"

    def work() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("new")

    for _ in killed_at_each_call(work, lambda: path.write_text("old") and None):
        assert path.read_text() in ("old", "new")
        work()
        assert path.read_text() == "new" and os.listdir(tmp_path) == ["out.h5ad"]


def test_a_new_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "model"

    def work() -> None:
        with atomic_folder(path, FILES) as temporary:
            write(temporary, "new")

    for _ in killed_at_each_call(work, lambda: shutil.rmtree(path, ignore_errors=True)):
        recover_folder(path)
        assert not path.exists() or texts(path) == {"new"}
    assert texts(path) == {"new"}


def test_what_a_living_process_makes_stays(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "one", FILES) as first:
        write(first, "one")
        with atomic_path(tmp_path / "two") as second:
            second.write_text("two")
        assert texts(first) == {"one"}
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]


def test_leftovers_of_an_older_version_go_when_they_are_old(tmp_path: Path) -> None:
    for name, age in (("fresh", 60), ("stale", 2 * 24 * 3600)):
        left = tmp_path / f".stofm-geo-{name}"
        left.mkdir()
        (left / "half").write_text("")
        os.utime(left, (time.time() - age,) * 2)
    with atomic_path(tmp_path / "out") as temporary:
        temporary.write_text("")
    assert sorted(os.listdir(tmp_path)) == [".stofm-geo-fresh", "out"]


def test_a_folder_that_cannot_be_put_there_leaves_the_old_one(
    tmp_path: Path, disk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    path.mkdir()
    write(path, "old")
    replace = os.replace

    def failing(source: Path, target: Path) -> None:
        if Path(target) == path and "new" in Path(source).parts:
            raise OSError(errno.EIO, "disk")
        replace(source, target)

    def broken(a: Path, b: Path) -> None:
        raise OSError(errno.EIO, "disk")

    monkeypatch.setattr(os, "replace", failing)
    if disk == "exchange":
        monkeypatch.setattr(_replace, "exchange", broken)
    with pytest.raises(OSError, match="disk"), atomic_folder(path, FILES) as temporary:
        write(temporary, "new")
    assert texts(path) == {"old"} and os.listdir(tmp_path) == ["model"]


def test_an_interrupt_between_two_renames_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    path.mkdir()
    write(path, "old")
    replace = os.replace

    def interrupted(source: Path, target: Path) -> None:
        replace(source, target)
        if Path(source) == path:
            monkeypatch.setattr(os, "replace", replace)
            raise KeyboardInterrupt

    def cannot(a: Path, b: Path) -> None:
        raise OSError(errno.ENOSYS, "no such call")

    monkeypatch.setattr(_replace, "exchange", cannot)
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_folder(path, FILES) as temporary:
        write(temporary, "new")
    assert texts(path) == {"new"} and os.listdir(tmp_path) == ["model"]


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    for name in ("model", "out.h5ad"):
        (tmp_path / name).symlink_to(tmp_path / "scratch" / name)
    with atomic_path(tmp_path / "out.h5ad") as temporary:
        temporary.write_text("new")
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "model", FILES) as temporary:
            write(temporary, text)
    assert (tmp_path / "scratch" / "out.h5ad").read_text() == "new"
    assert texts(tmp_path / "scratch" / "model") == {"new"}
    assert (tmp_path / "model").is_symlink() and (tmp_path / "out.h5ad").is_symlink()


def test_rights_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_folder(tmp_path / "model", FILES) as temporary:
            write(temporary, "new")
            (temporary / "a").chmod(0o600)  # as safetensors leaves it
    finally:
        os.umask(before)
    assert [(tmp_path / "model" / name).stat().st_mode & 0o777 for name in FILES] == [0o640] * 2
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o750


def test_kept_files_keep_their_rights(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "key").write_text("mine")
    (path / "key").chmod(0o600)
    with atomic_folder(path, FILES, keep_others=True) as temporary:
        write(temporary, "new")
    assert (path / "key").stat().st_mode & 0o777 == 0o600


def test_places_that_are_refused_before_the_work(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xffmodel")
    for check in (check_writable, lambda path: check_folder(path, ())):
        with pytest.raises(ValueError, match=r"\\xffmodel: the name is not UTF-8; rename it"):
            check(name)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe: is neither a file nor a folder"):
        check_writable(tmp_path / "pipe")
    with pytest.raises(OSError, match="is a mount point; name a folder in it"):
        check_folder("/proc", None)
