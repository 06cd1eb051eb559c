"""The procedure: settle, time, read power, wait; a sweep of operating points, committed one by one."""
