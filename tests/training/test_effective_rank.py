from __future__ import annotations

import torch

from stofm_geo.training.effective_rank import EffectiveRank


def spread(*parts: torch.Tensor) -> dict[str, float]:
    metric = EffectiveRank(parts[0].size(1))
    for part in parts:
        metric.update(part)
    return {name: float(value) for name, value in metric.compute().items()}


def test_effective_rank_of_a_ball_a_plane_a_line_and_a_point() -> None:
    torch.manual_seed(0)
    ball = torch.randn(20_000, 6)
    assert 5.9 < spread(ball)["effective_rank"] <= 6
    assert abs(spread(ball * torch.tensor([1, 1, 0, 0, 0, 0.0]))["effective_rank"] - 2) < 0.01
    assert abs(spread(ball[:, :1] * torch.arange(1.0, 7))["effective_rank"] - 1) < 1e-6
    alike = spread(torch.ones(50, 6))
    assert alike["effective_rank"] == 0 and alike["std"] < 1e-6


def test_parts_are_as_the_whole() -> None:
    torch.manual_seed(0)
    z = 3 + torch.randn(500, 4) * torch.tensor([1.0, 2, 3, 4])
    whole, parts = spread(z), spread(z[:100], z[100:])
    assert whole == parts
    assert abs(whole["std"] - float(z.std(dim=0, correction=0).median())) < 1e-5
