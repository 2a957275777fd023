"""How our cost changes as the work grows: ``python -m benchmarks.scale``, ``make bench-scale``."""
