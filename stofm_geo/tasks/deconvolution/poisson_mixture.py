"""Poisson mixture model of spots: cell-type profiles and the number of cells of each."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from sklearn.cluster import KMeans

from stofm_geo._linalg import membership_matrix, sqrt_fractions

_CELLS, _MOST = 30, 10  # of a profile, at least; profiles of a type, at most
_STEPS, _BEFORE_FACTORS, _EVERY = 150, 30, 10
_BLOCK = 4096
_TRUST = 0.5  # in a gene's factor, on the logarithmic scale
_PSEUDO = 5.0  # counts that a gene's factor must outweigh


def informative(counts: sp.csr_matrix, code: np.ndarray, n_types: int, most: int) -> np.ndarray:
    """Return the columns of the genes that differ most between types, ascending; at most ``most``.

    Differences are variances of square roots of mean fractions (Hellinger), so that highly
    expressed genes do not dominate.
    """
    spread = sqrt_fractions((membership_matrix(code, n_types) @ counts).toarray()).var(axis=0)
    return np.sort(np.argsort(-spread, kind="stable")[:most])


def profiles(
    counts: np.ndarray, code: np.ndarray, n_types: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean counts of a cell, for each state of each type.

    A type has states (where in the tissue, how deep in the cell cycle), which one mean would
    blur: k-means on roots of shares tells them apart, one for every 30 cells, at most 10.

    Returns:
        ``[S, G]``, and the type of each, ``[S]``.
    """
    found, kind = [], []
    for k in range(n_types):
        cells = counts[code == k]
        groups = int(np.clip(len(cells) // _CELLS, 1, _MOST))
        split = KMeans(groups, n_init=2, random_state=seed).fit_predict(sqrt_fractions(cells))
        for group in range(groups):
            if (split == group).any():
                found.append(cells[split == group].mean(axis=0))
                kind.append(k)
    return np.stack(found), np.array(kind)


def mixture(
    counts: np.ndarray, profile: np.ndarray, factors: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    r"""Estimate the number of cells of each profile in each spot, and a factor per gene.

    .. math::
        y_{ig} \sim \mathrm{Poisson}\big(\gamma_g \textstyle\sum_s b_{is} m_{sg}\big), \qquad
        b_{is} \ge 0

    by expectation maximisation, which here is Lee and Seung's multiplicative update
    (NIPS 2000) with fixed profiles. Cells with more RNA count as one cell, not as more. A gene's
    factor :math:`\gamma_g` is the root of its counts over those expected: half way, on the
    logarithmic scale, between trusting the reference's platform and this one's.

    Args:
        counts: ``[n, G]``.
        profile: Mean counts of a cell, ``[S, G]``.
        factors: Known ones, ``[G]``; ``None``: they are found.

    Returns:
        Cells ``[n, S]``, and factors ``[G]``.
    """
    known = factors is not None
    factors = np.ones(profile.shape[1]) if factors is None else factors
    total = counts.sum(axis=1, keepdims=True)
    share = np.full((len(counts), len(profile)), 1 / len(profile))  # of a spot's counts
    scaled = profile * factors
    for step in range(_STEPS):
        if not known and step >= _BEFORE_FACTORS and step % _EVERY == 0:
            expected = (share * total / _size(scaled)) @ profile
            ratio = (counts.sum(axis=0) + _PSEUDO) / (expected.sum(axis=0) + _PSEUDO)
            factors = (ratio / np.median(ratio)) ** _TRUST
            scaled = profile * factors
        kind = scaled / _size(scaled)[:, None]
        for at in range(0, len(counts), _BLOCK):
            part = slice(at, at + _BLOCK)
            seen = counts[part] / np.maximum(share[part] @ kind, 1e-12)
            share[part] *= seen @ kind.T
            share[part] /= np.maximum(share[part].sum(axis=1, keepdims=True), 1e-12)
    return share * total / _size(scaled), factors


def _size(profile: np.ndarray) -> np.ndarray:
    """Return the counts per cell of each profile, ``[S]``."""
    return np.maximum(profile.sum(axis=1), 1e-12)


def proportions(cells: np.ndarray, kind: np.ndarray, n_types: int) -> np.ndarray:
    """Return proportions of types ``[n, K]`` from cells of profiles ``[n, S]``; rows sum to 1."""
    return to_shares(cells @ np.eye(n_types)[kind])


def to_shares(amounts: np.ndarray) -> np.ndarray:
    """Divide the rows of ``[n, K]`` by their sums; a row of zeros becomes uniform."""
    total = amounts.sum(axis=1, keepdims=True)
    return np.where(total > 0, amounts / np.where(total > 0, total, 1), 1 / amounts.shape[1])
