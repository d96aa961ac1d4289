"""Denoising: the expected expression of each cell, and how well unseen molecules are predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from stofm_geo._anndata_checks import check_anndata, check_target
from stofm_geo._keys import Keys
from stofm_geo._linalg import BLOCK
from stofm_geo._storable import storable_frame
from stofm_geo._validation import check_positive, error_context, preview
from stofm_geo._version import __version__
from stofm_geo.genes import as_counts
from stofm_geo.genes.counts import counts_from_layer
from stofm_geo.genes.splitting import are_whole, split_counts
from stofm_geo.models.prepare import SliceKeys
from stofm_geo.models.stofm import SToFM
from stofm_geo.networks.molecules import MoleculeNetwork

if TYPE_CHECKING:
    from typing_extensions import Unpack

_HELD_OUT = 0.1  # of the molecules, to measure reliability
_TARGET = 0.25  # of the others, to find how far estimates are to be trusted
_MOST = 8 * 2**30  # bytes of a layer


def denoise(
    adata: AnnData,
    model: SToFM | None = None,
    genes: Sequence[str] | None = None,
    *,
    key_added: str = Keys.DENOISED,
    spatial_key: str = Keys.SPATIAL,
    slice_key: str | None = None,
    layer: str | None = None,
    max_steps: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> None:
    r"""Estimate the expected expression of each cell, without its counting noise, in place.

    A tenth of each cell's molecules is split off at random (count splitting,
    :mod:`stofm_geo.training.objectives.molecules`). A model is fitted to the rest, unless one is
    given, and predicts from the rest what was split off: this gives the reliability. Then the model
    sees all molecules and predicts the expression of each cell. Where estimates of a gene do not
    predict its molecules, they are drawn to the mean of all cells.

    Written are ``layers[key_added]``, ``[n, n_vars]`` float32: expected counts, of the size of the
    cell's own, so that ``layers[key_added] / layers[key_added].sum(1)`` are fractions. Columns that
    the model does not know, such as control probes, are NaN; cells without counts are 0. With
    ``genes``, written is the DataFrame ``obsm[key_added]`` ``[n, genes]`` instead.

    Reliability is the fraction of the Poisson deviance of the molecules split off that is
    explained, :math:`D^2 = 1 - D(\text{predicted}) / D(\text{mean})`, against the mean fractions of
    all cells: 0 is no better than the mean, 1 cannot be reached, since counting noise cannot be
    predicted. It is written into ``var[key_added + "_d2"]`` of each gene,
    ``obs[key_added + "_d2"]`` of each cell, noisy as a cell has few molecules, and
    ``uns[key_added]["d2"]`` over all; NaN where nothing was split off.

    Args:
        adata: Cells with raw counts in ``X``.
        model: Model fitted to held-out molecules (``SToFM(objectives="molecules")``), with genes
            that ``adata`` has; ``None``: one is fitted to ``adata``. One that was fitted to all
            molecules of the same cells gives a reliability that is somewhat too high.
        genes: Genes to estimate; ``None`` (default): all, as a layer.
        key_added: Key in ``layers`` (or ``obsm``) and ``uns`` that is written.
        spatial_key: Key in ``obsm`` of the positions.
        slice_key: Column of ``obs`` with the slice of each cell; ``None``: all cells are one slice.
        layer: Layer with the raw counts; ``None``: they are in ``X``.
        max_steps: Training steps at most; see :meth:`stofm_geo.SToFM.fit`.
        seed: Random seed of the split and of the fit.
        progress: Show progress bars.

    Raises:
        KeyError: A key or a gene is missing.
        TypeError: ``adata`` is not an AnnData.
        ValueError: Counts are not whole; the model was trained for something else, or for other
            genes; or the layer would take more than 8 GiB.
    """
    check_anndata(adata, "AnnData")
    check_positive("seed", seed, whole=True, or_zero=True)
    check_target(adata, key_added, spatial_key=spatial_key, slice_key=slice_key, layer=layer)
    keys: SliceKeys = {"spatial_key": spatial_key, "slice_key": slice_key}
    with error_context("AnnData"):
        counts = as_counts(counts_from_layer(adata, layer), copy=False)
        if not are_whole(counts):
            raise ValueError(
                "molecules can be split only of whole counts, and counts are fractions; give raw "
                "counts, in X or in a layer"
            )
    wanted = _wanted(adata, genes)
    held_out, train = split_counts(counts, _HELD_OUT, np.random.default_rng(seed))
    if model is None:
        model = SToFM(objectives="molecules")
        part = _with_counts(adata, train, spatial_key, slice_key)
        model.fit(part, max_steps=max_steps, seed=seed, progress=progress, **keys)
    _check_model(model, adata)
    column = adata.var_names.get_indexer(network_genes := np.asarray(model.state.encoder.genes))
    target, visible = split_counts(train, _TARGET, np.random.default_rng((seed, 1)))
    parts = (_with_counts(adata, one, spatial_key, slice_key) for one in (visible, train, counts))
    shown, found, whole = (_Denoised(model, one, progress, **keys) for one in parts)
    whole.slope = found.slope = _slopes(shown, target[:, column])
    d2_genes, d2_cells, d2 = _explained(found, held_out[:, column])
    total = np.asarray(counts[:, column].sum(axis=1)).ravel()

    def estimated(rows: slice) -> np.ndarray:
        return whole.fractions(rows) * total[rows, None]

    if genes is None:
        values = np.full(adata.shape, np.nan, dtype=np.float32)
        for rows in _blocks(adata.n_obs):
            values[rows, column] = estimated(rows)
        adata.layers[key_added] = values
    else:
        known = {name: i for i, name in enumerate(network_genes)}
        if unknown := [name for name in wanted if name not in known]:
            raise KeyError(f"the model does not know {preview(unknown)}; omit them")
        chosen = [known[name] for name in wanted]
        values = np.concatenate([estimated(rows)[:, chosen] for rows in _blocks(adata.n_obs)])
        label = f"obsm[{key_added!r}]"
        adata.obsm[key_added] = storable_frame(values, adata.obs_names, wanted, label)
    of_var = np.full(adata.n_vars, np.nan)
    of_var[column] = d2_genes
    adata.var[f"{key_added}_d2"] = of_var
    adata.obs[f"{key_added}_d2"] = d2_cells
    adata.uns[key_added] = {
        "d2": d2,
        "held_out": _HELD_OUT,
        "seed": seed,
        "version": __version__,
        "weights_sha256": model.weights_hash(),
    }


class _Denoised:
    """Denoised components of cells, decoded to fractions in blocks of rows."""

    def __init__(
        self, model: SToFM, adata: AnnData, progress: bool, **keys: Unpack[SliceKeys]
    ) -> None:
        model.embed(adata, progress=progress, **keys)
        network = model.state.network
        assert isinstance(network, MoleculeNetwork)
        vectors = adata.obsm[Keys.EMBEDDING]
        self.full = vectors.any(axis=1)
        self.components = vectors[:, slice(*network.columns["denoised"])]
        self.targets = network.targets
        self.mean = self.targets.mean / self.targets.mean.sum()
        self.slope = np.ones_like(self.mean)

    def fractions(self, rows: slice) -> np.ndarray:
        """Return fractions ``[b, G]`` float32; the mean for cells without counts."""
        found = self.targets.decode(self.components[rows])
        found[~self.full[rows]] = self.mean
        found = self.mean + self.slope * (found - self.mean)
        return found / found.sum(axis=1, keepdims=True)


def _wanted(adata: AnnData, genes: Sequence[str] | None) -> list[str]:
    if genes is None:
        if (size := 4 * adata.n_obs * adata.n_vars) > _MOST:
            raise ValueError(
                f"a layer of {adata.n_obs} cells and {adata.n_vars} genes would take "
                f"{size / 2**30:.0f} GiB; name some genes (genes=), or give slices one by one"
            )
        return []
    wanted = [genes] if isinstance(genes, str) else [str(name) for name in genes]
    if not wanted:
        raise ValueError("genes is empty; name the genes to estimate, or omit it for all")
    if lacking := [name for name in wanted if name not in adata.var_names]:
        raise KeyError(f"var_names has no {preview(lacking)}; it has {preview(adata.var_names)}")
    return wanted


def _with_counts(
    adata: AnnData, counts: sp.csr_matrix, spatial_key: str, slice_key: str | None
) -> AnnData:
    """Return cells with other counts, and what a model reads beside them."""
    obs = adata.obs[[]] if slice_key is None else adata.obs[[slice_key]]
    obsm = {spatial_key: adata.obsm[spatial_key]} if spatial_key in adata.obsm else {}
    return AnnData(counts, obs, adata.var, uns=dict(adata.uns), obsm=obsm)


def _check_model(model: SToFM, adata: AnnData) -> None:
    """Check that a model can denoise these cells.

    Raises:
        ValueError: It has another objective, or genes that the cells lack.
    """
    network, genes = model.state.network, model.state.encoder.genes
    if not isinstance(network, MoleculeNetwork) or genes is None:
        raise ValueError(
            f"the model was trained for {model.config.objectives!r}, which does not denoise; fit "
            "SToFM(objectives='molecules'), or leave model out"
        )
    if lacking := [name for name in genes if name not in adata.var_names]:
        raise ValueError(
            f"adata lacks {len(lacking)} of the model's {len(genes)} genes ({preview(lacking)}); "
            "fit a model to these cells, or leave model out"
        )


def _slopes(shown: _Denoised, target: sp.csr_matrix) -> np.ndarray:
    """Return how far each gene's estimates are to be trusted, ``[G]`` float32 between 0 and 1.

    It is the slope of the regression of molecules that were not shown on the estimates, both as
    deviations from the mean.
    """
    product, square = np.zeros((2, target.shape[1]))
    for rows in _blocks(target.shape[0]):
        counts = target[rows].toarray()
        total = counts.sum(axis=1, keepdims=True)
        deviation = shown.fractions(rows) - shown.mean
        product += ((counts - total * shown.mean) * deviation).sum(axis=0)
        square += (total * deviation**2).sum(axis=0)
    slope = np.divide(product, square, where=square > 0, out=np.zeros_like(square))
    return slope.clip(0, 1).astype(np.float32)


def _explained(found: _Denoised, held_out: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the explained fraction of the deviance by gene ``[G]``, by cell ``[n]``, and over all.

    Expected counts have the sums of the counts, so that deviances are sums of
    :math:`2 c \\log(c / e)`.
    """
    by_gene, by_cell = np.zeros((2, held_out.shape[1])), np.zeros((2, held_out.shape[0]))
    known = found.mean > 0  # without any molecule in training, a gene cannot be predicted
    for rows in _blocks(held_out.shape[0]):
        counts = held_out[rows].toarray() * known
        total = counts.sum(axis=1, keepdims=True)
        for which, fractions in enumerate((found.fractions(rows), found.mean[None])):
            expected = total * fractions
            ratio = np.divide(counts, expected, where=counts > 0, out=np.ones_like(counts))
            deviance = 2 * (counts * np.log(ratio) - counts + expected)
            by_gene[which] += deviance.sum(axis=0)
            by_cell[which, rows] = deviance.sum(axis=1)

    def d2(predicted: np.ndarray, average: np.ndarray) -> np.ndarray:
        share = np.divide(predicted, average, where=average > 0, out=np.full_like(average, np.nan))
        return 1 - share

    return d2(*by_gene), d2(*by_cell), float(1 - by_gene[0].sum() / by_gene[1].sum())


def _blocks(n: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]
