# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, what a run says of held-out rows is not what its adapters predict, or it trains on them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("zmq")
pytestmark = pytest.mark.torch

from cardlab.core.errors import UsageError
from cardlab.core.records.device import Device
from cardlab.core.records.training import TrainQuality, best_quality, qualities
from cardlab.db import open_store
from cardlab.split.adapters import initial_adapters
from cardlab.split.batches import MiniBatch, SampleBatches
from cardlab.split.data import Batches
from cardlab.split.encoding import encode_samples
from cardlab.split.held_out import NoRowsError, Part, Shard
from cardlab.split.journal import Journal
from cardlab.split.samples import read_samples
from cardlab.split.tokenizer import byte_tokens
from tests.cli.run import command
from tests.split.models import Unsplit, batches, halves, small_task
from tests.split.processes import Trial
from tests.split.test_sample_batches import data_of

LEFT, OUT = Part(0.3, held_out=False), Part(0.3, held_out=True)


def rows_of(data: Batches | SampleBatches) -> list[bytes]:
    """Every row's tokens, without the padding that others make."""
    found = []
    for batch in data.each():
        mask = torch.ones_like(batch.ids) if batch.rows.mask is None else batch.rows.mask
        found += [row[kept.bool()].numpy().tobytes() for row, kept in zip(batch.ids, mask, strict=True)]
    return found


def windows(tokens: np.ndarray, part: Part | None, shard: tuple[int, int] = (0, 1)) -> Batches:
    return Batches(tokens, batch=3, sequence=8, vocabulary=300, shard=Shard(*shard, part))


def test_no_row_is_trained_on_and_judged_and_none_is_lost() -> None:
    tokens = np.random.default_rng(1).integers(0, 256, 8 * 400)
    whole = rows_of(windows(tokens, None))
    left, out = (rows_of(windows(tokens, part)) for part in (LEFT, OUT))
    assert sorted(left + out) == sorted(whole) and not set(left) & set(out)
    # By content: about the share, and the same whatever the order and whatever else is there.
    assert 0.2 < len(out) / len(whole) < 0.4
    again = np.concatenate([tokens[8 * 200 :], tokens[: 8 * 200]])
    assert sorted(rows_of(windows(again, OUT))) == sorted(out)
    assert set(rows_of(windows(tokens[: 8 * 200], OUT))) <= set(out)
    # Shares of devices are of the rows that are left, and a row that stands twice is on one side.
    mine = [rows_of(windows(tokens, LEFT, (j, 3))) for j in range(3)]
    assert sorted(sum(mine, [])) == sorted(left) and max(map(len, mine)) - min(map(len, mine)) <= 1
    twice = np.concatenate([tokens, tokens])
    assert sorted(rows_of(windows(twice, OUT))) == sorted(out * 2)


def test_samples_are_held_out_whole(tmp_path: Path) -> None:
    whole, left, out = (
        rows_of(data_of(tmp_path, "completion", False, shard=Shard(0, 1, part)))
        for part in (None, Part(0.4, held_out=False), Part(0.4, held_out=True))
    )
    assert out and sorted(left + out) == sorted(whole) and not set(left) & set(out)


def test_training_takes_the_rows_that_are_left_only() -> None:
    tokens = np.random.default_rng(2).integers(0, 256, 8 * 60)
    data, out = windows(tokens, LEFT), set(rows_of(windows(tokens, OUT)))
    seen = {row.numpy().tobytes() for number in range(60) for row in data.batch(number)}
    assert seen == set(rows_of(data)) and not seen & out


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="cannot be held out"):
        Part(share, held_out=True)


def test_a_side_without_rows_says_which() -> None:
    with pytest.raises(NoRowsError, match="that is held out"):
        windows(np.arange(16) % 256, Part(1e-9, held_out=True))


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_moe"])
def test_the_servers_verdict_is_the_unsplit_models(tmp_path: Path, family: str) -> None:
    task = small_task(tmp_path, family, lora_dropout=0.5)
    device, server = halves(task)
    for half in (device, server):
        half.set_cut(2)
        half.load(initial_adapters(task, 0, server.magnitudes))
    whole = Unsplit(task)
    whole.model.eval()
    device.clock.step = server.clock.step = 3
    for batch in [batches(task).mini_batch(number) for number in range(3)]:
        with device.judging():
            activation = device.forward(batch.ids, batch.rows)
        found = server.judge(activation, batch.labels, batch.rows)
        with torch.no_grad():
            whole._clock.step = None
            output = whole.model(input_ids=batch.ids, labels=batch.labels, use_cache=False)
        right = (output.logits[:, :-1].argmax(-1) == batch.labels[:, 1:]).sum()
        assert (found.loss, found.correct) == (float(output.loss), int(right))
    assert not activation.requires_grad and device.clock.step == server.clock.step == 3
    assert all(p.grad is None for layer in server.layers for p in layer.parameters())


def judged(number: int, loss: float, device: str = "a", tokens: int = 100) -> TrainQuality:
    return TrainQuality(
        uid=f"{number}{device}",
        run="run",
        device=Device(key=device, name=device, platform="cpu"),
        number=number,
        cut=1,
        loss=loss,
        tokens=tokens,
        correct=tokens // 2,
        elapsed_s=1.0,
        up_bytes=10,
    )


