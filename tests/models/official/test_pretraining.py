from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data

from stofm_geo.models.official import OfficialMaskingConfig, losses, mask_subslice, subslices


@pytest.fixture(scope="module")
def subslice() -> Data:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 64)).astype(np.float32)
    return subslices(rng.uniform(0, 9, (200, 2)), x, rng.uniform(-9, 9, (5, 2)), x[:5])[0]


def matrix(data: Data) -> torch.Tensor:
    full = torch.full((data.num_nodes, data.num_nodes), 100.0)
    full[data.edge_index[1], data.edge_index[0]] = data.edge_attr
    return full


def test_published_shares(subslice) -> None:
    made = mask_subslice(subslice, generator=torch.Generator().manual_seed(0))
    hidden = (made.x == -100).all(dim=1)
    assert int(hidden.sum()) == 24 and int(made.target_mask.sum()) == 30  # 12 % and 3 % of 200
    assert (made.target_mask | ~hidden).all() and (made.node_type[made.target_mask] == 0).all()
    assert torch.equal(made.x_true, subslice.x) and torch.equal(
        made.x[~hidden], subslice.x[~hidden]
    )
    moved = (made.pos != subslice.pos).any(dim=1)
    assert int(moved.sum()) == 24
    steps = (made.pos - subslice.pos)[moved]
    extent = subslice.pos[6:].amax(0) - subslice.pos[6:].amin(0)
    sigma = 5 * float((extent.prod() / 200).sqrt())
    assert 0.7 * sigma < float(steps.std()) < 1.3 * sigma


def test_moved_cells_are_told_all_and_others_what_they_were(subslice) -> None:
    made = mask_subslice(subslice)
    moved = (made.pos != subslice.pos).any(dim=1)
    full, before = matrix(made), matrix(subslice)
    distance = (made.pos[:, None] - made.pos).norm(dim=-1).float()
    distance[0] = distance[:, 0] = 0
    torch.testing.assert_close(full[moved], distance[moved])
    torch.testing.assert_close(full[:, moved], distance[:, moved])
    assert torch.equal(full[~moved][:, ~moved], before[~moved][:, ~moved])
    code = made.edge_index[1] * made.num_nodes + made.edge_index[0]
    assert (torch.diff(code) > 0).all()


def test_pairs_asked_for_are_true_distances_of_told_cells(subslice) -> None:
    made = mask_subslice(subslice)
    src, dst = made.pair_index
    assert (made.node_type[made.pair_index] == 0).all() and (src != dst).all()
    torch.testing.assert_close(
        made.pair_distance, (subslice.pos[src] - subslice.pos[dst]).norm(dim=1).float()
    )
    moved = (made.pos != subslice.pos).any(dim=1)
    ends = torch.zeros_like(moved)
    ends[src] = True
    assert (ends | ~moved).all()
    touched = torch.bincount(torch.cat([src, dst]), minlength=made.num_nodes)
    assert int((touched > 90).sum()) >= 30  # the 24 moved and 6 others, some 50 pairs both ways


def test_losses_of_a_batch_train_all_parameters(tiny, subslice) -> None:
    network = tiny.network().train()
    hidden, distance = losses(
        network, Batch.from_data_list([mask_subslice(subslice), mask_subslice(subslice)])
    )
    (hidden + distance).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    network.lm_head = None
    with pytest.raises(ValueError, match="no heads of pre-training"):
        losses(network, mask_subslice(subslice))


def test_a_seed_gives_the_same_puzzle(subslice) -> None:
    one, other = (
        mask_subslice(subslice, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    for key, value in one:
        assert torch.equal(value, other[key]), key
    nothing = mask_subslice(subslice, OfficialMaskingConfig(0, 0, noise_ratio=0, noise_kept=0))
    assert not nothing.target_mask.any() and torch.equal(nothing.edge_attr, subslice.edge_attr)


def test_shares_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="mask_ratio must be a fraction"):
        OfficialMaskingConfig(mask_ratio=1.2)
    with pytest.raises(ValueError, match=r"noise_ratio and noise_kept sum to 1\.1"):
        OfficialMaskingConfig(noise_ratio=0.9, noise_kept=0.2)
