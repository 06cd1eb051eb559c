"""One tree of errors: each says what is wrong, what to do about it, and which exit code it means.

A message is one line. The remedy is the next thing a person can type or change. Room-specific
errors are subclasses here, so that the command line maps all of them in one place.
"""

from __future__ import annotations

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class CardlabError(Exception):
    """Base of every error the product raises on purpose.

    Args:
        message: what is wrong, one line, without a final full stop.
        remedy: what to do about it, one line; every error has one.
    """

    exit_code = EXIT_FAILURE

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}"


class UsageError(CardlabError):
    """The command or call was put together wrongly; nothing was started."""

    exit_code = EXIT_USAGE


class Interrupted(CardlabError):
    """A person or the system asked to stop; finished work is kept."""

    exit_code = EXIT_INTERRUPTED


class MissingDependencyError(CardlabError):
    """An optional library is needed and not installed; the remedy names the extra."""


class DeviceError(CardlabError):
    """Something about the hardware or its driver."""


class NotSupportedError(DeviceError):
    """The device does not offer what was asked."""


class PermissionDeniedError(DeviceError):
    """The device offers it, this user may not."""


class DeviceLostError(DeviceError):
    """The device went away in the middle."""


class DeviceBusyError(DeviceError):
    """Another process holds or loads the device."""


class ProfileError(CardlabError):
    """A workload cannot be built or measured as asked."""


class UnknownModelError(ProfileError):
    """No bundled model and no readable configuration has this name."""


class UnsupportedFamilyError(ProfileError):
    """The configuration belongs to a model family without an adapter."""


class OutOfMemoryError(ProfileError):
    """A segment does not fit in the memory that is free."""


class CalibrationError(CardlabError):
    """A fit cannot be made, found or used."""


class TooFewPointsError(CalibrationError):
    """Fewer points than the law has parameters."""


class BadDataError(CalibrationError):
    """A measurement file or array cannot be used; the message names the row."""


class StoreError(CardlabError):
    """The database cannot be opened, read or written."""


class SchemaTooOldError(StoreError):
    """The database was written by an older version and must be upgraded first."""


class SchemaTooNewError(StoreError):
    """The database was written by a newer version than this one."""


class NotFoundError(StoreError):
    """Nothing in the database answers to this name or key."""


class AmbiguousNameError(StoreError):
    """Several devices answer to this name; the message lists their keys."""


class PlanError(CardlabError):
    """A plan cannot be made."""


class ScenarioError(PlanError):
    """A scenario is malformed or contradicts itself; the message names the key."""


class InfeasibleError(PlanError):
    """No cut and frequency keeps every constraint; the message says which and by how much."""


class RunError(CardlabError):
    """The split run cannot start or go on."""
