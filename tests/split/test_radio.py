# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, `card link --energy` calls the whole board's power the radio's, or plans count joules that nobody
measured."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("zmq")
pytestmark = pytest.mark.torch

from cardlab.core.errors import DeviceError
from cardlab.core.quantity import MEASURED
from cardlab.core.records.link import Link
from cardlab.db import open_store
from cardlab.profilers.devices import open_platform
from cardlab.profilers.devices.power import PowerMeter, Rail, RailTrace, Recording
from cardlab.split import radio
from cardlab.split.device_transport import DeviceTransport
from cardlab.split.probe import exchange, serve_probe
from cardlab.split.radio import measure_radio
from cardlab.split.server_transport import ServerTransport
from cardlab.split.shaping import parse_link
from tests.cli.run import command

RAIL = Rail(name="board", scope="all", total=True)


class Readings(PowerMeter):
    """A meter that reads one value a recording, in their order."""

    def __init__(self, *watts: float | None) -> None:
        self.rails, self.update_s = (RAIL,), 0.01
        self._watts = list(watts)

    @contextmanager
    def recording(self) -> Iterator[Recording]:
        watts, begin_s = self._watts.pop(0), time.monotonic()

        class One(Recording):
            @property
            def traces(self) -> Mapping[str, RailTrace]:
                count = 0 if watts is None else int((time.monotonic() - begin_s) / 0.01)
                known = (watts or 0.0,) * count
                times = tuple(0.01 * (n + 1) for n in range(count))
                trace = RailTrace(
                    rail=RAIL, end_s=times, power_w=known, update_s=0.01, quantisation_w=0.01, source="written down"
                )
                return {"board": trace}

        yield One()


@pytest.fixture(params=["80mbit"])
def link(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[DeviceTransport]:
    """A link to a server that answers probes."""
    monkeypatch.setattr(radio, "_WINDOW_S", (1.0, 1.0))
    server = ServerTransport("127.0.0.1", 0)
    answering = threading.Thread(target=serve_probe, args=(server,), kwargs={"until_idle_s": 3.0, "note": print})
    answering.start()
    device = DeviceTransport("127.0.0.1", server.port, shape=parse_link(request.param))
    device.check_connected(1e9)
    device.settle_timers()
    yield device
    device.close()
    answering.join()
    server.close()


def test_what_a_message_adds_is_apart_from_the_board(link: DeviceTransport) -> None:
    platform = open_platform("cpu", sysfs_root="/nonexistent")
    platform.meter = Readings(5.0, 8.0, 6.5)
    found = measure_radio(platform, link, 2**19)
    # 52 ms of a message are on the air for most of the window; its answer and the code take the rest.
    assert found.idle_w == 5.0 and 3.0 <= found.transmit_w < 3.0 / 0.5 and 1.5 <= found.receive_w < 1.5 / 0.5


@pytest.mark.parametrize("link", ["80mbit,100ms"], indirect=True)
def test_what_a_message_waits_for_is_no_time_on_the_air(link: DeviceTransport) -> None:
    platform = open_platform("cpu", sysfs_root="/nonexistent")
    platform.meter = Readings(5.0, 8.0, 6.5)
    found = measure_radio(platform, link, 2**19)
    # 52 ms of bits in each 250 ms; the latency of both ways is in neither.
    assert 3.0 / 0.3 < found.transmit_w < 3.0 / 0.15 and 1.5 / 0.3 < found.receive_w < 1.5 / 0.15


def test_a_server_of_probes_waits_for_who_is_silent_between_them() -> None:
    server, answered = ServerTransport("127.0.0.1", 0), []
    serving = threading.Thread(
        target=lambda: answered.append(serve_probe(server, until_idle_s=0.5, note=print)), daemon=True
    )
    device = DeviceTransport("127.0.0.1", server.port)
    device.check_connected(1e9)
    serving.start()
    exchange(device, 10, 10)
    time.sleep(2.5)
    exchange(device, 10, 10)
    assert not answered
    device.close()
    serving.join(10.0)
    server.close()
    assert answered == [2]


def test_noise_below_rest_is_no_negative_power(link: DeviceTransport) -> None:
    platform = open_platform("cpu", sysfs_root="/nonexistent")
    platform.meter = Readings(5.0, 4.9, 5.1)
    found = measure_radio(platform, link, 2**19)
    assert found.transmit_w == 0.0 and found.receive_w > 0.0


def test_a_meter_that_reads_nothing_is_named(link: DeviceTransport) -> None:
    platform = open_platform("cpu", sysfs_root="/nonexistent")
    platform.meter = Readings(5.0, None, 5.0)
    with pytest.raises(DeviceError, match="gave no whole update") as caught:
        measure_radio(platform, link, 2**19)
    assert caught.value.remedy


def test_without_a_meter_nothing_is_sent(tmp_path) -> None:
    words = ("card", "link", "--server", "127.0.0.1:1", "--db", str(tmp_path / "x.db"))
    command(*words, "--energy", "--platform", "cpu").failed_in_one_line(2, "no power meter")
    command(*words, "--platform", "cpu").failed_in_one_line(2, "--platform names a meter")
    command("card", "link", "--energy").failed_in_one_line(2, "--energy has no effect")


def test_a_plan_takes_the_radio_of_its_link_and_says_so(tmp_path) -> None:
    path = str(tmp_path / "x.db")
    board = ("--platform", "simulated:orin-nano", "--frequencies", "3", "--model", "tiny-llama", "--seq", "32")
    server = ("--platform", "simulated:rtx-4060-ti", "--frequencies", "5", "--model", "tiny-llama", "--seq", "32")
    for words in (board, server):
        assert command("profile-device", *words, "--no-whole-step", "--db", path).code == 0
    assert command("calibrate", "fit", "--db", path).code == 0
    with open_store(path) as store:
        store.links.add(
            Link(
                uid="c" * 32,
                name="lab",
                uplink_bps=2e7,
                downlink_bps=4e7,
                provenance=MEASURED,
                measured_at="2026-11-28T00:00:00.000000Z",
                transmit_power_w=1.5,
                receive_power_w=0.5,
            )
        )
    plan = command("card", "plan", "--from-db", "--link", "lab", "--db", path, "--json")
    assert plan.code == 0, plan.err
    decision = plan.document["rounds"][0]["devices"][0]
    terms, delays = decision["device_energy_terms"], decision["delay_terms"]
    # The adapters go up at 20 and come down at 40 Mbit/s: two thirds of their time are the way up.
    up_s, down_s = delays["uplink"] + delays["adapters"] * 2 / 3, delays["downlink"] + delays["adapters"] / 3
    assert terms["transmit"] == pytest.approx(1.5 * up_s) and terms["receive"] == pytest.approx(0.5 * down_s)
    assert any("radio power of orin-nano" in note for note in plan.document["notes"])
