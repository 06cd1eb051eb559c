"""Measuring: what an old board can run too (board), where work runs (devices), what runs (runtime), and the procedure
(measure); the agent packs the first for boards whose Python is old."""
