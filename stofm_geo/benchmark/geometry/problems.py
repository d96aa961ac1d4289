"""Problems on graphs in the plane: their classes, or a vector of each node."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch_geometric.data import Data

GraphKind = Literal["graph_classes", "displacements", "axes"]


@dataclass
class GraphProblem:
    """Prediction problem on graphs with positions in the plane.

    Graphs have ``x`` ``[N, F]``, ``pos`` ``[N, 2]``, ``edge_index``, and may have ``vectors``
    ``[N, V, 2]``, which rotate with the positions. Predictions are a list of arrays, one per list
    of test graphs:

    - ``kind="graph_classes"``: classes ``[graphs]``. ``y`` of training graphs is a class, ``[1]``.
    - ``"displacements"``: vectors of all nodes ``[nodes, 2]``, in the order of the graphs.
    - ``"axes"``: the same; only their direction is scored, where ``mask`` ``[N]`` is true.

    Attributes:
        kind: Kind of the predictions.
        train: Training graphs.
        validation: Graphs to choose the number of epochs with.
        test: Lists of test graphs, without ``y``.
        names: Classes; empty for vectors.
    """

    kind: GraphKind
    train: list[Data]
    validation: list[Data]
    test: list[list[Data]]
    names: list[str] = field(default_factory=list)
    leak_free: bool = True

    def digest(self) -> str:
        """Return a hash of the sizes, features and targets of the graphs, rounded."""
        digest = hashlib.sha256(repr((self.kind, self.names)).encode())
        for graphs in (self.train, self.validation, *self.test):
            digest.update(str(len(graphs)).encode())
            for data in graphs:
                digest.update(repr((data.num_nodes, data.num_edges)).encode())
                for key in ("x", "pos", "y"):
                    value = data.get(key)
                    if value is not None:
                        # Of the last digits, platforms differ.
                        rounded = np.round(value.double().mean(dim=0).numpy(), 3) + 0.0
                        digest.update(rounded.tobytes())
        return digest.hexdigest()[:16]


def check_test_graphs(problem: GraphProblem) -> None:
    """Check that test graphs have no targets.

    Raises:
        ValueError: A test graph has ``y``.
    """
    for graphs in problem.test:
        if any("y" in data for data in graphs):
            raise ValueError("a test graph has y, which models see; remove it")
