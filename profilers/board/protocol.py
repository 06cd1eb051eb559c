"""`Protocol` for classes that are known by their methods; a plain base on a Python that has none (before 3.8)."""

import sys

if sys.version_info >= (3, 8):
    from typing import Protocol as Protocol  # novm: not reached on an older one
else:
    Protocol = object
