"""Sub-slices of a slice, with macro nodes: what a network is trained and run on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import Compose

from stofm_geo._linalg import BLOCK
from stofm_geo._validation import error_context
from stofm_geo.data.panel_slice import PanelSlice
from stofm_geo.data.slices import slice_graph
from stofm_geo.data.tissue_slice import TissueSlice
from stofm_geo.genes import CellFeatures
from stofm_geo.genes.components import Components
from stofm_geo.genes.fractions import FractionComponents
from stofm_geo.transforms import JoinMacroNodes, MacroNodes, SpatialKNN, SubSlices

_PER_SLICE = ("panel", "loadings", "fraction_loadings")


class SubSliceDataset(Sequence[Data]):
    """The sub-slices of one slice, each cut when it is asked for.

    ``x`` are the features that the encoder makes. For an encoder that is trained with the network
    (:class:`~stofm_geo.genes.PanelEncoder`), ``x`` are the slice's components, and a sub-slice also
    has ``panel`` ``[P]``, ``loadings`` ``[P, components]`` and ``technology``. With components of
    fractions, of an encoder that knows of held-out molecules, cells also have their expected values
    ``fractions`` ``[num_nodes, F]``, which are 0 for virtual nodes.

    Args:
        part: The slice.
        encoder: A fitted encoder, or a panel encoder.
        k: Number of nearest neighbours that a cell is joined to.
        max_macro_nodes: Maximum number of macro nodes of the slice.
        cells_per_subslice: Maximum number of core cells of a sub-slice.
        n_components: Number of components of the slice, for a panel encoder.

    Attributes:
        part: The slice.
        components: Components that ``x`` are; ``None`` for other features.
        fractions: Components that ``fractions`` are; ``None`` if there are none.
        graph: The whole slice: cells, then macro nodes; edges between cells alone.

    Examples:
        >>> from stofm_geo import SToFMConfig, datasets, genes
        >>> from stofm_geo.data import SubSliceDataset, split_slices
        >>> part = split_slices(datasets.toy_tissue(200, 30, seed=0))[0]
        >>> encoder = genes.PCAFeatures(8).fit([part.adata])
        >>> options = SToFMConfig(cells_per_subslice=60).subslice_options
        >>> subslices = SubSliceDataset(part, encoder, **options)
        >>> len(subslices), int(subslices[0].core_mask.sum())
        (4, 50)
    """

    def __init__(
        self,
        part: TissueSlice,
        encoder: CellFeatures,
        *,
        k: int,
        max_macro_nodes: int,
        cells_per_subslice: int,
        n_components: int,
    ) -> None:
        self.part, self._encoder = part, encoder
        self.components: Components | None = getattr(encoder, "components", None)
        self.fractions: FractionComponents | None = None
        if encoder.module is None:
            data = slice_graph(part, encoder)  # whose messages name the slice already
            graph = Compose([SpatialKNN(k), MacroNodes(max_nodes=max_macro_nodes, join=False)])
            self.graph = graph(data)
            if getattr(encoder, "fractions", None) is not None:
                self.fractions = encoder.fractions_of(part.adata)  # type: ignore[attr-defined]
                self.graph.fractions = pad_rows(self._expected, self.graph.num_nodes)
            # Two edges of halo, so that the niches of border cells are whole.
            self._cuts = SubSlices(cells_per_subslice, halo=2).lazily(self.graph, JoinMacroNodes())
            return
        with error_context(part.name):
            own = PanelSlice(
                encoder.module.known_counts(part.adata),
                part.pos,
                part.row,
                k=k,
                max_macro_nodes=max_macro_nodes,
                cells_per_subslice=cells_per_subslice,
                n_components=n_components,
                molecules=encoder.module.molecules,
            )
        self.graph, self._cuts, self.components = own.data, own.cuts, own.components
        self.fractions = own.fractions
        self._technology = encoder.module.technology_index(part.adata)

    def __len__(self) -> int:
        return len(self._cuts)

    def __getitem__(self, index: int) -> Data:  # type: ignore[override]
        subslice = self._cuts[index]
        if not self.has_panel:
            return subslice
        del subslice.node
        assert self.components is not None  # or it has no panel
        if self.fractions is not None:
            cells = self.cell_index(subslice)
            subslice.fractions = pad_rows(self._expected[cells], subslice.num_nodes)
        panel = torch.from_numpy(self.components.panel)
        return attach_panel(subslice, panel, self._technology, self.components, self.fractions)

    @property
    def has_panel(self) -> bool:
        """Return whether the encoder is trained with the network, on components of the slice."""
        return self._encoder.module is not None

    @property
    def panel(self) -> tuple[Tensor, Tensor]:
        """Numbers of the slice's genes ``[P]`` and loadings ``[P, components]``.

        Raises:
            ValueError: The encoder has no panel.
        """
        own = self.components
        if not self.has_panel or own is None:
            raise ValueError("features are not those of a panel encoder")
        return torch.from_numpy(own.panel), torch.from_numpy(own.loadings)

    @property
    def counts(self) -> sp.csr_matrix:
        """Counts ``[n, G]`` that :attr:`components` are computed from.

        Raises:
            ValueError: Features are no components of counts.
        """
        if self.components is None:
            raise ValueError("features are no components of counts")
        encoder: Any = self._encoder  # with components
        return encoder.known_counts(self.part.adata)

    @cached_property
    def _expected(self) -> Tensor:
        """Expected components of the fractions of the cells, ``[n, F]``."""
        counts, own = self.counts, self.fractions
        assert own is not None
        blocks = (counts[start : start + BLOCK] for start in range(0, counts.shape[0], BLOCK))
        return torch.from_numpy(np.concatenate([own.expected(block) for block in blocks]))

    def cell_index(self, subslice: Data) -> Tensor:
        """Return the numbers of a sub-slice's cells, which come first, among those of the slice."""
        return self._cell_of_row.to(subslice.n_id.device)[subslice.n_id[subslice.n_id >= 0]]

    @cached_property
    def neighbor_mean(self) -> sp.csr_matrix:
        """Sparse operator ``[n, n]`` that averages over the neighbours of each cell."""
        src, dst = self.graph.edge_index.numpy()
        n = len(self.part)
        share = 1 / np.bincount(dst, minlength=n)[dst]
        return sp.csr_matrix((share.astype(np.float32), (dst, src)), shape=(n, n))

    @cached_property
    def _cell_of_row(self) -> Tensor:
        index = torch.full((self.part.source_cells,), -1)
        index[torch.from_numpy(self.part.row.copy())] = torch.arange(len(self.part))
        return index

    def core_index(self, subslice: Data) -> Tensor:
        """Return the numbers of a sub-slice's core cells among the cells of the slice."""
        return self._cell_of_row.to(subslice.n_id.device)[subslice.n_id[subslice.core_mask]]


