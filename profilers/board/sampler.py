"""Looks at a sensor now and then while something else runs: a thread, or the own steps of a virtual time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Callable, ContextManager, Iterator

from .protocol import Protocol

# Looks once and returns the seconds until the next look.
Look = Callable[[], float]


class Sampler(Protocol):
    """Calls a look again and again while a block runs."""

    def during(self, look: Look) -> ContextManager[None]:
        """Look at once, then whenever the look asked for; an error of the look ends the block."""
        ...


class ThreadSampler:
    """Looks from a thread of its own, so that the work needs to know nothing of it."""

    @contextmanager
    def during(self, look: Look) -> Iterator[None]:
        """Raises what the look raised, once the block has ended."""
        stop = threading.Event()

        def watch() -> None:
            # Waiting for the event ends with the block; a sleep would outlast it.
            while not stop.wait(look()):
                pass

        with ThreadPoolExecutor(1, thread_name_prefix="cardlab-sampler") as pool:
            watching = pool.submit(watch)
            try:
                yield
            finally:
                stop.set()
        watching.result()
