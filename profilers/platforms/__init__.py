"""profilers/platforms."""
