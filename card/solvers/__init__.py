"""Optima of a problem: enumeration, lower hulls, the closed form, and whole batches of devices; kernels inside."""
