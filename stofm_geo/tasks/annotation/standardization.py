"""Standardisation of classifier inputs, within slices or over all of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from stofm_geo.networks.stofm import SToFMNetwork
from stofm_geo.tasks.annotation.neighborhoods import column_masks, column_parts, column_weights

_SMALL = 1e-6


class Moments(NamedTuple):
    """Means and divisors of columns, ``[D]`` each."""

    mean: Tensor
    std: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        """Standardise values ``[n, D]``."""
        return (values - self.mean) / self.std


class FeatureStandardizer(nn.Module):
    """Standardiser of embeddings and their multi-hop means, the classifier inputs.

    There is one divisor for each part of them: principal components keep their relative sizes, so
    that small ones, mostly noise, stay small.

    Args:
        network: Network that computes the embeddings.
        task: ``"region"`` or ``"cell_type"``.
        absolute: Whether the classifier of regions also gets inputs standardised over all slices.
        classes: Number of classes.

    Attributes:
        overall: Moments of all training cells.
        scale: Weight of each input.
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
        self.parts = column_parts(network, task)
        self.reads = {whole: column_masks(network, task, whole) for whole in (False, True)}
        self.register_buffer("mean", torch.zeros_like(scale))
        self.register_buffer("std", torch.ones_like(scale))
        both = task == "region" and absolute
        self.register_buffer("scale", torch.cat([scale, scale]) / 2**0.5 if both else scale)
        self.register_buffer("centres", torch.zeros(classes, len(self.scale)))
        self.register_buffer("within", torch.ones(len(self.scale)))

    @property
    def overall(self) -> Moments:
        """Return the moments of all training cells."""
        return Moments(self.mean, self.std)

    def moments(self, values: Tensor) -> Moments:
        """Compute the moments of vectors and their multi-hop means, ``[n, D]``."""
        variance = values.var(dim=0, correction=0)
        parts = [variance[start:end] for start, end in self.parts]
        std = [part.mean().sqrt().expand_as(part) + _SMALL for part in parts]
        return Moments(values.mean(dim=0), torch.cat(std))

    def fit(self, values: Tensor) -> None:
        """Store the moments of the training cells, ``[n, D]``."""
        self.mean, self.std = self.moments(values)

    def forward(self, values: Tensor, of_slice: Moments) -> Tensor:
        """Return inputs ``[n, inputs]`` from vectors and their multi-hop means, ``[n, D]``."""
        parts = [of_slice(values)] if self.task == "region" else []
        if self.absolute or not parts:
            parts.append(self.overall(values))
        return torch.cat(parts, dim=1) * self.scale

    def candidates(self, values: Tensor) -> list[Tensor]:
        """Return the candidate inputs of a slice.

        The first is standardised within the slice; for regions learned from one slice, a second
        is standardised by the moments of that slice.
        """
        inputs = [self(values, self.moments(values))]
        if self.task == "region" and not self.absolute:
            inputs.append(self(values, self.overall))
        return inputs

    def options(self, whole: bool = False) -> list[np.ndarray]:
        """Return masks of the inputs that may be read, ``[inputs]`` bool each.

        Args:
            whole: Whether whole vectors are read (:func:`column_masks`).
        """
        return [used.repeat(len(self.scale) // len(used)).numpy() for used in self.reads[whole]]

    def fit_centroids(self, x: Tensor, codes: Tensor) -> None:
        """Store the class centroids of inputs ``[n, inputs]`` of classes ``[n]``."""
        sums = torch.zeros_like(self.centres).index_add_(0, codes, x)
        self.centres = sums / codes.bincount(minlength=len(sums)).clamp_min(1)[:, None]
        self.within = (x - self.centres[codes]).std(dim=0, correction=0) + _SMALL

    def centroid_distance(self, x: Tensor) -> float:
        """Return the mean squared distance to the nearest centroid, in within-class deviations."""
        distance = torch.cdist(x / self.within, self.centres / self.within)
        return float(distance.min(dim=1).values.square().mean())
