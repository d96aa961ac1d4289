"""Models that predict held-out molecules: graph layers, linear models and averages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from anndata import AnnData
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torch_geometric.data import Data

from stofm_geo import SToFM, tl
from stofm_geo._keys import Keys, NodeType
from stofm_geo._linalg import row_sums
from stofm_geo.benchmark.problems import Problem
from stofm_geo.genes import CellFeatures, PCAFeatures
from stofm_geo.genes.fractions import FractionComponents
from stofm_geo.genes.splitting import hold_out, split_counts
from stofm_geo.models.prepare import PreparedTissue, fit_encoder
from stofm_geo.networks import MoleculeNetwork, SToFMConfig, SToFMNetwork
from stofm_geo.networks.state import ModelState

Predictions = tuple[list[np.ndarray], dict[str, Any]]
_TARGET = 0.25  # of the molecules, to choose ranks and numbers of neighbours on
_RANKS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50)
_COMPONENTS = 30
_NEIGHBOURS = (0, 6, 12, 18, 30, 50, 100)


class LayerNetwork(MoleculeNetwork):
    """The network of the library with any graph layers in place of its Transformer.

    Args:
        body: Function from a width to graph layers, ``forward(x, edge_index, pos)``.
        width: Width of the layers.
        config: Configuration; its width is replaced.
        encoder: Encoder of the features.
        macro: Whether the layers get edges to virtual nodes.
    """

    def __init__(
        self,
        body: Callable[[int], nn.Module],
        width: int,
        config: SToFMConfig,
        encoder: CellFeatures,
        macro: bool,
    ) -> None:
        super().__init__(encoder.out_channels, config, _widths(encoder))
        self.embed_features = nn.Linear(6 * encoder.out_channels, width)
        self.embed_type = nn.Embedding.from_pretrained(torch.zeros(3, width), freeze=False)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.project = nn.Linear(width, self.project.out_features)
        for weight in self.project.parameters():
            nn.init.zeros_(weight)
        self.transformer: Any = _Layers(body(width), macro)

    def nodes(self, inputs: Tensor, data: Data) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`~stofm_geo.networks.SToFMNetwork`."""
        x, edges, pos = super().nodes(inputs, data)
        cells = data.node_type == NodeType.CELL
        return x, edges if self.transformer.macro else edges[:, cells[edges].all(dim=0)], pos


class _Layers(nn.Module):
    def __init__(self, body: nn.Module, macro: bool) -> None:
        super().__init__()
        self.body, self.macro = body, macro

    def forward(self, x: Tensor, edge_index: Tensor, pos: Tensor) -> tuple[Tensor, None, Tensor]:
        pos = pos.float()
        pos = pos if self.macro else pos.nan_to_num()  # CLS has no place, and no edges here
        return self.body(x, edge_index, pos), None, x.new_zeros(0)


class _OwnLinear(MoleculeNetwork):
    """The linear part alone, of a cell's own features."""

    def inputs(self, data: Data) -> Tensor:
        inputs = super().inputs(data).clone()
        inputs[:, 4 * self.in_channels :] = 0
        return inputs


def layers(
    problem: Problem,
    seed: int,
    body: Callable[[int], nn.Module],
    width: int,
    steps: int,
    macro: bool = False,
) -> Predictions:
    """Train graph layers as the library trains its Transformer, from the same linear start."""
    return fit_network(
        problem,
        seed,
        lambda config, encoder: LayerNetwork(body, width, config, encoder, macro),
        steps,
    )


def linear(problem: Problem, seed: int, neighbours: bool) -> Predictions:
    """Predict by ridge regression on components, alone or beside means over neighbours."""
    network = MoleculeNetwork if neighbours else _OwnLinear

    def build(config: SToFMConfig, encoder: CellFeatures) -> MoleculeNetwork:
        return network(encoder.out_channels, config, _widths(encoder))

    return fit_network(problem, seed, build, 0)


