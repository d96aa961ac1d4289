from __future__ import annotations

import torch

from stofm_geo.nn import DistanceHead


def test_a_distance_for_each_edge() -> None:
    for edges in (0, 1, 7):
        assert DistanceHead(3)(torch.rand(edges, 3)).shape == (edges,)
