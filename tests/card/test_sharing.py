"""If these fail, a server that computes all devices at once is planned with times and memory that nobody measured."""

from __future__ import annotations

import shlex
from dataclasses import replace

import numpy as np
import pytest
from typer.main import get_command

from cardlab.card.problem.from_db import Request, gather
from cardlab.card.problem.scenario import Objective, SftSpec
from cardlab.card.schemes.sft.from_db import instance_from_database
from cardlab.card.schemes.sft.planning import plan_instance
from cardlab.card.schemes.sft.sharing import measured_sharing
from cardlab.cli.apps import profile_app
from cardlab.core.errors import InfeasibleError, PlanError
from cardlab.core.records.device import Device
from cardlab.core.records.task import Execution
from cardlab.db import open_store
from tests import records
from tests.card.database import CLOCKS, add_device, add_server, layer_s, other_task
from tests.cli.run import command

BATCHED = SftSpec(server_sharing="batched", spectrum="linear")
NAMES = ("b1", "b2", "b3", "b4")
REQUEST = Request(uplink_bps=5e7, downlink_bps=1e8, objective=Objective(local_epochs=2))
TOP = max(CLOCKS[::3])


def memory(each: int):
    """The analysis with server memory 10 x `each` MiB less `each` for every layer on the device."""
    cuts = tuple(
        replace(c, server_memory_bytes=(10 - c.cut) * each * 2**20, device_memory_bytes=2**20)
        for c in records.ANALYSIS.cuts
    )
    return replace(records.ANALYSIS, cuts=cuts)


def stored(path, *multiples: tuple[int, float, float], devices: int = 4):
    """A server at the batch 1 and these multiples (k, layer, head), and boards."""
    store = open_store(path)
    add_server(store, analysis=memory(100))
    for k, layer, head in multiples:
        add_server(store, task=other_task(batch=k), fit=False, layer=layer, head=head, analysis=memory(100 * k))
    for n, name in enumerate(NAMES[:devices]):
        add_device(store, Device(key=f"jetson:{n}", name=name, platform="jetson", memory_bytes=8 * 2**30))
    return store


def planned(store, request=REQUEST):
    gathered = gather(store, replace(request, batch=1))
    instance, _ = instance_from_database(store, gathered, BATCHED, None)
    return instance, plan_instance(instance, gathered.inputs)


def test_times_and_memory_at_once_are_those_of_profiles_at_multiples_of_the_batch(database) -> None:
    with stored(database, (2, 1.6, 3.9), (4, 2.4, 6.0)) as store:
        instance, made = planned(store)
        sharing = measured_sharing(store, gather(store, replace(REQUEST, batch=1)))
    problem = instance.problem
    assert problem.times.tolist() == pytest.approx([0.0, 1.0, 1.6, 2.0, 2.4])
    one, two, four = 2.1 + 6.0, 2.1 * 1.6 + 7.8, 2.1 * 2.4 + 12.0
    assert problem.last_times.tolist() == pytest.approx([0, 1, two / one, (two + four) / 2 / one, four / one])
    assert problem.server_bytes.tolist() == [(10 - c) * 400 * 2**20 for c in (1, 2, 3)]
    # All at one cut: exactly what the server took for a mini-batch of four times the size, layer by layer.
    for place, cut in enumerate((1, 2, 3)):
        whole_s = layer_s(TOP) * (2.4 * 2.1 * (4 - cut) + 12.0)
        assert float(problem.server_round_s(np.full(4, place))) == pytest.approx(whole_s, rel=2e-3)
    said = "times of 3 mini-batches at once are interpolated between those of 1, 2, 4"
    assert said in instance.assumed
    assert len(sharing.runs) == 3
    assert made.server_sharing == "batched" and len({d.cut for d in made.rounds[0].devices}) == 1
    assert any(words.startswith("blocks = common") for words in made.assumptions)


def test_labels_go_up_beside_what_is_compressed(database) -> None:
    with stored(database, (2, 1.6, 3.9), devices=2) as store:
        _, made = planned(store)
    for decision in made.rounds[0].devices:
        sent = 2 * (8192 + 32 * 4)
        assert decision.delay_terms.uplink == pytest.approx(sent * 8 / (decision.bandwidth_share * 5e7))
        assert decision.delay_terms.downlink == pytest.approx(2 * 8192 * 8 / (decision.bandwidth_share * 1e8))


def test_what_was_measured_at_every_number_is_not_called_interpolated(database) -> None:
    with stored(database, (2, 1.6, 3.9), devices=2) as store:
        instance, _ = planned(store)
    assert instance.problem.times.tolist() == pytest.approx([0.0, 1.0, 1.6])
    assert not any("interpolated" in words for words in instance.assumed)


def test_a_missing_profile_is_named_with_the_command_that_makes_it(database) -> None:
    with stored(database, (2, 1.6, 3.9)) as store, pytest.raises(PlanError) as caught:
        planned(store)
    assert "no profile of 4 mini-batches at once (batch 4)" in caught.value.message
    words = shlex.split(str(caught.value.remedy).removeprefix("run: "))
    assert words[0] == "profile-device"
    context = get_command(profile_app).make_context("profile-device", words[1:])
    asked = context.params
    assert (asked["model"], asked["batch"], asked["sequence"], asked["dtype"]) == ("tiny-llama", 4, 32, "float32")
    assert asked["platform"] == "simulated:rtx-4060" and asked["name"] == "gpu"


def test_a_profile_of_another_execution_or_clock_is_not_taken_for_it(database) -> None:
    with stored(database, devices=2) as store:
        other = Execution(dtype="bfloat16", torch="2.13")
        add_server(store, task=other_task(batch=2), fit=False, execution=other)
        with pytest.raises(PlanError, match="no profile of 2"):
            planned(store)
        add_server(store, task=other_task(batch=2), fit=False, clocks=CLOCKS[:3])
        with pytest.raises(PlanError, match="up to 800 MHz at batch 2"):
            planned(store)


def test_memory_of_all_at_once_can_be_too_much(database) -> None:
    with stored(database, (2, 1.6, 3.9), (4, 2.4, 6.0)) as store:
        gathered = gather(store, replace(REQUEST, batch=1))
        small = replace(gathered.problem, server_memory_limit_bytes=2.0 * 2**30)
        with pytest.raises(InfeasibleError, match="server memory of 2 GiB is too little for 4 devices"):
            instance_from_database(store, replace(gathered, problems=(small,)), BATCHED, None)
        serial = replace(BATCHED, server_sharing="serial")
        instance_from_database(store, replace(gathered, problems=(small,)), serial, None)


def test_the_option_of_the_command(database) -> None:
    with stored(database, (2, 1.6, 3.9), devices=2):
        pass
    words = ("plan", "--from-db", "--scheme", "sft", "--batch", "1", "--uplink-mbps", "50", "--downlink-mbps", "100")
    asked = (*words, "--server-sharing", "batched", "--db", str(database))
    document = command("card", *asked, "--json").document
    assert document["server_sharing"] == "batched"
    serial = command("card", *words, "--db", str(database), "--json").document
    assert serial["server_sharing"] == "serial"
    command("card", *words, "--server-sharing", "both", "--db", str(database)).failed_in_one_line(2, "serial, batched")
    refused = command("card", "plan", "--scenario", "card-letter", "--scheme", "sft", "--server-sharing", "batched")
    refused.failed_in_one_line(2, "[sft]")
