"""What the readers and works of ../board refuse, said as an error of the house: they know nothing of core."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cardlab.core.errors import CardlabError
from cardlab.profilers.board.errors import BoardError


@contextmanager
def said_as(kind: type[CardlabError]) -> Iterator[None]:
    """Raises `kind` with the message and remedy of a BoardError that the block raised."""
    try:
        yield
    except BoardError as error:
        raise kind(error.message, remedy=error.remedy) from error
