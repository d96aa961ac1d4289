"""Networks and their configuration."""

from stofm_geo.genes import PanelEncoder
from stofm_geo.networks.config import SToFMConfig
from stofm_geo.networks.molecules import MoleculeNetwork
from stofm_geo.networks.niches import NicheNetwork
from stofm_geo.networks.stofm import SToFMNetwork

__all__ = ["MoleculeNetwork", "NicheNetwork", "SToFMConfig", "SToFMNetwork", "make_network"]


def make_network(
    in_channels: int, config: SToFMConfig, encoder: PanelEncoder | None = None
) -> SToFMNetwork:
    """Return the network of a configuration's objective; see :class:`SToFMNetwork`."""
    network = MoleculeNetwork if config.objectives == "molecules" else NicheNetwork
    return network(in_channels, config, encoder)
