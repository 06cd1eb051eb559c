"""The one error of this folder. The house says it in an error of its own (devices/errors.py), the agent in one line."""


class BoardError(Exception):
    """Something about the board or the work that stops a measurement.

    Args:
        message: what is wrong, one line, without a final full stop.
        remedy: what to do about it, one line.
    """

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}"
