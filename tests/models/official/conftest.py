"""Reference vectors: made by the published code on a CPU, with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import Data

from stofm_geo.models.official import OfficialNetwork, checkpoint
from stofm_geo.models.official.network import Config

SHARED = Path(__file__).parents[4] / "shared" / "golden"


class Golden:
    """A slice, a model, a padded batch and what the published code made of them."""

    def __init__(self, arrays: dict[str, np.ndarray], config: dict) -> None:
        self.arrays = arrays
        self.config = config

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    def has(self, name: str) -> bool:
        """Whether there is such an array."""
        return name in self.arrays

    def weights(self) -> dict[str, Tensor]:
        """The state dict as it was stored."""
        names = [name for name in self.arrays if name.startswith("weights/")]
        return {name.removeprefix("weights/"): self[name] for name in names}

    def network(self, attention: str = "slice") -> OfficialNetwork:
        """The network with these weights."""
        network = OfficialNetwork(Config.read(self.config), attention)
        stored = {checkpoint.bare(name): t for name, t in self.weights().items()}
        network.load_state_dict(checkpoint.fitting(stored, network, "golden"))
        return network.eval()

    def graphs(self) -> list[Data]:
        """The padded batch as graphs, with what the losses ask for."""
        return [self._graph(i) for i in range(len(self["model/batch.token_types"]))]

    def _graph(self, i: int) -> Data:
        kind = self["model/batch.token_types"][i].long()
        n = int((kind != 3).sum())
        matrix = self["model/batch.attn_bias"][i, :n, :n]
        dst, src = (matrix != 100).nonzero().t()
        asked = self["model/pair_label_mask"][i, :n, :n].nonzero().t()
        x = self["model/batch.token_embeddings"][i, :n]
        return Data(
            x=x,
            node_type=kind[:n],
            edge_index=torch.stack([src, dst]),
            edge_attr=matrix[dst, src],
            x_true=x,
            target_mask=self["model/labels_rows"][i, :n],
            pair_index=asked.flip(0),
            pair_distance=matrix[asked[0], asked[1]],
            num_nodes=n,
            z=self["model/out.last_hidden_state"][i, :n],
        )


def read(name: str) -> Golden:
    """``tiny`` of the repository, or another of the shared folder."""
    if name == "tiny":
        with np.load(Path(__file__).with_name("tiny.npz")) as stored:
            arrays = dict(stored)
        return Golden(arrays, json.loads(str(arrays.pop("config"))))
    from safetensors import safe_open
    from safetensors.numpy import load_file

    arrays = {}
    for part in ("weights", "model", "slice"):
        stored = load_file(SHARED / f"{name}.{part}.safetensors")
        arrays |= {f"{part}/{key}": value for key, value in stored.items()}
    with safe_open(SHARED / f"{name}.weights.safetensors", "np") as file:
        return Golden(arrays, json.loads(file.metadata()["config"]))


@pytest.fixture(scope="session")
def tiny() -> Golden:
    """Two sub-slices, 2 layers."""
    return read("tiny")


@pytest.fixture(scope="session", params=["tiny", pytest.param("base", marks=pytest.mark.shared)])
def golden(request: pytest.FixtureRequest) -> Golden:
    """``tiny``, and where it is there ``base``: 467 nodes, the published size."""
    if request.param == "base" and not SHARED.is_dir():
        pytest.skip("the reference vectors (../shared/golden) are not here")
    return read(request.param)


@pytest.fixture(scope="session")
def official_folder() -> Path:
    """A checkpoint in the published layout."""
    if not SHARED.is_dir():
        pytest.skip("the reference vectors (../shared/golden) are not here")
    return SHARED / "official_checkpoint"
