"""Looks at a sensor now and then while something else runs: a thread, or the own steps of a virtual time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from cardlab.core.errors import CardlabError

Look = Callable[[], float]
"""Looks once and returns the seconds until the next look."""


class Sampler(Protocol):
    """Calls a look again and again while a block runs."""

    def during(self, look: Look) -> AbstractContextManager[None]:
        """Look at once, then whenever the look asked for; an error of the look ends the block."""
        ...


class ThreadSampler:
    """Looks from a thread of its own, so that the work needs to know nothing of it."""

    @contextmanager
    def during(self, look: Look) -> Iterator[None]:
        """Raises what the look raised, once the block has ended."""
        stop = threading.Event()
        failed: list[CardlabError] = []

        def watch() -> None:
            try:
                # Waiting for the event ends with the block; a sleep would outlast it.
                while not stop.wait(look()):
                    pass
            except CardlabError as error:
                failed.append(error)

        thread = threading.Thread(target=watch, name="cardlab-sampler", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        if failed:
            raise failed[0]
