"""Networks and their configuration."""

import torch

from stofm_geo.genes import CellFeatures
from stofm_geo.networks.config import SToFMConfig
from stofm_geo.networks.molecules import MoleculeNetwork
from stofm_geo.networks.niches import NicheNetwork
from stofm_geo.networks.panel_molecules import PanelMoleculeNetwork
from stofm_geo.networks.stofm import SToFMNetwork

__all__ = [
    "MoleculeNetwork",
    "NicheNetwork",
    "PanelMoleculeNetwork",
    "SToFMConfig",
    "SToFMNetwork",
    "make_network",
]


def make_network(config: SToFMConfig, encoder: CellFeatures) -> SToFMNetwork:
    """Return the network of a configuration's objective for the features of an encoder."""
    if config.objectives != "molecules":
        return NicheNetwork(encoder.out_channels, config, encoder.module)
    if encoder.module is not None:
        return PanelMoleculeNetwork(config, encoder.module)
    widths = torch.from_numpy(encoder.fractions.widths)  # type: ignore[attr-defined]  # of molecules
    return MoleculeNetwork(encoder.out_channels, config, widths)
