"""Poisson mixture model of spots: cell-type profiles and the number of cells of each."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from sklearn.cluster import KMeans

from stofm_geo._linalg import membership_matrix, sqrt_fractions

_CELLS_PER_PROFILE, _MAX_PROFILES = 30, 10  # of one type
_STEPS, _FIRST_FACTORS, _FACTORS_EVERY = 150, 30, 10
_BLOCK = 4096
_FACTOR_EXPONENT = 0.5  # shrinks the factors of genes towards 1
_PSEUDOCOUNT = 5.0  # of each gene, in the estimate of its factor


def informative(
    counts: sp.csr_matrix, code: np.ndarray, n_types: int, max_genes: int
) -> np.ndarray:
    """Return the sorted columns of the ``max_genes`` genes that differ most between types.

    Differences are variances of square roots of mean fractions (Hellinger), so that highly
    expressed genes do not dominate.
    """
    spread = sqrt_fractions((membership_matrix(code, n_types) @ counts).toarray()).var(axis=0)
    return np.sort(np.argsort(-spread, kind="stable")[:max_genes])


def profiles(
    counts: np.ndarray, code: np.ndarray, n_types: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean counts of a cell, for each state of each type.

    A type has several states (by location or cell cycle), which one mean would blur. They are found
    by k-means on square roots of fractions, one state per 30 cells, at most 10 per type.

    Returns:
        Profiles ``[S, G]``, and the type of each profile, ``[S]``.
    """
    profile, profile_type = [], []
    for k in range(n_types):
        cells = counts[code == k]
        groups = int(np.clip(len(cells) // _CELLS_PER_PROFILE, 1, _MAX_PROFILES))
        cluster = KMeans(groups, n_init=2, random_state=seed).fit_predict(sqrt_fractions(cells))
        for group in range(groups):
            if (cluster == group).any():
                profile.append(cells[cluster == group].mean(axis=0))
                profile_type.append(k)
    return np.stack(profile), np.array(profile_type)


def mixture(
    counts: np.ndarray, profile: np.ndarray, factors: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    r"""Estimate the number of cells of each profile in each spot, and a factor per gene.

    .. math::
        y_{ig} \sim \mathrm{Poisson}\big(\gamma_g \textstyle\sum_s b_{is} m_{sg}\big), \qquad
        b_{is} \ge 0

    by expectation maximisation, which here is Lee and Seung's multiplicative update
    (NIPS 2000) with fixed profiles. The factor :math:`\gamma_g` of a gene is the square root of the
    ratio of its observed and expected counts, which shrinks it half way towards 1 on the
    logarithmic scale.

    Args:
        counts: Counts of the spots, ``[n, G]``.
        profile: Mean counts of a cell of each profile, ``[S, G]``.
        factors: Factor of each gene, ``[G]``; ``None``: estimated.

    Returns:
        Numbers of cells ``[n, S]``, and factors ``[G]``.
    """
    fixed = factors is not None
    factors = np.ones(profile.shape[1]) if factors is None else factors
    total = counts.sum(axis=1, keepdims=True)
    share = np.full((len(counts), len(profile)), 1 / len(profile))  # of the counts of a spot
    scaled = profile * factors
    for step in range(_STEPS):
        if not fixed and step >= _FIRST_FACTORS and step % _FACTORS_EVERY == 0:
            expected = (share * total / _size(scaled)) @ profile
            ratio = (counts.sum(axis=0) + _PSEUDOCOUNT) / (expected.sum(axis=0) + _PSEUDOCOUNT)
            factors = (ratio / np.median(ratio)) ** _FACTOR_EXPONENT
            scaled = profile * factors
        fractions = scaled / _size(scaled)[:, None]
        for start in range(0, len(counts), _BLOCK):
            block = slice(start, start + _BLOCK)
            ratio_to_expected = counts[block] / np.maximum(share[block] @ fractions, 1e-12)
            share[block] *= ratio_to_expected @ fractions.T
            share[block] /= np.maximum(share[block].sum(axis=1, keepdims=True), 1e-12)
    return share * total / _size(scaled), factors


def _size(profile: np.ndarray) -> np.ndarray:
    """Return the counts per cell of each profile, ``[S]``."""
    return np.maximum(profile.sum(axis=1), 1e-12)


def proportions(cells: np.ndarray, profile_type: np.ndarray, n_types: int) -> np.ndarray:
    """Return proportions of types ``[n, K]`` from numbers of cells per profile ``[n, S]``."""
    return to_shares(cells @ np.eye(n_types)[profile_type])


def to_shares(amounts: np.ndarray) -> np.ndarray:
    """Divide the rows of ``[n, K]`` by their sums; a row of zeros becomes uniform."""
    total = amounts.sum(axis=1, keepdims=True)
    return np.where(total > 0, amounts / np.where(total > 0, total, 1), 1 / amounts.shape[1])
