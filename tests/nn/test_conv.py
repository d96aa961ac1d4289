from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from stofm_geo.nn import SE2TransformerConv


def example(n: int = 8, edges: int = 30, channels: int = 12, heads: int = 3) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    x = torch.randn(n, channels, dtype=torch.float64)
    edge_index = torch.randint(n, (2, edges))
    return x, edge_index, torch.randn(edges, heads, dtype=torch.float64)


@pytest.fixture
def conv() -> SE2TransformerConv:
    torch.manual_seed(1)
    return SE2TransformerConv(12, heads=3).double()


def test_on_all_pairs_it_is_torchs_multi_head_attention(conv: SE2TransformerConv) -> None:
    x, _, _ = example()
    other = nn.MultiheadAttention(12, 3, batch_first=True).double()
    other.in_proj_weight, other.in_proj_bias = conv.lin_qkv.weight, conv.lin_qkv.bias
    other.out_proj.weight, other.out_proj.bias = conv.lin_out.weight, conv.lin_out.bias
    bias = torch.randn(3, 8, 8, dtype=torch.float64)
    dst, src = torch.cartesian_prod(torch.arange(8), torch.arange(8)).t()
    out, _ = conv(x, torch.stack([src, dst]), bias[:, dst, src].t())
    torch.testing.assert_close(out, other(x[None], x[None], x[None], attn_mask=bias)[0][0])


def test_the_pair_state_is_the_logits(conv: SE2TransformerConv) -> None:
    x, edge_index, pair = example()
    q, k, _ = conv.lin_qkv(x).view(8, 3, 3, 4).unbind(1)
    expected = (q[edge_index[1]] * k[edge_index[0]]).sum(-1) / 2 + pair
    torch.testing.assert_close(conv(x, edge_index, pair)[1], expected)


def test_numbering_and_order_do_not_matter(conv: SE2TransformerConv) -> None:
    x, edge_index, pair = example()
    out, state = conv(x, edge_index, pair)
    node, edge = torch.randperm(8), torch.randperm(30)
    again = conv(x[node], node.argsort()[edge_index][:, edge], pair[edge])
    torch.testing.assert_close(again, (out[node], state[edge]))


def test_gradcheck(conv: SE2TransformerConv) -> None:
    x, edge_index, pair = example(n=4, edges=7)
    leaves = (x.requires_grad_(), pair.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, pair: conv(x, edge_index, pair), leaves)
    conv(x, edge_index, pair)[0].square().sum().backward()
    assert all(p.grad.isfinite().all() for p in conv.parameters())


@pytest.mark.parametrize(("n", "edges"), [(0, 0), (1, 0), (5, 0), (1, 1), (9, 2)])
def test_graphs_with_little_in_them(conv: SE2TransformerConv, n: int, edges: int) -> None:
    x = torch.randn(n, 12, dtype=torch.float64)
    edge_index = torch.arange(2 * edges).view(2, edges) % max(n, 1)
    out, pair = conv(x, edge_index, torch.randn(edges, 3, dtype=torch.float64))
    assert out.shape == (n, 12) and pair.shape == (edges, 3) and out.isfinite().all()
    alone = ~torch.isin(torch.arange(n), edge_index[1])
    torch.testing.assert_close(out[alone], conv.lin_out.bias.expand(int(alone.sum()), -1))


def test_dropout_only_in_training() -> None:
    torch.manual_seed(0)
    conv = SE2TransformerConv(12, heads=3, dropout=0.5).double()
    args = example()
    assert (conv(*args)[0] == 0).any()
    conv.eval()
    assert torch.equal(conv(*args)[0], conv(*args)[0]) and (conv(*args)[0] != 0).all()


def test_parameters(conv: SE2TransformerConv) -> None:
    before = [p.clone() for p in conv.parameters()]
    conv.reset_parameters()
    assert not any(map(torch.equal, before, conv.parameters()))
    assert repr(conv) == "SE2TransformerConv(12, heads=3)"
    with pytest.raises(ValueError, match="channels=10 must be a multiple of heads=4"):
        SE2TransformerConv(10, heads=4)
