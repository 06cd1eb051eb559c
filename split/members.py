"""Who takes part: devices that said hello and are ready, and how one is turned away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cardlab.core.errors import RunError
from cardlab.core.plain import from_plain, to_plain
from cardlab.core.records.device import Device
from cardlab.split.codec import FrameError
from cardlab.split.frames import Message, text
from cardlab.split.server_transport import ServerTransport
from cardlab.split.settings import RunSettings, check_version


@dataclass(slots=True)
class Member:
    """A device that said hello; `ready` once its model is built."""

    peer: bytes
    device: Device
    ready: bool = False


class Members:
    """The devices of a run, by label.

    Args:
        admits: raises RunError for a label that has no place in the run.
        note: is told who comes and goes.
    """

    def __init__(
        self,
        transport: ServerTransport,
        settings: RunSettings,
        admits: Callable[[str], None],
        silence_s: float,
        note: Callable[[str], None],
    ) -> None:
        self._transport, self._settings, self._silence_s = transport, settings, silence_s
        self._admits, self._note = admits, note
        self._by_name: dict[str, Member] = {}

    def ready(self) -> dict[str, Member]:
        """Devices that can take a round now; silent ones are dropped."""
        for member in list(self._by_name.values()):
            if self._transport.silence_s(member.peer) > self._silence_s:
                self.drop(member.peer, "it is silent")
        return {name: member for name, member in self._by_name.items() if member.ready}

    def handle(self, peer: bytes, message: Message) -> bool:
        """Deal with hello, ready and bye; False for anything else."""
        if message.kind == "hello":
            self._hello(peer, message)
        elif message.kind == "ready":
            member = self.of(peer)
            if member is None:
                self._transport.send(peer, Message("abandoned", {"reason": "this device has not said hello"}))
            elif not member.ready:
                member.ready = True
                self._note(f"{member.device.name} is ready")
        elif message.kind == "bye":
            reason = message.head.get("reason")
            self.drop(peer, str(reason)[:300] if reason else "it said goodbye")
        else:
            return False
        return True

    def of(self, peer: bytes) -> Member | None:
        """The member behind a connection."""
        return next((m for m in self._by_name.values() if m.peer == peer), None)

    def drop(self, peer: bytes, reason: str) -> None:
        """Forget a device."""
        member = self.of(peer)
        if member is not None:
            del self._by_name[member.device.name]
            self._note(f"{member.device.name} leaves: {reason}")

    def refuse(self, peer: bytes, message: str, remedy: str) -> None:
        """Tell a device why not, and forget it."""
        self._transport.send(peer, Message("refused", {"message": message, "remedy": remedy}))
        self.drop(peer, message)

    def tell_all(self, message: Message) -> None:
        """Send to every device."""
        for member in self._by_name.values():
            self._transport.send(member.peer, message)

    def _hello(self, peer: bytes, message: Message) -> None:
        try:
            check_version(text(message.head, "version"))
            device = _device(message)
            self._admits(device.name)
            self._check_free(peer, device.name)
        except RunError as error:
            self.refuse(peer, error.message, error.remedy)
            return
        self._by_name[device.name] = Member(peer, device)
        self._transport.send(peer, Message("welcome", {"settings": to_plain(self._settings)}))

    def _check_free(self, peer: bytes, name: str) -> None:
        """A label that is taken by a device that still lives is refused; one that fell silent gives way."""
        other = self._by_name.get(name)
        if other is None or other.peer == peer:
            return
        if self._transport.silence_s(other.peer) < min(self._silence_s, 2.0):
            raise RunError(
                f"a device called {name!r} takes part already", remedy="give each device a --name of its own"
            )
        self.drop(other.peer, "another process took its place")


def _device(message: Message) -> Device:
    try:
        return from_plain(Device, message.head.get("device"))
    except (ValueError, TypeError) as error:
        raise FrameError(f"a device described itself in a way that makes no sense: {error}") from error
