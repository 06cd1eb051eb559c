# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a split run on chats or prompts trains something else than transformers would on the same batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")
pytestmark = pytest.mark.torch

from cardlab.core.records.task import Task
from cardlab.split.adapters import initial_adapters
from cardlab.split.arrivals import unpack_rows
from cardlab.split.batches import MiniBatch, Rows, SampleBatches
from cardlab.split.codecs.registry import pack_tensor
from cardlab.split.data import Batches
from cardlab.split.encoding import encode_samples
from cardlab.split.halves import Half
from cardlab.split.protocol import Activations, decode, encode
from cardlab.split.refusals import TensorError
from cardlab.split.samples import read_samples
from cardlab.split.tokenizer import open_tokenizer
from tests.cli.run import command
from tests.split.chats import ROWS, chat_folder, write_rows
from tests.split.models import Unsplit, halves, largest_difference, small_task

SEQUENCE = 64


def data_of(folder: Path, form: str, packing: bool, **options: Any) -> SampleBatches:
    tokenizer = open_tokenizer(str(chat_folder(folder / "tokens")))
    samples = read_samples(write_rows(folder / "rows.jsonl", ROWS[form]))
    own = {"batch": 2, "sequence": SEQUENCE, "vocabulary": 300, "packing": packing, "padding": 3, **options}
    return SampleBatches(encode_samples(samples, tokenizer).samples, **own)


def ready(task: Task, cut: int) -> tuple[Half, Half]:
    device, server = halves(task)
    adapters = initial_adapters(task, 0, server.magnitudes)
    for half in (device, server):
        half.set_cut(cut)
        half.load(adapters)
    return device, server


def collated(batch: MiniBatch) -> dict[str, Any]:
    """The batch as TRL's collator gives it: a mask in every padded one, positions and none where packed."""
    if batch.rows.positions is not None:
        return {"position_ids": batch.rows.positions}
    return {"attention_mask": torch.ones_like(batch.ids) if batch.rows.mask is None else batch.rows.mask}


@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize(
    ("family", "form"),
    [*(("llama", form) for form in ROWS), ("gpt2", "completion"), ("gemma3_text", "messages"), ("qwen3_moe", "text")],
)
def test_ten_steps_equal_the_unsplit_run_on_the_same_batches_to_the_last_bit(
    tmp_path: Path, family, form, packing
) -> None:
    task = small_task(tmp_path, family, optimizer="adamw", sequence=SEQUENCE)
    data = data_of(tmp_path, form, packing)
    (device, server), whole = ready(task, 2), Unsplit(task)
    differ = set()
    for step in range(10):
        batch = data.mini_batch(step)
        device.clock.step = server.clock.step = step
        activation = device.forward(batch.ids, batch.rows)
        result = server.train(activation.detach().clone(), batch.labels, batch.rows)
        device.backward(activation, result.gradient)
        assert result.loss == whole.step(batch.ids, batch.labels, **collated(batch))
        differ.add(tuple(batch.ids.shape))
    assert largest_difference({**device.export(), **server.export()}, whole.adapters()) == 0.0
    # Padded to their own longest, packed to the sequence length.
    assert differ == {(2, SEQUENCE)} if packing else len(differ) > 1


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_packed_samples_are_trained_as_if_each_were_alone(tmp_path: Path, family) -> None:
    task = small_task(tmp_path, family, sequence=SEQUENCE)
    packed, padded = (data_of(tmp_path, "completion", packing, batch=1) for packing in (True, False))
    device, server = ready(task, 2)
    said: list[str] = []
    device.note = server.note = said.append
    with torch.no_grad():
        alone = {}
        for number in range(9):
            one = padded.mini_batch(number)
            alone[tuple(one.ids[0].tolist())] = (one, server.loss(device.forward(one.ids, one.rows), one.labels))
        row = packed.mini_batch(0)
        together = float(server.loss(device.forward(row.ids, row.rows), row.labels, row.rows))
    begins = [*(row.rows.positions[0] == 0).nonzero().flatten().tolist(), SEQUENCE]
    parts = [tuple(row.ids[0, a:b].tolist()) for a, b in zip(begins, begins[1:], strict=False)]
    mine = [alone[part] for part in parts if part in alone]
    assert len(mine) >= 2
    counts = [int((one.labels[:, 1:] != -100).sum()) for one, _ in mine]
    expected = sum(float(loss) * count for (_, loss), count in zip(mine, counts, strict=True)) / sum(counts)
    assert together == pytest.approx(expected, abs=1e-5)
    assert said == []


