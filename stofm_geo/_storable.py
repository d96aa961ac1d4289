"""Prepare AnnData for writing: convert what files cannot hold, or raise before long work.

Names of columns and keys are names in HDF5 and zarr, where ``/`` creates a group: ``L2`` and
``L2/3`` cannot be stored beside each other, and some names can be written but not read again.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData

from stofm_geo._validation import preview

_RESERVED = ("_index", "", ".", "..")
_MAPPINGS = ("layers", "obsm", "varm", "obsp", "varp")


def storable_names(names: Iterable[object], taken_by_index: object = None) -> list[str]:
    """Return distinct names that files can hold: ``/`` becomes ``_``, reserved names end in ``_``.

    Args:
        names: Names of columns or keys.
        taken_by_index: Name of the index, which must not be a column name.
    """
    texts = [str(name) for name in names]
    taken, storable = set(texts), []
    for name in texts:
        new = name.replace("/", "_").replace("\0", "_")
        new = f"{new}_" if new in (*_RESERVED, taken_by_index) else new
        if new != name:
            base, count = new, 2
            while new in taken:
                new, count = f"{base}_{count}", count + 1
            taken.add(new)
        storable.append(new)
    return storable


def storable_frame(
    values: np.ndarray, index: pd.Index, columns: Iterable[object], where: str
) -> pd.DataFrame:
    """Return a table for ``obsm`` that files can hold.

    Args:
        values: ``[n, columns]``.
        index: Names of the cells.
        columns: Names of the columns, which :func:`storable_names` makes storable.
        where: Name in messages.

    Warns:
        UserWarning: Columns were renamed.
    """
    columns = list(columns)
    names = storable_names(columns, index.name)
    warn_of_renamed(where, columns, names)
    return pd.DataFrame(values, index=index, columns=names)


def warn_of_renamed(where: str, before: Iterable[object], after: Iterable[str]) -> None:
    """Warn of names that were changed, if any."""
    pairs = zip(before, after, strict=True)
    changed = [f"{old} -> {new}" for old, new in pairs if str(old) != new]
    if changed:
        warnings.warn(
            f"{where}: {len(changed)} names that a file cannot hold are changed "
            f"({preview(changed)})",
            stacklevel=3,
        )


def prepare_for_writing(adata: AnnData, name: str = "AnnData") -> None:
    """Make sure that ``adata`` can be written and read again; in place.

    Text of pandas' string types becomes objects or categories, and ``/`` in names becomes ``_``.
    Then everything except the numeric matrices is written and read as a test.

    Args:
        adata: AnnData, changed in place.
        name: Name in messages.

    Warns:
        UserWarning: Names were changed.

    Raises:
        ValueError: A part cannot be written; the message names it.

    Examples:
        >>> from stofm_geo import datasets
        >>> from stofm_geo.data import prepare_for_writing
        >>> adata = datasets.toy_tissue(200, 30, seed=0)
        >>> adata.obs["in L2/3"] = adata.obs["region"].isin(["L2", "L3"])
        >>> prepare_for_writing(adata)  # warns of the new name
        >>> "in L2_3" in adata.obs
        True
    """
    make_storable(adata, name)
    tables = {f"obsm {key}": value for key, value in adata.obsm.items() if not _is_numeric(value)}
    if adata.raw is not None:
        tables["raw.var"] = adata.raw.var
    trial = AnnData(obs=adata.obs.copy(), var=adata.var.copy(), uns={**adata.uns, **tables})
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial.write_h5ad(Path(folder) / "trial.h5ad")
            anndata.read_h5ad(Path(folder) / "trial.h5ad")
    except OSError:
        raise  # a disk error
    except Exception as error:  # h5py and anndata raise many types
        reason = " ".join([str(error), *getattr(error, "__notes__", ())])
        raise ValueError(
            f"{name}: can be read, but not written again ({' '.join(reason.split())}); drop "
            "that, or convert it to text or numbers"
        ) from error


def make_storable(adata: AnnData, name: str = "AnnData") -> None:
    """Convert what files cannot hold, in place.

    Text of pandas' string types becomes objects, or categorical if values are missing. An index
    name that is also a column name is removed. A column ``_index`` is removed if it repeats the
    index, as SeuratDisk writes it, else renamed. ``/`` in names becomes ``_``.

    Args:
        adata: AnnData, changed in place.
        name: Name in messages.

    Warns:
        UserWarning: Names were changed.
    """
    for axis, mapping in (("obs", adata.obsm), ("var", adata.varm)):
        table = getattr(adata, axis)
        # AnnData gives tables in obsm and varm the same index with the same name.
        others = [value for value in mapping.values() if isinstance(value, pd.DataFrame)]
        if any(table.index.name in other.columns for other in others):
            table = table.rename_axis(index=None)
            setattr(adata, axis, table)
        if (converted := _table(table, f"{name}: {axis}")) is not table:
            setattr(adata, axis, converted)
    if adata.raw is not None:
        table = adata.raw.var
        if (converted := _table(table, f"{name}: raw.var")) is not table:
            raw = AnnData(adata.raw.X, pd.DataFrame(index=adata.obs_names), converted)
            raw.varm.update(adata.raw.varm)
            adata.raw = raw
    for mapping in _MAPPINGS:
        _mapping(getattr(adata, mapping), f"{name}: {mapping}")
    _mapping(adata.uns, f"{name}: uns")


def _mapping(values: Any, where: str) -> None:
    keys = [key for key in values if key is not None]  # of layers, X (anndata >= 0.13)
    names = storable_names(keys)
    warn_of_renamed(where, keys, names)
    for key, new in zip(keys, names, strict=True):
        value = values[key]
        if isinstance(value, pd.DataFrame):
            storable_value = _table(value, f"{where}[{new!r}]")
        elif isinstance(value, Mapping) and hasattr(value, "pop"):
            _mapping(value, f"{where}[{new!r}]")
            storable_value = value
        else:
            storable_value = value
        if new != key:
            del values[key]
        if new != key or storable_value is not value:
            values[new] = storable_value


def _table(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return a storable copy of a table, or the table itself if it is storable."""
    index, names = table.index, list(table.columns)
    if isinstance(index.dtype, pd.StringDtype):
        index = index.astype(object)
    before = table
    if "_index" in names and _equal_text(table["_index"], index):
        table = table.drop(columns="_index")
        names = list(table.columns)
    if index.name in names and not _equal_text(table[index.name], index):
        index = index.rename(None)
    storable = storable_names(names)
    text = [at for at, kind in enumerate(table.dtypes) if isinstance(kind, pd.StringDtype)]
    if table is before and index is table.index and storable == names and not text:
        return table
    warn_of_renamed(where, names, storable)
    converted = table.set_axis(index, axis=0).set_axis(storable, axis=1)
    for at in text:
        converted[storable[at]] = _without_string_dtype(table.iloc[:, at])
    return converted


def _equal_text(column: pd.Series | pd.DataFrame, index: pd.Index) -> bool:
    return column.ndim == 1 and list(column.astype(str)) == list(index.astype(str))


def _without_string_dtype(text: pd.Series) -> np.ndarray | pd.Categorical:
    values = text.astype(object)
    missing = values.isna()
    if missing.any():
        return pd.Categorical(values.where(~missing, None))
    return values.to_numpy()


def _is_numeric(value: Any) -> bool:
    return getattr(getattr(value, "dtype", None), "kind", "") in tuple("biufc")
