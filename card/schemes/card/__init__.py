"""CARD: each device and round its own cut and server frequency (arXiv 2412.00090)."""
