"""cardlab: profile, calibrate and plan split fine-tuning of language models on real hardware."""

__version__ = "0.1.0"