def stofm(problem: Problem, seed: int) -> Predictions:
    """Fit the library's model, and decode its denoised features."""
    adata = problem.test[0].copy()
    model = SToFM(objectives="molecules").fit(adata, seed=seed, progress=False)
    return _decoded(problem, model), dict(model.training_record)


def denoise(problem: Problem, seed: int) -> Predictions:
    """Run :func:`stofm_geo.tl.denoise`, which sets molecules aside to calibrate its estimates."""
    adata = problem.test[0].copy()
    tl.denoise(adata, seed=seed, progress=False)
    fractions = adata.layers[Keys.DENOISED]
    total = fractions.sum(axis=1, keepdims=True)
    mean = fractions.sum(axis=0) / fractions.sum()
    result = np.where(total > 0, fractions / np.where(total > 0, total, 1), mean)
    record = adata.uns[Keys.DENOISED]
    return [result], {name: record[name] for name in ("similar_cells", "similar_cells_weight")}


def fit_network(
    problem: Problem,
    seed: int,
    build: Callable[[SToFMConfig, CellFeatures], SToFMNetwork],
    steps: int,
    config: SToFMConfig | None = None,
) -> Predictions:
    """Train a network as :meth:`stofm_geo.SToFM.fit` does, and predict.

    Args:
        problem: Problem of kind ``"molecules"``.
        seed: Random seed.
        build: Function from configuration and encoder to a network that predicts molecules.
        steps: Training steps at most; with 0, the linear part alone is fitted.
        config: Configuration; ``None``: the default.
    """
    model = fit_model([problem.test[0].copy()], seed, build, steps, config)
    predictions = _decoded(problem, model)
    if not steps:
        return predictions, {}
    trained = sum(weight.numel() for weight in model.state.network.parameters())
    return predictions, {**model.training_record, "parameters": trained}


def fit_model(
    slices: Sequence[AnnData],
    seed: int,
    build: Callable[[SToFMConfig, CellFeatures], SToFMNetwork],
    steps: int,
    config: SToFMConfig | None = None,
) -> SToFM:
    """Train a network as :meth:`stofm_geo.SToFM.fit` does, and return the model that has it.

    Args:
        slices: Slices with counts.
        seed: Random seed.
        build: See :func:`fit_network`.
        steps: See :func:`fit_network`.
        config: See :func:`fit_network`.
    """
    from stofm_geo.training.slice_pretrain import train_network
    from stofm_geo.training.trainer import seed_context

    config = config or SToFMConfig(objectives="molecules")
    tissues = [PreparedTissue(adata, config) for adata in slices]
    with seed_context(seed):
        encoder = fit_encoder(config, None, [part for tissue in tissues for part in tissue.slices])
        network = build(config, encoder)
        for tissue in tissues:
            tissue.drop_empty(encoder.genes)
        parts = [part for tissue in tissues for part in tissue.subslices(encoder)]
        record = train_network(network, config, encoder, parts, steps, seed=seed, progress=False)
    return SToFM.from_state(ModelState(config, network, encoder, record))


def _decoded(problem: Problem, model: SToFM) -> list[np.ndarray]:
    """Return the fractions ``[n, G]`` that a model expects; the mean for cells without counts."""
    adata, network = problem.test[0].copy(), model.state.network
    assert isinstance(network, MoleculeNetwork)
    model.embed(adata, progress=False)
    vectors, targets = adata.obsm["X_stofm"], _fractions(model.state.encoder)
    fractions = targets.decode(network.components(vectors))
    fractions[~vectors.any(axis=1)] = targets.mean
    column = adata.var_names.get_indexer(np.asarray(model.state.encoder.genes))
    result = np.zeros(adata.shape, dtype=np.float32)
    result[:, column] = fractions
    return [result]


def _fractions(encoder: CellFeatures) -> FractionComponents:
    assert isinstance(encoder, PCAFeatures) and encoder.fractions is not None
    return encoder.fractions


def _widths(encoder: CellFeatures) -> Tensor:
    return torch.from_numpy(_fractions(encoder).widths)


