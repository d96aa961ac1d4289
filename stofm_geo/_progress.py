"""A progress bar with the time left, for loops that may take more than some seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], description: str, total: int, *, show: bool = True) -> Iterator[T]:
    """Yield items, and show in a terminal or notebook how many are done and the time left.

    Args:
        items: What is iterated over.
        description: What is done, ``"Embedding"``, say.
        total: Number of items.
        show: Show the bar.
    """
    if not show:
        yield from items
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeRemainingColumn(), transient=True) as progress:
        yield from progress.track(items, total=total, description=description)
