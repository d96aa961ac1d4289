"""SToFM, as the library's own functions use it."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData

from stofm_geo import SToFM
from stofm_geo.benchmark.problems import LABEL, Problem
from stofm_geo.benchmark.trained import count
from stofm_geo.tasks import fine_tune
from stofm_geo.tl import deconvolve, impute

Answer = tuple[list[np.ndarray], dict[str, Any]]


def stofm(problem: Problem, seed: int, method: str = "probe", steps: int = 200) -> Answer:
    """Run SToFM as a user would.

    Classes: a model is fitted to the training slices, without their labels, and fine-tuned by
    ``method``. Vectors: it is fitted to the slice. Shares and values: ``tl.deconvolve`` and
    ``tl.impute``, which train no transformer.

    Args:
        problem: Any.
        seed: Of weights and training.
        method: Of :func:`stofm_geo.tasks.fine_tune`.
        steps: Of pre-training; after 1, embeddings are plain averages over the tissue.
    """
    test = [part.copy() for part in problem.test]
    if problem.kind == "shares":
        deconvolve(test[0], problem.train[0], LABEL, seed=seed)
        types = list(test[0].uns["stofm_proportions"]["types"])  # columns may be renamed
        order = [types.index(name) for name in problem.names]
        return [test[0].obsm["stofm_proportions"].to_numpy()[:, order]], {}
    if problem.kind == "values":
        impute(test[0], problem.train[0], problem.names)
        return [test[0].obsm["stofm_imputed"].to_numpy(dtype=float)], {}
    model = SToFM().fit(problem.train or test, max_steps=steps, seed=seed, progress=False)
    record = {"parameters": count(model.state.network), "steps": steps}
    if problem.kind == "vectors":
        return [_embedded(model, part) for part in test], record
    annotator = fine_tune(
        model, problem.train, LABEL, method, task=problem.label_level, seed=seed, progress=False
    )
    for part in test:
        annotator.predict(part, key_added="found")
    return [part.obs["found"].astype(object).to_numpy() for part in test], record


def mini(problem: Problem, seed: int) -> Answer:
    """Embed with the model installed with the library, without training."""
    model = SToFM.from_pretrained("stofm-geo-mini")
    record = {"parameters": count(model.state.network)}
    return [_embedded(model, part.copy()) for part in problem.test], record


def _embedded(model: SToFM, part: AnnData) -> np.ndarray:
    model.embed(part)
    return part.obsm["X_stofm"]
