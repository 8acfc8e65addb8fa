"""A rehearsal follows what a CUDA graph can hold and breaks off where it could not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from baton.engine.graphs.rehearsal import GraphRuleError, Rehearsal

X = torch.arange(6.0)
OUT = torch.zeros(6)


def test_a_replay_computes_what_the_tensors_hold_now() -> None:
    x, out = torch.ones(3), torch.zeros(3)
    graph = Rehearsal().capture(lambda: void(out.copy_(x * 2 + x.cumsum(0))))

    x.copy_(torch.tensor([1.0, 2.0, 3.0]))
    graph.replay()

    assert out.tolist() == [3.0, 7.0, 12.0]


def void(result: object) -> None:
    """Give nothing back, as captured work must."""


FORBIDDEN: dict[str, Callable[[], object]] = {
    "a number read back": lambda: X.sum().item(),
    "a list read back": X.tolist,
    "a branch on a value": lambda: OUT.zero_() if X.sum() > 3 else None,
    "a count of rows": lambda: OUT.add_(len(torch.nonzero(X))),
    "rows chosen by a mask": lambda: X[X > 2],
    "rows written by a mask": lambda: OUT.clone().__setitem__(X > 2, 1.0),
    "a comparison of tensors": lambda: torch.equal(X, OUT),
    "a tensor made of a list": lambda: OUT.add_(torch.tensor([1.0])),
    "a copy to the host": X.cpu,
    "repeats counted by a tensor": lambda: X.repeat_interleave(torch.ones(6, dtype=torch.int64)),
}


@pytest.mark.parametrize("work", FORBIDDEN.values(), ids=FORBIDDEN)
def test_what_no_graph_can_hold_is_refused_at_capture(work: Callable[[], object]) -> None:
    with pytest.raises(GraphRuleError):
        Rehearsal().capture(lambda: void(work()))


ALLOWED: dict[str, Callable[[], object]] = {
    "rows chosen by index": lambda: X[torch.zeros_like(X, dtype=torch.int64)],
    "a mask that fills": lambda: X.masked_fill(X > 2, 0.0),
    "a shape known to the host": lambda: X.new_zeros(len(X), 2),
}


@pytest.mark.parametrize("work", ALLOWED.values(), ids=ALLOWED)
def test_what_a_graph_can_hold_is_not(work: Callable[[], object]) -> None:
    Rehearsal().capture(lambda: void(work())).replay()


def replay_after(change: Callable[[dict[str, Tensor]], None]) -> None:
    held = {"x": torch.ones(4), "out": torch.zeros(4)}
    graph = Rehearsal().capture(lambda: void(held["out"].copy_(held["x"] * len(held))))
    change(held)
    graph.replay()


def test_a_replay_on_another_tensor_is_refused() -> None:
    with pytest.raises(GraphRuleError, match=r"was captured as aten\.mul"):
        replay_after(lambda held: held.update(x=torch.ones(4)))


def test_a_replay_on_other_rows_of_a_tensor_is_refused() -> None:
    with pytest.raises(GraphRuleError, match=r"was captured as aten\.mul"):
        replay_after(lambda held: held.update(x=held["x"][:1]))


def test_a_replay_with_another_number_is_refused() -> None:
    with pytest.raises(GraphRuleError, match=r"was captured as aten\.mul"):
        replay_after(lambda held: held.update(more=torch.ones(1)))


def test_a_replay_with_a_call_more_is_refused() -> None:
    calls = iter([1, 1, 2])

    def work() -> None:
        for _ in range(next(calls)):
            OUT.zero_()

    graph = Rehearsal().capture(work)

    with pytest.raises(GraphRuleError, match="1 calls were captured and 2 replayed"):
        graph.replay()
