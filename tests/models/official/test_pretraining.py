from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data

from stofm_geo.models.official import OfficialMaskingConfig, losses, puzzle, subslices


@pytest.fixture(scope="module")
def piece() -> Data:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 64)).astype(np.float32)
    return subslices(rng.uniform(0, 9, (200, 2)), x, rng.uniform(-9, 9, (5, 2)), x[:5])[0]


def matrix(data: Data) -> torch.Tensor:
    full = torch.full((data.num_nodes, data.num_nodes), 100.0)
    full[data.edge_index[1], data.edge_index[0]] = data.edge_attr
    return full


def test_published_shares(piece) -> None:
    made = puzzle(piece, generator=torch.Generator().manual_seed(0))
    hidden = (made.x == -100).all(dim=1)
    assert int(hidden.sum()) == 24 and int(made.target_mask.sum()) == 30  # 12 % and 3 % of 200
    assert (made.target_mask | ~hidden).all() and (made.node_type[made.target_mask] == 0).all()
    assert torch.equal(made.x_true, piece.x) and torch.equal(made.x[~hidden], piece.x[~hidden])
    moved = (made.pos != piece.pos).any(dim=1)
    assert int(moved.sum()) == 24
    steps = (made.pos - piece.pos)[moved]
    extent = piece.pos[6:].amax(0) - piece.pos[6:].amin(0)
    sigma = 5 * float((extent.prod() / 200).sqrt())
    assert 0.7 * sigma < float(steps.std()) < 1.3 * sigma


def test_moved_cells_are_told_all_and_others_what_they_were(piece) -> None:
    made = puzzle(piece)
    moved = (made.pos != piece.pos).any(dim=1)
    full, before = matrix(made), matrix(piece)
    distance = (made.pos[:, None] - made.pos).norm(dim=-1).float()
    distance[0] = distance[:, 0] = 0
    torch.testing.assert_close(full[moved], distance[moved])
    torch.testing.assert_close(full[:, moved], distance[:, moved])
    assert torch.equal(full[~moved][:, ~moved], before[~moved][:, ~moved])
    code = made.edge_index[1] * made.num_nodes + made.edge_index[0]
    assert (torch.diff(code) > 0).all()


def test_pairs_asked_for_are_true_distances_of_told_cells(piece) -> None:
    made = puzzle(piece)
    src, dst = made.pair_index
    assert (made.node_type[made.pair_index] == 0).all() and (src != dst).all()
    torch.testing.assert_close(
        made.pair_distance, (piece.pos[src] - piece.pos[dst]).norm(dim=1).float()
    )
    moved = (made.pos != piece.pos).any(dim=1)
    ends = torch.zeros_like(moved)
    ends[src] = True
    assert (ends | ~moved).all()
    touched = torch.bincount(torch.cat([src, dst]), minlength=made.num_nodes)
    assert int((touched > 90).sum()) >= 30  # the 24 moved and 6 others, some 50 pairs both ways


def test_losses_of_a_batch_train_all_parameters(tiny, piece) -> None:
    network = tiny.network().train()
    hidden, distance = losses(network, Batch.from_data_list([puzzle(piece), puzzle(piece)]))
    (hidden + distance).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    network.lm_head = None
    with pytest.raises(ValueError, match="no heads of pre-training"):
        losses(network, puzzle(piece))


def test_a_seed_gives_the_same_puzzle(piece) -> None:
    one, other = (puzzle(piece, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    for key, value in one:
        assert torch.equal(value, other[key]), key
    nothing = puzzle(piece, OfficialMaskingConfig(0, 0, move_share=0, move_kept=0))
    assert not nothing.target_mask.any() and torch.equal(nothing.edge_attr, piece.edge_attr)


def test_shares_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="mask_share must be a fraction"):
        OfficialMaskingConfig(mask_share=1.2)
    with pytest.raises(ValueError, match=r"move_share and move_kept sum to 1\.1"):
        OfficialMaskingConfig(move_share=0.9, move_kept=0.2)
