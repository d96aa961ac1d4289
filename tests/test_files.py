from __future__ import annotations

import os
from pathlib import Path

import pytest

from stofm_geo._files import atomic_folder, atomic_path, check_folder, check_writable


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_body_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), atomic_path(tmp_path / "out.png") as temporary:
        temporary.write_text("half")
        raise error
    assert os.listdir(tmp_path) == []


def test_the_file_appears_at_the_end_with_usual_rights(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    with atomic_path(path) as temporary:
        assert temporary.suffix == ".png" and temporary.parents[2] == tmp_path
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    (tmp_path / "plain").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(os.listdir(tmp_path)) == ["out.png", "plain"]


def test_folders_can_be_made_too(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "model") as temporary:
        temporary.mkdir()
        (temporary / "config.json").write_text("{}")
    assert (tmp_path / "model" / "config.json").read_text() == "{}"


def test_check_writable_needs_the_folder_unless_told_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "x.h5ad"
    check_writable(file, make=True)
    with pytest.raises(OSError, match="cannot be written"):
        check_writable(file)
    (tmp_path / "a").write_text("a file in the way")
    with pytest.raises(OSError, match="cannot be written"):
        check_writable(file, make=True)
    assert [f.name for f in tmp_path.iterdir()] == ["a"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for content in (["a", "b"], ["b"]):
        with atomic_folder(path, {"a", "b"}) as temporary:
            for name in content:
                (temporary / name).write_text(name)
        assert sorted(os.listdir(path)) == content
    with pytest.raises(KeyboardInterrupt), atomic_folder(path, {"b"}) as temporary:
        (temporary / "a").write_text("half")
        raise KeyboardInterrupt
    assert os.listdir(path) == ["b"] and os.listdir(tmp_path) == ["model"]


def test_a_folder_of_other_things_stays(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds notes\.txt, which would be lost"):
        check_folder(tmp_path / "model", {"a"})
    with pytest.raises(FileExistsError, match="is a file; name a folder"):
        check_folder(tmp_path / "model" / "notes.txt", {"a"})
    check_folder(tmp_path / "new" / "model", {"a"}, make=True)
    with pytest.raises(OSError, match="cannot be written"):
        check_folder(tmp_path / "new" / "model", {"a"})
