"""How fast it is, and in how much memory.

``python -m benchmarks.speed run -o DIR`` measures, ``python -m benchmarks.speed report DIR`` writes
one report of what was measured.
"""
