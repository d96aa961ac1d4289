"""Benchmark suite: registered tasks, data sets and models, open to a user's own.

``MyLayer(width)`` below is a layer with ``forward(x, edge_index, pos)``; see
:func:`register_model`.

Examples:
    >>> from stofm_geo import benchmark
    >>> benchmark.register_model("mine", layer=MyLayer)  # doctest: +SKIP
    >>> benchmark.run("results", tasks=["regions"], models=["GCN", "mine"])  # doctest: +SKIP
    >>> text = benchmark.report("results")  # doctest: +SKIP
"""

from stofm_geo.benchmark.datasets import DATASETS, Dataset, register_dataset
from stofm_geo.benchmark.geometry.problems import GraphProblem
from stofm_geo.benchmark.models import MODELS, Model, register_model
from stofm_geo.benchmark.problems import Problem, Split, check_leak_free, leaks
from stofm_geo.benchmark.reporting import report
from stofm_geo.benchmark.running import rerun, run
from stofm_geo.benchmark.tasks import TASKS, Task, register_task

__all__ = [
    "DATASETS",
    "MODELS",
    "TASKS",
    "Dataset",
    "GraphProblem",
    "Model",
    "Problem",
    "Split",
    "Task",
    "check_leak_free",
    "leaks",
    "register_dataset",
    "register_model",
    "register_task",
    "report",
    "rerun",
    "run",
]
