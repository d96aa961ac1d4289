"""Features that are not genes: control probes, codewords without a gene, antibodies."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pandas as pd

from stofm_geo._validation import preview

_TYPES = ("feature_types", "feature_type")
_GENE = "gene expression"
# Whole names, so that genes like BLNK, NEGR1, ANTXR1 and ERCC1 stay. Xenium: NegControlProbe_00042,
# NegControlCodeword_0500, BLANK_0006, antisense_PROKR2, UnassignedCodeword_0001,
# Intergenic_Region_1; CosMx: NegPrb1, Negative01, SystemControl1, FalseCode1; MERSCOPE: Blank-1;
# spike-ins: ERCC-00002.
_CONTROL = re.compile(
    r"(neg(ative)?[ _.-]?(control|ctrl|prb|probe)s?([ _.-]?(probe|codeword))?([ _.-]?\w+)?"
    r"|negative[ _.-]?\d+"
    r"|blank([ _.-]?(codeword)?[ _.-]?[a-z]?\d+)?"
    r"|(unassigned|deprecated|false|unused|system|positive|genomic)"
    r"[ _.-]?(control|codeword|code|probe)s?([ _.-]?\w+)?"
    r"|(unassigned|deprecated)([ _.-]?\d+)?"
    r"|antisense_\w+"
    r"|intergenic[ _.-]?region[ _.-]?\d+"
    r"|ercc-\d{5}"
    r"|\w*codeword[ _.-]?\d+)",
    re.IGNORECASE,
)


def gene_mask(var: pd.DataFrame) -> np.ndarray:
    """Return the mask of features that are genes, ``[G]`` bool, by their names and types.

    ``var["feature_types"]``, if it exists, is ``"Gene Expression"`` for genes; it is ignored if
    that value does not occur.

    Args:
        var: ``var`` of an AnnData, with names as its index.
    """
    genes = np.array([not _CONTROL.fullmatch(name) for name in var.index.astype(str)], dtype=bool)
    for column in _TYPES:
        if column in var:
            kind = var[column].astype(object)
            named = kind.notna().to_numpy()
            other = kind.astype(str).str.lower().to_numpy() != _GENE
            if not other.all():
                genes &= ~(named & other)
    return genes


def warn_of_left_out_controls(var: pd.DataFrame, genes: np.ndarray) -> None:
    """Warn of features that are left out, if any.

    Warns:
        UserWarning: Some features are not genes.
    """
    if not genes.all():
        warnings.warn(
            f"{int((~genes).sum())} of {len(genes)} features are not genes but control probes, "
            f"codewords and the like ({preview(var.index[~genes])}) and are left out",
            stacklevel=3,
        )
