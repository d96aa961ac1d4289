"""What is written of an annotator beside its weights, and checked as it is read."""

from __future__ import annotations

from typing import Any, TypedDict

from stofm_geo.tasks.annotation.neighborhoods import check_task


class HeldOutScores(TypedDict):
    """Scores on held-out tissue.

    Attributes:
        cells: Held-out cells with a label.
        accuracy: Share of them that is right.
        macro_f1: Mean F1 over their labels.
    """

    cells: int
    accuracy: float
    macro_f1: float


class AnnotationRecord(TypedDict, total=False):
    """How an annotator was trained.

    Attributes:
        method: ``"probe"``, ``"mlp"``, ``"lora"`` or ``"full"``.
        seed: Random seed.
        slices: Slices it was trained on.
        labelled_cells: Their cells with a label.
        strength: Penalty of the linear classifier.
        steps: Training steps of the network.
        hidden_share: Weight of the hidden layer's classifier, with ``"mlp"``.
        held_out: Scores on held-out tissue.
        held_out_before: Those of the linear classifier on the same cells.
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


def checked(own: Any) -> dict[str, Any]:
    """Check the configuration of a saved annotator.

    Raises:
        KeyError, TypeError, ValueError: Something is missing, or is of another kind.
    """
    if not isinstance(own, dict):
        raise TypeError(f"annotation must be a dictionary; found {type(own).__name__}")
    classes = own["classes"]
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise TypeError("classes must be a list of names")
    if len(set(classes)) < max(len(classes), 1):
        raise ValueError("classes must be names, each once")
    check_task(own["task"])
    for name in ("absolute", "mlp"):
        if not isinstance(own[name], bool):
            raise TypeError(f"{name} must be true or false; found {own[name]!r}")
    if not isinstance(own["record"], dict) or not isinstance(own["record"].get("method"), str):
        raise ValueError("record must tell of the method")
    return own
