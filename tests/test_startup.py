"""The package and the command line answer before the libraries beneath are imported."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys

import pytest

import stofm_geo
from stofm_geo.models import SToFM

HEAVY = {
    *("anndata", "huggingface_hub", "igraph", "lightning", "matplotlib", "numba", "numpy"),
    *("pandas", "scipy", "sklearn", "torch", "torch_geometric", "torchmetrics"),
}
RUN = "import sys; from stofm_geo.__main__ import main; sys.argv[1:] = {}; main()"


def _imported(code: str) -> set[str]:
    """Return the names of the modules that a new process has imported at its end."""
    ending = "import atexit, sys; atexit.register(lambda: print('\\n', *sys.modules)); "
    words = [sys.executable, "-c", ending + code]
    run = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    found = set(run.stdout.splitlines()[-1].split())
    assert "stofm_geo" in found
    return found


@pytest.mark.parametrize(
    "code",
    [
        "import stofm_geo; dir(stofm_geo)",
        RUN.format(["--help"]),
        RUN.format(["embed", "--help"]),
        RUN.format(["benchmark", "run", "--help"]),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code: str) -> None:
    assert not HEAVY & _imported(code)


def test_all_names_are_there_when_asked_for() -> None:
    names: dict[str, object] = {}
    exec("from stofm_geo import *", names)
    assert set(stofm_geo.__all__) <= set(names)
    assert names["SToFM"] is SToFM
    assert stofm_geo.nn.SE2Transformer.__name__ == "SE2Transformer"
    for name in dir(stofm_geo):
        getattr(stofm_geo, name)
    with pytest.raises(AttributeError, match="no attribute 'SToFMs'"):
        _ = stofm_geo.SToFMs


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(inspect.getsource(stofm_geo))
    (guarded,) = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    seen = {alias.name for line in guarded.body for alias in line.names}
    assert seen == {*stofm_geo._MODULES, *stofm_geo._MEMBERS}
    assert {*stofm_geo.__all__} <= seen | {"__version__"}
