"""What is written: whole or not at all, and of a store the table alone; without spatialdata."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

import stofm_geo
from stofm_geo import _replace
from stofm_geo.data.io import output_targets
from tests.helpers import make_slice, write_store

zarr = pytest.importorskip("zarr", reason="zarr is not installed")


@pytest.fixture
def adata() -> AnnData:
    return make_slice(30, 8)


@pytest.fixture(params=[2, 3])
def store(request, adata, tmp_path) -> Path:
    tables = {"cells": adata, "bins": adata[:20].copy()}
    return write_store(tmp_path / "s.zarr", tables, request.param)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def embedded(store: Path, table: str = "cells") -> AnnData:
    adata = stofm_geo.read(store, table=table)
    adata.obsm["X_stofm"] = np.ones((adata.n_obs, 4), dtype=np.float32)
    adata.obs["stofm_domain"] = ["1"] * adata.n_obs
    adata.uns["stofm"] = {"seed": 0}
    return adata


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    return {name for name in before | after if before.get(name) != after.get(name)}


def outside(names: set[str]) -> set[str]:
    """What is neither of the table nor of what the store says of all arrays."""
    return {
        name
        for name in names
        if not name.startswith("tables/cells/") and name not in ("zarr.json", ".zmetadata")
    }


def test_a_table_is_replaced_and_the_rest_stays(store) -> None:
    before = contents(store)
    stofm_geo.write(embedded(store), store, table="cells")
    after = contents(store)
    assert changed(before, after) and outside(changed(before, after)) == set()
    group = zarr.open_group(store, mode="r", use_consolidated=True)
    assert group["tables/cells/obsm/X_stofm"].shape == (30, 4)
    assert group["tables/cells"].attrs["region"] == "cells"
    assert set(group) == {"images", "tables"} and set(group["tables"]) == {"bins", "cells"}
    found = stofm_geo.read(store, table="cells")
    assert found.obsm["X_stofm"].shape == (30, 4) and found.uns["stofm"]["seed"] == 0
    assert set(found.obs["stofm_domain"]) == {"1"}
    assert [path.name for path in store.parent.iterdir()] == [store.name]


def test_a_copy_has_the_new_table(store, tmp_path) -> None:
    before = contents(store)
    (target,) = output_targets([store], tmp_path / "copy.zarr", table="cells")
    target.write(embedded(store))
    assert contents(store) == before
    assert outside(changed(before, contents(tmp_path / "copy.zarr"))) == set()
    assert stofm_geo.read(tmp_path / "copy.zarr", table="cells").obsm["X_stofm"].shape == (30, 4)
    files = [(store / "images/pixels", tmp_path / "copy.zarr/images/pixels")]
    for a, b in files:  # no links: who changes one, changes one
        assert not any(os.path.samefile(x, y) for x in a.rglob("*") for y in b.rglob("*"))
    with pytest.raises(FileExistsError, match=r"copy\.zarr: holds .*, which would be lost"):
        output_targets([store], tmp_path / "copy.zarr", table="cells")


def test_positions_of_elements_are_not_written(store, adata) -> None:
    cells = embedded(store)
    cells.obsm["spatial"] = cells.obsm["spatial"] + 100
    cells.uns["stofm_positions"] = {"elements": ["cells"], "coordinate_system": "global"}
    cells.uns["spatial_unit"] = "um"  # of the positions that are not written
    stofm_geo.write(cells, store, table="cells")
    found = stofm_geo.read(store, table="cells")
    np.testing.assert_array_equal(found.obsm["spatial"], adata.obsm["spatial"])
    assert "stofm_positions" not in found.uns and "stofm_positions" in cells.uns
    assert "spatial_unit" not in found.uns and cells.uns["spatial_unit"] == "um"


def test_other_cells_are_refused(store, adata, tmp_path) -> None:
    before = contents(store)
    with pytest.raises(ValueError, match=r"its table 'cells' has 30 cells, and the 20 to write"):
        stofm_geo.write(embedded(store, "bins"), store, table="cells")
    with pytest.raises(ValueError, match="has 30 cells, and the 30 to write are others, or in ano"):
        stofm_geo.write(adata[::-1].copy(), store, table="cells")
    with pytest.raises(ValueError, match="has 8 genes, and the 5 to write"):
        stofm_geo.write(adata[:, :5].copy(), store, table="cells")
    with pytest.raises(ValueError, match="has 2 tables"):
        stofm_geo.write(adata, store)
    with pytest.raises(ValueError, match="no store of SpatialData, and table 't' is named"):
        stofm_geo.write(adata, tmp_path / "new.zarr", table="t")
    assert contents(store) == before


def test_stores_that_cannot_be_written(store, monkeypatch) -> None:
    access = os.access
    locked = store / "tables" / "cells"
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != locked and access(path, mode)
    )
    with pytest.raises(PermissionError, match=r"s\.zarr: cannot be written \(you have no right to"):
        output_targets([store], store, table="cells")


class Killed(BaseException):
    pass


def die() -> None:
    os._exit(9)


def killed(work: Callable[[], None], prepare: Callable[[], None]) -> None:
    """Run ``work`` in a process that ``prepare`` lets die."""
    if not hasattr(os, "fork"):
        pytest.skip("kills a forked process")
    if (child := os.fork()) == 0:
        try:
            prepare()
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def at_call(number: int, owner: object, name: str) -> Callable[[], None]:
    """Let the process die at one of the calls of a function."""

    def prepare() -> None:
        call, left = getattr(owner, name), [number]

        def counting(*args: object, **kwargs: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                die()
            return call(*args, **kwargs)

        setattr(owner, name, counting)

    return prepare


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [
        at_call(1, os, "link"),
        at_call(3, os, "link"),
        at_call(1, os, "replace"),  # of zarr, a chunk
        at_call(20, os, "fsync"),
        at_call(1, _replace, "exchange"),
    ],
)
def test_a_kill_loses_nothing(adata, tmp_path, moment) -> None:
    store = write_store(tmp_path / "s.zarr", {"cells": adata})
    before, cells = contents(store), embedded(store)
    killed(lambda: stofm_geo.write(cells, store), moment)
    assert contents(store) == before
    stofm_geo.write(cells, store)  # and what was left behind goes
    assert "X_stofm" in stofm_geo.read(store).obsm
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]


def test_a_kill_where_folders_cannot_be_exchanged(adata, tmp_path, monkeypatch) -> None:
    store = write_store(tmp_path / "s.zarr", {"cells": adata})
    cells = embedded(store)

    def unsupported(a: Path, b: Path) -> None:
        raise OSError(errno.ENOSYS, "no such call")

    monkeypatch.setattr(_replace, "exchange", unsupported)
    moves = _replace._in_two_steps

    def half(new: Path, path: Path, old: Path) -> None:
        old.mkdir()
        os.replace(path, old / path.name)
        die()

    def prepare() -> None:
        _replace._in_two_steps = half

    killed(lambda: stofm_geo.write(cells, store), prepare)
    assert _replace._in_two_steps is moves and not store.exists()
    assert "X_stofm" in stofm_geo.read(store).obsm  # the reader ends what was begun


def test_a_failure_leaves_what_was_there(store, adata, tmp_path) -> None:
    stofm_geo.write(adata, tmp_path / "a.zarr")
    before = contents(tmp_path)
    for path in (store, tmp_path / "a.zarr"):
        cells = embedded(store)
        cells.uns["strange"] = object()
        with pytest.raises(Exception, match=r".*"):
            stofm_geo.write(cells, path, table="cells" if path == store else None)
    assert contents(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "s.zarr"]


def test_anndata_zarr_is_replaced_as_a_whole(adata, tmp_path) -> None:
    path = tmp_path / "a.zarr"
    adata.uns["note"] = "old"
    stofm_geo.write(adata, path)
    del adata.uns["note"]
    stofm_geo.write(adata[:, :5].copy(), path)
    found = stofm_geo.read(path)
    assert found.shape == (30, 5) and not found.uns
    assert os.listdir(tmp_path) == ["a.zarr"]
    (path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"a\.zarr: holds mine\.txt, which would be lost"):
        stofm_geo.write(adata, path)
    with pytest.raises(ValueError, match=r"x\.csv: has no ending .* \.h5ad or \.zarr"):
        stofm_geo.write(adata, tmp_path / "x.csv")


def test_outputs_of_several_inputs(store, adata, tmp_path) -> None:
    shutil.copytree(store, tmp_path / "in" / "b.zarr")
    stofm_geo.write(adata, tmp_path / "in" / "a.h5ad")
    folder = tmp_path / "out"
    sources = [tmp_path / "in" / "a.h5ad", tmp_path / "in" / "b.zarr" / "tables" / "cells"]
    targets = output_targets(sources, folder)
    assert [target.path.name for target in targets] == ["a.h5ad", "cells.h5ad"]
    with pytest.raises(ValueError, match=r"2 files cannot be written into one; name a folder"):
        output_targets(sources, tmp_path / "out.zarr")
    with pytest.raises(ValueError, match=r"is the input too; name another output"):
        output_targets(sources[:1], sources[0])
    stofm_geo.write(adata, tmp_path / "in" / "c.zarr")
    with pytest.raises(ValueError, match=r"c\.zarr: is the input too"):
        output_targets([tmp_path / "in" / "c.zarr"], tmp_path / "in" / "c.zarr")
    assert not folder.exists()
