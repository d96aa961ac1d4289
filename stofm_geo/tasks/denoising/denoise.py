"""Denoising: the expected expression of each cell, and how well unseen molecules are predicted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from stofm_geo._anndata_checks import check_anndata, check_target
from stofm_geo._keys import Keys
from stofm_geo._linalg import row_sums
from stofm_geo._storable import storable_frame
from stofm_geo._validation import check_positive, error_context, preview
from stofm_geo._version import __version__
from stofm_geo.genes import as_counts
from stofm_geo.genes.controls import gene_mask
from stofm_geo.genes.counts import counts_from_layer
from stofm_geo.genes.fractions import mean_fractions
from stofm_geo.genes.splitting import are_whole, split_counts
from stofm_geo.models.prepare import SliceKeys
from stofm_geo.models.stofm import SToFM
from stofm_geo.networks.molecules import MoleculeNetwork
from stofm_geo.tasks.denoising.estimates import Estimates, calibrate, row_blocks

_HELD_OUT = 0.1  # of the molecules, to measure reliability
_TARGET = 0.1  # of the others, to find how far estimates are to be trusted
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
    :mod:`stofm_geo.training.objectives.molecules`), and a tenth of the rest. A model is fitted to
    what is left, unless one is given. Its estimates are blended with means over the cells whose
    estimates are most similar, which are not confined to what the model can express. The second
    tenth tells how far: the number of similar cells and their weight (0 is possible), and for each
    gene how far estimates are to be trusted: where they do not predict its molecules, they are
    drawn to the gene's mean over the cells. Then the model sees all molecules and predicts the
    expression of each cell. The first tenth gives the reliability.

    Written are ``layers[key_added]``, ``[n, n_vars]`` float32: expected counts, of the size of the
    cell's own, so that ``layers[key_added]`` over ``np.nansum(layers[key_added], axis=1)`` are
    fractions. Columns that the model does not know, such as control probes, are NaN; cells without
    counts are 0; a gene of which the model has seen no molecule gets its mean. With ``genes``,
    written is the DataFrame ``obsm[key_added]`` ``[n, genes]`` instead. What is split off depends
    on the order of rows and columns, and so do the results, as they do on ``seed``.

    Reliability is the fraction of the Poisson deviance of the molecules split off that is
    explained, :math:`D^2 = 1 - D(\text{predicted}) / D(\text{mean})`, against the mean fractions of
    these cells: 0 is no better than the mean, 1 cannot be reached, since counting noise cannot be
    predicted. It is written into ``var[key_added + "_d2"]`` of each gene,
    ``obs[key_added + "_d2"]`` of each cell, noisy as a cell has few molecules, and
    ``uns[key_added]["d2"]`` over all; NaN where nothing was split off. ``uns[key_added]`` also
    tells how many similar cells are averaged, and the weight of their mean.

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
        max_steps: Training steps at most, without ``model``; see :meth:`stofm_geo.SToFM.fit`.
        seed: Random seed of the split and of the fit.
        progress: Show progress bars.

    Raises:
        KeyError: A key or a gene is missing.
        TypeError: ``adata`` is not an AnnData, or ``model`` not a model.
        ValueError: Counts are not whole; the model was trained for something else, or for other
            genes; or the layer would take more than 8 GiB.

    Examples:
        >>> from stofm_geo import datasets, tl
        >>> adata = datasets.toy_tissue(200, 30, seed=0)
        >>> tl.denoise(adata, max_steps=2, progress=False)
        >>> adata.layers["stofm_denoised"].shape, "stofm_denoised_d2" in adata.var
        ((200, 30), True)
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
    if model is not None:
        _check_model(model, adata)
    held_out, rest = split_counts(counts, _HELD_OUT, np.random.default_rng(seed))
    target, train = split_counts(rest, _TARGET, np.random.default_rng((seed, 1)))
    if model is None:
        model = SToFM(objectives="molecules")
        part = _with_counts(adata, train, spatial_key, slice_key)
        model.fit(part, max_steps=max_steps, seed=seed, progress=progress, **keys)
    column = adata.var_names.get_indexer(network_genes := np.asarray(model.state.encoder.genes))
    mean = mean_fractions([rest[:, column]]).astype(np.float32)
    parts = (_with_counts(adata, one, spatial_key, slice_key) for one in (train, rest, counts))
    shown, found, whole = (Estimates(model, one, mean, progress, **keys) for one in parts)
    blend, slope = calibrate(shown, target[:, column])
    for estimates in (found, whole):
        estimates.blend, estimates.slope = blend, slope
    d2_genes, d2_cells, d2 = _explained(found, held_out[:, column])
    total = row_sums(counts[:, column])

    def estimated(rows: slice) -> np.ndarray:
        return whole.fractions(rows) * total[rows, None]

    if genes is None:
        values = np.full(adata.shape, np.nan, dtype=np.float32)
        for rows in row_blocks(adata.shape):
            values[rows, column] = estimated(rows)
        adata.layers[key_added] = values
    else:
        known = {name: i for i, name in enumerate(network_genes)}
        if unknown := [name for name in wanted if name not in known]:
            raise KeyError(f"the model does not know {preview(unknown)}; omit them")
        chosen = [known[name] for name in wanted]
        values = np.concatenate([estimated(rows)[:, chosen] for rows in row_blocks(adata.shape)])
        label = f"obsm[{key_added!r}]"
        adata.obsm[key_added] = storable_frame(values, adata.obs_names, wanted, label)
    of_var = np.full(adata.n_vars, np.nan)
    of_var[column] = d2_genes
    adata.var[f"{key_added}_d2"] = of_var
    adata.obs[f"{key_added}_d2"] = d2_cells
    adata.uns[key_added] = {
        "d2": d2,
        "similar_cells": blend.number,
        "similar_cells_weight": blend.weight,
        "held_out": _HELD_OUT,
        "seed": seed,
        "version": __version__,
        "weights_sha256": model.weights_hash(),
    }


def _wanted(adata: AnnData, genes: Sequence[str] | None) -> list[str]:
    if genes is None:
        if (size := 4 * adata.n_obs * adata.n_vars) > _MOST:
            raise ValueError(
                f"a layer of {adata.n_obs} cells and {adata.n_vars} genes would take "
                f"{size / 2**30:.0f} GiB; name some genes (genes=), or give slices one by one"
            )
        return []
    wanted = [genes] if isinstance(genes, str) else [*dict.fromkeys(map(str, genes))]
    if not wanted:
        raise ValueError("genes is empty; name the genes to estimate, or omit it for all")
    if lacking := [name for name in wanted if name not in adata.var_names]:
        raise KeyError(f"var_names has no {preview(lacking)}; it has {preview(adata.var_names)}")
    known = gene_mask(adata.var)
    if probes := [name for name in wanted if not known[adata.var_names.get_loc(name)]]:
        raise KeyError(f"{preview(probes)} are control probes, not genes; leave them out")
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
    if not isinstance(model, SToFM):
        raise TypeError(
            f"model must be a SToFM; found {type(model).__name__}; load one with "
            "SToFM.from_pretrained(...)"
        )
    network, genes = model.state.network, model.state.encoder.genes
    if not isinstance(network, MoleculeNetwork) or genes is None:
        encoder, objectives = model.config.encoder, model.config.objectives
        why = (
            f"has the encoder {encoder!r}, which does not denoise"
            if encoder != "pca"
            else f"was trained for {objectives!r}, which does not denoise"
        )
        raise ValueError(
            f"the model {why}; fit SToFM(encoder='pca', objectives='molecules'), or leave model out"
        )
    if lacking := [name for name in genes if name not in adata.var_names]:
        raise ValueError(
            f"adata lacks {len(lacking)} of the model's {len(genes)} genes ({preview(lacking)}); "
            "fit a model to these cells, or leave model out"
        )


def _explained(found: Estimates, held_out: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the explained fraction of the deviance by gene ``[G]``, by cell ``[n]``, and over all.

    Expected counts have the sums of the counts, so that deviances are sums of
    :math:`2 c \\log(c / e)`.
    """
    by_gene, by_cell = np.zeros((2, held_out.shape[1])), np.zeros((2, held_out.shape[0]))
    known = found.mean > 0  # a gene whose molecules are all held out cannot be predicted
    of_gene, of_cell = (np.asarray(held_out.sum(axis=axis)).ravel() for axis in (0, 1))
    for rows in row_blocks(held_out.shape):
        counts = held_out[rows].toarray() * known
        total = counts.sum(axis=1, keepdims=True)
        for which, fractions in enumerate((found.fractions(rows), found.mean[None])):
            expected = total * fractions
            ratio = np.divide(counts, expected, where=counts > 0, out=np.ones_like(counts))
            deviance = 2 * (counts * np.log(ratio) - counts + expected)
            by_gene[which] += deviance.sum(axis=0)
            by_cell[which, rows] = deviance.sum(axis=1)

    def d2(deviances: np.ndarray, counts: np.ndarray) -> np.ndarray:
        there = (counts > 0) & (deviances[1] > 0)
        share = np.full(len(counts), np.nan)
        return 1 - np.divide(deviances[0], deviances[1], where=there, out=share)

    (overall,) = d2(by_gene.sum(axis=1, keepdims=True), of_gene.sum(keepdims=True))
    return d2(by_gene, of_gene * known), d2(by_cell, of_cell), float(overall)
