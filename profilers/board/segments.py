"""How the segments of a model are laid out to be timed, by whichever program builds them.

Layers are chained with the graph kept, as in a real step: a single layer in a loop reuses the same pages and comes
out 2-3 % too fast.
"""

CHAIN = 3
# L x layer + head, forward and backward: what power is measured on.
EQUIVALENT_STEP = "equivalent_step"
# A fixed product [128, 2048] x [2048, 8192]: the yardstick that runs before every sample.
REFERENCE_SHAPE = (128, 2048, 8192)


def chain_length(layers: int) -> int:
    """Layers that one lap chains, in a model of so many: 3, or fewer in one that has no more."""
    return max(1, min(CHAIN, layers - 1))
