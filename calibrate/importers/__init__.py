"""Readers of sweeps measured elsewhere: file in, frozen rows out, nothing stored."""
