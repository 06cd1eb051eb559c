"""The host's CPU: cpufreq and RAPL."""
