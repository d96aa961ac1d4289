"""Spatial domains: a Gaussian mixture on embeddings, smoothed by a spatial majority vote."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import kneighbors_graph
from torch_geometric.data import Data

from stofm_geo._anndata_checks import check_anndatas, check_target
from stofm_geo._colors import default_color
from stofm_geo._keys import Keys
from stofm_geo._linalg import BLOCK, principal_axes, row_order
from stofm_geo._progress import track
from stofm_geo._validation import check_positive
from stofm_geo.tasks._embedded import Embedded, locate, read_embedded
from stofm_geo.tasks._empty import nearest_full
from stofm_geo.tasks.domain_reference import classify, read_reference
from stofm_geo.tasks.integration import Method, check_method, integrated
from stofm_geo.transforms import SpatialKNN
from stofm_geo.transforms.leiden import leiden

_COMPONENTS = 30  # of the embedding, before the mixture
_STARTS = 10  # by k-means; the likeliest fit wins, which takes most of the luck out
_VOTERS, _ROUNDS = 18, 2
_MOST = 20_000  # cells the mixture is fitted on; the others are only assigned
_LARGE = 50_000  # cells from which on the components are those of the covariance matrix


def domains(
    adata: AnnData | list[AnnData],
    n_domains: int | None = None,
    *,
    use_rep: str = Keys.EMBEDDING,
    spatial_key: str = Keys.SPATIAL,
    slice_key: str | None = None,
    integrate: Method = "auto",
    reference: AnnData | list[AnnData] | None = None,
    key_added: str = Keys.DOMAIN,
    refine: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> None:
    """Find spatial domains and write them into ``adata.obs[key_added]``, in place.

    Their colours go into ``adata.uns[key_added + "_colors"]``, where scanpy looks for them.

    A Gaussian mixture with one covariance for all is fitted to the first 30 principal components
    of the embedding, from ten k-means starts and one spatially connected Ward clustering; the
    likeliest fit is taken. Then every cell takes the label of most of its 18 nearest neighbours,
    twice; of a domain that would vanish, the cells keep it. Domains are named ``"0"``, ``"1"``, ...
    from the largest. Cells whose embedding is 0, as of cells without counts, take no part; they get
    the domain of most of their 18 nearest cells that have one, or none where there are none.

    Several slices are clustered jointly: a domain has one name in all of them. Before that, what
    differs between slices is taken out by ``integrate``, a method of
    :func:`stofm_geo.tl.integrate`, without a change of ``obsm``; ``adata.uns[key_added +
    "_slices"]`` tells how many slices there are, the method, and how slices agree under those that
    were compared.

    With ``reference``, the result of an earlier run, cells get its domains, of the same names and
    colours: old and new slices are integrated together, the old ones' domains teach a Gaussian each
    with one covariance for all, and each new cell takes the likeliest; then neighbours vote as
    above. A domain that the reference lacks cannot be found.

    Of more than 20 000 cells, the mixture is fitted to 20 000 drawn at random, without Ward, and
    the others are assigned to it. Above 50 000 cells, the principal components are found from the
    covariance matrix, so that time and memory stay in proportion to the cells.

    Args:
        adata: Cells with embeddings in ``obsm[use_rep]``; several AnnData share their domains.
        n_domains: Number of domains, at least 2; ``None``: as many as the Leiden algorithm finds
            among the embeddings (resolution 1).
        use_rep: Key in ``obsm`` of the embedding, ``[n, D]``.
        spatial_key: Key in ``obsm`` of the positions.
        slice_key: Column of ``obs`` that tells slices apart; ``None``: each AnnData is one slice.
        integrate: ``"auto"`` (default), ``"harmony"``, ``"center"`` or ``"none"``.
        reference: AnnData of an earlier run, or a list of them, with embeddings of the same model,
            positions, and domains in ``obs[key_added]``; it is not changed.
        key_added: Column of ``obs`` that is written, categorical.
        refine: Whether to smooth labels by a majority vote of the neighbours.
        seed: Random seed of the k-means starts and of the subsample.
        progress: Show a progress bar.

    Warns:
        UserWarning: Cells have no embedding.

    Raises:
        KeyError: A key does not exist; without ``X_stofm``, run ``SToFM.embed`` first.
        ValueError: There are no cells, ``n_domains`` is below 2 or above the number of distinct
            cells, or the embedding or the positions are not finite, or embeddings differ in size or
            in the weights that ``uns["stofm"]`` names.
        TypeError: ``adata`` is not an AnnData, or ``n_domains`` is not a whole number.
        ImportError: ``integrate="harmony"``, and harmonypy is not installed.

    Examples:
        >>> from stofm_geo import datasets, from_anndata, tl
        >>> adata = datasets.toy_tissue(200, 30, seed=0)
        >>> adata.obsm["X_pca"] = from_anndata(adata).x.numpy()  # or X_stofm, of SToFM.embed
        >>> tl.domains(adata, 3, use_rep="X_pca", progress=False)
        >>> adata.obs["stofm_domain"].cat.categories.tolist()
        ['0', '1', '2']
    """
    adatas = check_anndatas(adata)
    check_positive("seed", seed, whole=True, or_zero=True)
    check_method("integrate", integrate)
    for one in adatas:
        check_target(one, key_added, slice_key=slice_key)
    known = [] if reference is None else check_anndatas(reference, "reference")
    if known and n_domains is not None:
        raise ValueError("the reference has its number of domains; leave n_domains out")
    colors, taught = read_reference(known, key_added) if known else ({}, [])
    cells = read_embedded([*known, *adatas], use_rep, spatial_key, slice_key)
    z, integration = integrated(cells, integrate, seed)
    order = row_order(z)  # so that the order of the rows does not matter
    distinct = _count_distinct(z, order)
    if distinct < 2:
        raise ValueError(f"all {len(z)} vectors in obsm[{use_rep!r}] are alike; nothing to divide")
    if n_domains is not None:
        check_positive("n_domains", n_domains, whole=True)
        if not 2 <= n_domains <= distinct:
            raise ValueError(
                f"n_domains={n_domains} must lie between 2 and the number of different vectors "
                f"in obsm[{use_rep!r}], {distinct}"
            )
    parts, near = _components(z, order), _votes_of_all(cells)
    label = np.full(len(z), -1, dtype=np.int64)
    if known:
        told = [code[own] for code, own in zip(taught, cells.full, strict=False)]
        label[: sum(map(len, told))] = np.concatenate(told)
        label[order] = classify(parts, label[order])
    else:
        label[order] = _mixture(parts, near, order, n_domains, seed, progress)
    if refine:
        label = majority_vote(label, near)
    if not known:
        count = np.bincount(label)
        # From the largest; of equals, the one that the mixture numbers first.
        label = np.argsort(np.argsort(-count, kind="stable"))[label]
        colors = {str(i): default_color(i) for i in range(np.count_nonzero(count))}
    found = list(zip(cells.split(label), cells.full, cells.located, strict=True))
    for one, (part, own, place) in zip(adatas, found[len(known) :], strict=True):
        every = np.full(one.n_obs, -1, dtype=np.int64)
        every[own] = part
        if not own.all():
            _fill(every, own, *place, use_rep)
        one.obs[key_added] = pd.Categorical.from_codes(every, list(colors))
        # Pictures of parts, which lose the categories that they lack, keep their colours.
        one.uns[f"{key_added}_colors"] = list(colors.values())
        one.uns[f"{key_added}_slices"] = integration.record()


def _fill(
    code: np.ndarray, full: np.ndarray, pos: np.ndarray, slices: np.ndarray, key: str
) -> None:
    """Give cells without counts the domain of most of their nearest cells that have some."""
    votes = nearest_full(pos, slices, full, _VOTERS) @ np.eye(code.max() + 1)[code]
    told = votes.any(axis=1)
    code[told] = votes[told].argmax(axis=1)
    none = int((~told & ~full).sum())
    warnings.warn(
        f"{int((~full).sum())} of {len(full)} cells have no embedding (obsm[{key!r}] is 0, as of "
        "cells without counts) and get the domain of their nearest cells"
        + (f"; {none} of them, in slices without any other cell, get none" if none else ""),
        stacklevel=3,
    )


def _count_distinct(z: np.ndarray, order: np.ndarray) -> int:
    """Return the number of distinct rows, from their order."""
    pairs = ((order[i : i + BLOCK], order[i + 1 : i + 1 + BLOCK]) for i in _starts(len(z) - 1))
    return 1 + sum(int((z[a[: len(b)]] != z[b]).any(axis=1).sum()) for a, b in pairs)


def _components(z: np.ndarray, order: np.ndarray) -> np.ndarray:
    """First principal components ``[n, 30]`` of the rows, in this order, float64."""
    size = min(_COMPONENTS, z.shape[1], len(z))
    if len(z) <= _LARGE:
        return PCA(size, svd_solver="full").fit_transform(z[order].astype(np.float64))
    mean, axes, _ = principal_axes((z[order[i : i + BLOCK]] for i in _starts(len(z))), size)
    parts = np.empty((len(z), size))
    for i in _starts(len(z)):
        parts[i : i + BLOCK] = (z[order[i : i + BLOCK]] - mean) @ axes.T
    return parts


def _starts(n: int) -> range:
    return range(0, n, BLOCK)


def knn_adjacency(adata: AnnData, spatial_key: str, slice_key: str | None) -> sp.csr_matrix:
    """Return the adjacency of the 18 nearest neighbours within slices, ``[n, n]``."""
    return _votes(*locate(adata, spatial_key, slice_key))


def _votes_of_all(cells: Embedded) -> sp.csr_matrix:
    each = zip(cells.located, cells.full, strict=True)
    graphs = [_votes(pos[own], code[own]) for (pos, code), own in each]
    return sp.block_diag(graphs, format="csr") if len(graphs) > 1 else graphs[0]


def _votes(positions: np.ndarray, slices: np.ndarray) -> sp.csr_matrix:
    graph = Data(pos=torch.from_numpy(positions))
    if slices.any():
        graph.slice_id = torch.from_numpy(slices)
    src, dst = SpatialKNN(_VOTERS)(graph).edge_index.numpy()
    return sp.csr_matrix((np.ones(len(src)), (dst, src)), shape=(len(positions),) * 2)


def _mixture(
    parts: np.ndarray,
    near: sp.csr_matrix,
    order: np.ndarray,
    n_domains: int | None,
    seed: int,
    progress: bool,
) -> np.ndarray:
    """Labels ``[n]`` of the likeliest of several mixtures; row ``i`` is cell ``order[i]``."""
    random = np.random.RandomState(seed)
    some = parts
    if len(parts) > _MOST:
        some = parts[np.sort(random.choice(len(parts), _MOST, replace=False))]
    if n_domains is None:
        starts = [_leiden(some, seed)]
    else:
        starts = [
            KMeans(n_domains, n_init=1, random_state=random.randint(2**31 - 1)).fit(some).labels_
            for _ in range(_STARTS)
        ]
        if some is parts and connected_components(near, return_labels=False) == 1:
            ward = AgglomerativeClustering(n_domains, connectivity=near[order][:, order])
            starts.append(ward.fit(parts).labels_)
    shown = track(starts, "Finding domains", len(starts), show=progress)
    fits = [_gaussians(some, label, seed) for label in shown]
    best = max(fits, key=lambda fit: fit.lower_bound_)
    return np.concatenate([best.predict(parts[i : i + BLOCK]) for i in _starts(len(parts))])


def _leiden(parts: np.ndarray, seed: int) -> np.ndarray:
    """Communities ``[n]`` of the 15-nearest-neighbour graph of the embeddings."""
    graph = kneighbors_graph(parts, min(15, len(parts) - 1))
    src, dst = sp.triu(graph + graph.T, k=1).nonzero()
    return leiden(len(parts), np.stack([src, dst], axis=1), seed=seed)


def _gaussians(parts: np.ndarray, label: np.ndarray, seed: int) -> GaussianMixture:
    """Fit a Gaussian mixture initialised by a clustering."""
    member = np.eye(label.max() + 1)[label]
    size = member.sum(axis=0)
    mean = member.T @ parts / size[:, None]
    rest = parts - mean[label]
    floor = 1e-6 * parts.var(axis=0).mean()
    covariance = rest.T @ rest / len(parts) + floor * np.eye(parts.shape[1])
    mixture = GaussianMixture(
        len(size),
        covariance_type="tied",
        weights_init=size / len(parts),
        means_init=mean,
        precisions_init=np.linalg.inv(covariance),
        reg_covar=floor,
        tol=1e-4,
        max_iter=200,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the likeliest fit is kept anyway
        return mixture.fit(parts)


def majority_vote(label: np.ndarray, near: sp.csr_matrix) -> np.ndarray:
    """Replace each label by the majority label of the neighbours, twice.

    A tie keeps the cell's own. Where no cell would be left of a domain, its cells keep theirs: one
    small domain does not stop the others from voting.

    Args:
        label: Of each cell, from 0, ``[n]``.
        near: Adjacency of :func:`knn_adjacency`, ``[n, n]``.
    """
    for _ in range(_ROUNDS):
        votes = near @ np.eye(label.max() + 1)[label]
        votes[np.arange(len(label)), label] += 0.5
        after = votes.argmax(axis=1)
        lost = np.bincount(after, minlength=label.max() + 1) == 0
        label = np.where(lost[label], label, after)
    return label
