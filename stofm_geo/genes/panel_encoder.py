"""Encoder for any gene panel: a cell as the sum of learned embeddings of its genes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from anndata import AnnData
from torch import Tensor, nn

from stofm_geo._keys import Keys
from stofm_geo._linalg import BLOCK
from stofm_geo._validation import check_positive, preview
from stofm_geo.genes.components import Components
from stofm_geo.genes.counts import as_counts

_MIN_KNOWN, _FEW_KNOWN = 0.2, 0.6  # fractions of counts: below, an error and a warning


class PanelEncoder(nn.Module):
    r"""Cell vectors from learned gene embeddings, which panels of all sizes share.

    .. math::
        h_i = \tfrac1{\sqrt k} \textstyle\sum_{j=1}^k t_{ij} \sum_g U_{gj} \, e_g, \qquad
        x_i = h_i + \mathrm{MLP}(\mathrm{LayerNorm}(h_i) + t)

    with :math:`t_i` the components of the cell in its slice
    (:class:`~stofm_geo.genes.components.Components`) and :math:`U` the slice's principal axes. So a
    cell is the sum of its genes' embeddings :math:`e_g`, weighted by their expression, where the
    embeddings are projected onto the principal axes of the slice: this removes most of the noise of
    single genes. The embeddings of the components are transformed halfway to an isometry:
    directions that are noise stay small, but those of a panel with few known genes are not
    flattened.

    Genes that the encoder does not know are left out before fractions are computed, as if the panel
    lacked them; genes that a slice lacks contribute nothing, as if they were average. A cell
    without counts has the vector of an average cell.

    Args:
        genes: Names of the genes, as in ``var_names``; human Ensembl ids after
            :func:`~stofm_geo.genes.harmonize`.
        out_channels: Size of the vector of a gene and of a cell (default 85).
        hidden_channels: Width of the MLP (default 256).
        n_components: :math:`k`, number of components of a slice (default 50).
        technologies: Names of technologies, each with a learned token :math:`t`. The technology of
            a slice is ``uns["technology"]``; if it is missing or unknown, :math:`t = 0` (default
            none).
        molecules: Whether some molecules of each slice are held out, its components are fitted to
            the others, and slices also have components of fractions
            (:class:`~stofm_geo.genes.fractions.FractionComponents`; default ``False``).

    Raises:
        ValueError: Genes or technologies occur twice, or there are no genes.

    Examples:
        >>> from stofm_geo import datasets
        >>> from stofm_geo.genes import PanelEncoder
        >>> adata = datasets.toy_tissue(200, 30, seed=0)
        >>> encoder = PanelEncoder(adata.var_names, out_channels=16, n_components=8)
        >>> encoder.transform(adata[:, :20].copy()).shape  # of a smaller panel
        (200, 16)
    """

    key = None

    def __init__(
        self,
        genes: Sequence[str],
        out_channels: int = 85,
        hidden_channels: int = 256,
        n_components: int = 50,
        technologies: Sequence[str] = (),
        molecules: bool = False,
    ) -> None:
        super().__init__()
        check_positive("out_channels", out_channels, whole=True)
        check_positive("hidden_channels", hidden_channels, whole=True)
        check_positive("n_components", n_components, whole=True)
        self.genes, self.technologies = pd.Index(genes, dtype=object), list(technologies)
        if not len(self.genes):
            raise ValueError("genes is empty; a panel encoder needs their names")
        for what, names in (("genes", self.genes), ("technologies", pd.Index(technologies))):
            if not names.is_unique:
                raise ValueError(f"{what} occur twice: {preview(names[names.duplicated()])}")
        self.out_channels, self.hidden_channels = out_channels, hidden_channels
        self.n_components, self.molecules = n_components, molecules
        self.embedding = nn.Parameter(torch.empty(len(self.genes), out_channels))
        self.technology = nn.Embedding(len(technologies) + 1, out_channels, padding_idx=0)
        self.norm = nn.LayerNorm(out_channels, elementwise_affine=False)
        self.wide = nn.Linear(out_channels, hidden_channels)
        self.narrow = nn.Linear(hidden_channels, out_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reset all learnable parameters, to a random projection of the components."""
        nn.init.normal_(self.embedding)
        nn.init.zeros_(self.technology.weight)
        self.wide.reset_parameters()
        nn.init.zeros_(self.narrow.weight)
        nn.init.zeros_(self.narrow.bias)

    @property
    def module(self) -> PanelEncoder:
        """Return the encoder itself, which is trained with the network."""
        return self

    @classmethod
    def from_slices(
        cls, slices: Sequence[AnnData], *, molecules: bool = False, **sizes: int
    ) -> PanelEncoder:
        """Return an untrained encoder of all genes and technologies in the slices."""
        genes = sorted(set().union(*(adata.var_names for adata in slices)))
        named = {
            str(adata.uns[Keys.TECHNOLOGY]) for adata in slices if Keys.TECHNOLOGY in adata.uns
        }
        return cls(genes, technologies=sorted(named), molecules=molecules, **sizes)

    def known_counts(self, adata: AnnData) -> sp.csr_matrix:
        """Return the counts of the encoder's genes, ``[n, G]`` float32.

        Columns are in the order of :attr:`genes`.

        Raises:
            ValueError: Counts are invalid (see :func:`~stofm_geo.genes.as_counts`), or less than a
                fifth of them are of known genes.
        """
        counts = as_counts(adata, copy=False)
        column = self.genes.get_indexer(adata.var_names)
        known = counts[:, column >= 0]
        share = known.sum() / counts.sum()
        if share < _FEW_KNOWN:
            unknown = adata.var_names[column < 0]
            message = (
                f"the encoder knows {int((column >= 0).sum())} of {len(column)} genes, with "
                f"{share:.0%} of the counts; it does not know {preview(unknown, 5)}, "
                f"and knows {preview(self.genes, 5)}; {{}}genes.harmonize(adata) makes human "
                "Ensembl ids of symbols and of mouse genes"
            )
            if share < _MIN_KNOWN:
                raise ValueError(message.format(""))
            warnings.warn(message.format("the others are left out; "), stacklevel=2)
        known = sp.csr_matrix(
            (known.data, column[column >= 0][known.indices], known.indptr),
            shape=(counts.shape[0], len(self.genes)),
        )
        known.sort_indices()
        return known

    def forward(
        self, t: Tensor, panel: Tensor, loadings: Tensor, technology: Tensor | int = 0
    ) -> Tensor:
        """Compute the vectors ``[n, out_channels]`` of cells of one slice.

        Args:
            t: Components of the cells, ``[n, k]``.
            panel: Indices of the slice's genes, ``[P]``.
            loadings: Loadings of the components, ``[P, k]``.
            technology: Index of the technology, ``[n]`` or a single one; 0 for none.
        """
        return self.refine(t @ self.component_embeddings(panel, loadings), technology)

    def component_embeddings(self, panel: Tensor, loadings: Tensor) -> Tensor:
        """Compute the embeddings of a slice's components, ``[k, out_channels]``."""
        axes = unit_axes(loadings) @ self.embedding[panel]
        return _halfway_to_isometry(axes) @ axes

    def refine(self, h: Tensor, technology: Tensor | int = 0) -> Tensor:
        """Compute the vectors ``x`` from the sums ``h``, as :meth:`forward` does."""
        token = self.technology(torch.as_tensor(technology, device=h.device))
        return h + self.narrow(F.gelu(self.wide(self.norm(h) + token)))

    def technology_index(self, adata: AnnData) -> int:
        """Return the index of the technology in ``uns["technology"]``; 0 if missing or unknown."""
        name = str(adata.uns.get(Keys.TECHNOLOGY, ""))
        return self.technologies.index(name) + 1 if name in self.technologies else 0

    @torch.no_grad()
    def transform(self, adata: AnnData) -> np.ndarray:
        """Compute the vectors ``[n, out_channels]`` float32 of the counts in ``X``, of one slice.

        Raises:
            ValueError: As :meth:`known_counts`.
        """
        device = self.embedding.device
        counts = self.known_counts(adata)
        components = Components.from_counts(counts, self.n_components)
        axes = self.component_embeddings(
            *(
                torch.from_numpy(array).to(device)
                for array in (components.panel, components.loadings)
            )
        )
        technology = self.technology_index(adata)
        vectors = np.empty((adata.n_obs, self.out_channels), dtype=np.float32)
        for first in range(0, adata.n_obs, BLOCK):
            t = torch.from_numpy(components(counts[first : first + BLOCK])).to(device)
            vectors[first : first + BLOCK] = self.refine(t @ axes, technology).cpu().numpy()
        return vectors

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the settings that rebuild the encoder; its weights are in the state dict."""
        settings = {
            "kind": "panel",
            "genes": self.genes.tolist(),
            "out_channels": self.out_channels,
            "hidden_channels": self.hidden_channels,
            "n_components": self.n_components,
            "technologies": self.technologies,
            "molecules": self.molecules,
        }
        return settings, {}

    @classmethod
    def from_state(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> PanelEncoder:
        """Rebuild the encoder, untrained: its weights are in the state dict of the network."""
        return cls(
            settings["genes"],
            out_channels=settings["out_channels"],
            hidden_channels=settings["hidden_channels"],
            n_components=settings["n_components"],
            technologies=settings["technologies"],
            molecules=settings["molecules"],
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.genes)} genes, {self.out_channels})"


@torch.no_grad()
def _halfway_to_isometry(axes: Tensor) -> Tensor:
    """Return the matrix ``[k, k]`` that replaces the singular values of ``axes`` by their roots.

    It has no gradients, which are unbounded where singular values are equal.
    """
    square, vectors = torch.linalg.eigh(axes @ axes.t())
    square = square.clamp_min(1e-6 * square[-1].clamp_min(1e-12))  # rows of zeros stay zeros
    return vectors * square**-0.25 @ vectors.t()


def unit_axes(loadings: Tensor) -> Tensor:
    """Return principal axes ``[k, P]`` of loadings ``[P, k]``, with squares that sum to 1 over all.

    Padding columns of zeros stay zeros.
    """
    length = loadings.norm(dim=0)
    nonzero = length > 0
    return (loadings / torch.where(nonzero, length, 1)).t() / nonzero.sum().clamp_min(1).sqrt()
