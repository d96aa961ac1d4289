"""Scores of predictions, by kind of problem."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.spatial.distance import jensenshannon
from scipy.stats import rankdata
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from stofm_geo.benchmark.clusterings import CLUSTERINGS, SEEDS, components, library_domains
from stofm_geo.benchmark.geometry.problems import GraphProblem
from stofm_geo.benchmark.problems import Kind, Problem
from stofm_geo.tasks.imputation.blending import correlations
from stofm_geo.tasks.metrics import scores

# Main score of each kind, and whether higher is better.
MAIN: dict[Kind, tuple[str, bool]] = {
    "classes": ("macro_f1", True),
    "vectors": ("ari", True),
    "shares": ("rmse", False),
    "values": ("pearson", True),
    "molecules": ("error", False),
    "transfer": ("macro_f1", True),
    "graph_classes": ("accuracy", True),
    "displacements": ("error", False),
    "axes": ("cosine", True),
}


def check_predictions(problem: Problem | GraphProblem, predictions: list[np.ndarray]) -> None:
    """Check that predictions have the shapes that the problem requires, and are finite.

    Raises:
        TypeError: ``predictions`` is not a list of arrays.
        ValueError: A shape is wrong, or numbers are not finite.
    """
    if not isinstance(predictions, list | tuple):
        raise TypeError(f"predictions must be a list of arrays; found {type(predictions).__name__}")
    if len(predictions) != len(problem.test):
        of_test = "list of test graphs" if isinstance(problem, GraphProblem) else "test slice"
        raise ValueError(
            f"predictions must be {len(problem.test)} arrays, one per {of_test}; "
            f"found {len(predictions)}"
        )
    for shape, prediction in zip(_shapes(problem), predictions, strict=True):
        if not isinstance(prediction, np.ndarray):
            raise TypeError(
                f"a prediction must be a NumPy array; found {type(prediction).__name__}"
            )
        found = prediction.shape
        if len(found) != len(shape) or any(
            size not in (None, n) for size, n in zip(shape, found, strict=True)
        ):
            expected = ", ".join("D" if size is None else str(size) for size in shape)
            raise ValueError(f"a prediction must be [{expected}]; found {list(found)}")
        if len(shape) == 2 and not np.isfinite(prediction).all():
            raise ValueError("a prediction has numbers that are not finite")


def _shapes(problem: Problem | GraphProblem) -> list[tuple[int | None, ...]]:
    """Return the shape of each prediction; ``None`` for any size."""
    if isinstance(problem, GraphProblem):
        if problem.kind == "graph_classes":
            return [(len(graphs),) for graphs in problem.test]
        return [(sum(data.num_nodes for data in graphs), 2) for graphs in problem.test]
    if problem.kind in ("classes", "transfer"):
        return [(adata.n_obs,) for adata in problem.test]
    columns = None if problem.kind == "vectors" else len(problem.names)
    return [(adata.n_obs, columns) for adata in problem.test]


def classes(
    problem: Problem, truth: list[np.ndarray], predictions: list[np.ndarray]
) -> dict[str, float]:
    """Return macro-F1 over the test labels, accuracy and ARI of labels ``[n]`` per slice."""
    known = np.concatenate([t[a] for t, a in zip(truth, problem.scored_mask, strict=True)])
    predicted = np.concatenate(
        [t[a] for t, a in zip(predictions, problem.scored_mask, strict=True)]
    )
    result = scores(known, predicted)
    return {name: result[name] for name in ("macro_f1", "accuracy", "ari")}


def vectors(
    problem: Problem, truth: list[np.ndarray], predictions: list[np.ndarray]
) -> dict[str, float]:
    """Return ARI and NMI of each clustering, averaged over seeds, and their means."""
    (adata,), (known,), (labels,), (z,) = problem.test, problem.scored_mask, truth, predictions
    x, pos, count = components(z), adata.obsm["spatial"], len(problem.names)
    clusters = {
        name: [cluster(x, count, seed) for seed in range(SEEDS[name])]
        for name, cluster in CLUSTERINGS.items()
    }
    clusters["tl.domains"] = [library_domains(z, pos, count, refine=False)]
    result = {}
    for short, measure in (("ari", adjusted_rand_score), ("nmi", normalized_mutual_info_score)):
        by_clustering = {
            name: float(np.mean([measure(labels[known], c[known]) for c in by_seed]))
            for name, by_seed in clusters.items()
        }
        result[short] = float(np.mean([*by_clustering.values()]))
        result |= {f"{short}, {name}": value for name, value in by_clustering.items()}
    refined = library_domains(z, pos, count, refine=True)[known]
    result["ari, tl.domains with its vote"] = float(adjusted_rand_score(labels[known], refined))
    return result


def shares(
    problem: Problem, truth: pd.DataFrame, predictions: list[np.ndarray]
) -> dict[str, float]:
    """Return RMSE, correlation over all entries and per type, and Jensen-Shannon divergence.

    All types in the predictions or the truth are included.
    """
    predicted = pd.DataFrame(predictions[0], index=truth.index, columns=problem.names)
    types = sorted(set(predicted) | set(truth))
    p, q = (table.reindex(columns=types, fill_value=0.0).to_numpy() for table in (predicted, truth))
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


def values(problem: Problem, truth: np.ndarray, predictions: list[np.ndarray]) -> dict[str, float]:
    """Return mean Pearson and Spearman correlations of genes; 0 for a constant gene."""
    (predicted,) = predictions
    r = correlations(predicted, truth)
    ranks = (np.apply_along_axis(rankdata, 0, x) for x in (predicted, truth))
    return {
        "pearson": float(r.mean()),
        "pearson_median": float(np.median(r)),
        "spearman": float(correlations(*ranks).mean()),
    }


def logs(counts: sp.spmatrix, genes: np.ndarray, scale: float | None = None) -> np.ndarray:
    """Return logs ``[n, all]``, with sums over ``genes`` scaled to the median or ``scale``."""
    x = counts.toarray().astype(float)
    total = x[:, genes].sum(axis=1, keepdims=True)
    return np.log1p(x / np.maximum(total, 1) * (scale or np.median(total)))
