"""Leak-free objective: molecules of a cell that neither it nor its neighbours show.

Count splitting (Neufeld et al. 2022, arXiv 2207.00554) and molecular cross-validation (Batson et
al. 2019, doi:10.1101/786269): a part of each cell's molecules is split off at random, anew in each
step, and predicted from the rest, of the cell and of its neighbours. Some cells show nothing at
all, and are not asked for: neighbours learn to do without them. A few molecules, drawn once, are
never seen in training: they tell when to stop.

The loss is the squared error of principal components of gene fractions that have about equal noise
in all directions (:class:`~stofm_geo.genes.fractions.FractionComponents`). They are linear in the
counts, so that the loss is least for the expected expression at any depth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from stofm_geo.data.molecules import Molecules
from stofm_geo.networks.config import SToFMConfig
from stofm_geo.networks.molecules import MoleculeNetwork
from stofm_geo.networks.panel_molecules import PanelMoleculeNetwork
from stofm_geo.training.objectives._loss import Loss
from stofm_geo.transforms import MaskCells

_RIDGES = (10.0, 100.0, 1e3, 1e4, 1e5, 1e6)
_MIN_CELLS = 20_000  # that the linear start is fitted to, or four draws of each if there are fewer
_MAX_DRAWS = 4


class MoleculeMasking:
    """Random split of the molecules of an item of :class:`~stofm_geo.data.molecules.MoleculeSlice`.

    Args:
        config: Fraction of the molecules that are predicted, and of cells that show none.
    """

    def __init__(self, config: SToFMConfig) -> None:
        self.target_ratio = config.target_ratio
        self.mask = MaskCells(config.mask_ratio)

    def __call__(self, subslice: Data) -> Data:
        """Return a training item, drawn with PyTorch's global generator."""
        return self.mask(self.split(subslice))

    def split(self, subslice: Data) -> Data:
        """Return a training item without masked cells."""
        random = np.random.default_rng(int(torch.randint(2**62, ())))
        molecules: Molecules = subslice.molecules
        return _without_molecules(molecules.split(subslice, self.target_ratio, random))

    @staticmethod
    def held_out(subslice: Data) -> Data:
        """Return an item of validation: all training molecules are seen."""
        molecules: Molecules = subslice.molecules
        return _without_molecules(molecules.validation(subslice))


def _without_molecules(subslice: Data) -> Data:
    del subslice.molecules
    return subslice


def molecule_loss(network: MoleculeNetwork | PanelMoleculeNetwork, data: Data, z: Tensor) -> Loss:
    """Return the squared error of the components of the visible core cells' target molecules.

    The baseline is the mean over all cells.

    Args:
        network: The network that made ``z``.
        data: A masked sub-slice or a batch of them.
        z: Embeddings ``[num_nodes, out_channels]``.
    """
    asked = data.core_mask & ~data.mask if "mask" in data else data.core_mask
    true, weight = data.y[asked], network.loss_weights(data)[asked]
    error = (weight * (network.predicted(z, data)[asked] - true)).square().sum()
    count = torch.tensor(float(true.numel()), device=z.device)
    return Loss(error, (weight * true).square().sum(), count)


@torch.no_grad()
def fit_linear(
    network: MoleculeNetwork,
    items: Sequence[Data],
    masking: MoleculeMasking,
    held_out: Sequence[Data],
) -> None:
    """Set the linear part of a network to the ridge regression on niches of expected fractions.

    The ridge draws it to the expected fractions of the cell itself: where neighbours tell nothing
    more, these are the prediction. Its strength is the best of six on held-out molecules.

    Args:
        network: Network, trained in place.
        items: Items of :class:`~stofm_geo.data.molecules.MoleculeSlice`.
        masking: Its split is drawn with PyTorch's global generator.
        held_out: Masked sub-slices, or batches of them, to choose the strength on.
    """
    size = 3 * network.in_channels + 1
    gram = torch.zeros(size, size, dtype=torch.float64)
    moment = torch.zeros(size, network.in_channels, dtype=torch.float64)
    cells, order = 0, torch.randperm(len(items)).tolist() * _MAX_DRAWS
    for index in order:
        n, y = _regression(network, masking.split(items[index]))
        gram += n.t() @ n
        moment += n.t() @ y
        cells += len(n)
        if cells >= _MIN_CELLS:
            break
    tests = [_regression(network, data) for data in held_out]
    itself = torch.eye(size, network.in_channels, dtype=torch.float64)
    # The bias, too, which is 0 for cells without end: of few, one that stands out decides it.
    penalty = torch.eye(size, dtype=torch.float64)
    best = torch.inf
    for strength in _RIDGES:
        weight = torch.linalg.solve(gram + strength * penalty, moment + strength * itself)
        error = sum(float((network.widths * (n @ weight - y)).square().sum()) for n, y in tests)
        if error < best:
            best = error
            network.linear.weight.copy_(weight[:-1].t())
            network.linear.bias.copy_(weight[-1])


def _regression(network: MoleculeNetwork, data: Data) -> tuple[Tensor, Tensor]:
    """Return niches with a column of ones, and targets, of core cells, in double precision."""
    niche = network.inputs(data).tensor_split(2, dim=1)[1][data.core_mask].double()
    return torch.cat([niche, niche.new_ones(len(niche), 1)], dim=1), data.y[data.core_mask].double()
