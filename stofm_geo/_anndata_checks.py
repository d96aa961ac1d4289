"""Checks of AnnData objects. Each message names the thing, what was found, and the fix."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from stofm_geo._names import read_names
from stofm_geo._positions import xy_columns, xy_pair
from stofm_geo._sparse import check_sparse
from stofm_geo._validation import check_key, listed, preview

_MAX_POSITION = 1e100
_MIN_CELLS_PER_SECTION = 13  # on average


def layer_names(adata: AnnData) -> list[str]:
    """Return the names of the layers, without ``None``, which is ``X`` (anndata >= 0.13)."""
    return [name for name in adata.layers if name is not None]


def check_target(adata: AnnData, key_added: object, **input_keys: str | None) -> None:
    """Check that results can be written to ``adata`` without replacing their input.

    Args:
        adata: Where results are written.
        key_added: Key in ``obs`` or ``obsm``, and often in ``uns``.
        input_keys: Keys of the input, by the name of the argument.

    Raises:
        TypeError, ValueError: As :func:`check_key`; or the key is one of the input or
            ``"spatial"``; or ``adata`` is a view of a backed file.
    """
    check_key("key_added", key_added)
    for name, key in {**input_keys, "the usual spatial_key": "spatial"}.items():
        if key == key_added:
            raise ValueError(
                f"key_added is {key_added!r}, as is {name}, whose values would be lost; name "
                "another key"
            )
    if adata.isbacked and adata.is_view:
        raise ValueError(
            "adata is a view of a backed file, into which AnnData cannot write; read it first: "
            "adata = adata.to_memory()"
        )


def check_anndata(adata: object, name: str) -> None:
    """Check that ``adata`` is one AnnData, not a path or a list.

    Raises:
        TypeError: It is not an AnnData.
    """
    if not isinstance(adata, AnnData):
        raise TypeError(
            f"{name}: an AnnData is needed; found {type(adata).__name__}"
            + ("; read it first: anndata.read_h5ad" if isinstance(adata, str | PathLike) else "")
        )


def check_anndatas(adatas: object, name: str = "adata") -> list[AnnData]:
    """Return one AnnData or several as a list.

    Raises:
        TypeError: Something is not an AnnData.
        ValueError: The list is empty.
    """
    if isinstance(adatas, AnnData):
        return [adatas]
    if not isinstance(adatas, Iterable) or isinstance(adatas, str):
        check_anndata(adatas, name)
    found = list(adatas)  # type: ignore[call-overload]
    if not found:
        raise ValueError(f"{name} is an empty list; give at least one AnnData")
    for i, one in enumerate(found):
        check_anndata(one, f"{name}[{i}]")
    return found


def numbered(name: str, count: int) -> list[str]:
    """Return the names of AnnData in messages, numbered if there are several."""
    return [f"{name} {i}" for i in range(count)] if count > 1 else [name]


def check_obsm(
    adata: AnnData, key: str, fix: str = "name another key", *, as_is: bool = False
) -> np.ndarray:
    """Return ``obsm[key]`` as finite float64, ``[n, columns]``.

    Args:
        adata: AnnData.
        key: Key in ``obsm``.
        fix: Advice at the end of the error message.
        as_is: Keep floating-point types, and avoid a copy if possible.

    Raises:
        KeyError: ``obsm`` has no ``key``.
        TypeError: The values are not numeric.
        ValueError: Values are missing or infinite.
    """
    if key not in adata.obsm:
        raise KeyError(f"obsm has no {key!r}; it has {listed(adata.obsm)}; {fix}")
    values = numeric_array(adata.obsm[key], key, fix)
    if not (as_is and values.dtype.kind == "f"):
        values = values.astype(np.float64)
    check_finite(values, adata, key)
    return values


def numeric_array(values: Any, key: str, fix: str) -> np.ndarray:
    """Return the values of ``obsm[key]`` as numbers ``[n, columns]``, NaN where missing."""
    check_sparse(values, f"obsm[{key!r}]")
    values = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    if values.dtype.kind not in "biuf":
        try:
            values = np.where(pd.isna(values), np.nan, values).astype(np.float64)
        except (TypeError, ValueError):
            raise TypeError(
                f"obsm[{key!r}] must hold numbers; found {values.dtype}; {fix}"
            ) from None
    return values if values.ndim == 2 else values.reshape(len(values), -1)


def check_finite(values: np.ndarray, adata: AnnData, key: str) -> None:
    """Check that no row of ``obsm[key]`` has missing or infinite values."""
    if (finite := np.isfinite(values).all(axis=1)).all():
        return
    bad, what = adata.obs_names[~finite], "NaN"
    fix = f"np.isfinite(adata.obsm[{key!r}]).all(1)"
    if isinstance(given := adata.obsm[key], pd.DataFrame) or given.dtype.kind == "O":
        what, fix = "missing (NaN)", f"~pandas.isna(adata.obsm[{key!r}]).any(axis=1)"
    raise ValueError(
        f"obsm[{key!r}] is {what} or infinite for {len(bad)} of {adata.n_obs} cells "
        f"({preview(bad)}); drop them: adata[{fix}]"
    )


def check_positions(adata: AnnData, key: str) -> np.ndarray:
    """Return the positions in ``obsm[key]``, float64 ``[n, 2]``; of a table, the columns x and y.

    Raises:
        KeyError: ``obsm`` has no ``key``.
        TypeError: The values are not numeric.
        ValueError: There is one column only, or values are missing, infinite or too large.

    Warns:
        UserWarning: There are more than two columns.
    """
    if key not in adata.obsm:
        raise KeyError(
            f"obsm has no {key!r}; it has {listed(adata.obsm)}; store the cells' x "
            f"and y there{_in_obs(adata, key)}, or name another key{_likely_key(adata)}"
        )
    if isinstance(table := adata.obsm[key], pd.DataFrame):
        positions = xy_columns(table, key).to_numpy()
    else:
        positions = numeric_array(table, key, "store the cells' x and y there, or name another key")
        if positions.shape[1] < 2:
            raise ValueError(f"obsm[{key!r}] has {positions.shape[1]} column; x and y are needed")
        if positions.shape[1] > 2:
            warnings.warn(
                f"obsm[{key!r}] has {positions.shape[1]} columns; the first two are used as x "
                f"and y{_sections_first(positions, key)}",
                stacklevel=3,
            )
    positions = np.array(positions[:, :2], dtype=np.float64, order="C")
    check_finite(positions, adata, key)
    if len(positions) and (largest := np.abs(positions).max()) > _MAX_POSITION:
        raise ValueError(
            f"obsm[{key!r}] holds {largest:g}, whose square overflows; are these positions?"
        )
    return positions


def _sections_first(positions: np.ndarray, key: str) -> str:
    """Return advice for a message if the first column seems to be that of sections (z, y, x)."""
    values = [len(np.unique(column)) for column in positions[:, :3].T]
    if values[0] > len(positions) / _MIN_CELLS_PER_SECTION or values[0] * 2 > min(values[1:]):
        return ""
    return (
        f", but the first has {values[0]} distinct values, like the z of sections; if the "
        f"columns are z, y, x: adata.obsm[{key!r}] = adata.obsm[{key!r}][:, [2, 1, 0]]"
    )


def _in_obs(adata: AnnData, key: str) -> str:
    """Return code that copies positions from ``obs`` to ``obsm``, if ``obs`` seems to hold them."""
    columns = [name for name in adata.obs if pd.api.types.is_numeric_dtype(adata.obs[name])]
    if (pair := xy_pair([str(name) for name in columns])) is None:
        return ""
    return f" (adata.obsm[{key!r}] = adata.obs[{list(pair)}].to_numpy())"


def _likely_key(adata: AnnData) -> str:
    """Return advice for a message: the key that seems to hold positions, if there is one."""
    usual = [key for key in adata.obsm if re.search("spatial|coord", key, re.IGNORECASE)]
    return f": spatial_key={usual[0]!r} (--spatial-key {usual[0]})" if usual else " (--spatial-key)"


def check_slice_key(obs: pd.DataFrame, key: str) -> pd.Categorical:
    """Return ``obs[key]`` as a categorical of str, categories sorted by name.

    Raises:
        KeyError: ``obs`` has no ``key``.
        ValueError: Values are missing.
    """
    if key not in obs:
        raise KeyError(
            f"obs has no {key!r}; it has {listed(obs)}; name the slice column, "
            "or omit the key if all cells are one slice"
        )
    names = pd.Series(read_names(obs[key]), dtype=object)
    if (missing := int(names.isna().sum())) > 0:
        raise ValueError(
            f"obs[{key!r}] is missing for {missing} of {len(obs)} cells ('nan', 'None' and 'NA' "
            "are missing, too); fill it in, or leave those cells out"
        )
    return pd.Categorical(names, categories=sorted(names.unique()))
