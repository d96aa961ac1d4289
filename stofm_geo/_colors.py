"""Default colours of categories, without matplotlib."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import cycle

import numpy as np

# Okabe & Ito 2008 (https://jfly.uni-koeln.de/color): distinguishable with every colour vision.
# Without black, the colour of text; yellow comes last, as it is faint on white.
BASE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")


def default_color(i: int) -> str:
    """Return the i-th colour: the base colours, then darker, lighter and greyer ones; cyclic."""
    rgb = np.array([int(BASE[i % len(BASE)][start : start + 2], 16) for start in (1, 3, 5)]) / 255
    weight, other = ((1, 0), (0.6, 0), (0.5, 0.5), (0.4, 0), (0.4, 0.35))[i // len(BASE) % 5]
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in weight * rgb + other)


def unused_colors(taken: Iterable[str]) -> Iterator[str]:
    """Return an endless iterator over the unused default colours, or over all if none is unused."""
    colors, taken = [default_color(i) for i in range(5 * len(BASE))], set(taken)
    return cycle([color for color in colors if color not in taken] or colors)


def default_colors(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for each name, in natural order; a number gets the colour of its index.

    So domains ``"0"``, ``"1"``, ... keep their colours if some are missing.
    """
    names = natural_sort(names)
    if all(name.isdecimal() and len(name) < 4 for name in names):
        return {name: default_color(int(name)) for name in names}
    return {name: default_color(i) for i, name in enumerate(names)}


def natural_sort(names: Iterable[str]) -> list[str]:
    """Return the distinct non-empty names in natural order: ``L2`` before ``L10``."""

    def key(name: str) -> tuple[list[tuple[bool, int, str]], str]:
        parts = re.findall(r"[0-9]+|[^0-9]+", name)
        return [(not p.isdecimal(), int(p) if p.isdecimal() else 0, p.lower()) for p in parts], name

    return sorted(set(names) - {""}, key=key)
