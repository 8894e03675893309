"""The trainer's objects, each without a trainer: what is counted, which checkpoints are kept, when a run stops."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from rm_toolkit.batches.micro_batch import MicroBatch
from rm_toolkit.losses import ranking_loss
from rm_toolkit.training import stopping
from rm_toolkit.training.checkpoints import Checkpoints
from rm_toolkit.training.meter import Meter
from rm_toolkit.training.run_progress import RunProgress
from rm_toolkit.training.step_loss import micro_batch_loss
from rm_toolkit.training.steps import Steps
from rm_toolkit.training.stopping import RunStopped, Stop, StopEvaluation
from rm_toolkit.training.upstream import for_this_call


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def batch(better, worse, num_alone=0):
    """The parts of a `MicroBatch` that are counted."""
    return SimpleNamespace(better=torch.LongTensor(better), worse=torch.LongTensor(worse), num_alone=num_alone)


def scalars(*values):
    return [torch.tensor(value) for value in values]


def test_the_meter_divides_losses_by_steps_and_the_rest_by_pairs_and_rewards(accelerator):
    meter = Meter(accelerator, lm_loss=True)
    meter.add(batch([0], [1]), torch.tensor([3.0, 1.0]), *scalars(0.5, 2.0, 9.0))
    # The last text, and all texts of the next micro-batch, are in the LM loss but in no pair.
    meter.add(batch([1, 0], [0, 0], 1), torch.tensor([2.0, 1.0, 7.0]), *scalars(0.25, 0.5, 9.0))
    meter.add(batch([], [], 2), torch.tensor([7.0, 7.0]), *scalars(0.0, 0.5, 9.0))
    meter.end_step()
    meter.end_step()
    logs = meter.take()
    assert list(logs) == ["rank_loss", "lm_loss", "accuracy", "margin", "reward_mean", "reward_std"]
    assert (logs["rank_loss"], logs["lm_loss"]) == (0.375, 1.5)
    assert logs["accuracy"] == (1 + 0 + 0.5) / 3  # equal rewards count half
    assert logs["margin"] == pytest.approx((2 - 1 + 0) / 3)
    assert logs["reward_mean"] == 7 / 4 and logs["reward_std"] == pytest.approx((15 / 4 - (7 / 4) ** 2) ** 0.5)
    assert meter.take() == {}, "it began anew"


def test_a_meter_goes_on_from_its_state_bit_for_bit(accelerator):
    whole, first, second = (Meter(accelerator, anchor_loss=True) for _ in range(3))
    parts = [(batch([0], [1]), torch.randn(2), *torch.rand(3)) for _ in range(6)]
    for meter, mine in ((whole, parts), (first, parts[:3])):
        for part in mine:
            meter.add(*part)
            meter.end_step()
    second.restore(first.state(), first.steps, "cpu")
    for part in parts[3:]:
        second.add(*part)
        second.end_step()
    assert second.take() == whole.take()


@pytest.mark.parametrize(
    "loss, norm, received, expected",
    [
        (1.0, 2.0, 0, (None, 0)),
        (float("nan"), 2.0, 0, ("loss", 0)),
        (float("inf"), float("nan"), 0, ("loss", 0)),
        (1.0, float("inf"), 0, ("gradient norm", 0)),
        (1.0, None, signal.SIGTERM, (None, signal.SIGTERM)),
        (1.0, 2.0, signal.SIGINT, (None, signal.SIGINT)),
    ],
)
def test_the_meter_checks_loss_and_norm_and_hears_of_signals(accelerator, loss, norm, received, expected):
    assert Meter(accelerator).check(torch.tensor(loss), norm, received) == expected


@pytest.mark.parametrize(
    "processes, shares",
    [(2, [(1.0, [1.0, 2.0]), (3.0, [10.0, 20.0])]), (1, [(2.0, [11.0, 22.0])]), (3, [(2.0, [11.0, 22.0])] + [(2.0, [0, 0])] * 2)],
)  # fmt: skip
def test_what_processes_had_counted_is_shared_out_anew(processes, shares):
    progress = RunProgress(
        loss=[1.0, 3.0], sums=[[1.0, 2.0], [10.0, 20.0]], steps_counted=1, last_logged=0, total_loss=0.0, first_step=0,
        seconds=0.0, grad_norm=None, learning_rate=None, log=False, evaluate=False, ended=False,
    )  # fmt: skip
    assert [progress.share(rank, processes) for rank in range(processes)] == shares


def write(checkpoints, *steps, best=None):
    for step in steps:
        checkpoints.begin(step).mkdir()
        (checkpoints.folder(step) / "model.safetensors").write_bytes(bytes([step]))
        checkpoints.seal(step)
        checkpoints.rotate(step, best and str(checkpoints.folder(best)))


def test_the_newest_and_the_best_checkpoint_stay(tmp_path):
    checkpoints = Checkpoints(str(tmp_path), limit=2)
    checkpoints.begin_run(None)
    write(checkpoints, 2, 4, 6, best=2)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-6"]
    assert checkpoints.newest() == str(checkpoints.folder(6)) and checkpoints.saved_step == 6


def test_a_checkpoint_counts_when_it_is_sealed_and_one_begun_anew_replaces_it(tmp_path):
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.begin_run(None)
    checkpoints.begin(3).mkdir()
    assert checkpoints.newest() is None
    checkpoints.seal(3)
    assert checkpoints.newest() == str(checkpoints.folder(3))
    assert not checkpoints.begin(3).exists()
    others = Checkpoints(str(tmp_path), saves=False)
    checkpoints.folder(3).mkdir()
    others.begin(3), others.seal(3), others.rotate(3, None)
    assert list(checkpoints.folder(3).iterdir()) == [], "a process that does not save has changed the disk"


def test_a_run_stops_inside_an_evaluation_only_where_it_listens(accelerator, tmp_path, capsys):
    stop = Stop(accelerator)
    stop.check_evaluation(0)
    with pytest.raises(RunStopped), stop.listen():
        stop.check_evaluation(0)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StopEvaluation):
            stop.check_evaluation(1)
        assert stop.signal == stop.received == signal.SIGTERM
        stop.leave(7, tmp_path)
    assert "Stopped by SIGTERM at step 7." in "".join(capsys.readouterr())
    assert stop.received == 0
    with stop.listen():
        assert stop.signal == 0, "it was told so in the run before"


def test_several_processes_ask_each_other_at_every_sixteenth_batch(accelerator, monkeypatch):
    asked = []
    monkeypatch.setattr(stopping, "agree", lambda flags, _: asked.append(flags) or flags)
    stop = Stop(SimpleNamespace(num_processes=2))
    with stop.listen():
        for turn in range(33):
            stop.check_evaluation(turn)
    assert len(asked) == 3


def test_steps_without_a_stream_keep_the_loops_epoch_and_write_nothing(tmp_path, accelerator):
    args = SimpleNamespace(process_index=0, per_device_train_batch_size=2, max_tokens_per_batch=None)
    steps = Steps(args, None, None, accelerator)
    steps.save(tmp_path), steps.restore(tmp_path), steps.report(), steps.begin_epoch(3)
    assert steps.epoch(3, 10) is None and list(tmp_path.iterdir()) == []


def test_the_loss_of_a_micro_batch_adds_its_parts_by_their_weights():
    fields = dict.fromkeys(MicroBatch.__dataclass_fields__)
    inputs = SimpleNamespace(
        **fields | {
            "better": torch.tensor([0]), "worse": torch.tensor([1]), "pair_weight": torch.tensor([0.5]), "lm_weight": 0.25,
            "anchor_weight": 2.0,
        }
    )  # fmt: skip
    rewards, lm_losses = torch.tensor([1.0, 0.0]), torch.tensor([4.0, 4.0])
    loss, (rank, lm, anchor) = micro_batch_loss(inputs, rewards, lm_losses, lm_loss_coef=0.1)
    expected = 0.5 * ranking_loss(rewards, inputs.better, inputs.worse).item()
    assert (rank.item(), lm.item(), anchor.item()) == (pytest.approx(expected), 2.0, 0.0)
    assert loss.item() == pytest.approx(expected + 0.2)
    assert micro_batch_loss(inputs, rewards, lm_losses)[0].item() == pytest.approx(expected)


def test_arguments_are_as_set_again_after_a_call_that_fails():
    args = SimpleNamespace(save_total_limit=3, other=1)
    with pytest.raises(OSError), for_this_call(args, save_total_limit=None):
        assert args.save_total_limit is None
        raise OSError
    assert args == SimpleNamespace(save_total_limit=3, other=1)
