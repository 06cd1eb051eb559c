"""An NVIDIA card behind NVML."""
