from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

from stofm_geo.data import read_slice_file, write_h5ad
from tests.helpers import make_slice


@pytest.fixture
def adata() -> AnnData:
    return make_slice(20, 8)


def test_round_trip_and_overwrite(adata: AnnData, tmp_path: Path) -> None:
    path = tmp_path / "a slice.h5ad"
    for genes in (8, 5):
        write_h5ad(adata[:, :genes].copy(), path)
        again = read_slice_file(str(path))
        np.testing.assert_array_equal(again.X.toarray(), adata.X[:, :genes].toarray())
        assert again.obs_names.equals(adata.obs_names)
    assert os.listdir(tmp_path) == [path.name]


def break_off(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


@pytest.mark.parametrize("share", [0, 0.02, 0.3, 0.7, 0.99])
def test_a_truncated_file(adata: AnnData, tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.h5ad"
    write_h5ad(adata, path)
    break_off(path, share)
    with pytest.raises(
        ValueError, match=r"cut\.h5ad: cannot be read as \.h5ad \(.*cut short\?$"
    ) as e:
        read_slice_file(path)
    assert "\n" not in str(e.value)


def test_what_is_not_h5ad(tmp_path: Path) -> None:
    (tmp_path / "text.h5ad").write_text("cell,x,y\n1,2,3\n")
    with pytest.raises(ValueError, match=r"text\.h5ad: cannot be read .* is it another format"):
        read_slice_file(tmp_path / "text.h5ad")
    with pytest.raises(FileNotFoundError, match=r"gone\.h5ad: no such file"):
        read_slice_file(tmp_path / "gone.h5ad")
    with pytest.raises(ValueError, match=r"is a folder; name an \.h5ad file"):
        read_slice_file(tmp_path)


def test_another_hdf5_file(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["matrix"] = np.zeros(3)
    try:
        found = read_slice_file(tmp_path / "other.h5ad")
    except ValueError as error:
        assert "other.h5ad: cannot be read" in str(error)
    else:
        assert found.n_obs == 0


def test_a_failed_write_leaves_what_was_there(adata: AnnData, tmp_path: Path) -> None:
    path = tmp_path / "out.h5ad"
    path.write_text("precious")
    adata.uns["strange"] = object()
    with pytest.raises(Exception, match=r".*"):
        write_h5ad(adata, path)
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["out.h5ad"]


def test_places_that_cannot_be_written(adata: AnnData, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"gone/out\.h5ad: cannot be written \(No such file"):
        write_h5ad(adata, tmp_path / "gone" / "out.h5ad")
    with pytest.raises(IsADirectoryError, match="is a folder; name a file in it"):
        write_h5ad(adata, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written"):
        write_h5ad(adata, tmp_path / "file" / "out.h5ad")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_without_rights(adata: AnnData, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OSError, match=r"cannot be written \(Permission denied"):
            write_h5ad(adata, tmp_path / "out.h5ad")
    finally:
        tmp_path.chmod(0o700)
