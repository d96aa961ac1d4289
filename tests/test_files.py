from __future__ import annotations

import os
from pathlib import Path

import pytest

from stofm_geo._files import atomic_path, check_writable


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_body_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), atomic_path(tmp_path / "out.png") as temporary:
        temporary.write_text("half")
        raise error
    assert os.listdir(tmp_path) == []


def test_the_file_appears_at_the_end_with_usual_rights(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    with atomic_path(path) as temporary:
        assert temporary.suffix == ".png" and temporary.parent.parent == tmp_path
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
