"""What a measurement has for the report: tables, panels of the picture, and headlines."""

from __future__ import annotations

import math
from typing import Any, NamedTuple


class Table(NamedTuple):
    """A table; its cells are text that was formatted."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


class Panel(NamedTuple):
    """Times over sizes, drawn with logarithmic axes.

    ``lines`` has the ``(size, time)`` of each name, sizes rising; points of data that differ in
    more than their size are not ``joined``.
    """

    title: str
    x: str
    y: str
    lines: dict[str, list[tuple[float, float]]]
    joined: bool = True


class Headline(NamedTuple):
    """A line of the summary: what was measured, what ours takes, how others compare; text."""

    what: str
    ours: str
    others: str = ""


class Section(NamedTuple):
    """All of one measurement."""

    tables: list[Table]
    panels: list[Panel]
    headlines: list[Headline]


def brief(value: float) -> str:
    """Three digits that count, without exponent; whole numbers in full, by thousands."""
    digits = 0
    if isinstance(value, float) and 0 < abs(value) < 100:
        digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:,.{digits}f}".replace(",", " ")


def beside(ratios: dict[str, float]) -> str:
    """How many times as long as ours others take."""
    return ", ".join(f"{name} {brief(ratio)}" for name, ratio in ratios.items())


def spread(row: dict[str, Any]) -> str:
    """Median and quartiles of :func:`benchmarks.speed._timing.interleaved`."""
    lower, upper = row["quartiles_ms"]
    return f"{brief(row['median_ms'])} ({brief(lower)} to {brief(upper)})"


def ratio(row: dict[str, Any]) -> str:
    """Median and quartiles of the ratios of :func:`benchmarks.speed._timing.interleaved`."""
    if "ratio_quartiles" not in row:  # records before 2026-12
        return brief(row["ratio"])
    lower, upper = row["ratio_quartiles"]
    return f"{brief(row['ratio'])} ({brief(lower)} to {brief(upper)})"


def line(points: list[tuple[float, float | None]]) -> list[tuple[float, float]]:
    """Points of a panel's line: by size, without those that were not measured."""
    return sorted((x, y) for x, y in points if y is not None)
