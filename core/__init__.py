"""The shared vocabulary of all rooms: errors, units, identity, provenance, estimates, records and laws.

It does no I/O and imports nothing of the project.
"""
