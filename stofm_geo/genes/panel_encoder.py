"""An encoder for any panel: a cell as the sum of its genes' embeddings, learned from scratch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from anndata import AnnData
from torch import Tensor, nn

from stofm_geo._checks import check_positive, examples
from stofm_geo._keys import Keys
from stofm_geo.genes.counts import as_counts

_LEAST, _FEW = 0.2, 0.6  # of the counts; below them an error, a warning
_BLOCK = 4096  # cells encoded at once


class PanelEncoder(nn.Module):
    r"""Cell vectors from learned gene embeddings; panels of all sizes share them.

    .. math::
        v_{ig} = \sqrt{c_{ig} / \textstyle\sum_{g'} c_{ig'}}, \qquad
        h_i = \tfrac1s \textstyle\sum_g (v_{ig} - \bar v_g) \, e_g, \qquad
        x_i = h_i + \mathrm{MLP}(\mathrm{LayerNorm}(h_i) + t)

    with :math:`\bar v` the slice's mean and :math:`s` the root mean square of
    :math:`\lVert v_i - \bar v \rVert`. Distances between roots of shares are Hellinger's
    (Legendre & Gallagher 2001, doi:10.1007/s004420100716): they need no depth to be chosen and do
    not let a few loud genes speak for all. What a slice has in common (its batch, its depth)
    goes with the mean. The sums are one ``embedding_bag`` over the non-zeros.

    Genes that the encoder does not know are left out before shares are taken, as if the panel
    lacked them; genes that a slice lacks add nothing, as if they were average. A cell without
    counts gets the vector of an average cell.

    Args:
        genes: Names of the genes, as in ``var_names``; human Ensembl ids after
            :func:`~stofm_geo.genes.harmonize`.
        out_channels: Size of a gene's and of a cell's vector (default 85).
        hidden_channels: Width of the MLP (default 256).
        technologies: Names of technologies, each with a token :math:`t` that is learned. A slice
            names its own in ``uns["technology"]``; without a name, or with one that is not known,
            :math:`t = 0` (default none).

    Raises:
        ValueError: Genes or technologies are named twice, or there are no genes.
    """

    def __init__(
        self,
        genes: Sequence[str],
        out_channels: int = 85,
        hidden_channels: int = 256,
        technologies: Sequence[str] = (),
    ) -> None:
        super().__init__()
        check_positive("out_channels", out_channels, whole=True)
        check_positive("hidden_channels", hidden_channels, whole=True)
        self.genes, self.technologies = pd.Index(genes, dtype=object), list(technologies)
        if not len(self.genes):
            raise ValueError("there are no genes; a panel encoder needs their names")
        for what, names in (("genes", self.genes), ("technologies", pd.Index(technologies))):
            if not names.is_unique:
                raise ValueError(f"{what} occur twice: {examples(names[names.duplicated()])}")
        self.out_channels, self.hidden_channels = out_channels, hidden_channels
        self.embedding = nn.Parameter(torch.empty(len(self.genes), out_channels))
        self.technology = nn.Embedding(len(technologies) + 1, out_channels, padding_idx=0)
        self.norm = nn.LayerNorm(out_channels, elementwise_affine=False)
        self.wide = nn.Linear(out_channels, hidden_channels)
        self.narrow = nn.Linear(hidden_channels, out_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start from a random projection of the (centred, scaled) values: no cell is lost."""
        nn.init.normal_(self.embedding)
        nn.init.zeros_(self.technology.weight)
        self.wide.reset_parameters()
        nn.init.zeros_(self.narrow.weight)
        nn.init.zeros_(self.narrow.bias)

    @classmethod
    def of(cls, slices: Sequence[AnnData], **sizes: int) -> PanelEncoder:
        """An untrained encoder of all genes and technologies that these slices have."""
        genes = sorted(set().union(*(part.var_names for part in slices)))
        named = {str(part.uns[Keys.TECHNOLOGY]) for part in slices if Keys.TECHNOLOGY in part.uns}
        return cls(genes, technologies=sorted(named), **sizes)

    def read(self, adata: AnnData) -> sp.csr_matrix:
        """Values :math:`v / s` of the genes that the encoder knows, ``[n, G]`` float32.

        Columns are the encoder's genes. ``adata`` is taken as one slice.

        Raises:
            ValueError: Counts that do not fit (see :func:`~stofm_geo.genes.as_counts`), or of
                which the encoder knows less than a fifth.
        """
        values = root_shares(self.known(adata))
        values.data /= centre_and_scale([values])[1]
        return values

    def known(self, adata: AnnData) -> sp.csr_matrix:
        """Counts of the genes that the encoder knows, ``[n, G]`` float32; raises as :meth:`read`.

        Columns are the encoder's genes.
        """
        counts = as_counts(adata, copy=False)
        column = self.genes.get_indexer(adata.var_names)
        known = counts[:, column >= 0]
        share = known.sum() / counts.sum()
        if share < _FEW:
            strange = adata.var_names[column < 0]
            message = (
                f"the encoder knows {int((column >= 0).sum())} of {len(column)} genes, with "
                f"{share:.0%} of the counts; it does not know {examples(strange, 5)}, "
                f"and knows {examples(self.genes, 5)}; {{}}genes.harmonize(adata) makes human "
                "Ensembl ids of symbols and of mouse genes"
            )
            if share < _LEAST:
                raise ValueError(message.format(""))
            warnings.warn(message.format("the others are left out; "), stacklevel=2)
        known = sp.csr_matrix(
            (known.data, column[column >= 0][known.indices], known.indptr),
            shape=(counts.shape[0], len(self.genes)),
        )
        known.sort_indices()
        return known

    def forward(
        self,
        gene: Tensor,
        value: Tensor,
        num_genes: Tensor,
        mean_row: Tensor | int,
        technology: Tensor | int = 0,
    ) -> Tensor:
        """Vectors ``[n, out_channels]`` of rows in compressed form.

        Args:
            gene: Number of the gene of each non-zero, ``[nnz]``.
            value: Its value (:meth:`read`), ``[nnz]``.
            num_genes: Non-zeros of each row, ``[n]``.
            mean_row: The row that holds the mean of the row's slice, ``[n]`` or one for all.
            technology: Number of the technology, ``[n]`` or one for all; 0 for none.
        """
        start = num_genes.cumsum(0) - num_genes
        sums = F.embedding_bag(gene, self.embedding, start, mode="sum", per_sample_weights=value)
        return self.finish(sums, num_genes, mean_row, technology)

    def finish(
        self,
        sums: Tensor,
        num_genes: Tensor,
        mean_row: Tensor | int,
        technology: Tensor | int = 0,
    ) -> Tensor:
        """What :meth:`forward` makes of sums of values times embeddings, ``[n, out_channels]``."""
        h = (sums - sums[mean_row]).masked_fill((num_genes == 0)[:, None], 0)
        token = self.technology(torch.as_tensor(technology, device=h.device))
        return h + self.narrow(F.gelu(self.wide(self.norm(h) + token)))

    def technology_of(self, adata: AnnData) -> int:
        """Number of the technology that ``uns["technology"]`` names; 0 for none or a new one."""
        name = str(adata.uns.get(Keys.TECHNOLOGY, ""))
        return self.technologies.index(name) + 1 if name in self.technologies else 0

    @torch.no_grad()
    def transform(self, adata: AnnData) -> np.ndarray:
        """Vectors ``[n, out_channels]`` float32 of the counts in ``X``; see :meth:`read`."""
        device = self.embedding.device
        values = self.read(adata)
        mean = sp.csr_matrix(values.mean(axis=0), dtype=np.float32)
        technology = self.technology_of(adata)
        vectors = np.empty((adata.n_obs, self.out_channels), dtype=np.float32)
        for first in range(0, adata.n_obs, _BLOCK):
            block = sp.vstack([values[first : first + _BLOCK], mean], format="csr")
            rows = (part.to(device) for part in compressed(block))
            found = self(*rows, mean_row=block.shape[0] - 1, technology=technology)
            vectors[first : first + _BLOCK] = found[:-1].cpu().numpy()
        return vectors

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Settings from which an encoder of this form is made; weights are in the state dict."""
        settings = {
            "kind": "panel",
            "genes": self.genes.tolist(),
            "out_channels": self.out_channels,
            "hidden_channels": self.hidden_channels,
            "technologies": self.technologies,
        }
        return settings, {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.genes)} genes, {self.out_channels})"


def root_shares(counts: sp.csr_matrix) -> sp.csr_matrix:
    """Roots of each gene's share of its cell's counts, ``[n, G]`` float32."""
    of_cell = (counts @ np.ones(counts.shape[1])).astype(np.float32)
    shares = counts.data / np.repeat(of_cell, np.diff(counts.indptr))
    return sp.csr_matrix((np.sqrt(shares), counts.indices, counts.indptr), shape=counts.shape)


def centre_and_scale(blocks: Iterable[sp.csr_matrix]) -> tuple[np.ndarray, np.float32]:
    """Mean ``[G]`` and scale :math:`s` of :func:`root_shares`, which come in blocks of rows.

    Warns:
        UserWarning: Cells have no counts.
    """
    cells, empty, total = 0, 0, np.zeros(1)
    for block in blocks:
        cells += block.shape[0]
        empty += int((np.diff(block.indptr) == 0).sum())
        total = total + np.asarray(block.sum(axis=0, dtype=np.float64)).ravel()
    if empty:
        warnings.warn(
            f"{empty} of {cells} cells have no counts and get the vector of an average cell",
            stacklevel=3,
        )
    # The square of a row is 1 for a cell with counts: the variance is what the mean leaves of it.
    mean = total / cells
    variance = 1 - empty / cells - np.square(mean).sum()
    # Cells may all be alike.
    return mean, np.float32(np.sqrt(variance) if variance > 1e-6 else 1)


def compressed(values: sp.csr_matrix) -> tuple[Tensor, Tensor, Tensor]:
    """``gene``, ``value`` and ``num_genes`` of the rows of a matrix, as the encoder takes them."""
    return (
        torch.from_numpy(values.indices.astype(np.int64)),
        torch.from_numpy(values.data),
        torch.from_numpy(np.diff(values.indptr).astype(np.int64)),
    )
