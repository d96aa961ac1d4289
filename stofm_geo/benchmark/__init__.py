"""Benchmark suite: registered tasks, data sets and models, open to a user's own.

Example:
    >>> from stofm_geo import benchmark
    >>> benchmark.register_model("mine", layer=MyLayer)  # MyLayer(width)(x, edge_index, pos)
    >>> benchmark.run("results", tasks=["regions"], models=["PCA", "GATv2", "mine"], seeds=1)
    >>> benchmark.report("results")
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
