"""profilers/sensors."""
