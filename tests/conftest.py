"""Small fixtures that several rooms share; all made with numpy, nothing is downloaded."""

from __future__ import annotations

import os
import runpy
import warnings

# Of small sums: two threads wait for each other, and on a busy machine for minutes. It is read as
# libraries are imported, and by the processes that tests start.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData
from torch_geometric.data import Data

from stofm_geo import _replace


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real slices; tests that use it carry ``@pytest.mark.shared``."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real slices (../shared/data) are not here")
    return folder


@pytest.fixture(scope="session")
def turned() -> Callable[..., np.ndarray]:
    """Turn and shift positions, as a stranger's script would."""

    def turned(pos: np.ndarray, angle: float, shift: float | tuple[float, float] = 0) -> np.ndarray:
        cos, sin = np.cos(angle), np.sin(angle)
        return pos @ np.array([[cos, sin], [-sin, cos]]) + shift

    return turned


@pytest.fixture(scope="session")
def places() -> dict[str, np.ndarray]:
    """Positions to try a transform on, ``[n, 2]``: lattices with ties, and without."""
    rng = np.random.default_rng(0)
    square = np.stack(np.meshgrid(np.arange(14.0), np.arange(9.0)), -1).reshape(-1, 2)
    hexagonal = square.copy()
    hexagonal[:, 0] += 0.5 * (square[:, 1] % 2)
    hexagonal[:, 1] *= np.sqrt(3) / 2
    # A straight outline, uneven inside: slivers along the outline come and go with rounding.
    side = np.arange(0, 13, 1.0)
    box = np.concatenate(
        [np.stack(p, 1) for p in [(side, 0 * side), (side, 0 * side + 12), (0 * side, side)]]
    )
    framed = np.concatenate([np.unique(box, axis=0), rng.uniform(0.5, 11.5, (150, 2))])
    random = rng.uniform(0, 15, (220, 2))
    return {
        "square": square,
        "hexagonal": hexagonal,
        "anisotropic": square * [1, 1.3],
        "holed": hexagonal[np.linalg.norm(hexagonal - [6.5, 4], axis=1) > 2],
        "framed": framed,
        "random": random,
        "doubled": np.concatenate([random, random[:40], random[:10]]),
    }


@pytest.fixture(scope="session")
def make_slice() -> Callable[..., AnnData]:
    """A slice of random counts on random places, with two halves that differ."""

    def make(n: int = 60, genes: int = 12, seed: int = 0, pos: np.ndarray | None = None) -> AnnData:
        rng = np.random.default_rng(seed)
        if pos is None:
            pos = rng.uniform(0, 10 * np.sqrt(n), (n, 2))
        left = pos[:, 0] < np.median(pos[:, 0]) if len(pos) else np.empty(0, bool)
        mean = np.where(left[:, None], rng.gamma(2, 1, genes), rng.gamma(2, 1, genes))
        adata = AnnData(sp.csr_matrix(rng.poisson(mean).astype(np.int32)))
        adata.obs_names = [f"cell{i}" for i in range(len(pos))]
        adata.var_names = [f"gene{i}" for i in range(genes)]
        adata.obsm["spatial"] = pos.astype(np.float64)
        return adata

    return make


@pytest.fixture(scope="session")
def vendors() -> dict[str, Any]:
    """What makes small output folders of instruments: ``MAKERS[name](adata, folder)``."""
    return runpy.run_path(str(Path(__file__).parent / "data" / "io" / "vendors.py"))


@pytest.fixture(scope="session")
def write_store() -> Callable[..., Path]:
    """Write a SpatialData store of tables alone, as spatialdata does, without that package.

    ``write_store(folder, {"table": adata})``; each table annotates ``cells``, which is not there.
    """
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    from anndata.io import write_elem

    def write(folder: Path, tables: dict[str, AnnData], version: int = 3) -> Path:
        attributes = {"spatialdata_attrs": {"version": "0.2" if version == 3 else "0.1"}}
        root = zarr.create_group(folder, zarr_format=version, attributes=attributes)
        root.create_group("images").create_array("pixels", data=np.arange(4))
        group = root.create_group("tables")
        keys = {"region": "cells", "region_key": "at", "instance_key": "cell"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, adata in tables.items():
                table = adata.copy()
                table.obs["at"] = pd.Categorical(["cells"] * table.n_obs)
                table.obs["cell"] = np.arange(table.n_obs)
                table.uns["spatialdata_attrs"] = keys
                write_elem(group, name, table)
                group[name].attrs.update(
                    {"spatialdata-encoding-type": "ngff:regions_table", "version": "0.2", **keys}
                )
            zarr.consolidate_metadata(folder, zarr_format=version)
        return folder

    return write


@pytest.fixture
def thread_count() -> Iterator[Callable[[int], None]]:
    """Sets PyTorch's threads for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def unchanged() -> Callable:
    """A context in which a ``Data`` must keep its keys, its tensors and what is in them."""

    @contextmanager
    def unchanged(data: Data) -> Iterator[None]:
        tensors = {key: value for key, value in data if torch.is_tensor(value)}
        before = {key: value.clone() for key, value in tensors.items()}
        keys = sorted(data.keys())
        yield
        assert sorted(data.keys()) == keys
        for key, value in before.items():
            assert data[key] is tensors[key]
            assert torch.equal(data[key], value), key

    return unchanged


@pytest.fixture(scope="session")
def killed_at_each_call() -> Callable[[Callable[[], None], Callable[[], object]], Iterator[int]]:
    """Let processes die while they write.

    ``for n in killed_at_each_call(work, prepare)`` is after the death of a process before its n-th
    call that changes a folder, from none to all of them; after a call is before the next.
    """
    if not hasattr(os, "fork"):
        pytest.skip("kills a forked process")
    calls = ("mkdir", "open", "rename", "replace", "rmdir", "unlink", "fsync", "link", "chmod")

    def die_before(n: int) -> None:
        left = [n]

        def counted(call: Callable) -> Callable:
            def counting(*args: object, **kwargs: object) -> object:
                if left[0] == 0:
                    os._exit(9)
                left[0] -= 1
                return call(*args, **kwargs)

            return counting

        for name in calls:
            setattr(os, name, counted(getattr(os, name)))
        _replace.exchange = counted(_replace.exchange)

    def killed(work: Callable[[], None], prepare: Callable[[], object]) -> Iterator[int]:
        n, status = 0, 9
        while status == 9:
            prepare()
            if (child := os.fork()) == 0:
                die_before(n)
                try:
                    work()
                except BaseException:
                    os._exit(1)
                os._exit(0)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert status in (0, 9)
            yield n
            n += 1
        assert n > 10  # it was counted

    return killed
