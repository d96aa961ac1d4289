"""Metrics of labels: agreement with known ones, calibration and spatial coherence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from scipy.special import softmax
from sklearn.metrics import (
    accuracy_score,
    adjusted_rand_score,
    f1_score,
    log_loss,
    normalized_mutual_info_score,
)
from torch_geometric.data import Data
from torch_geometric.utils import scatter

from stofm_geo._names import read_names
from stofm_geo.data import TissueSlice
from stofm_geo.tasks.labels import balanced
from stofm_geo.transforms import SpatialKNN

_NEAR = 6


class LabelScores(TypedDict):
    """Agreement of labels with known ones.

    Attributes:
        cells: Cells with a known label.
        accuracy: Share of them that is right.
        macro_f1: Mean F1 over the known labels.
        f1: F1 of each known label.
        ari: Adjusted Rand index.
        nmi: Normalised mutual information.
    """

    cells: int
    accuracy: float
    macro_f1: float
    f1: dict[str, float]
    ari: float
    nmi: float


class EvaluationReport(LabelScores):
    """Scores of an annotator on a labelled AnnData.

    Attributes:
        calibration_error: Expected calibration error over 15 bins.
        coherence: Share of a cell's 6 nearest neighbours that get its label.
        coherence_of_truth: That of the known labels; ``None`` where some are missing.
        unknown: Known labels that were never learned.
    """

    calibration_error: float
    coherence: float
    coherence_of_truth: float | None
    unknown: list[str]


def scores(truth: np.ndarray, found: np.ndarray) -> LabelScores:
    """Score labels ``[n]`` against known ones ``[n]``; cells without a known label are ignored."""
    truth, found = read_names(truth), read_names(found)
    known = truth.astype(bool)
    # A cell for which nothing was predicted is wrong, whatever its label.
    truth, found = truth[known].astype(str), np.where(found, found, "")[known].astype(str)
    labels = np.unique(truth)
    f1 = f1_score(truth, found, labels=labels, average=None, zero_division=0)
    return {
        "cells": len(truth),
        "accuracy": float(accuracy_score(truth, found)),
        "macro_f1": float(f1.mean()),
        "f1": dict(zip(labels.tolist(), f1.tolist(), strict=True)),
        "ari": float(adjusted_rand_score(truth, found)),
        "nmi": float(normalized_mutual_info_score(truth, found)),
    }


def balanced_loss(logits: np.ndarray, codes: np.ndarray) -> float:
    """Return the class-balanced cross-entropy of logits ``[n, C]`` and classes ``[n]``."""
    count = logits.shape[1]
    weights = balanced(codes, count)[codes]
    found = softmax(logits, axis=1)
    return float(log_loss(codes, found, labels=range(count), sample_weight=weights))


def calibration_error(probability: np.ndarray, codes: np.ndarray) -> float:
    """Return the expected calibration error over 15 bins.

    Args:
        probability: ``[n, C]``.
        codes: Known classes ``[n]``; -1 for one that is none of them, where any guess is wrong.
    """
    from torchmetrics.functional.classification import (
        multiclass_calibration_error,  # slow to import
    )

    # A column for what no guess can be.
    none = np.zeros((len(probability), 1), dtype=probability.dtype)
    padded = torch.from_numpy(np.concatenate([probability, none], axis=1))
    target = torch.from_numpy(np.where(codes < 0, probability.shape[1], codes))
    return float(multiclass_calibration_error(padded, target, padded.shape[1], n_bins=15))


def coherence(codes: np.ndarray, positions: np.ndarray) -> float:
    """Return the mean fraction of a cell's 6 nearest neighbours that have its label.

    Args:
        codes: Labels ``[n]``, whole numbers.
        positions: ``[n, 2]`` of one slice.
    """
    edges = SpatialKNN(_NEAR)(Data(pos=torch.from_numpy(positions))).edge_index
    label = torch.from_numpy(codes)
    same = (label[edges[0]] == label[edges[1]]).double()
    return float(scatter(same, edges[1], dim_size=len(label), reduce="mean").mean())


def mean_coherence(codes: np.ndarray, slices: Sequence[TissueSlice]) -> float:
    """Return the mean over the slices, weighted by their cells."""
    each = [coherence(codes[part.row], part.pos) for part in slices]
    return float(np.average(each, weights=[len(part) for part in slices]))
