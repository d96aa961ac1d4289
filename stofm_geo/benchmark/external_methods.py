"""Other methods, where they are installed: their embeddings of the same slices.

None of them is a dependency: an adapter imports its method when it is called, through the
method's public functions, on the CPU, and with the settings that its authors publish; nothing is
tuned to a slice. (How BANKSY's genes are chosen, which its authors leave open, was settled by its
scores on DLPFC 151673.) ``PEERS`` lists them. Every adapter takes slices with counts in ``X`` and
``obsm["spatial"]``, and a seed, and returns an embedding of each, ``[n, D]`` float32, rows as in
the slice. On one machine and one number of threads the same seed gives the same bytes.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from importlib import import_module
from io import StringIO
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch.backends import cudnn

from stofm_geo._logging import suppress_logger

# Each method's own default; Novae may stop early.
EPOCHS = {"GraphST": 600, "STAGATE": 1000, "Novae": 20}

# What has each import name. The first two are maintained copies of what their authors published
# without the requirements, or not as a package; the import names stayed. scikit-misc fits the trend
# by which scanpy chooses genes from counts.
INSTALL = {
    "GraphST": "pip install graphst-modern",
    "STAGATE_pyG": "pip install stagate-modern scanpy scikit-misc",
    "banksy": "pip install pybanksy scikit-misc",
    "novae": "pip install novae",
}


def graphst(slices: list[AnnData], seed: int) -> list[np.ndarray]:
    """GraphST: what it reconstructs, by 20 principal components, which its ``clustering`` takes."""
    adata = _only(slices, "GraphST")
    (method,) = _load("GraphST", "GraphST.GraphST")
    with _alone(seed):
        # Of its settings the one with a sparse graph, meant for Slide-seq: Visium's multiplies by
        # a dense matrix of all pairs of cells, for half an hour a slice on one core.
        model = method.GraphST(
            adata,
            device=torch.device("cpu"),
            epochs=EPOCHS["GraphST"],
            random_seed=seed,
            datatype="Slide",
        )
        rebuilt = model.train().obsm["emb"]
    reduce = PCA(min(20, *rebuilt.shape), random_state=seed)
    return [_plain(reduce.fit_transform(rebuilt))]


def stagate(slices: list[AnnData], seed: int) -> list[np.ndarray]:
    """STAGATE, with PyTorch Geometric: its 30 hidden units."""
    adata = _only(slices, "STAGATE")
    method, sc = _load("STAGATE_pyG", "STAGATE_pyG", "scanpy")
    # About six neighbours a cell: what radii that are written by hand find (150 on Visium's
    # slices, 400 on STARmap's), and within some percent the same radii.
    place = adata.obsm["spatial"]
    sixth = NearestNeighbors(n_neighbors=7).fit(place).kneighbors(place)[0][:, 6]
    with _alone(seed):
        _mark_variable(sc, adata, 3000)
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
        method.Cal_Spatial_Net(adata, rad_cutoff=1.1 * np.median(sixth), verbose=False)
        adata = method.train_STAGATE(
            adata, n_epochs=EPOCHS["STAGATE"], random_seed=seed, device="cpu", verbose=False
        )
    return [_plain(adata.obsm["STAGATE"])]


def banksy(
    slices: list[AnnData],
    seed: int,
    *,
    contribution: float = 0.8,
    neighbours: int = 15,
    gradient: bool = True,
) -> list[np.ndarray]:
    """BANKSY: 20 principal components of cells beside their neighbourhoods.

    ``contribution`` is its lambda, the weight of the neighbourhoods, each the mean over so many
    ``neighbours`` and, with ``gradient``, also the size of the gradient there.
    """
    adata = _only(slices, "BANKSY")
    modules = "banksy.initialize_banksy", "banksy.embed_banksy", "banksy_utils.umap_pca", "scanpy"
    start, matrix, reduce, sc = _load("banksy", *modules)
    decay, order = "scaled_gaussian", int(gradient)
    with _alone(seed):
        _mark_variable(sc, adata, 2000)
        sc.pp.normalize_total(adata)
        adata = adata[:, adata.var["highly_variable"]].copy()
        found = start.initialize_banksy(
            adata,
            ("x", "y", "spatial"),  # the first two are for pictures
            num_neighbours=neighbours,
            nbr_weight_decay=decay,
            max_m=order,
            plt_edge_hist=False,
            plt_nbr_weights=False,
            plt_theta=False,
        )
        matrix.generate_banksy_matrix(adata, found, [contribution], max_m=order, verbose=False)
        reduce.pca_umap(found, pca_dims=[20], plt_remaining_var=False)
    return [_plain(found[decay][contribution]["adata"].obsm["reduced_pc_20"])]


def novae(slices: list[AnnData], seed: int) -> list[np.ndarray]:
    """Novae, trained on these slices only: its 64 latent numbers; nothing is downloaded.

    This says nothing about the published model, which was trained on many tissues.
    """
    method, sc = _load("novae", "novae", "scanpy")
    adatas = [_fresh(adata) for adata in slices]
    with _alone(seed), suppress_logger("lightning.pytorch"):
        for adata in adatas:
            # Novae tells counts by a largest value of 10 or more, which small panels may not have.
            sc.pp.normalize_total(adata)
            sc.pp.log1p(adata)
            # Its distances are micrometres, 20 between cells; positions here have any unit.
            method.spatial_neighbors(adata, verbose=False)
            adata.obsm["spatial"] *= 20 / np.median(adata.obsp["spatial_distances"].data)
        method.spatial_neighbors(adatas, radius=80, verbose=False)
        # Names, because it orders genes as a set of strings does, anew in every process; and
        # batches that a small slice fills, because it drops what is left over.
        model = method.Novae(
            adatas,
            var_names=sorted({name.lower() for adata in adatas for name in adata.var_names}),
            batch_size=min(256, *(adata.n_obs // 2 for adata in adatas)),
        )
        model.fit(max_epochs=EPOCHS["Novae"], enable_progress_bar=False, enable_model_summary=False)
        model.compute_representations(adatas)
    return [_plain(adata.obsm["novae_latent"]) for adata in adatas]


class Peer(NamedTuple):
    """A method to compare with."""

    embed: Callable[[list[AnnData], int], list[np.ndarray]]
    """Slices and a seed to an embedding of each; ImportError where ``module`` is not installed."""
    module: str
    """What must be importable."""
    settings: str
    """What it was run with."""

    @property
    def install(self) -> str:
        """The line that installs it."""
        return INSTALL[self.module]


_SPOTS = partial(banksy, contribution=0.2, neighbours=6, gradient=False)

PEERS: dict[str, Peer] = {
    "GraphST": Peer(
        graphst,
        "GraphST",
        f"of Slide-seq: 3000 variable genes, {EPOCHS['GraphST']} epochs; 20 principal components",
    ),
    "STAGATE": Peer(
        stagate,
        "STAGATE_pyG",
        f"3000 variable genes, {EPOCHS['STAGATE']} epochs, about 6 neighbours by radius",
    ),
    "BANKSY": Peer(
        banksy, "banksy", "of domains: lambda 0.8, 15 neighbours, gradient; 2000 variable genes"
    ),
    "BANKSY (of spots)": Peer(
        _SPOTS, "banksy", "of Visium: lambda 0.2, 6 neighbours, no gradient; 2000 variable genes"
    ),
    "Novae (from scratch)": Peer(
        novae,
        "novae",
        f"no pretrained weights, at most {EPOCHS['Novae']} epochs; median edge scaled to 20",
    ),
}


def _load(name: str, *modules: str) -> list[ModuleType]:
    """Modules of the method with this import name."""
    try:
        return [import_module(module) for module in modules]
    except ImportError as error:
        raise ImportError(f"{name} cannot be imported ({error}); {INSTALL[name]}") from None


def _only(slices: list[AnnData], name: str) -> AnnData:
    """Return a copy of the only slice."""
    if len(slices) != 1:
        raise ValueError(f"{name} takes one slice at a time, not {len(slices)}")
    return _fresh(slices[0])


def _fresh(adata: AnnData) -> AnnData:
    """Return a copy with counts, names and positions only: methods use any columns."""
    fresh = AnnData(
        sp.csr_matrix(adata.X, dtype=np.float32, copy=True),
        var=pd.DataFrame(index=adata.var_names.astype(str)),
        obsm={"spatial": np.array(adata.obsm["spatial"], dtype=np.float64)},
    )
    fresh.var_names_make_unique()
    return fresh


def _mark_variable(sc: ModuleType, adata: AnnData, count: int) -> None:
    """Choose this many genes by their counts, or all of a panel that has no more."""
    if adata.n_vars > count:
        sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=count)
    else:
        adata.var["highly_variable"] = True


def _plain(vectors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors, dtype=np.float32)


@contextmanager
def _alone(seed: int) -> Iterator[None]:
    """Seeded, hushed, and without a trace: methods seed, print and set flags for all."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    flags, environ = (cudnn.deterministic, cudnn.benchmark), dict(os.environ)
    try:
        with torch.random.fork_rng(), redirect_stdout(StringIO()):
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        cudnn.deterministic, cudnn.benchmark = flags
        os.environ.clear()
        os.environ.update(environ)