def test_every_token_counts_the_same_and_other_rows_are_not_compared() -> None:
    found = qualities([judged(1, 1.0, "a", 100), judged(1, 3.0, "b", 300), judged(2, 0.1, "a", 100)])
    assert found[1].loss == 2.5 and found[1].perplexity == pytest.approx(np.exp(2.5)) and found[1].tokens == 400
    # Round 2 has the rows of one device only.
    assert best_quality(found.values()) == found[2]
    assert best_quality([*found.values(), *qualities([judged(3, 2.0, "a"), judged(3, 2.0, "b")]).values()]) != found[2]
    assert best_quality([]) is None


def run(folder: Path, *words: str):
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"say {n} ", "completion": f"{n} it is"}) + "\n" for n in range(60)))
    common = ["--model", "tiny-llama", "--cut", "1", "--seq", "24", "--batch", "3", "--optimizer", "adamw"]
    out = ["--out", str(folder / "out"), "--db", str(folder / "x.db"), "--json"]
    return command("card", "run", "--local", *common, "--data", str(data), *out, *words)


def test_a_run_judges_before_and_after_each_round_and_keeps_it_everywhere(tmp_path: Path) -> None:
    words = ("--rounds", "3", "--eval-every", "2", "--eval-share", "0.3", "--devices", "2", "--learning-rate", "0.01")
    done = run(tmp_path, *words, "--report-to", "csv", "--save-every", "1")
    assert done.code == 0, done.err
    document = done.document
    losses = [document["before"]["eval_loss"], *(r["eval_loss"] for r in document["rounds"])]
    # Every second round, and the last.
    assert losses[1] is None and None not in (losses[0], losses[2], losses[3])
    assert losses[0] > losses[2] > losses[3]
    journal = Journal.resume(tmp_path / "out")
    found = qualities(journal.progress.judged)
    assert [found[n].loss for n in (0, 2, 3)] == [losses[0], losses[2], losses[3]]
    with open_store(str(tmp_path / "x.db")) as store:
        assert store.rounds.judged_in(document["run_id"]) == journal.progress.judged
    assert "| 3 |" in (tmp_path / "out" / "adapters" / "README.md").read_text()
    named = json.loads((tmp_path / "out" / "checkpoints" / "checkpoints.json").read_text())
    assert named["best"] == named["last"] == "round-3"
    inputs = journal.progress.inputs
    assert sum(i.rows + i.held_out_rows for i in inputs.values()) == 60
    assert all(i.held_out_rows for i in inputs.values())


def test_a_run_ends_when_held_out_rows_are_predicted_no_better(tmp_path: Path) -> None:
    # A rate that moves nothing: no round lowers the loss, and of equal ones the earliest is the lowest.
    done = run(tmp_path, "--rounds", "9", "--eval-share", "0.3", "--learning-rate", "1e-30", "--patience", "2")
    assert done.code == 0, done.err
    assert len(done.document["rounds"]) == 2
    assert "the run ends here" in done.err and "lowest after round 0" in done.err


def test_a_run_that_went_past_its_best_keeps_the_best_adapters(tmp_path: Path) -> None:
    """Early stopping ends rounds after the best; the adapters of that one are what was wanted."""
    # A rate that learns first and falls apart then.
    words = ("--eval-share", "0.3", "--learning-rate", "0.5", "--patience", "3")
    done = run(tmp_path, "--rounds", "30", *words)
    assert done.code == 0, done.err
    losses = [r["eval_loss"] for r in done.document["rounds"]]
    best = 1 + losses.index(min(losses))
    assert (
        "the run ends here" in done.err
        and best < len(losses)
        and losses[best - 1] < done.document["before"]["eval_loss"]
    )
    kept = Path(done.document["best_adapters"])
    assert kept == tmp_path / "out" / "checkpoints" / f"round-{best}"
    assert [path.name for path in kept.parent.glob("round-*")] == [kept.name]
    (other, name) = (tmp_path / "other", "adapter_model.safetensors")
    other.mkdir()
    again = run(other, "--rounds", str(best), "--eval-share", "0.3", "--learning-rate", "0.5")
    assert again.code == 0, again.err
    assert (kept / name).read_bytes() == (other / "out" / "adapters" / name).read_bytes()


def test_a_file_of_held_out_rows(tmp_path: Path) -> None:
    (tmp_path / "eval.jsonl").write_text('{"prompt": "say 99 ", "completion": "99 it is"}\n' * 4)
    done = run(tmp_path, "--rounds", "1", "--eval-data", str(tmp_path / "eval.jsonl"), "--devices", "2")
    assert done.code == 0, done.err
    journal = Journal.resume(tmp_path / "out")
    assert sum(i.held_out_rows for i in journal.progress.inputs.values()) == 4
    assert sum(i.rows for i in journal.progress.inputs.values()) == 60
    # Every token of a completion has a loss; those of prompts have none.
    assert document_tokens(done) == 4 * len("99 it is")


