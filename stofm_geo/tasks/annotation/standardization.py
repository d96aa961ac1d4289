"""How a classifier reads a slice: standardised, and by which slice's means."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from stofm_geo.networks.stofm import SToFMNetwork
from stofm_geo.tasks.annotation.neighborhoods import column_scales, column_weights, hop_masks

_SMALL = 1e-6


class Moments(NamedTuple):
    """Means and deviations of columns, ``[D]`` each."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Moments:
        """Of ``[n, D]``."""
        return cls(values.mean(dim=0), values.std(dim=0, correction=0) + _SMALL)

    def __call__(self, values: Tensor) -> Tensor:
        """Values as deviations from the mean."""
        return (values - self.mean) / self.std


class FeatureStandardizer(nn.Module):
    """What a classifier reads of vectors and what is around them.

    Args:
        network: Makes the vectors.
        task: ``"region"`` or ``"cell_type"``.
        absolute: Whether the classifier of regions also sees what differs between slices.
        classes: How many.

    Attributes:
        overall: Moments of all that was learned from.
        scale: Weights of the inputs.
    """

    mean: Tensor
    std: Tensor
    scale: Tensor
    centres: Tensor
    within: Tensor

    def __init__(self, network: SToFMNetwork, task: str, absolute: bool, classes: int) -> None:
        super().__init__()
        self.task, self.absolute = task, absolute
        scale = column_weights(network, task)
        self.reach = hop_masks(network, task)
        self.register_buffer("mean", torch.zeros_like(scale))
        self.register_buffer("std", torch.ones_like(scale))
        both = task == "region" and absolute
        self.register_buffer("scale", torch.cat([scale, scale]) / 2**0.5 if both else scale)
        self.register_buffer("centres", torch.zeros(classes, len(self.scale)))
        self.register_buffer("within", torch.ones(len(self.scale)))

    @property
    def overall(self) -> Moments:
        """See the class."""
        return Moments(self.mean, self.std)

    def fit(self, values: Tensor, network: SToFMNetwork) -> None:
        """Note the moments of all that is learned from, ``[n, D]``."""
        self.mean, std = Moments.of(values)
        self.std = column_scales(network, std, self.task)

    def forward(self, values: Tensor, of_slice: Moments) -> Tensor:
        """Inputs ``[n, inputs]`` from vectors and what is around them, ``[n, D]``."""
        parts = [of_slice(values)] if self.task == "region" else []
        if self.absolute or not parts:
            parts.append(self.overall(values))
        return torch.cat(parts, dim=1) * self.scale

    def candidates(self, values: Tensor) -> list[Tensor]:
        """Inputs of a whole slice: standardised within it; and, of regions learned from one slice,
        by that slice.
        """
        found = [self(values, Moments.of(values))]
        if self.task == "region" and not self.absolute:
            found.append(self(values, self.overall))
        return found

    def options(self) -> list[np.ndarray]:
        """Inputs by how far they look, ``[inputs]`` bool each."""
        return [used.repeat(len(self.scale) // len(used)).numpy() for used in self.reach]

    def fit_centroids(self, x: Tensor, codes: Tensor) -> None:
        """Note where classes lie among inputs ``[n, inputs]`` of cells of classes ``[n]``."""
        sums = torch.zeros_like(self.centres).index_add_(0, codes, x)
        self.centres = sums / codes.bincount(minlength=len(sums)).clamp_min(1)[:, None]
        self.within = (x - self.centres[codes]).std(dim=0, correction=0) + _SMALL

    def centroid_distance(self, x: Tensor) -> float:
        """Mean square distance of inputs from the nearest class, in deviations within classes."""
        distance = torch.cdist(x / self.within, self.centres / self.within)
        return float(distance.min(dim=1).values.square().mean())
