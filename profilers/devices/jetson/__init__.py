"""A Jetson board: its integrated GPU, its power rails."""
