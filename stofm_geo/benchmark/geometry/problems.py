"""Problems on graphs in the plane: their classes, or a vector of each node."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor
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
        leak_free: Whether no test graph is of the tissue, ... of a training graph.

    Examples:
        >>> from stofm_geo.benchmark import GraphProblem
        >>> from stofm_geo.datasets import toy_stars
        >>> graphs = toy_stars("direction", 8)
        >>> test = graphs[6:]
        >>> for graph in test:
        ...     del graph.y
        >>> problem = GraphProblem("graph_classes", graphs[:4], graphs[4:6], [test], ["0", "1"])
        >>> len(problem.train), len(problem.digest())
        (4, 16)
    """

    kind: GraphKind
    train: list[Data]
    validation: list[Data]
    test: list[list[Data]]
    names: list[str] = field(default_factory=list)
    leak_free: bool = True

    def digest(self) -> str:
        """Return a hash of the graphs, which notices other nodes, edges, features or targets."""
        digest = hashlib.sha256(repr((self.kind, self.names)).encode())
        for graphs in (self.train, self.validation, *self.test):
            digest.update(str(len(graphs)).encode())
            for data in graphs:
                for key, value in sorted(data.to_dict().items()):
                    digest.update(f"{key} {list(value.shape)}".encode())
                    if value.is_floating_point():
                        digest.update(_projection(value).tobytes())
                    else:
                        digest.update(value.numpy().tobytes())
        return digest.hexdigest()[:16]


def _projection(values: Tensor) -> np.ndarray:
    """Return two sums of all numbers with weights that depend on their places, rounded.

    Of the last digits, which are rounded away, platforms differ.
    """
    flat = values.double().numpy().ravel()
    place = np.arange(1, len(flat) + 1) ** 1.5
    return np.round([np.cos(place) @ flat, np.sin(place) @ flat], 2) + 0.0


def check_test_graphs(problem: GraphProblem) -> None:
    """Check that test graphs have no targets, and are not among those for training.

    Raises:
        ValueError: A test graph has ``y`` or ``mask``, or is a training graph, rotated or not.
    """
    known = {_signature(data) for data in (*problem.train, *problem.validation)}
    for data in (data for graphs in problem.test for data in graphs):
        for key in ("y", "mask"):
            if key in data:
                raise ValueError(f"a test graph has {key}, which models see; remove it")
        if _signature(data) in known:
            raise ValueError(
                "the split leaks: a test graph is also a training graph; split graphs before they "
                "are rotated"
            )


def _signature(data: Data) -> tuple[bytes, bytes]:
    """Return features and distances from the centre of mass, which rotations do not change."""
    pos = data.pos.double()
    distance = (pos - pos.mean(dim=0)).norm(dim=1)
    return data.x.numpy().tobytes(), np.round(distance.numpy(), 2).tobytes()