def test_passes_over_the_data_are_counted_in_rounds(tmp_path: Path) -> None:
    # 60 rows of two devices in mini-batches of 3: 10 of them are a pass of each.
    done = run(tmp_path, "--epochs", "1.5", "--local-epochs", "4", "--devices", "2")
    assert done.code == 0, done.err
    assert "1.5 pass(es) over 30 row(s) are 15 mini-batch(es): 4 round(s)" in done.err
    assert len(done.document["rounds"]) == 4


def test_held_out_rows_that_are_trained_on_are_named_or_refused(tmp_path: Path) -> None:
    rows = [json.dumps({"prompt": f"say {n} ", "completion": f"{n} it is"}) for n in range(60)]
    held_out = tmp_path / "eval.jsonl"
    # Another order and other file: not the same file, and all of it known.
    held_out.write_text("\n".join(reversed(rows[:7])))
    run(tmp_path, "--rounds", "1", "--eval-data", str(held_out)).failed_in_one_line(2, "has what is trained on")
    assert not (tmp_path / "out").exists()
    held_out.write_text("\n".join([*rows[:2], '{"prompt": "say 99 ", "completion": "99 it is"}']))
    done = run(tmp_path, "--rounds", "1", "--eval-data", str(held_out))
    assert done.code == 0, done.err
    assert f"2 of 3 rows of {held_out} are trained on too" in done.err


def document_tokens(done) -> int:
    return done.document["rounds"][0]["eval_tokens"]


def test_a_device_that_slept_while_it_judged_comes_back(tmp_path: Path) -> None:
    task = small_task(tmp_path)
    trial = Trial(tmp_path, task, {"a": [1], "b": [2]}, rounds=2, epochs=1, silence_s=2.0)
    slept = tmp_path / "slept"

    def held_out() -> Iterator[MiniBatch]:
        if not slept.exists():
            slept.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        yield batches(task).mini_batch(0)

    try:
        server = trial.server()
        device = trial.device("a", held_out=held_out, held_out_rows=task.batch)
        other = trial.device("b")
        trial.until(lambda: "the held-out rows of a are missing in the evaluation of round 0" in trial.log("server"))
        os.kill(device, signal.SIGCONT)
        assert [trial.wait(child, 60.0) for child in (server, device, other)] == [0, 0, 0], trial.log("server")
    finally:
        trial.end()
    progress = trial.journal().progress
    # Another device's turn may come before it is back; the last round has both.
    assert {turn.device for turn in progress.turns if turn.round == 2} == {"a", "b"}
    assert [one.number for one in progress.judged] == [1, 2]


def test_what_is_cut_off_makes_no_second_row(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"text": f"{'same ' * 6}{n}"}) + "\n" for n in range(40))
    (tmp_path / "rows.jsonl").write_text(rows)
    encoded = encode_samples(read_samples(str(tmp_path / "rows.jsonl")), byte_tokens("none"), train_on=None)
    sides = []
    for part in (Part(0.5, held_out=True), Part(0.5, held_out=False)):
        try:
            sides.append(
                SampleBatches(encoded.samples, batch=2, sequence=16, vocabulary=300, shard=Shard(0, 1, part)).rows
            )
        except NoRowsError:
            sides.append(0)
    assert sorted(sides) == [0, 40]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--patience", "2"], "--patience has no effect without held-out rows"),
        (["--eval-every", "2"], "--eval-every has no effect without held-out rows"),
        (["--eval-share", "0.2", "--eval-data", "x"], "two ways to the same"),
        (["--eval-share", "1.5"], "a share of 1.5 cannot be held out"),
        (["--eval-share", "0.0001"], "--eval-share 0.0001 holds out no row"),
        (["--rounds", "2", "--max-steps", "2"], "--rounds and --max-steps say the same twice"),
        (["--max-steps", "3", "--local-epochs", "2"], "--max-steps is 3, and a round has 2 step(s)"),
        (["--cuts", "nobody=1"], "--cuts names 'nobody'"),
        (["--cuts", "device-1=9"], "cut 9 leaves one side"),
        (["--participants", "2"], "--participants is 2, and there are 1 device(s)"),
        (
            ["--deadline", "9", "--parallel", "--devices", "2", "--server-sharing", "batched"],
            "a batched server lets all wait for the slowest",
        ),
        (
            ["--cuts", "device-1=2", "--parallel", "--devices", "2", "--server-sharing", "batched"],
            "a batched server needs one cut",
        ),
        (["--epochs", "2", "--rounds", "2"], "--rounds and --epochs say the same twice"),
        (["--epochs", "0"], "--epochs is 0"),
        (["--epochs", "2", "--devices", "3", "--participants", "2"], "--participants draws some"),
        (["--eval-data", "rows.jsonl"], "has what is trained on"),
        (["--deadline", "0"], "--deadline is 0"),
    ],
)
def test_what_has_no_effect_is_refused_before_anything_begins(tmp_path: Path, words: list[str], said: str) -> None:
    own = [str(tmp_path / word) if word.endswith(".jsonl") else word for word in words]
    run(tmp_path, *own).failed_in_one_line(2, said)
    assert not (tmp_path / "out").exists()
