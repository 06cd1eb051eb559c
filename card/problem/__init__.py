"""From a scenario, a database or both to arrays: what every solver and scheme computes with."""
