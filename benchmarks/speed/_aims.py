"""Aims of speed: what was asked for, what was measured before, and what the records have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from benchmarks.speed import encoder, fitting
from benchmarks.speed._section import Table, brief

Results = Mapping[str, Any]  # rows of each measurement, by its name


class Aim(NamedTuple):
    """A line of the table; ``now`` raises KeyError where there is no such record."""

    what: str
    asked: str
    before: str
    now: Callable[[Results], float]
    limit: str = ""


def _encoder(mode: str, model: str) -> Callable[[Results], float]:
    """How many times as fast as the published code."""

    def now(rows: Results) -> float:
        found = encoder.together([row for row in rows["encoder"] if row["cells"] == 1000])
        return _row(found, {"model": model, "mode": mode})["times_faster"]

    return now


def _ratio(name: str, other: str, **of: Any) -> Callable[[Results], float]:
    """How many times as long as ours another takes."""
    return lambda rows: _row(rows[name], of)["times"][other]["ratio"]


def _fit(slice_: str) -> Callable[[Results], float]:
    return lambda rows: _row(rows["fitting"], {"slice": slice_})["seconds"]


def _not_steps(slice_: str) -> Callable[[Results], float]:
    return lambda rows: fitting.not_steps(_row(rows["fitting"], {"slice": slice_}))


def _row(rows: list[dict[str, Any]], of: dict[str, Any]) -> dict[str, Any]:
    found = [row for row in rows if all(row.get(key) == value for key, value in of.items())]
    if len(found) != 1:
        raise KeyError(f"{len(found)} rows of {of}")
    return found[0]


OURS, WEIGHTS, VECTORS = encoder.NAMES["library"], encoder.NAMES["weights"], "ours, vectors"
AIMS = (
    Aim("encoder, forward: times the published code's speed", "60", "47*",
        _encoder("forward", OURS), "a third is products of matrices at the machine's own speed"),
    Aim("encoder, forward and backward", "60", "36*", _encoder("training", OURS),
        "attention; tables of radial functions are made in each step"),
    Aim("published weights, forward", "40", "23*", _encoder("forward", WEIGHTS),
        "all nodes attend to all"),
    Aim("published weights, forward and backward", "40", "19*", _encoder("training", WEIGHTS),
        "all nodes attend to all"),
    Aim("published sub-slices, 10 000 cells", "20", "5.2*",
        _ratio("subslices", "published", cells=10_000), "search for neighbours; new memory"),
    Aim("rank-value tokens, wide panel", "30", "12*",
        _ratio("tokens", "loop", file="her2st_labelled_8slices.h5ad"), "sorting"),
    Aim("attention, 1 head of 1 channel, times plain gathers' speed, forward", "1", "1.2*",
        _ratio("growth", "reference", kind="shape", size="1 x 1", mode="forward")),
    Aim("the same, forward and backward", "1", "0.71*",
        _ratio("growth", "reference", kind="shape", size="1 x 1", mode="training"),
        "passes over the edges that plain sums do not need"),
    Aim("vectors, 10 000 nodes, forward: times a plain layer's time", "1.5", "3.5",
        _ratio("layers", VECTORS, nodes=10_000, mode="forward"),
        "sums of rotated vectors; products of invariants"),
    Aim("vectors, 10 000 nodes, forward and backward", "1.5", "2.7",
        _ratio("layers", VECTORS, nodes=10_000, mode="training"), "the same"),
    Aim("fit of a Visium slice, seconds", "20", "48", _fit("Visium"), "steps of the network"),
    Aim("its share of loader, Lightning and logging", "0.2", "0.39", _not_steps("Visium"),
        "random draws of molecules in each step"),
    Aim("the same share of a toy slice, 10 000 cells", "0.2", "0.21", _not_steps("toy")),
)  # fmt: skip


def aims(found: Mapping[str, dict[str, Any]]) -> Table:
    """Return the table; a line without a record is left out."""
    rows = {name: result["rows"] for name, result in found.items() if "rows" in result}
    lines = []
    for aim in AIMS:
        try:
            now = brief(aim.now(rows))
        except KeyError:
            continue
        lines.append((aim.what, aim.asked, aim.before, now, aim.limit))
    return Table("Aims", ("", "asked", "before", "now", "what holds it back"), lines)
