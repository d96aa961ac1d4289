"""Functions and settings that tests of several folders share; nothing is downloaded."""

from __future__ import annotations

import os
import warnings
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

# A model that is fitted in a second.
SMALL: dict[str, Any] = {
    "hidden_channels": 16,
    "heads": 2,
    "num_layers": 2,
    "out_channels": 32,
    "n_components": 6,
}
# Sub-slices of toy tissue, some dozens of them.
CUT: dict[str, Any] = {
    "k": 6,
    "max_macro_nodes": 4,
    "cells_per_subslice": 60,
    "n_components": 5,
}


def turned(pos: np.ndarray, angle: float, shift: float | tuple[float, float] = 0) -> np.ndarray:
    """Return positions, turned by an angle and shifted."""
    cos, sin = np.cos(angle), np.sin(angle)
    return pos @ np.array([[cos, sin], [-sin, cos]]) + shift


def make_slice(
    n: int = 60, genes: int = 12, seed: int = 0, pos: np.ndarray | None = None
) -> AnnData:
    """Return a slice of random counts on random places, with two halves that differ."""
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


@contextmanager
def unchanged(data: Data) -> Iterator[None]:
    """Require that a ``Data`` keeps its keys, its tensors and what is in them."""
    tensors = {key: value for key, value in data if torch.is_tensor(value)}
    before = {key: value.clone() for key, value in tensors.items()}
    keys = sorted(data.keys())
    yield
    assert sorted(data.keys()) == keys
    for key, value in before.items():
        assert data[key] is tensors[key]
        assert torch.equal(data[key], value), key


def _die_before(n: int) -> None:
    """Let this process die before its n-th call that changes a folder."""
    left = [n]

    def counted(call: Callable) -> Callable:
        def counting(*args: object, **kwargs: object) -> object:
            if left[0] == 0:
                os._exit(9)
            left[0] -= 1
            return call(*args, **kwargs)

        return counting

    for name in ("mkdir", "open", "rename", "replace", "rmdir", "unlink", "fsync", "link", "chmod"):
        setattr(os, name, counted(getattr(os, name)))
    _replace.exchange = counted(_replace.exchange)


def killed_at_each_call(work: Callable[[], None], prepare: Callable[[], object]) -> Iterator[int]:
    """Let processes die while they write.

    ``for n in killed_at_each_call(work, prepare)`` is after the death of a process before its n-th
    call that changes a folder, from none to all of them; after a call is before the next.
    """
    if not hasattr(os, "fork"):
        pytest.skip("kills a forked process")
    n, status = 0, 9
    while status == 9:
        prepare()
        if (child := os.fork()) == 0:
            _die_before(n)
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


def write_store(folder: Path, tables: dict[str, AnnData], version: int = 3) -> Path:
    """Write a SpatialData store of tables alone, as spatialdata does, without that package.

    Each table annotates ``cells``, which is not there.
    """
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    from anndata.io import write_elem

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
