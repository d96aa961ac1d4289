"""Slices as what a network is trained and run on: sub-slices with virtual cells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from anndata import AnnData
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import Compose

from stofm_geo._checks import check_positions, naming
from stofm_geo._keys import Keys
from stofm_geo.data.panel_slice import PanelSlice
from stofm_geo.data.slices import slice_graph
from stofm_geo.genes import CellFeatures
from stofm_geo.transforms import JoinMacroNodes, MacroNodes, SpatialKNN, SubSlices


def pieces(
    part: AnnData,
    features: CellFeatures,
    *,
    k: int,
    max_macro_nodes: int,
    cells_per_subslice: int,
    n_components: int,
) -> Sequence[Data]:
    """A slice of :func:`~stofm_geo.data.split_slices`, each piece cut when it is asked for.

    ``x`` are the features. Of a :class:`~stofm_geo.genes.PanelEncoder`, which is trained with the
    network, they are the slice's components, and a piece also has which genes they are made of
    (``panel`` ``[P]``, ``loadings`` ``[P, components]``) and its ``technology``.

    Args:
        part: One slice.
        features: Fitted; or a panel encoder.
        k: Nearest neighbours a cell is joined to.
        max_macro_nodes: Most virtual cells.
        cells_per_subslice: Most core cells of a piece.
        n_components: Of the slice, for a panel encoder.
    """
    if features.module is None:
        data = slice_graph(part, features)  # whose messages name the slice already
        graph = Compose([SpatialKNN(k), MacroNodes(max_nodes=max_macro_nodes, join=False)])
        # Two edges of halo, so that the niches of border cells are whole.
        return SubSlices(cells_per_subslice, halo=2).lazily(graph(data), JoinMacroNodes())
    with naming(part.uns["name"]):
        own = PanelSlice(
            features.module.known(part),
            check_positions(part, Keys.SPATIAL),
            part.obs["row"].to_numpy(),
            k=k,
            max_macro_nodes=max_macro_nodes,
            cells_per_subslice=cells_per_subslice,
            n_components=n_components,
        )
    return _PanelPieces(own, features.module.technology_of(part))


class _PanelPieces(Sequence[Data]):
    """The pieces of a slice with what a panel encoder reads."""

    def __init__(self, own: PanelSlice, technology: int) -> None:
        self.own = own
        self.technology = technology

    def __len__(self) -> int:
        return len(self.own.cuts)

    def __getitem__(self, index: int) -> Data:
        piece = self.own.cuts[index]
        del piece.node
        own = self.own.components
        return finish(
            piece,
            torch.from_numpy(own.panel),
            torch.from_numpy(own.loadings),
            self.technology,
        )


def finish(piece: Data, panel: Tensor, loadings: Tensor, technology: int) -> Data:
    """Give a piece what a panel encoder reads, and its virtual nodes their edges.

    Args:
        piece: With its cells' edges alone.
        panel: Numbers of the slice's genes, ``[P]``.
        loadings: ``[P, components]``.
        technology: Its number.
    """
    piece.panel, piece.loadings = panel, loadings
    piece.technology = torch.tensor([technology])
    return JoinMacroNodes()(piece)


def collate(pieces: Sequence[Data]) -> Batch:
    """Pieces of any slices, hidden and moved already, as one batch.

    Returns:
        The batch; ``panel`` and ``loadings``, whose sizes differ, are lists, one entry a piece.
        What numbers nodes of one piece, or tells what was hidden, is left out.
    """
    lists = [name for name in ("panel", "loadings") if name in pieces[0]]
    left_out = ["cluster", "cluster_size", "x_target"]
    batch = Batch.from_data_list(list(pieces), exclude_keys=[*lists, *left_out])
    for name in lists:
        batch[name] = [piece[name] for piece in pieces]
    return batch
