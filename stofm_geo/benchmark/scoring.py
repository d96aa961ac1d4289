"""How good answers are, by kind of problem."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.spatial.distance import jensenshannon
from scipy.stats import rankdata
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from stofm_geo.benchmark.clusterings import CLUSTERINGS, SEEDS, components, of_library
from stofm_geo.benchmark.problems import Kind, Problem
from stofm_geo.tasks.imputation.blending import correlations
from stofm_geo.tasks.metrics import scores

# What the tables show of each kind, and whether more is better.
MAIN: dict[Kind, tuple[str, bool]] = {
    "classes": ("macro_f1", True),
    "vectors": ("ari", True),
    "shares": ("rmse", False),
    "values": ("pearson", True),
}


def check_answers(problem: Problem, answers: list[np.ndarray]) -> None:
    """Whether there is an answer for every cell, of the size that the kind of problem asks for.

    Raises:
        TypeError: An answer is no array.
        ValueError: Other sizes, or numbers that are not finite.
    """
    columns = {"classes": None, "vectors": 0}.get(problem.kind, len(problem.names))
    if not isinstance(answers, list | tuple):
        raise TypeError(f"answers must be a list of arrays; found {type(answers).__name__}")
    if len(answers) != len(problem.test):
        raise ValueError(
            f"{len(problem.test)} answers are asked for, one a slice of test; found {len(answers)}"
        )
    for part, answer in zip(problem.test, answers, strict=True):
        if not isinstance(answer, np.ndarray):
            raise TypeError(f"an answer must be a NumPy array; found {type(answer).__name__}")
        wanted = f"[{part.n_obs}{'' if columns is None else ', ' + str(columns or 'D')}]"
        right = answer.ndim == (1 if columns is None else 2) and len(answer) == part.n_obs
        if not right or (columns and answer.shape[1] != columns):
            raise ValueError(f"an answer must be {wanted}; found {list(answer.shape)}")
        if columns is not None and not np.isfinite(answer).all():
            raise ValueError("an answer has numbers that are not finite")


def classes(
    problem: Problem, truth: list[np.ndarray], answers: list[np.ndarray]
) -> dict[str, float]:
    """Labels ``[n]`` a slice: macro-F1 over the labels of the test, accuracy, ARI."""
    right = np.concatenate([t[a] for t, a in zip(truth, problem.scored_mask, strict=True)])
    found = np.concatenate([t[a] for t, a in zip(answers, problem.scored_mask, strict=True)])
    result = scores(right, found)
    return {name: result[name] for name in ("macro_f1", "accuracy", "ari")}


def vectors(
    problem: Problem, truth: list[np.ndarray], answers: list[np.ndarray]
) -> dict[str, float]:
    """ARI and NMI under each clustering, means over its seeds; and the means over clusterings."""
    (part,), (known,), (right,), (z,) = problem.test, problem.scored_mask, truth, answers
    parts, pos, count = components(z), part.obsm["spatial"], len(problem.names)
    found = {
        name: [cluster(parts, count, seed) for seed in range(SEEDS[name])]
        for name, cluster in CLUSTERINGS.items()
    }
    found["tl.domains"] = [of_library(z, pos, count, refine=False)]
    result = {}
    for short, measure in (("ari", adjusted_rand_score), ("nmi", normalized_mutual_info_score)):
        of = {
            name: float(np.mean([measure(right[known], one[known]) for one in each]))
            for name, each in found.items()
        }
        result[short] = float(np.mean([*of.values()]))
        result |= {f"{short}, {name}": value for name, value in of.items()}
    voted = of_library(z, pos, count, refine=True)[known]
    result["ari, tl.domains with its vote"] = float(adjusted_rand_score(right[known], voted))
    return result


def shares(problem: Problem, truth: pd.DataFrame, answers: list[np.ndarray]) -> dict[str, float]:
    """Root mean square error, correlation over all entries and of types, Jensen-Shannon divergence.

    Over all types of either side.
    """
    found = pd.DataFrame(answers[0], index=truth.index, columns=problem.names)
    types = sorted(set(found) | set(truth))
    p, q = (part.reindex(columns=types, fill_value=0.0).to_numpy() for part in (found, truth))
    of_type = [
        np.corrcoef(p[:, k], q[:, k])[0, 1] if p[:, k].std() > 0 else 0.0
        for k in range(len(types))
        if q[:, k].std() > 0
    ]
    return {
        "rmse": float(np.sqrt(((p - q) ** 2).mean())),
        "correlation": float(np.corrcoef(p.ravel(), q.ravel())[0, 1]),
        "correlation_of_type": float(np.mean(of_type)),
        "jensen_shannon": float((jensenshannon(p, q, base=2, axis=1) ** 2).mean()),
    }


def values(problem: Problem, truth: np.ndarray, answers: list[np.ndarray]) -> dict[str, float]:
    """Pearson's and Spearman's correlation of each gene, means over genes; 0 for a constant."""
    (found,) = answers
    r = correlations(found, truth)
    ranks = (np.apply_along_axis(rankdata, 0, x) for x in (found, truth))
    return {
        "pearson": float(r.mean()),
        "pearson_median": float(np.median(r)),
        "spearman": float(correlations(*ranks).mean()),
    }


def logs(counts: sp.spmatrix, genes: np.ndarray, scale: float | None = None) -> np.ndarray:
    """Log-normalised by the sum over ``genes``; to their median, or to ``scale``. ``[n, all]``."""
    x = counts.toarray().astype(float)
    total = x[:, genes].sum(axis=1, keepdims=True)
    return np.log1p(x / np.maximum(total, 1) * (scale or np.median(total)))
