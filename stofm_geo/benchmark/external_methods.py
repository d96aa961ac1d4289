"""Adapters of external methods that embed slices.

None of the methods is a dependency: an adapter imports its method when it is called, and uses its
public functions, on the CPU, with the published settings; nothing is tuned to a slice. (The
selection of genes for BANKSY, which its authors leave open, was chosen by its score on DLPFC
151673.) ``EXTERNAL_METHODS`` lists them. Every adapter takes slices with counts in ``X`` and
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

# Default of each method; Novae may stop early.
EPOCHS = {"GraphST": 600, "STAGATE": 1000, "Novae": 20}

# Package of each import name. The first two are maintained copies of code that was published
# without requirements, or not as a package. scikit-misc fits the trend by which scanpy selects
# genes from counts.
INSTALL = {
    "GraphST": "pip install graphst-modern",
    "STAGATE_pyG": "pip install stagate-modern scanpy scikit-misc",
    "banksy": "pip install pybanksy scikit-misc",
    "novae": "pip install novae",
    "scvi": "pip install scvi-tools",
    "magic": "pip install magic-impute",
}


def graphst(slices: list[AnnData], seed: int) -> list[np.ndarray]:
    """Return 20 principal components of the reconstruction by GraphST, as in its ``clustering``."""
    adata = _only_slice(slices, "GraphST")
    (method,) = import_method("GraphST", "GraphST.GraphST")
    with isolated(seed):
        # The Slide-seq settings use a sparse graph; those for Visium multiply by a dense matrix of
        # all pairs of cells, which takes half an hour per slice on one core.
        model = method.GraphST(
            adata,
            device=torch.device("cpu"),
            epochs=EPOCHS["GraphST"],
            random_seed=seed,
            datatype="Slide",
        )
        rebuilt = model.train().obsm["emb"]
    reduce = PCA(min(20, *rebuilt.shape), random_state=seed)
    return [_as_float32(reduce.fit_transform(rebuilt))]


def stagate(slices: list[AnnData], seed: int) -> list[np.ndarray]:
    """Return the 30 hidden units of STAGATE (PyTorch Geometric version)."""
    adata = _only_slice(slices, "STAGATE")
    method, sc = import_method("STAGATE_pyG", "STAGATE_pyG", "scanpy")
    # About six neighbours per cell, as with the radii of its tutorials (150 for Visium, 400 for
    # STARmap), from which this radius differs by a few percent.
    pos = adata.obsm["spatial"]
    sixth = NearestNeighbors(n_neighbors=7).fit(pos).kneighbors(pos)[0][:, 6]
    with isolated(seed):
        _mark_variable(sc, adata, 3000)
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
        method.Cal_Spatial_Net(adata, rad_cutoff=1.1 * np.median(sixth), verbose=False)
        adata = method.train_STAGATE(
            adata, n_epochs=EPOCHS["STAGATE"], random_seed=seed, device="cpu", verbose=False
        )
    return [_as_float32(adata.obsm["STAGATE"])]


def banksy(
    slices: list[AnnData],
    seed: int,
    *,
    contribution: float = 0.8,
    neighbours: int = 15,
    gradient: bool = True,
) -> list[np.ndarray]:
    """Return 20 principal components of the neighbourhood-augmented expression of BANKSY.

    Args:
        slices: One slice.
        seed: Random seed.
        contribution: BANKSY's lambda, the weight of the neighbourhood.
        neighbours: Number of neighbours averaged.
        gradient: Whether to add the azimuthal Gabor filter, the magnitude of the gradient.
    """
    adata = _only_slice(slices, "BANKSY")
    modules = "banksy.initialize_banksy", "banksy.embed_banksy", "banksy_utils.umap_pca", "scanpy"
    initialize, matrix, reduce, sc = import_method("banksy", *modules)
    decay, order = "scaled_gaussian", int(gradient)
    with isolated(seed):
        _mark_variable(sc, adata, 2000)
        sc.pp.normalize_total(adata)
        adata = adata[:, adata.var["highly_variable"]].copy()
        results = initialize.initialize_banksy(
            adata,
            ("x", "y", "spatial"),  # the first two are only plotted
            num_neighbours=neighbours,
            nbr_weight_decay=decay,
            max_m=order,
            plt_edge_hist=False,
            plt_nbr_weights=False,
            plt_theta=False,
        )
        matrix.generate_banksy_matrix(adata, results, [contribution], max_m=order, verbose=False)
        reduce.pca_umap(results, pca_dims=[20], plt_remaining_var=False)
    return [_as_float32(results[decay][contribution]["adata"].obsm["reduced_pc_20"])]


def novae(slices: list[AnnData], seed: int) -> list[np.ndarray]:
    """Return the 64 latent dimensions of Novae, trained from scratch on these slices only.

    This is not the published model, which was trained on many tissues.
    """
    method, sc = import_method("novae", "novae", "scanpy")
    adatas = [_minimal_copy(adata) for adata in slices]
    with isolated(seed), suppress_logger("lightning.pytorch"):
        for adata in adatas:
            # Novae recognises counts by a maximum of 10 or more, which small panels may not reach.
            sc.pp.normalize_total(adata)
            sc.pp.log1p(adata)
            # Novae expects micrometres, 20 between cells; positions here have any unit.
            method.spatial_neighbors(adata, verbose=False)
            adata.obsm["spatial"] *= 20 / np.median(adata.obsp["spatial_distances"].data)
        method.spatial_neighbors(adatas, radius=80, verbose=False)
        # Sorted names, since Novae iterates over a set, whose order differs between processes;
        # batches no larger than half a slice, since it drops incomplete batches.
        model = method.Novae(
            adatas,
            var_names=sorted({name.lower() for adata in adatas for name in adata.var_names}),
            batch_size=min(256, *(adata.n_obs // 2 for adata in adatas)),
        )
        model.fit(max_epochs=EPOCHS["Novae"], enable_progress_bar=False, enable_model_summary=False)
        model.compute_representations(adatas)
    return [_as_float32(adata.obsm["novae_latent"]) for adata in adatas]


class ExternalMethod(NamedTuple):
    """An external embedding method."""

    embed: Callable[[list[AnnData], int], list[np.ndarray]]
    """Function from slices and a seed to embeddings; raises ImportError without ``module``."""
    module: str
    """Name of the module that must be importable."""
    settings: str
    """Description of the settings."""

    @property
    def install(self) -> str:
        """Return the command that installs the method."""
        return INSTALL[self.module]


_BANKSY_VISIUM = partial(banksy, contribution=0.2, neighbours=6, gradient=False)

EXTERNAL_METHODS: dict[str, ExternalMethod] = {
    "GraphST": ExternalMethod(
        graphst,
        "GraphST",
        f"of Slide-seq: 3000 variable genes, {EPOCHS['GraphST']} epochs; 20 principal components",
    ),
    "STAGATE": ExternalMethod(
        stagate,
        "STAGATE_pyG",
        f"3000 variable genes, {EPOCHS['STAGATE']} epochs, about 6 neighbours by radius",
    ),
    "BANKSY": ExternalMethod(
        banksy, "banksy", "of domains: lambda 0.8, 15 neighbours, gradient; 2000 variable genes"
    ),
    "BANKSY (of spots)": ExternalMethod(
        _BANKSY_VISIUM,
        "banksy",
        "of Visium: lambda 0.2, 6 neighbours, no gradient; 2000 variable genes",
    ),
    "Novae (from scratch)": ExternalMethod(
        novae,
        "novae",
        f"no pretrained weights, at most {EPOCHS['Novae']} epochs; median edge scaled to 20",
    ),
}


def import_method(name: str, *modules: str) -> list[ModuleType]:
    """Import modules of a method, or raise an ImportError with the command that installs it."""
    try:
        return [import_module(module) for module in modules]
    except ImportError as error:
        raise ImportError(f"{name} cannot be imported ({error}); {INSTALL[name]}") from None


def _only_slice(slices: list[AnnData], name: str) -> AnnData:
    """Return a copy of the only slice."""
    if len(slices) != 1:
        raise ValueError(f"{name} takes one slice at a time, not {len(slices)}")
    return _minimal_copy(slices[0])


def _minimal_copy(adata: AnnData) -> AnnData:
    """Return a copy with only counts, names and positions, since methods use any columns."""
    fresh = AnnData(
        sp.csr_matrix(adata.X, dtype=np.float32, copy=True),
        var=pd.DataFrame(index=adata.var_names.astype(str)),
        obsm={"spatial": np.array(adata.obsm["spatial"], dtype=np.float64)},
    )
    fresh.var_names_make_unique()
    return fresh


def _mark_variable(sc: ModuleType, adata: AnnData, count: int) -> None:
    """Mark ``count`` highly variable genes, or all genes of a smaller panel."""
    if adata.n_vars > count:
        sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=count)
    else:
        adata.var["highly_variable"] = True


def _as_float32(vectors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors, dtype=np.float32)


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Seed, silence output, and restore all global state that methods change."""
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
