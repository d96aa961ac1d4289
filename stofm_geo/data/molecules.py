"""Molecules of a slice that are held out, beside the sub-slices of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import scatter

from stofm_geo._keys import NodeType
from stofm_geo._linalg import row_sums
from stofm_geo.data.subslices import SubSliceDataset, pad_rows
from stofm_geo.genes.components import Components
from stofm_geo.genes.fractions import FractionComponents
from stofm_geo.genes.splitting import HELD_OUT, hold_out, split_counts


@dataclass(frozen=True)
class Molecules:
    """Molecules of the cells of a sub-slice, in their order.

    Attributes:
        train: Counts to train on, ``[n, G]``.
        held_out: Counts that validation predicts, ``[n, G]``
            (:func:`~stofm_geo.genes.splitting.hold_out`).
        components: Components that ``x`` is computed by.
        fractions: Components that ``fractions`` and what is predicted are computed by.
        train_sums: :meth:`~stofm_geo.genes.fractions.FractionComponents.sums` of ``train``,
            ``[n, components]``.
    """

    train: sp.csr_matrix
    held_out: sp.csr_matrix
    components: Components
    fractions: FractionComponents
    train_sums: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """Return the number of molecules of each cell, both parts, ``[n]``."""
        return row_sums(self.train) + row_sums(self.held_out)

    def split(self, subslice: Data, fraction: float, random: np.random.Generator) -> Data:
        """Return a copy of the sub-slice that shows a part of ``train`` and asks for the rest.

        ``x`` and ``fractions`` are those of the visible molecules; the means of macro nodes are
        corrected, so that the others do not leak through them. ``y`` ``[num_nodes, components]``
        are the components of the target molecules, 0 for virtual nodes.

        Args:
            subslice: Sub-slice of all molecules.
            fraction: Expected fraction of the target.
            random: Random generator.
        """
        target, visible = split_counts(self.train, fraction, random)
        sums = self.fractions.sums(target)
        # Sums are linear, and the target has the least molecules to sum over.
        seen = self.fractions.expected_of_sums(self.train_sums - sums, row_sums(visible))
        return self._item(subslice, visible, seen, sums, fraction * (1 - HELD_OUT))

    def validation(self, subslice: Data) -> Data:
        """Return a copy of the sub-slice that shows ``train`` and asks for ``held_out``.

        Attributes are those of :meth:`split`.
        """
        seen = self.fractions.expected_of_sums(self.train_sums, row_sums(self.train))
        sums = self.fractions.sums(self.held_out)
        return self._item(subslice, self.train, seen, sums, HELD_OUT)

    def _item(
        self,
        subslice: Data,
        visible: sp.csr_matrix,
        seen: np.ndarray,
        target_sums: np.ndarray,
        share: float,
    ) -> Data:
        n, subslice = visible.shape[0], subslice.clone()
        x = torch.from_numpy(self.components(visible))
        cluster = subslice.cluster[:n]
        change = scatter(x - subslice.x[:n], cluster, dim_size=subslice.num_nodes, reduce="sum")
        macro = subslice.node_type == NodeType.MACRO
        change[macro] /= subslice.cluster_size[macro, None].clamp_min(1)
        change[:n] = x - subslice.x[:n]
        subslice.x = subslice.x + change
        asked = self.fractions.of_sums(target_sums, share * self.total)
        subslice.fractions = pad_rows(torch.from_numpy(seen), subslice.num_nodes)
        subslice.y = pad_rows(torch.from_numpy(asked), subslice.num_nodes)
        return subslice


class MoleculeSlice(Sequence[Data]):
    """Sub-slices of a slice whose molecules are split, once and for all, for validation.

    Items have ``molecules``, the :class:`Molecules` of their cells; ``x`` shows those that are not
    held out, also in the means of macro nodes.

    Args:
        subslices: Sub-slices of an encoder that was fitted without the molecules held out
            (:meth:`stofm_geo.genes.PCAFeatures.fit_molecules`).

    Attributes:
        train, held_out: Counts of both parts, ``[n, G]``.

    Raises:
        ValueError: Counts are not whole.
    """

    def __init__(self, subslices: SubSliceDataset) -> None:
        self.subslices = subslices
        self.held_out, self.train = hold_out(subslices.counts)
        assert subslices.components is not None  # or it has no counts
        self._x = features_of(subslices.graph, subslices.components, self.train)
        assert subslices.fractions is not None
        self._sums = subslices.fractions.sums(self.train)

    def __len__(self) -> int:
        return len(self.subslices)

    def __getitem__(self, index: int) -> Data:  # type: ignore[override]
        subslice = self.subslices[index]
        cells = self.subslices.cell_index(subslice)
        rows = cells.numpy()
        subslice.x = torch.cat([self._x[cells], self._x[self.train.shape[0] :]])
        components, fractions = self.subslices.components, self.subslices.fractions
        assert components is not None and fractions is not None
        parts = self.train[rows], self.held_out[rows]
        subslice.molecules = Molecules(*parts, components, fractions, self._sums[rows])
        return subslice


def features_of(graph: Data, components: Components, counts: sp.csr_matrix) -> Tensor:
    """Return the features that some of the molecules give, ``[num_nodes, F]``.

    Args:
        graph: Whole slice: cells, then virtual nodes.
        components: Components that features are.
        counts: Counts ``[n, G]``.
    """
    x, n = torch.from_numpy(components(counts)), counts.shape[0]
    virtual = graph.x[n:].clone()
    macro = graph.node_type[n:] == NodeType.MACRO
    means = scatter(x, graph.cluster[:n] - n, dim_size=len(virtual), reduce="mean")
    virtual[macro] = means[macro]
    return torch.cat([x, virtual])
