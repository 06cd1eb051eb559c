"""Parallel split fine-tuning: who gets how much of the bandwidth, how many layers, which codec."""
