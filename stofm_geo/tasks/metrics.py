"""Metrics of predicted labels: agreement with known labels, calibration, spatial coherence."""

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

_NEIGHBORS = 6


class LabelScores(TypedDict):
    """Agreement of predicted labels with known labels.

    Attributes:
        cells: Number of cells with a known label.
        accuracy: Fraction of correct labels.
        macro_f1: Mean F1 score over the known labels.
        f1: F1 score of each known label.
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
        coherence: Mean fraction of a cell's 6 nearest neighbours with the same predicted label.
        coherence_of_truth: The same for known labels; ``None`` if some are missing.
        unknown: Known labels that are not among the classes.
    """

    calibration_error: float
    coherence: float
    coherence_of_truth: float | None
    unknown: list[str]


def scores(truth: np.ndarray, predicted: np.ndarray) -> LabelScores:
    """Score predicted labels ``[n]`` against known ``truth`` ``[n]``, where that is not missing."""
    truth, predicted = read_names(truth), read_names(predicted)
    known = truth.astype(bool)
    # A missing prediction counts as wrong.
    truth, predicted = (
        truth[known].astype(str),
        np.where(predicted, predicted, "")[known].astype(str),
    )
    labels = np.unique(truth)
    f1 = f1_score(truth, predicted, labels=labels, average=None, zero_division=0)
    return {
        "cells": len(truth),
        "accuracy": float(accuracy_score(truth, predicted)),
        "macro_f1": float(f1.mean()),
        "f1": dict(zip(labels.tolist(), f1.tolist(), strict=True)),
        "ari": float(adjusted_rand_score(truth, predicted)),
        "nmi": float(normalized_mutual_info_score(truth, predicted)),
    }


def balanced_loss(logits: np.ndarray, codes: np.ndarray) -> float:
    """Return the class-balanced cross-entropy of logits ``[n, C]`` and classes ``[n]``."""
    count = logits.shape[1]
    weights = balanced(codes, count)[codes]
    probability = softmax(logits, axis=1)
    return float(log_loss(codes, probability, labels=range(count), sample_weight=weights))


def calibration_error(probability: np.ndarray, codes: np.ndarray) -> float:
    """Return the expected calibration error over 15 bins.

    Args:
        probability: Predicted probabilities ``[n, C]``.
        codes: Known classes ``[n]``; -1 for an unknown class, of which every prediction is wrong.
    """
    from torchmetrics.functional.classification import (
        multiclass_calibration_error,  # slow to import
    )

    # An extra class with probability 0 for unknown labels.
    extra = np.zeros((len(probability), 1), dtype=probability.dtype)
    padded = torch.from_numpy(np.concatenate([probability, extra], axis=1))
    target = torch.from_numpy(np.where(codes < 0, probability.shape[1], codes))
    return float(multiclass_calibration_error(padded, target, padded.shape[1], n_bins=15))


def coherence(codes: np.ndarray, positions: np.ndarray) -> float:
    """Return the mean fraction of a cell's 6 nearest neighbours that have its label.

    Args:
        codes: Labels ``[n]`` as integers.
        positions: Positions ``[n, 2]`` of the cells of one slice.
    """
    edges = SpatialKNN(_NEIGHBORS)(Data(pos=torch.from_numpy(positions))).edge_index
    label = torch.from_numpy(codes)
    same = (label[edges[0]] == label[edges[1]]).double()
    return float(scatter(same, edges[1], dim_size=len(label), reduce="mean").mean())


def mean_coherence(codes: np.ndarray, slices: Sequence[TissueSlice]) -> float:
    """Return the mean :func:`coherence` of the slices, weighted by their numbers of cells."""
    by_slice = [coherence(codes[tissue.row], tissue.pos) for tissue in slices]
    return float(np.average(by_slice, weights=[len(tissue) for tissue in slices]))
