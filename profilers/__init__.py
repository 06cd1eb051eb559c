"""Measuring: what runs (workload), where it runs (platforms), what is read (sensors), in which order
(sweep, session)."""
