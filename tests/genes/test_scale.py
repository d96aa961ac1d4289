from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

from stofm_geo.genes import as_counts

RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(RNG.gamma(0.5, 2, (1, 80)) * RNG.gamma(4, 0.25, (300, 1))).astype(float)
COUNTS[5] = 0
TOTAL = COUNTS.sum(axis=1, keepdims=True).clip(1)
HALF = slice(0, None, 2)


def corrected() -> np.ndarray:
    """Without a tenth that came from everywhere, as SoupX leaves them."""
    soup = 0.1 * TOTAL * COUNTS.sum(axis=0) / COUNTS.sum()
    return (COUNTS - soup).clip(0)


def expected() -> np.ndarray:
    """Some reads shared with another gene, as RSEM and salmon give them."""
    return COUNTS * np.where(RNG.random(COUNTS.shape) < 0.3, RNG.random(COUNTS.shape), 1)


def said(values: np.ndarray, **parts: object) -> str:
    """The error or the warning of these values."""
    if "layers" in parts:  # to which anndata adds X from version 0.13 on
        parts["layers"] = dict(parts["layers"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            as_counts(AnnData(sp.csr_matrix(values), **parts))
        except ValueError as error:
            return f"error: {error}"
    return "; ".join(str(warning.message) for warning in caught)


@pytest.mark.parametrize("values", [COUNTS, corrected(), expected(), COUNTS + 0.5 * (COUNTS > 3)])
def test_counts_of_all_kinds_are_taken(values: np.ndarray) -> None:
    assert said(values) == ""


@pytest.mark.parametrize("base", [np.e, 2, 10])
@pytest.mark.parametrize("values", [COUNTS, 1e4 * COUNTS / TOTAL, 50 * COUNTS / TOTAL])
def test_logarithms(values: np.ndarray, base: float) -> None:
    logs = np.log1p(values) / np.log(base)
    found = f"(not whole numbers, the largest {logs.max():.3g})"
    text = f"error: X looks log-transformed {found}; raw counts are"
    assert said(logs).startswith(text)
    assert said(logs[:, HALF]).startswith("error: X looks log-transformed")


def test_logarithms_of_another_kind() -> None:
    assert said(np.log1p(1e4 * corrected() / TOTAL)).startswith("error: X looks log-transformed")
    odd = RNG.gamma(20, 0.2, COUNTS.shape) * (COUNTS > 0)
    assert said(odd).startswith("error: X looks log-transformed")  # no tail
    tail = RNG.exponential(4, COUNTS.shape) * (COUNTS > 0)
    assert said(tail) == ""
    assert said(tail, uns={"log1p": {"base": None}}).startswith("error: X looks") == (
        tail.max() < 30
    )


@pytest.mark.parametrize(
    "values", [COUNTS / TOTAL, 1e6 * COUNTS / TOTAL, (1e4 * COUNTS / TOTAL)[:, HALF]]
)
def test_divided_by_totals(values: np.ndarray) -> None:
    text = "X looks divided by each cell's total or volume (not whole numbers, the largest "
    assert said(values).startswith(text)


def test_where_the_counts_are() -> None:
    logs, cells = np.log1p(COUNTS), AnnData(COUNTS)
    layers = {"logs": logs, "counts": sp.csr_matrix(COUNTS)}
    hint = "layers['counts'] holds whole numbers: layer='counts' (--layer counts)"
    assert said(logs, layers=layers).endswith(hint)
    assert said(logs - 1, layers=layers).endswith(hint)
    assert said(COUNTS / TOTAL, layers=layers).endswith(hint)
    hint = "adata.raw holds whole numbers: adata = adata.raw.to_adata()"
    assert said(logs, raw={"X": cells.X, "var": cells.var}).endswith(hint)
    hint = "raw counts are needed, and neither a layer nor adata.raw holds whole numbers"
    assert said(logs, layers={"logs": logs, "empty": 0 * logs}).endswith(hint)


def test_one_cell_and_one_gene() -> None:
    assert said(np.array([[0.5, 30.0, 2.0]])) == ""
    assert said(np.array([[40.5], [30.2], [2.0]])) == ""
    assert re.match("error: X looks log-transformed", said(np.array([[0.7, 1.1, 1.4]])))


def test_presence_is_told_of_and_roots_and_shares_of_the_highest_are_refused() -> None:
    with_counts = {"layers": {"counts": sp.csr_matrix(COUNTS)}}
    assert said(COUNTS > 0).startswith(f"all {(COUNTS > 0).sum()} values of X are 1, as if")
    assert "layers['counts'] holds whole numbers" in said(COUNTS > 0, **with_counts)
    assert "neither a layer" in said(COUNTS > 0, layers={"counts": sp.csr_matrix(COUNTS > 0)})
    few = COUNTS[:6] > 0
    assert said(few) == ""
    for roots in (np.sqrt(COUNTS), np.sqrt(COUNTS).astype(np.float32)):
        assert said(roots).startswith("error: X looks like square roots of counts")
    highest = COUNTS.max(axis=0).clip(1)
    assert said(COUNTS / highest).startswith("error: X looks scaled to at most 1")
    assert "layer='counts' (--layer counts)" in said(COUNTS / highest, **with_counts)
