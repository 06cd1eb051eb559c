"""Who takes part: devices that said hello and are ready, and how one is turned away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cardlab.core.errors import CardlabError, RunError
from cardlab.core.records.device import Device
from cardlab.split.protocol import Abandoned, Hello, Message, Refused, Welcome
from cardlab.split.refusals import RefusalCode, RefusalError, code_of
from cardlab.split.server_transport import ServerTransport
from cardlab.split.settings import Inputs, RunSettings

_MAX_WORDS = 1000


@dataclass(slots=True)
class Member:
    """A device that said hello.

    Attributes:
        ready: its model is built.
        planned: label by which a plan knows it, else its own.
        inputs: what it trains with, known once it is ready.
    """

    peer: bytes
    device: Device
    planned: str
    ready: bool = False
    inputs: Inputs = field(default_factory=Inputs)


class Members:
    """The devices of a run, by label.

    Args:
        admits: says which of the plan's labels a device stands for, given those that are taken; raises RunError for
            one that has no place in the run.
        note: is told who comes and goes.
    """

    def __init__(
        self,
        transport: ServerTransport,
        settings: RunSettings,
        admits: Callable[[Device, frozenset[str]], str],
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

    def of(self, peer: bytes) -> Member | None:
        """The member behind a connection."""
        return next((m for m in self._by_name.values() if m.peer == peer), None)

    def join(self, peer: bytes, hello: Hello) -> None:
        """Let a device in. Raises RunError for one that has no place in the run, or whose label is taken."""
        name = hello.device.name
        self._check_free(peer, name)
        taken = frozenset(member.planned for own, member in self._by_name.items() if own != name)
        self._by_name[name] = Member(peer, hello.device, self._admits(hello.device, taken))
        self._transport.send(peer, Welcome(settings=self._settings))

    def mark_ready(self, peer: bytes, inputs: Inputs) -> None:
        """Its model is built, and it trains with these; one that is not known is told to join."""
        member = self.of(peer)
        if member is None:
            self.ask_to_join(peer)
        elif not member.ready:
            member.ready, member.inputs = True, inputs
            self._note(f"{member.device.name} is ready")

    def ask_to_join(self, peer: bytes) -> None:
        """Tell a device that nobody knows here: it slept while it was given up, or this server was restarted."""
        self._transport.send(peer, Abandoned(round=None, reason="this device has not said hello"))

    def drop(self, peer: bytes, reason: str) -> None:
        """Forget a device."""
        member = self.of(peer)
        if member is not None:
            del self._by_name[member.device.name]
            self._note(f"{member.device.name} leaves: {reason}")

    def refuse(self, peer: bytes, error: RunError) -> None:
        """Tell a device why not, and forget it."""
        self._transport.send(peer, _refusal(error))
        self.drop(peer, error.message)

    def refuse_all(self, error: CardlabError) -> None:
        """Tell every device why there is nothing to wait for any more, and forget them."""
        said = _refusal(error, "the server ends: ")
        for member in self._by_name.values():
            self._transport.send(member.peer, said)
        self._by_name.clear()

    def tell_all(self, message: Message) -> None:
        """Send to every device."""
        for member in self._by_name.values():
            self._transport.send(member.peer, message)

    def _check_free(self, peer: bytes, name: str) -> None:
        """A label that is taken by a device that still lives is refused; one that fell silent gives way."""
        other = self._by_name.get(name)
        if other is None or other.peer == peer:
            return
        # A device that was just killed is taken for alive until its pulses are late; it may ask again.
        if self._transport.silence_s(other.peer) < min(self._silence_s, 2.0):
            raise RefusalError(
                f"a device called {name!r} takes part already",
                code=RefusalCode.NAME_TAKEN,
                remedy="give each device a --name of its own",
            )
        self.drop(other.peer, "another process took its place")


def _refusal(error: CardlabError, where: str = "") -> Refused:
    return Refused(
        code=code_of(error), message=f"{where}{error.message}"[:_MAX_WORDS], remedy=error.remedy[:_MAX_WORDS]
    )
