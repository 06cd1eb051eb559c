"""Simulated devices: stated physics behind the same Platform as real ones, marked `simulated`."""
