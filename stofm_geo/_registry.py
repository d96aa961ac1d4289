"""Registry of named objects."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Mapping from names to registered objects, in order of registration.

    Args:
        what: Kind of the entries in messages, such as ``"model"``.
        fix: How to register an entry, for the message about an unknown name.
    """

    def __init__(self, what: str, fix: str) -> None:
        self.what, self.fix = what, fix
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> None:
        """Register an entry.

        Raises:
            TypeError: ``name`` is not a string.
            ValueError: ``name`` is empty or taken, or has a comma.
        """
        if not isinstance(name, str):
            raise TypeError(f"the name of a {self.what} must be a string; found {name!r}")
        if not name.strip():
            raise ValueError(f"the name of a {self.what} is empty")
        if "," in name:  # commas separate names in commands
            raise ValueError(f"the name of a {self.what} must not have a comma; found {name!r}")
        if name in self._entries:
            raise ValueError(f"there is a {self.what} {name!r} already; choose another name")
        self._entries[name] = entry

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            matches = difflib.get_close_matches(name, self._entries, n=1, cutoff=0.5)
            hint = f"did you mean {matches[0]!r}? " if matches else ""
            raise KeyError(
                f"no {self.what} is called {name!r}; {hint}there are {', '.join(self._entries)}; "
                f"{self.fix}"
            )
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
