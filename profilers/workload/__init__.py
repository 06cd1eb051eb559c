"""profilers/workload."""