def pad_rows(rows: Tensor, num_nodes: int) -> Tensor:
    """Return the values of cells ``[n, F]`` with zeros for virtual nodes, ``[num_nodes, F]``."""
    return torch.cat([rows, rows.new_zeros(num_nodes - len(rows), rows.shape[1])])


def attach_panel(
    subslice: Data,
    panel: Tensor,
    technology: int,
    components: Components,
    fractions: FractionComponents | None,
) -> Data:
    """Add what a panel encoder reads to a sub-slice, and the edges of its macro nodes.

    With components of fractions, these are their axes ``fraction_loadings`` ``[P, components]`` and
    weights in the loss ``widths`` ``[1, components]``, too.

    Args:
        subslice: With its cells' edges alone.
        panel: Numbers of the genes of the components, ``[P]``.
        technology: Number of the technology.
        components: Components of the slice.
        fractions: Components of fractions of the slice, or ``None``.
    """
    subslice.panel, subslice.loadings = panel, torch.from_numpy(components.loadings)
    if fractions is not None:
        subslice.fraction_loadings = torch.from_numpy(fractions.axes[components.panel])
        subslice.widths = torch.from_numpy(fractions.widths)[None]
    subslice.technology = torch.tensor([technology])
    return JoinMacroNodes()(subslice)


def collate_subslices(subslices: Sequence[Data]) -> Batch:
    """Batch sub-slices of any slices, masked and moved already.

    Returns:
        The batch; ``panel`` and loadings, whose sizes differ, are lists with one entry for each
        sub-slice. Attributes that number the nodes of one sub-slice, or that hold what was masked,
        are left out.
    """
    lists = [name for name in _PER_SLICE if name in subslices[0]]
    left_out = ["cluster", "cluster_size", "x_target"]
    batch = Batch.from_data_list(list(subslices), exclude_keys=[*lists, *left_out])
    for name in lists:
        batch[name] = [subslice[name] for subslice in subslices]
    return batch
