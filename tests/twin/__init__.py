"""A world whose truth is known in closed form, and the real commands held against it."""
