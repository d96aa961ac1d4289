"""Which part of the library's encoder takes how much of its time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any
from unittest import mock

from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch_geometric.nn import Linear

from stofm_geo.nn import aggregation, geometry
from stofm_geo.ops import EdgeGraph


def shares(step: Callable[[], None], model: nn.Module) -> dict[str, float]:
    """Share of the time of each part of ours, the backward's with the part it belongs to.

    ``geometry`` is distances, ``radial functions`` the bias made of them, ``edge attention`` the
    op, ``graph`` its sorting, ``linear maps`` all others than the radial functions' own.
    """

    def labelled(part: str, function: Callable) -> Callable:
        def call(*args: Any, **more: Any) -> Any:
            with record_function(f"part: {part}"):
                return function(*args, **more)

        return call

    own: set[nn.Module] = set()  # what makes the bias, maps and all
    for module in model.modules():  # parents first
        if isinstance(module, geometry.EdgeGeometry):
            own |= set(module.modules())
            module.forward = labelled("radial functions", module.forward)
        elif isinstance(module, nn.Linear | Linear) and module not in own:
            module.forward = labelled("linear maps", module.forward)
    with (
        mock.patch.object(
            aggregation, "edge_attention", labelled("edge attention", aggregation.edge_attention)
        ),
        mock.patch.object(geometry, "edge_geometry", labelled("geometry", geometry.edge_geometry)),
        mock.patch.object(
            EdgeGraph, "_by_destination", labelled("graph", EdgeGraph._by_destination)
        ),
    ):
        step()
        with profile(activities=[ProfilerActivity.CPU]) as found, record_function("part: rest"):
            step()
    spent: dict[str, float] = defaultdict(float)
    made: dict[int, str] = {}  # the number of each autograd node -> the part that made it
    for event in sorted(found.events(), key=lambda event: event.time_range.start):
        part, above = "", event
        while above is not None and not part:  # the innermost label
            if above.name.startswith("autograd::engine::evaluate_function"):
                part = made.get(above.sequence_nr, "rest")
            elif above.name.startswith("part: "):
                part = made[event.sequence_nr] = above.name.removeprefix("part: ")
            above = above.cpu_parent
        spent[part or "rest"] += event.self_cpu_time_total
    return {part: time / sum(spent.values()) for part, time in spent.items()}