def mean(problem: Problem, seed: int) -> Predictions:
    """Predict the mean over all cells."""
    counts = sp.csr_matrix(problem.test[0].X)
    share = np.asarray(counts.sum(axis=0)).ravel() / counts.sum()
    return [np.tile(share, (counts.shape[0], 1))], {}


def best_rank(problem: Problem, seed: int) -> Predictions:
    """Reconstruct by principal components, as many as predict molecules split off best.

    Molecular cross-validation (Batson et al. 2019, doi:10.1101/786269).
    """
    counts = sp.csr_matrix(problem.test[0].X)
    ranks = [rank for rank in _RANKS if rank < min(counts.shape)]

    def reconstructed(shown: sp.csr_matrix) -> Callable[[int], np.ndarray]:
        components = FractionComponents.from_counts([shown], [shown], ranks[-1])
        y = components(shown, row_sums(shown))
        return lambda rank: components.decode(y * (np.arange(ranks[-1]) < rank))

    rank = _choose(counts, ranks, reconstructed, seed)
    return [reconstructed(counts)(rank)], {"rank": rank}


def shrunken(problem: Problem, seed: int) -> Predictions:
    """Reconstruct by principal components, each shrunken by its signal on molecules split off.

    :meth:`stofm_geo.genes.fractions.FractionComponents.expected`.
    """
    counts = sp.csr_matrix(problem.test[0].X)
    held_out, train = hold_out(counts)
    size = min(_COMPONENTS, min(counts.shape) - 1)
    components = FractionComponents.from_counts([train], [held_out], size)
    return [components.decode(components.expected(counts))], {}


def averages(problem: Problem, seed: int, of: str) -> Predictions:
    """Predict the mean over a cell and its nearest, as many as predict molecules split off best.

    Args:
        problem: Problem of kind ``"molecules"``.
        seed: Seed of the molecules split off.
        of: Cells that are nearest in ``"space"``, or by ``"expression"`` (30 components).
    """
    (adata,) = problem.test
    counts = sp.csr_matrix(adata.X)

    def averaged(shown: sp.csr_matrix) -> Callable[[int], np.ndarray]:
        x = adata.obsm["spatial"]
        if of == "expression":
            cells = adata.copy()
            cells.X = shown
            x = PCAFeatures(_COMPONENTS).fit([cells]).transform(cells)
        nearest = NearestNeighbors(n_neighbors=min(max(_NEIGHBOURS) + 1, len(x))).fit(x)
        order = nearest.kneighbors(x)[1]
        fractions = sp.csr_matrix(sp.diags_array(1 / np.maximum(row_sums(shown), 1)) @ shown)
        prior = np.asarray(shown.sum(axis=0)).ravel() / shown.sum()

        def predicted(k: int) -> np.ndarray:
            some = order[:, : k + 1]
            rows = np.repeat(np.arange(len(x)), some.shape[1])
            member = sp.csr_matrix((np.ones(len(rows)), (rows, some.ravel())), (len(x),) * 2)
            found = (member @ fractions).toarray() / some.shape[1]
            # Genes that none of these cells has are not impossible.
            return 0.99 * found + 0.01 * prior

        return predicted

    k = _choose(counts, _NEIGHBOURS, averaged, seed)
    return [averaged(counts)(k)], {"neighbours": k}


def _choose(
    counts: sp.csr_matrix,
    options: Sequence[int],
    predict: Callable[[sp.csr_matrix], Callable[[int], np.ndarray]],
    seed: int,
) -> int:
    """Return the option with the least squared error on molecules that are split off."""
    target, shown = split_counts(counts, _TARGET, np.random.default_rng(seed))
    weight = np.sqrt(np.asarray(counts.sum(axis=0)).ravel() / counts.sum())
    weight = np.divide(1, weight, where=weight > 0, out=np.zeros_like(weight))
    true = target.toarray() / np.maximum(_TARGET * row_sums(counts), 1)[:, None]
    predicted = predict(shown)
    return min(options, key=lambda one: float(np.square((predicted(one) - true) * weight).sum()))
