"""cardlab: profile, calibrate and plan split fine-tuning of language models on real hardware.

This folder is the shared vocabulary of all rooms: errors, quantities, identity, records and laws.
It does no I/O and imports nothing of the project.
"""

__version__ = "0.1.0"
