"""The parts of a training run: budget, schedule, shares of a batch, averaged weights, memory, journal, stopping."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer
from lightning_fabric import Fabric
from torch import Tensor, nn

from mri_minority.core.errors import DataError, UsageError
from mri_minority.training.checkpoint import load_run, save_run
from mri_minority.training.ema import Ema
from mri_minority.training.journal import Journal
from mri_minority.training.loop import Budget, Plan, learning_rate_factor, rows_of, train
from mri_minority.training.memory import check_memory, step_bytes
from mri_minority.training.stopping import asked_to_stop_is_interrupted, stop_requests
from mri_minority_cli.speech import speaking


def plan(folder: Path, **changes: object) -> Plan:
    """Ten steps on batches of four."""
    settings: dict[str, object] = {
        "budget": Budget(10, 1e9),
        "batch": 4,
        "micro_batch": 4,
        "learning_rate": 0.1,
        "weight_decay": 0.0,
        "ema": 0.9,
        "checkpoint": folder / "run.safetensors",
        "checkpoint_seconds": 1e9,
        "settings": {},
    }
    return Plan(**(settings | changes))  # type: ignore[arg-type]


@pytest.fixture
def fabric() -> Fabric:
    """One process on the CPU."""
    return Fabric(accelerator="cpu", devices=1)


def towards(target: float) -> Callable[[nn.Module, int, slice], Tensor]:
    """Squared distance of a linear layer's output from a target, for rows of four inputs of one."""

    def loss_of(network: nn.Module, step: int, rows: slice) -> Tensor:
        x = torch.ones(4, 1)[rows]
        return torch.as_tensor(((network(x) - target) ** 2).sum() / 4)

    return loss_of


def test_budget_ends_by_steps_or_by_time() -> None:
    assert Budget(100, 60.0).share(25, 3.0) == 0.25
    assert Budget(100, 60.0).share(25, 30.0) == 0.5
    assert Budget(100, 60.0).share(25, 90.0) == 1.0


def test_learning_rate_warms_up_stays_and_ends_at_zero() -> None:
    assert learning_rate_factor(0.0, 0) == 1 / 200
    assert learning_rate_factor(0.3, 1000) == 1.0
    assert learning_rate_factor(0.75, 1000) == 0.5
    assert learning_rate_factor(1.0, 1000) == 0.0


@pytest.mark.parametrize(("batch", "micro_batch", "processes"), [(16, 16, 1), (16, 4, 1), (16, 4, 2), (6, 16, 3)])
def test_every_row_is_taken_once(tmp_path: Path, batch: int, micro_batch: int, processes: int) -> None:
    """Whoever takes them, and no piece is larger than asked for."""
    shared = plan(tmp_path, batch=batch, micro_batch=micro_batch)
    pieces = [piece for rank in range(processes) for piece in rows_of(shared, rank, processes)]
    assert sorted(row for piece in pieces for row in range(batch)[piece]) == list(range(batch))
    assert all(len(range(batch)[piece]) <= micro_batch for piece in pieces)


@pytest.mark.parametrize(("batch", "micro_batch", "processes"), [(5, 5, 2), (8, 3, 1)])
def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path, batch: int, micro_batch: int, processes: int) -> None:
    with pytest.raises(DataError, match="batch"):
        rows_of(plan(tmp_path, batch=batch, micro_batch=micro_batch), 0, processes)


@pytest.mark.parametrize("micro_batch", [4, 1])
def test_it_finds_a_minimum(fabric: Fabric, tmp_path: Path, micro_batch: int) -> None:
    torch.manual_seed(0)
    net = nn.Linear(1, 1)
    steps = plan(tmp_path, budget=Budget(600, 1e9), micro_batch=micro_batch)
    *_, (last, ema) = train(fabric, net, towards(3.0), steps)
    assert last.step == 600
    assert last.loss < 1e-3
    ema.copy_to(net)
    assert net(torch.ones(1, 1)).item() == pytest.approx(3.0, abs=0.02)


def test_a_loss_that_is_never_finite_ends_the_run(fabric: Fabric, tmp_path: Path) -> None:
    """After twenty steps, with the weights untouched."""
    net = nn.Linear(1, 1)
    before = net.weight.detach().clone()
    with pytest.raises(DataError, match="20 steps up to step 20"):
        for _ in train(fabric, net, towards(float("nan")), plan(tmp_path, budget=Budget(100, 1e9))):
            pass
    assert torch.equal(net.weight, before)


def test_one_bad_step_is_left_out(fabric: Fabric, tmp_path: Path) -> None:
    """A batch with an infinite loss changes neither the weights nor their average."""
    net = nn.Linear(1, 1)
    good, bad = towards(3.0), towards(float("inf"))
    seen = []
    for _, ema in train(fabric, net, lambda n, s, r: (bad if s == 4 else good)(n, s, r), plan(tmp_path)):
        seen.append((net.weight.item(), ema.values["weight"].item()))
    assert seen[4] == seen[3]
    assert seen[5] != seen[4]


