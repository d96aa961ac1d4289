"""Configuration and training record of a saved annotator."""

from __future__ import annotations

from typing import Any, TypedDict

from stofm_geo.tasks.annotation.neighborhoods import check_task


class HeldOutScores(TypedDict):
    """Scores on held-out tissue.

    Attributes:
        cells: Held-out cells with a label.
        accuracy: Fraction of correct labels.
        macro_f1: Mean F1 score over the labels.
    """

    cells: int
    accuracy: float
    macro_f1: float


class AnnotationRecord(TypedDict, total=False):
    """How an annotator was trained.

    Attributes:
        method: ``"probe"``, ``"mlp"``, ``"lora"`` or ``"full"``.
        seed: Random seed.
        slices: Number of training slices.
        labelled_cells: Number of cells with a label.
        strength: Inverse regularisation strength of the linear classifier.
        steps: Training steps of the network.
        hidden_share: Weight of the hidden-layer classifier, with ``"mlp"``.
        held_out: Scores on held-out tissue.
        held_out_before: Scores of the linear classifier on the same cells.
    """

    method: str
    seed: int
    slices: int
    labelled_cells: int
    strength: float
    steps: int
    hidden_share: float
    held_out: HeldOutScores
    held_out_before: HeldOutScores


def checked(settings: Any) -> dict[str, Any]:
    """Check the configuration of a saved annotator.

    Raises:
        KeyError, TypeError, ValueError: A field is missing or invalid.
    """
    if not isinstance(settings, dict):
        raise TypeError(f"annotation must be a dictionary; found {type(settings).__name__}")
    classes = settings["classes"]
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise TypeError("classes must be a list of names")
    if len(set(classes)) < max(len(classes), 1):
        raise ValueError("classes must be distinct names, at least one")
    check_task(settings["task"])
    for name in ("absolute", "mlp"):
        if not isinstance(settings[name], bool):
            raise TypeError(f"{name} must be true or false; found {settings[name]!r}")
    if not isinstance(settings["record"], dict) or not isinstance(
        settings["record"].get("method"), str
    ):
        raise ValueError("record must be a dictionary with a method")
    return settings
