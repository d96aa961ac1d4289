"""Ensembl ids of the genes of an AnnData."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from stofm_geo._checks import examples

_COLUMNS = ("ensembl_id", "gene_ids", "gene_id", "ensembl", "feature_id")
_LEAST = 0.5  # of the names, to be taken for Ensembl ids


def ensembl_ids(adata: AnnData) -> np.ndarray:
    """Ensembl ids without their versions, from ``var_names`` or a usual column of ``var``.

    Returns:
        ``[G]`` strings.

    Raises:
        KeyError: There are none.
    """
    candidates = [adata.var_names, *(adata.var[c] for c in _COLUMNS if c in adata.var)]
    for names in candidates:
        names = np.asarray(names, dtype=str)
        if len(names) and np.char.startswith(names, "ENS").mean() >= _LEAST:
            return np.char.partition(names, ".")[:, 0]
    raise KeyError(
        f"no Ensembl ids: var_names are {examples(adata.var_names)}, and var has "
        f"{sorted(adata.var) or 'no columns'}; put them into var['ensembl_id']"
    )