def test_a_run_with_other_settings_is_refused(fabric: Fabric, tmp_path: Path) -> None:
    first = plan(tmp_path, checkpoint_seconds=0.0, settings={"batch": 4})
    begun = train(fabric, nn.Linear(1, 1), towards(1.0), first)
    next(begun)
    next(begun)
    with pytest.raises(DataError, match="other settings"):
        next(train(fabric, nn.Linear(1, 1), towards(1.0), plan(tmp_path, settings={"batch": 8})))


def test_average_in_place_of_weights_and_back() -> None:
    """Inside the block the averages, afterwards the weights bit for bit, and training mode."""
    net = nn.Linear(2, 2)
    ema = Ema(net, 0.9)
    with torch.no_grad():
        net.weight += 0.1
    weights = net.weight.detach().clone()
    with ema.in_place_of_weights(net):
        assert torch.equal(net.weight, ema.values["weight"])
        assert not net.training
    assert torch.equal(net.weight, weights)
    assert net.training


@pytest.mark.parametrize("parts", [30.0, 9.0, 2.0])
def test_the_average_remembers_a_share_of_the_run(parts: float) -> None:
    """Of weights that rise by one a step, a power-function average over n steps is n p / (p + 1); a cap shortens it."""
    net, steps = nn.Linear(1, 1), 2000
    means, capped = Ema(net, 1.0, parts), Ema(net, 0.99, parts)
    for step in range(1, steps + 1):
        nn.init.constant_(net.weight, float(step))
        means.update(net, step)
        capped.update(net, step)
    assert float(means.values["weight"]) == pytest.approx(steps * parts / (parts + 1), rel=2e-3)
    # Memory of 0.99 is 100 steps, the newest of which is this one.
    assert float(capped.values["weight"]) == pytest.approx(max(steps * parts / (parts + 1), steps - 99), rel=2e-3)


def test_memory_is_counted_from_what_autograd_keeps() -> None:
    """A product of two (n, n) matrices keeps both; only the one that is not a weight is counted, slice by slice."""
    net = nn.Linear(256, 256, bias=False)
    x = torch.randn(256, 256, requires_grad=True)
    needed = step_bytes(net, lambda: net(x).sum(), 7)
    weights, kept = 4 * 256 * 256, 4 * 256 * 256
    assert needed == 5 * weights + int(1.25 * 7 * kept)


def test_a_step_that_cannot_fit_is_refused() -> None:
    check_memory(1024, torch.device("cpu"), 16)
    with pytest.raises(UsageError, match=r"micro_batch to \d+ or less"):
        check_memory(2**60, torch.device("cpu"), 16)


def test_what_was_logged_after_the_checkpoint_is_taken_back(tmp_path: Path) -> None:
    first = Journal(tmp_path, "net", 0)
    for step in range(1, 6):
        first.numbers(step, loss=float(step), held_out={"0.1": [1.0, 2.0]})
    first.close()
    again = Journal(tmp_path, "net", 3)
    again.numbers(4, loss=40.0)
    again.close()
    lines = (tmp_path / "net_log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [(e["step"], e["loss"]) for e in map(json.loads, lines)] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]
    assert len(list((tmp_path / "tensorboard" / "net").glob("events*"))) == 2


def test_a_signal_raises_a_flag_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_requests() as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_interrupt_acts_at_once() -> None:
    with stop_requests() as asked:
        signal.raise_signal(signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_resumed_run_has_its_optimiser_where_its_weights_are(tmp_path: Path) -> None:
    """On a GPU the fused optimiser refuses state that lies elsewhere; "meta" stands for one."""
    net = nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    save_run(tmp_path / "run.safetensors", net, Ema(net, 0.9), optimiser, {})
    elsewhere = nn.Linear(2, 2, device="meta")
    again = torch.optim.AdamW(elsewhere.parameters())
    load_run(tmp_path / "run.safetensors", elsewhere, Ema(elsewhere, 0.9), again)
    assert {value.device.type for state in again.state.values() for value in state.values()} == {"meta"}


def test_being_asked_to_stop_outside_the_loop_is_an_interruption() -> None:
    """Scoring a large store, for example: a scheduler requeues what ends with 130."""
    before = signal.getsignal(signal.SIGUSR1)
    for number in (signal.SIGUSR1, signal.SIGTERM):
        with pytest.raises(KeyboardInterrupt), asked_to_stop_is_interrupted():
            signal.raise_signal(number)
        with pytest.raises(typer.Exit) as ended, speaking(False, False):
            signal.raise_signal(number)
        assert ended.value.exit_code == 130
    assert signal.getsignal(signal.SIGUSR1) == before
