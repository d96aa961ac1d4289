"""SToFM as a user would call it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from anndata import AnnData

from stofm_geo import SToFM
from stofm_geo.benchmark import molecule_models
from stofm_geo.benchmark.problems import LABEL, Problem
from stofm_geo.benchmark.trained import count
from stofm_geo.genes.encoders import from_state
from stofm_geo.networks import make_network
from stofm_geo.networks.state import ModelState
from stofm_geo.tasks import fine_tune
from stofm_geo.tl import deconvolve, impute

Predictions = tuple[list[np.ndarray], dict[str, Any]]


def stofm(problem: Problem, seed: int, method: str = "probe", steps: int = 200) -> Predictions:
    """Solve a problem with the public functions of the library.

    For classes, a model is fitted to the training slices, without labels, and fine-tuned by
    ``method``. For vectors, it is fitted to the slice. Shares and values are predicted by
    ``tl.deconvolve`` and ``tl.impute``, which train no Transformer.

    Args:
        problem: Problem of any kind.
        seed: Random seed of weights and training.
        method: Method of :func:`stofm_geo.tasks.fine_tune`.
        steps: Number of pre-training steps; after 1 step, embeddings are averages of neighbours.
    """
    if problem.kind == "molecules":
        return molecule_models.stofm(problem, seed)
    if problem.kind == "shares":
        adata = problem.test[0].copy()
        deconvolve(adata, problem.train[0], LABEL, seed=seed)
        types = list(adata.uns["stofm_proportions"]["types"])  # columns may be renamed
        order = [types.index(name) for name in problem.names]
        return [adata.obsm["stofm_proportions"].to_numpy()[:, order]], {}
    if problem.kind == "values":
        adata = problem.test[0].copy()
        impute(adata, problem.train[0], problem.names)
        return [adata.obsm["stofm_imputed"].to_numpy(dtype=float)], {}
    slices = problem.train or problem.test
    model = SToFM().fit(slices, max_steps=steps, seed=seed, progress=False)
    record = {"parameters": count(model.state.network), "steps": steps}
    if problem.kind == "vectors":
        return [_embedded(model, adata.copy()) for adata in problem.test], record
    return classify(model, problem, seed, method), record


def classify(model: SToFM, problem: Problem, seed: int, method: str = "probe") -> list[np.ndarray]:
    """Fine-tune a model on the labels of a problem, and return the labels that it predicts.

    Args:
        model: Fitted.
        problem: Problem of kind ``"classes"``.
        seed: Random seed.
        method: Method of :func:`stofm_geo.tasks.fine_tune`.
    """
    annotator = fine_tune(
        model, problem.train, LABEL, method, task=problem.label_level, seed=seed, progress=False
    )
    test = [adata.copy() for adata in problem.test]
    for adata in test:
        annotator.predict(adata, key_added="predicted")
    return [adata.obs["predicted"].astype(object).to_numpy() for adata in test]


def mini(problem: Problem, seed: int) -> Predictions:
    """Embed with the model that is installed with the library, without training."""
    model = SToFM.from_pretrained("stofm-geo-mini")
    record = {"parameters": count(model.state.network)}
    return [_embedded(model, adata.copy()) for adata in problem.test], record


def untrained(model: SToFM, seed: int) -> SToFM:
    """Return the same network, and the encoder that is trained with it, as they are made."""
    settings, _ = model.state.encoder.state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = from_state(settings, {})
        network = make_network(model.config, encoder).eval()
    return SToFM.from_state(ModelState(model.config, network, encoder, {"seed": seed, "steps": 0}))


def _embedded(model: SToFM, adata: AnnData) -> np.ndarray:
    model.embed(adata)
    return adata.obsm["X_stofm"]