def test_layers_that_let_packed_samples_see_each_other_are_named(tmp_path: Path) -> None:
    task = small_task(tmp_path, "llama", sequence=SEQUENCE)
    batch = data_of(tmp_path, "completion", True).mini_batch(0)
    for side, half in zip(("device", "server"), ready(task, 2), strict=True):
        said: list[str] = []
        half.note = said.append
        model = half._part
        # A model that takes no positions: what older transformers do with packed rows.
        half._part = lambda position_ids=None, model=model, **given: model(**given)
        for _ in range(2):
            if side == "device":
                half.forward(batch.ids, batch.rows)
            else:
                half.train(torch.randn(2, SEQUENCE, 48), batch.labels, batch.rows)
        assert len(said) == 1 and f"the {side}'s layers of {task.model} do not keep the samples" in said[0]


@pytest.mark.parametrize("packing", [(False, False), (False, True), (True, True)], ids=str)
def test_a_batched_server_computes_padded_and_packed_devices_as_by_themselves(tmp_path: Path, packing) -> None:
    task = small_task(tmp_path, "llama", sequence=SEQUENCE)
    device, server = ready(task, 2)
    windows = Batches(torch.arange(640).numpy() % 290, batch=2, sequence=48, vocabulary=300)
    data: list[Any] = [data_of(tmp_path, "completion", packing[0]), data_of(tmp_path, "text", packing[1]), windows]
    sent = [one.mini_batch(0) for one in data]
    with torch.no_grad():
        smashed = [device.forward(one.ids, one.rows) for one in sent]
    alone = []
    for one, activation in zip(sent, smashed, strict=True):
        server.load(initial_adapters(task, 0, server.magnitudes))
        alone.append(server.train(activation.clone(), one.labels, one.rows))
    server.load(initial_adapters(task, 0, server.magnitudes))
    together = server.train_batched(smashed, [one.labels for one in sent], [one.rows for one in sent])
    for one, other in zip(alone, together, strict=True):
        assert other.loss == pytest.approx(one.loss, abs=1e-5)
        assert other.gradient.shape == one.gradient.shape
        assert torch.allclose(other.gradient, one.gradient, atol=1e-6)


def message(batch: MiniBatch, **changes: Any) -> Activations:
    def whole(tensor: Any) -> Any:
        return None if tensor is None else pack_tensor(tensor.to(torch.int32))

    parts = {"labels": batch.labels, "mask": batch.rows.mask, "positions": batch.rows.positions, **changes}
    activation = pack_tensor(torch.zeros(*batch.ids.shape, 48))
    return Activations(
        round=1, epoch=0, step_tokens=1, activation=activation, **{k: whole(v) for k, v in parts.items()}
    )


def taken(task: Task, sent: Activations) -> Any:
    """What the server makes of a message that has travelled."""
    came = decode([bytes(part) for part in encode(sent)])
    assert isinstance(came, Activations)
    return unpack_rows(came, task, task.batch)


@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
def test_labels_masks_and_positions_arrive_as_they_were(tmp_path: Path, packing) -> None:
    task, batch = small_task(tmp_path, sequence=SEQUENCE), data_of(tmp_path, "completion", packing).mini_batch(0)
    found = taken(task, message(batch))
    assert torch.equal(found.labels, batch.labels)
    assert packing == (found.rows.mask is None) == (found.rows.positions is not None)
    for own, theirs in ((found.rows.mask, batch.rows.mask), (found.rows.positions, batch.rows.positions)):
        assert own is theirs is None or torch.equal(own, theirs)


def plain(ids: list[list[int]], **rows: list[list[int]]) -> MiniBatch:
    tensors = {name: torch.tensor(value) for name, value in rows.items()}
    labels = tensors.pop("labels", torch.tensor(ids))
    return MiniBatch(torch.tensor(ids), labels, Rows(**tensors))


FULL = [[1, 2, 3], [4, 5, 6]]
SPOILED: list[tuple[MiniBatch, str]] = [
    (plain(FULL, labels=[[1, 2, 300], [4, 5, 6]]), "outside the vocabulary"),
    (plain(FULL, labels=[[1, -1, 3], [4, 5, 6]]), "outside the vocabulary"),
    (plain(FULL, labels=[[1, -100, -100], [4, -100, -100]]), "none has a loss"),
    (plain(FULL, mask=[[1, 1, 0], [1, 1, 1]]), "part tokens from padding"),
    (plain(FULL, mask=[[0, 1, 1], [1, 1, 1]], labels=[[-100, 2, 3], [4, 5, 6]]), "part tokens from padding"),
    (plain(FULL, mask=[[1, 2, 1], [1, 1, 1]]), "part tokens from padding"),
    (plain(FULL, mask=[[1, 0, 1], [1, 1, 1]], labels=[[1, -100, 3], [4, 5, 6]]), "part tokens from padding"),
    (plain(FULL, positions=[[0, 1, 3], [0, 1, 2]]), "do not count from 0"),
    (plain(FULL, positions=[[1, 2, 3], [0, 1, 2]]), "do not count from 0"),
    (plain([[1], [2]]), "rows of 1 tokens"),
    (plain([[1] * 99, [2] * 99]), "rows of 99 tokens"),
    (plain([[1, 2]]), "shape"),
]


