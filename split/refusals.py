"""Why one side says no to the other: a code that programs read, a message and a remedy that people read."""

from __future__ import annotations

from enum import Enum

from cardlab.core.errors import CardlabError, RunError


class RefusalCode(str, Enum):
    """Every reason for which a message or a device is turned away.

    Attributes:
        MALFORMED: bytes that are no message.
        DAMAGED: a checksum or a length does not hold.
        PROTOCOL_VERSION, CARDLAB_VERSION: the other side has another one.
        UNKNOWN_KIND: no message is called so.
        FIELD: a fact of a message is missing, of the wrong type, out of range or not known.
        TENSOR: a tensor has the wrong name, shape, dtype or bytes.
        CODEC: no codec is called so.
        OUT_OF_TURN: the message does not belong here.
        NOT_FINITE: a loss or a weight is NaN or infinite.
        NAME_TAKEN: a device of that label takes part and lives.
        UNKNOWN_DEVICE: the plan names no such device.
        INPUTS: a device trains on other data, tokens or numbers than it did, or than the others.
        PROBES_ONLY: this server measures links and runs nothing.
        FAILED: anything else; the message says what.
    """

    MALFORMED = "malformed"
    DAMAGED = "damaged"
    PROTOCOL_VERSION = "protocol_version"
    CARDLAB_VERSION = "cardlab_version"
    UNKNOWN_KIND = "unknown_kind"
    FIELD = "field"
    TENSOR = "tensor"
    CODEC = "codec"
    OUT_OF_TURN = "out_of_turn"
    NOT_FINITE = "not_finite"
    NAME_TAKEN = "name_taken"
    UNKNOWN_DEVICE = "unknown_device"
    INPUTS = "inputs"
    PROBES_ONLY = "probes_only"
    FAILED = "failed"


class RefusalError(RunError):
    """What one side refuses, by its code; what the other side is told."""

    def __init__(self, message: str, *, code: RefusalCode, remedy: str) -> None:
        super().__init__(message, remedy=remedy)
        self.code = code


class FrameError(RefusalError):
    """A message that is not what the protocol says: damaged, cut short, of another version, or nonsense."""

    def __init__(
        self,
        message: str,
        *,
        code: RefusalCode = RefusalCode.MALFORMED,
        remedy: str = "install the same cardlab on both sides",
    ) -> None:
        super().__init__(message, code=code, remedy=remedy)


class TensorError(FrameError):
    """A tensor of a message that cannot be what it says."""

    def __init__(
        self,
        message: str,
        *,
        code: RefusalCode = RefusalCode.TENSOR,
        remedy: str = "install the same cardlab on both sides",
    ) -> None:
        super().__init__(message, code=code, remedy=remedy)


class NotFiniteError(RefusalError):
    """A loss that is infinite or NaN; `places`: of the mini-batches that gave it."""

    def __init__(self, places: tuple[int, ...] = (0,)) -> None:
        super().__init__(
            "the loss is not finite",
            code=RefusalCode.NOT_FINITE,
            remedy="lower --learning-rate, or look at the data",
        )
        self.places = places


def code_of(error: CardlabError) -> RefusalCode:
    """The code that the other side is told for this error."""
    return error.code if isinstance(error, RefusalError) else RefusalCode.FAILED
