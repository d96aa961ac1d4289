"""Griffe extension: reStructuredText of docstrings as Markdown, and functions named as modules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from textwrap import dedent
from typing import Any

from griffe import Alias, Docstring, Extension, Module, Object

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|obj):`(?P<short>~?)(?P<name>[\w.]+)`")
_MATH_ROLE = re.compile(r":math:`(?P<formula>.*?)`", re.DOTALL)
_MATH_BLOCK = re.compile(
    r"^(?P<indent> *)\.\. math::(?P<first>.*)\n(?P<body>(?:(?P=indent) +.*\n|\n)*)", re.M
)
_LINK = re.compile(r"`(?P<text>[^`<]+?)\s+<(?P<url>https?://[^>]+)>`__?")


class RstDocstrings(Extension):
    """Rewrite each docstring before it is parsed."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite the docstring of an object."""
        if isinstance(obj.docstring, Docstring):
            obj.docstring.value = _markdown(obj.docstring.value, obj)

    def on_package(self, *, pkg: Module, **kwargs: Any) -> None:
        """Let public functions have their names where a submodule has the same, as Python does."""
        for package, name, function in list(_hidden_functions(pkg)):  # all, before paths change
            package.members[name] = Alias(name, function, parent=package)


def _hidden_functions(package: Module) -> Iterator[tuple[Module, str, Object]]:
    for submodule in package.modules.values():
        if isinstance(submodule, Module):
            yield from _hidden_functions(submodule)
    for export in package.exports or ():
        name = str(export)
        member = package.members.get(name)
        if member is not None and member.is_module and name in member.members:
            yield package, name, member.members[name]


def _markdown(text: str, obj: Object) -> str:
    text = _MATH_BLOCK.sub(_block, text + "\n")
    text = _MATH_ROLE.sub(lambda found: rf"\({' '.join(found['formula'].split())}\)", text)
    text = _LINK.sub(r"[\g<text>](\g<url>)", text)
    return _ROLE.sub(lambda found: _reference(found, obj), text).rstrip("\n")


def _block(found: re.Match[str]) -> str:
    body = dedent(found["first"].strip() + "\n" + dedent(found["body"])).strip()
    return f"\n$$\n{body}\n$$\n\n"


def _reference(found: re.Match[str], obj: Object) -> str:
    """Return a link to a name, if a page has it, else the name as code."""
    name = found["name"]
    shown = name.rpartition(".")[2] if found["short"] else name
    scope: Object | None = obj
    while scope is not None and "." not in name:  # of the class, then of the module
        if name in scope.members:
            member = scope.members[name]
            name = member.target_path if member.is_alias else member.path
            break
        scope = scope.parent
    return f'<autoref optional identifier="{name}"><code>{shown}</code></autoref>'