@pytest.mark.parametrize(("batch", "said"), SPOILED)
def test_what_no_device_makes_is_refused_before_it_is_computed(tmp_path: Path, batch, said) -> None:
    with pytest.raises(TensorError, match=said):
        taken(small_task(tmp_path, sequence=SEQUENCE), message(batch))


def test_a_mask_beside_positions_is_refused() -> None:
    ones = [[1, 1, 1], [1, 1, 1]]
    with pytest.raises(TensorError, match="a mask came beside positions"):
        message(plain(FULL, mask=ones, positions=[[0, 1, 2], [0, 1, 2]]))
    with pytest.raises(TensorError, match="mask int32"):
        message(plain(FULL), mask=torch.ones(2, 2))


RUN = ("run", "--local", "--cut", "1", "--rounds", "2", "--batch", "2", "--seq", "64", "--dtype", "float32")


def test_a_local_run_trains_on_conversations_and_goes_on_with_nothing_else(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    chat_folder(tmp_path / "model")
    write_rows(tmp_path / "chat.jsonl", ROWS["messages"])
    write_rows(tmp_path / "asks.jsonl", [*ROWS["completion"], {"prompt": "long " * 99, "completion": "no"}])
    words = (*RUN, "--model", "model", "--data", "chat.jsonl", "--train-on", "completion")
    # Nothing is started for what is wrong, so the corrected command runs.
    (tmp_path / "model" / "tokenizer_config.json").rename(tmp_path / "kept.json")
    command("card", *words).failed_in_one_line(2, "conversations need a chat template", "--chat-template")
    (tmp_path / "kept.json").rename(tmp_path / "model" / "tokenizer_config.json")
    done = command("card", *words, "--json")
    assert done.code == 0, done.err
    assert "9 samples: messages" in done.err and "the loss is on the assistant's turns" in done.err
    assert "padded to the longest of their mini-batch" in done.err and "tokenizer_config.json" in done.err
    two = command(
        "card", *RUN, "--model", "model", "--data", "chat.jsonl", "--data", "asks.jsonl", "--out", "two", "--json"
    )
    assert two.code == 0, two.err
    assert "device-1: 9 samples: messages" in two.err and "device-2: 10 samples: prompt and completion" in two.err
    assert "device-2: 1 of 10 samples are left out" in two.err
    assert [d["device"] for d in two.document["rounds"][0]["devices"]] == ["device-1", "device-2"]
    bad = command("card", *RUN, "--data", "chat.jsonl", "--data", "asks.jsonl", "--devices", "3", "--out", "three")
    bad.failed_in_one_line(2, "--data names 2 files and --devices 3", "one for each device")


def test_a_device_that_comes_back_with_its_data_read_otherwise_is_refused(tmp_path: Path) -> None:
    from cardlab.core.errors import UsageError
    from cardlab.split.settings import RunSettings
    from cardlab.workflows.training_data import DataChoice, prepare_data, read_data

    tokenizer = open_tokenizer(str(chat_folder(tmp_path / "model")))
    path = write_rows(tmp_path / "rows.jsonl", ROWS["completion"])
    settings = RunSettings(
        run="r",
        task=small_task(tmp_path, sequence=SEQUENCE),
        rounds=1,
        epochs=1,
        learning_rate=0.1,
        wire_dtype="float32",
        error_feedback=True,
    )
    digests = []
    for choice in (DataChoice(packing=True), DataChoice(packing=True, train_on="all")):
        digests.append(prepare_data(read_data(path, choice, tokenizer), choice, tokenizer, settings, (0, 1)).digest)
    assert len(set(digests)) == 2
    # Gradients of other shapes: what was lost of the one belongs to no row of the next.
    with pytest.raises(UsageError, match="--error-feedback .* give --packing"):
        prepare_data(read_data(path, DataChoice(), tokenizer), DataChoice(), tokenizer, settings, (0, 1))
    (tmp_path / "one.txt").write_text("one text")
    with pytest.raises(UsageError, match="one sample: there is nothing to pack"):
        read_data(str(tmp_path / "one.txt"), DataChoice(packing=True), tokenizer)
