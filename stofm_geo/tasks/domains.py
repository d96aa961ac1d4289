"""Spatial domains without labels: a mixture of Gaussians on embeddings, and a vote in space."""

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

from stofm_geo._checks import check_obsm, check_positions, check_positive, check_slice_key
from stofm_geo._keys import Keys
from stofm_geo.transforms import SpatialKNN
from stofm_geo.transforms._leiden import leiden

_COMPONENTS = 30  # of the embedding, before the mixture
_STARTS = 10  # by k-means; the likeliest fit wins, which takes most of the luck out
_VOTERS, _ROUNDS = 18, 2
_MOST = 20_000  # cells the mixture is fitted on; the others are only assigned


def domains(
    adata: AnnData | list[AnnData],
    n_domains: int | None = None,
    *,
    use_rep: str = Keys.EMBEDDING,
    spatial_key: str = Keys.SPATIAL,
    slice_key: str | None = None,
    key_added: str = Keys.DOMAIN,
    refine: bool = True,
    seed: int = 0,
) -> None:
    """Find spatial domains and write them into ``adata.obs[key_added]``, in place.

    A Gaussian mixture with one covariance for all is fitted to the first 30 principal components
    of the embedding, from ten k-means starts and one spatially connected Ward clustering; the
    likeliest fit is taken. Then every cell takes the label of most of its 18 nearest neighbours,
    twice, unless a domain would vanish. Domains are named ``"0"``, ``"1"``, ... from the largest.

    Args:
        adata: With embeddings in ``obsm[use_rep]``, ``[n, D]``; a list shares its domains.
        n_domains: How many domains to find, at least 2; ``None``: as many as the Leiden
            algorithm finds among the embeddings (resolution 1).
        use_rep: Key in ``obsm`` of the embedding.
        spatial_key: Key in ``obsm`` of the positions.
        slice_key: Column of ``obs`` that tells slices apart; domains are shared by all slices.
        key_added: Column of ``obs`` that is written, categorical.
        refine: Whether neighbours vote.
        seed: Of the k-means starts.

    Raises:
        KeyError: A key that is not there; without ``X_stofm``, run ``SToFM.embed`` first.
        ValueError: ``n_domains`` is below 2 or above the number of distinct cells, or the
            embedding or the positions are not finite.
    """
    adatas = [adata] if isinstance(adata, AnnData) else list(adata)
    fix = "run SToFM.embed first, or name another key with use_rep"
    z = np.concatenate([check_obsm(one, use_rep, fix) for one in adatas])
    distinct = len(np.unique(z, axis=0))
    if distinct < 2:
        raise ValueError(f"all {len(z)} vectors in obsm[{use_rep!r}] are alike; nothing to divide")
    graphs = [_places(one, spatial_key, slice_key) for one in adatas]
    if n_domains is not None:
        check_positive("n_domains", n_domains, whole=True)
        if not 2 <= n_domains <= distinct:
            raise ValueError(
                f"n_domains={n_domains} must lie between 2 and the number of different vectors "
                f"in obsm[{use_rep!r}], {distinct}"
            )
    order = np.lexsort(z.T)  # so that the order of the rows does not matter
    near = sp.block_diag(graphs, format="csr")[order][:, order]
    size = min(_COMPONENTS, z.shape[1], len(z))
    label = _mixture(PCA(size, svd_solver="full").fit_transform(z[order]), near, n_domains, seed)
    if refine:
        label = _vote(label, near)
    _, label, count = np.unique(label, return_inverse=True, return_counts=True)
    rank = np.argsort(np.argsort(-count, kind="stable"))
    code = np.empty(len(z), dtype=np.int64)
    code[order] = rank[label]
    ends = np.cumsum([one.n_obs for one in adatas])[:-1]
    for one, part in zip(adatas, np.split(code, ends), strict=True):
        one.obs[key_added] = pd.Categorical.from_codes(part, [str(i) for i in range(len(count))])


def _places(adata: AnnData, spatial_key: str, slice_key: str | None) -> sp.csr_matrix:
    """Who votes on whom, ``[n, n]``."""
    graph = Data(pos=torch.from_numpy(check_positions(adata, spatial_key)))
    if slice_key is not None:
        slices = check_slice_key(adata, slice_key)
        graph.slice_id = torch.from_numpy(slices.codes.astype(np.int64))
    src, dst = SpatialKNN(_VOTERS)(graph).edge_index.numpy()
    return sp.csr_matrix((np.ones(len(src)), (dst, src)), shape=(adata.n_obs, adata.n_obs))


def _mixture(
    parts: np.ndarray, near: sp.csr_matrix, n_domains: int | None, seed: int
) -> np.ndarray:
    """Labels ``[n]`` of the likeliest of several mixtures."""
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
            ward = AgglomerativeClustering(n_domains, connectivity=near)
            starts.append(ward.fit(parts).labels_)
    fits = [_gaussians(some, label, seed) for label in starts]
    return max(fits, key=lambda fit: fit.lower_bound_).predict(parts)


def _leiden(parts: np.ndarray, seed: int) -> np.ndarray:
    """Communities ``[n]`` of the 15-nearest-neighbour graph of the embeddings."""
    graph = kneighbors_graph(parts, min(15, len(parts) - 1))
    src, dst = sp.triu(graph + graph.T, k=1).nonzero()
    return leiden(len(parts), np.stack([src, dst], axis=1), seed=seed)


def _gaussians(parts: np.ndarray, label: np.ndarray, seed: int) -> GaussianMixture:
    """The mixture that grows out of a clustering."""
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


def _vote(label: np.ndarray, near: sp.csr_matrix) -> np.ndarray:
    """Labels after the neighbours' votes; a tie keeps the cell's own."""
    for _ in range(_ROUNDS):
        votes = near @ np.eye(label.max() + 1)[label]
        votes[np.arange(len(label)), label] += 0.5
        after = votes.argmax(axis=1)
        if len(np.unique(after)) < len(np.unique(label)):
            break
        label = after
    return label
