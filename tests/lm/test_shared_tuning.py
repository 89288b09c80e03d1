"""Several processes tune together: the steps of one, resumed with as many, and through the command."""

from __future__ import annotations

import json
import threading

import pytest
import torch

from recbole_llm.cli.main import main
from recbole_llm.errors import UserError
from recbole_llm.lm.answer_tuning import AnswerTuning
from recbole_llm.lm.processes import Ranks
from recbole_llm.text.chat_examples import write_examples
from tests.lm.tunings import EXAMPLES, assert_equal, encoded, load, settings, tuned, weights


class Thread(Ranks):
    """A rank whose fellows are threads, which meet in a list."""

    def __init__(self, rank, world, table, barrier):
        super().__init__(rank, world)
        object.__setattr__(self, "meet", (table, barrier))

    def _all(self, value):
        table, barrier = self.meet
        table[self.rank] = value
        barrier.wait(60)
        found = list(table)
        barrier.wait(60)
        return found

    def gathered(self, value):
        found = self._all(value)
        return found if self.main else None

    def total(self, number):
        return sum(self._all(number))

    def sum_in_place(self, tensors):
        flat = torch.stack(self._all(torch.cat([t.reshape(-1) for t in tensors]))).sum(0)
        for t, part in zip(tensors, flat.split([t.numel() for t in tensors])):
            t.copy_(part.view_as(t))


def shared(folder, where, world=2, resumes=False, **how):
    """The jobs of ``world`` ranks, run to the end, and the reports."""
    barrier, table, reports = threading.Barrier(world), [None] * world, [None] * world
    jobs = []
    for rank in range(world):
        lm = load(folder)
        ranks = Thread(rank, world, table, barrier)
        jobs.append(AnswerTuning(lm, encoded(lm), encoded(lm, EXAMPLES[:3]), settings(**how), where, ranks=ranks))
        assert jobs[-1].resume() == resumes

    def run(rank):
        try:
            reports[rank] = jobs[rank].run(progress=False)
        except BaseException:
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return jobs, reports


def test_processes_that_share_a_tuning_take_the_steps_of_one(folder, tmp_path):
    """Seven of eight examples a batch: the last one is one row, and one process has none of it."""
    alone, told = tuned(folder, tmp_path / "alone", batch_size=7) if not (tmp_path / "alone").mkdir() else (0, 0)
    (tmp_path / "both").mkdir()
    (first, second), reports = shared(folder, tmp_path / "both", batch_size=7)
    assert_equal(weights(first), weights(second), rtol=0, atol=0)
    assert_equal(weights(first), weights(alone), atol=1e-6, rtol=1e-5)
    for report in reports:
        assert report["tokens"] == told["tokens"] and report["processes"] == 2 and report["steps"] == told["steps"]
        assert report["best_valid_loss"] == pytest.approx(told["best_valid_loss"], rel=1e-5)
    read = [json.loads((tmp_path / at / "log.jsonl").read_text().split("\n")[1]) for at in ("alone", "both")]
    assert read[1]["train_loss"] == pytest.approx(read[0]["train_loss"], rel=1e-5)


def test_a_shared_tuning_goes_on_with_as_many_processes(folder, tmp_path, monkeypatch):
    real = AnswerTuning._step

    def dies(self, group):
        if self._done == 4:  # in the second epoch of three steps each
            raise KeyboardInterrupt
        real(self, group)

    (tmp_path / "whole").mkdir()
    (tmp_path / "part").mkdir()
    (whole, _), told = shared(folder, tmp_path / "whole", batch_size=3)
    monkeypatch.setattr(AnswerTuning, "_step", dies)
    _, none = shared(folder, tmp_path / "part", batch_size=3)
    monkeypatch.setattr(AnswerTuning, "_step", real)
    assert none == [None, None] and (tmp_path / "part" / "tuning.pt").is_file()
    lm = load(folder)
    alone = AnswerTuning(lm, encoded(lm), encoded(lm, EXAMPLES[:3]), settings(batch_size=3), tmp_path / "part")
    with pytest.raises(UserError, match="begun by 2 processes"):
        alone.resume()
    (again, _), reports = shared(folder, tmp_path / "part", resumes=True, batch_size=3)
    assert_equal(weights(again), weights(whole), rtol=0, atol=0)
    assert reports[0]["tokens"] == told[0]["tokens"] and reports[0]["best_valid_loss"] == told[0]["best_valid_loss"]
    logs = [(tmp_path / at / "log.jsonl").read_text() for at in ("whole", "part")]
    assert logs[0] == logs[1]  # also what each process had summed up in the epoch


def test_tensors_are_summed_in_one_message_and_come_back_in_their_places(monkeypatch):
    sent = []
    monkeypatch.setattr("torch.distributed.all_reduce", lambda flat: (sent.append(len(flat)), flat.mul_(3)))
    tensors = [torch.arange(6.0).reshape(2, 3), torch.tensor(7.0), torch.ones(2, 1)]
    Ranks(0, 2).sum_in_place(tensors)
    assert sent == [9] and tensors[0].tolist() == [[0, 3, 6], [9, 12, 15]]
    assert float(tensors[1]) == 21 and tensors[2].tolist() == [[3], [3]]
    Ranks().sum_in_place(tensors)
    assert sent == [9]


@pytest.mark.slow
def test_the_command_with_two_processes_tunes_the_adapter_of_one(folder, tmp_path, home):
    train = tmp_path / "train.jsonl"
    write_examples(train, EXAMPLES)
    words = ["finetune", str(train), "--valid", str(train), "--lm", str(folder), "--epochs", "2", "--batch-size", "3"]
    words += ["--learning-rate", "0.01", "--lora-dropout", "0", "--quiet", "--lm-device", "cpu"]
    assert main([*words, "--name", "one"]) == 0 and main([*words, "--name", "two", "--nproc", "2"]) == 0
    from safetensors.torch import load_file

    one, two = (load_file(home / "saved" / n / "adapter/adapter_model.safetensors") for n in ("one", "two"))
    assert_equal(one, two, atol=1e-6, rtol=1e-4)
    said = json.loads((home / "saved" / "two" / "tuning.json").read_text())
    assert said["processes"] == 2 and said["status"] == "finished"
    assert main([*words, "--name", "two", "--nproc", "2"]) == 0  # already done
    assert main([*words, "--name", "two", "--nproc", "2", "--epochs", "3"]) == 2  # another tuning
    assert main([*words, "--nproc", "0"]) == 2
