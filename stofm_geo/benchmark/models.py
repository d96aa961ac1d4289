"""Registered models."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from stofm_geo._registry import Registry
from stofm_geo.benchmark import (
    baselines,
    external_denoisers,
    molecule_models,
    stofm_models,
    transfer_models,
)
from stofm_geo.benchmark.external_methods import EXTERNAL_METHODS
from stofm_geo.benchmark.geometry import axes, chirality
from stofm_geo.benchmark.geometry import models as planar
from stofm_geo.benchmark.geometry.problems import GraphProblem
from stofm_geo.benchmark.geometry.training import PlanarModel
from stofm_geo.benchmark.layers import LAYERS, SE2, Layer, Stack
from stofm_geo.benchmark.problems import LOAD, Kind, Problem
from stofm_geo.benchmark.scoring import MAIN
from stofm_geo.benchmark.trained import GraphLayerModel

Solve = Callable[[Any, int], tuple[list[np.ndarray], dict[str, Any]]]


@dataclass(frozen=True)
class Model:
    """A compared method.

    Attributes:
        solve: Function from a :class:`~stofm_geo.benchmark.Problem` (or ``GraphProblem``) and a
            seed to predictions and a record (``"parameters"``, ...).
        kinds: Kinds of problems that it supports.
        seeded: Whether the seed changes the result; otherwise only seed 0 is run.
        needs: Module that must be importable.

    Examples:
        >>> import numpy as np
        >>> from stofm_geo.benchmark import Model, Problem
        >>> from stofm_geo.datasets import toy_tissue
        >>> def first_class(problem, seed):
        ...     return [np.full(adata.n_obs, problem.names[0]) for adata in problem.test], {}
        >>> model = Model(first_class, kinds=["classes"], seeded=False)
        >>> problem = Problem("classes", [], [toy_tissue(200, 30, seed=0)], ["L1", "L2"])
        >>> predictions, record = model.solve(problem, 0)
        >>> predictions[0][:2].tolist()
        ['L1', 'L1']
    """

    solve: Solve
    kinds: Collection[Kind]
    seeded: bool = True
    needs: str | None = None


@dataclass(frozen=True)
class LayerModel:
    """Model of problems of tissue and of graphs in the plane by networks of the same layer."""

    tissue: GraphLayerModel
    graphs: PlanarModel

    def __call__(
        self, problem: Problem | GraphProblem, seed: int
    ) -> tuple[list[np.ndarray], dict[str, Any]]:
        """Return predictions and a record of the training."""
        if isinstance(problem, GraphProblem):
            return self.graphs(problem, seed)
        return self.tissue(problem, seed)


MODELS: Registry[Model] = Registry("model", LOAD)
# Problems of kind "transfer" have other genes in training than in test.
SAME_GENES: tuple[Kind, ...] = ("classes", "vectors", "shares", "values", "molecules")


def register_model(
    name: str,
    solve: Solve | None = None,
    *,
    layer: Layer | None = None,
    kinds: Collection[Kind] | None = None,
    seeded: bool = True,
    needs: str | None = None,
) -> None:
    """Register a model: a graph layer, or any function that solves problems.

    Args:
        name: Name of the model, its row in the tables.
        solve: See :class:`Model`.
        layer: Instead of ``solve``, a function from a width (a multiple of 8) to a layer with
            ``forward(x, edge_index, pos)`` from and to ``[N, width]``; ``pos`` is passed by its
            name. A network of three such layers with 300 000 parameters is trained in the same way
            for all layers (:class:`~stofm_geo.benchmark.trained.GraphLayerModel`); on graphs in the
            plane, one of four layers with 60 000 parameters, which sees a batch of graphs as one
            graph (:class:`~stofm_geo.benchmark.geometry.training.PlanarModel`).
        kinds: Kinds of problems that it supports (default: ``"classes"``, ``"vectors"``,
            ``"shares"``, ``"values"`` and ``"molecules"``, and for a layer ``"graph_classes"``).
            A function can also solve ``"transfer"``, ``"displacements"`` and ``"axes"``; a layer
            returns no vectors, and cannot.
        seeded: Whether the seed changes the result.
        needs: Module that must be importable.

    Raises:
        TypeError: Neither or both of ``solve`` and ``layer`` are given, or one is not callable.
        ValueError: ``name`` is taken, or a kind is unknown or not for layers.

    Examples:
        >>> import torch
        >>> from stofm_geo.benchmark import MODELS, register_model
        >>> class Linear(torch.nn.Linear):
        ...     def __init__(self, width):
        ...         super().__init__(width, width)
        ...     def forward(self, x, edge_index, pos):
        ...         return super().forward(x)
        >>> register_model("linear", layer=Linear)
        >>> "classes" in MODELS["linear"].kinds
        True
    """
    if (solve is None) == (layer is None) or not callable(solve or layer):
        raise TypeError(
            "give either solve, a function of a problem and a seed, or layer, a function of a width"
        )
    if kinds is None:
        kinds = SAME_GENES if layer is None else (*SAME_GENES, "graph_classes")
    if layer is not None and {"displacements", "axes"} & set(kinds):
        raise ValueError(
            "a layer without vectors cannot predict displacements or axes; give solve instead"
        )
    if unknown := set(kinds) - set(MAIN):
        raise ValueError(f"kinds must be of {', '.join(MAIN)}; found {sorted(unknown)}")
    if layer is not None:
        solve = LayerModel(GraphLayerModel(partial(Stack, layer)), planar.of_layer(layer))
    assert solve is not None
    MODELS.add(name, Model(solve, tuple(kinds), seeded, needs))


def _body(vectors: bool) -> Callable[[int], nn.Module]:
    return partial(SE2, vectors=vectors)


_WITHOUT_MOLECULES = tuple(kind for kind in SAME_GENES if kind != "molecules")
for _name, _solve in baselines.LINEAR.items():
    # Components need no scale to predict molecules: these would be the same twice.
    _kinds = _WITHOUT_MOLECULES if "standardised" in _name else SAME_GENES
    register_model(_name, _solve, kinds=_kinds, seeded=False)
register_model("mean", molecule_models.mean, kinds=["molecules"], seeded=False)
register_model("PCA (best rank)", molecule_models.best_rank, kinds=["molecules"], seeded=False)
register_model("PCA (shrunken)", molecule_models.shrunken, kinds=["molecules"], seeded=False)
for _of, _name in (("space", "neighbour means"), ("expression", "means of alike cells")):
    _solve = partial(molecule_models.averages, of=_of)
    register_model(_name, _solve, kinds=["molecules"], seeded=False)
register_model("scVI", external_denoisers.scvi, kinds=["molecules"], needs="scvi")
register_model("MAGIC", external_denoisers.magic, kinds=["molecules"], needs="magic")
for _name, _layer in LAYERS.items():
    if _name in planar.MODELS:
        _model = planar.MODELS[_name]
        _solve = LayerModel(GraphLayerModel(partial(Stack, _layer)), _model)
        register_model(_name, _solve, kinds=(*SAME_GENES, *planar.kinds_of(_model)))
    else:
        # Attention between all nodes would mix the graphs of a batch.
        register_model(_name, layer=_layer, kinds=SAME_GENES if _name == "GPS" else None)
for _name, _model in planar.MODELS.items():
    if _name not in LAYERS:
        register_model(_name, _model, kinds=planar.kinds_of(_model))
register_model(
    "SE2TransformerConv (vectors) without features",
    lambda problem, seed: planar.MODELS["SE2TransformerConv (vectors)"](
        chirality.without_features(problem), seed
    ),
    kinds=["graph_classes"],
)
register_model("depth gradient", axes.depth_gradient, kinds=["axes"], seeded=False)
register_model("SE2Transformer", GraphLayerModel(_body(vectors=False)))
register_model("SE2Transformer (vectors)", GraphLayerModel(_body(vectors=True)))
register_model("SE2Transformer (macro nodes)", GraphLayerModel(_body(vectors=False), macro=True))
register_model(
    "SE2Transformer (no halo)",
    GraphLayerModel(_body(vectors=False), halo=0),
    kinds=_WITHOUT_MOLECULES,  # whose halo is the library's
)
register_model("SToFM", stofm_models.stofm)
register_model("SToFM (tl.denoise)", molecule_models.denoise, kinds=["molecules"])
register_model(
    "SToFM (not pre-trained)", partial(stofm_models.stofm, steps=1), kinds=("classes", "vectors")
)
register_model("SToFM (MLP)", partial(stofm_models.stofm, method="mlp"), kinds=["classes"])
register_model(
    "SToFM (LoRA)", partial(stofm_models.stofm, method="lora"), kinds=["classes"], needs="peft"
)
register_model("SToFM (full)", partial(stofm_models.stofm, method="full"), kinds=["classes"])
register_model("stofm-geo-mini", stofm_models.mini, kinds=["vectors"], seeded=False)
for _name, (_predict, _seeded, _module) in transfer_models.PREDICTORS.items():
    _shifted = _name in transfer_models.SHIFTED
    for _shift, _suffix in ((False, ""), (True, " (label shift)"))[: 1 + _shifted]:
        register_model(
            _name + _suffix,
            partial(transfer_models.solve, probabilities=_predict, shift=_shift),
            kinds=["transfer"],
            seeded=_seeded,
            needs=_module,
        )
register_model("NNLS", baselines.least_squares, kinds=["shares"], seeded=False)
register_model("flashdeconv", baselines.flash_deconvolution, kinds=["shares"], needs="flashdeconv")
for _name, _method in EXTERNAL_METHODS.items():
    _solve = partial(baselines.external_embedding, embed=_method.embed, settings=_method.settings)
    register_model(_name, _solve, kinds=["vectors"], needs=_method.module)
for _k, _space, _metric in ((10, "cosine", "cosine"), (50, "PCA", "euclidean")):
    _solve = partial(baselines.neighbours, k=_k, metric=_metric)
    register_model(f"{_k} nearest ({_space})", _solve, kinds=["values"], seeded=False)
register_model("Tangram (cell types)", baselines.tangram, kinds=["values"], needs="tangram")
