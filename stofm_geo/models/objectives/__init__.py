"""What training asks for: a puzzle made of a piece, and two losses of what is said to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch_geometric.data import Data

from stofm_geo.models.network import Network
from stofm_geo.models.objectives.loss import Loss
from stofm_geo.models.objectives.niches import NichePuzzle, distance_loss, niche_loss
from stofm_geo.models.objectives.published import PublishedPuzzle, cell_loss, pair_loss
from stofm_geo.models.settings import Settings


class Objectives(NamedTuple):
    """A kind of puzzle and its losses.

    Attributes:
        puzzle: Makes puzzles of pieces (:func:`~stofm_geo.data.pieces.pieces`).
        niche_loss: Of the network, a puzzle and its embeddings.
        distance_loss: Of the network, a puzzle and its pair states.
    """

    puzzle: Callable[[Data], Data]
    niche_loss: Callable[[Network, Data, Tensor], Loss]
    distance_loss: Callable[[Network, Data, Tensor], Loss]

    @classmethod
    def of(cls, settings: Settings) -> Objectives:
        """Those that the settings name."""
        if settings.objectives == "official":
            return cls(PublishedPuzzle(settings), cell_loss, pair_loss)
        return cls(NichePuzzle(settings), niche_loss, distance_loss)
