"""How rows reach the experts and come back: what all backends share, and the one for a single rank.

    begin     starts to carry rows to their experts          (prepare)
    compute   runs the experts over the rows that came       (experts)
              and starts to carry the outputs back           (finalize)
    the call of what `compute` returned waits for the sums

What a layer computes between these calls, such as its shared experts, runs beside the transfers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol

from torch import Tensor

from ..by_device import runs_natively
from .experts import ExpertWeights, experts_batched, experts_contiguous
from .pair import Pending, Prepared, PrepareFinalize, Rows
from .routed import routed_experts
from .rows import ActivationFormat
from .token_pair import Carried, TokenPair


class Begun(Protocol):
    """A layer whose rows are on their way to the experts."""

    def compute(self) -> Pending[Tensor]:
        """Run the experts; what it returns gives the routed experts' weighted sums, `[tokens, hidden]`."""
        ...


class MoeBackend(Protocol):
    """Composes the three stages. Implementations differ in where rows travel between them."""

    def begin(self, x: Tensor, ids: Tensor, weights: Tensor, experts: ExpertWeights) -> Begun:
        """Route tokens to experts.

        x        [tokens, hidden]
        ids      [tokens, top_k]    int64; -1 routes nowhere
        weights  [tokens, top_k]    float32
        """
        ...


class LocalMoe:
    """All experts on this rank, contiguous rows, nothing sent."""

    def begin(self, x: Tensor, ids: Tensor, weights: Tensor, experts: ExpertWeights) -> "LocalBegun":
        """Note what to compute."""
        return LocalBegun(lambda: self.run(x, ids, weights, experts))

    def run(self, x: Tensor, ids: Tensor, weights: Tensor, experts: ExpertWeights) -> Tensor:
        """Prepare, run the experts, finalize: `[tokens, hidden]`."""
        return routed_experts(x, ids, weights, experts)


@dataclass(frozen=True, slots=True)
class LocalBegun:
    """Tokens that need not travel."""

    run: Callable[[], Tensor]
    """All stages"""

    def compute(self) -> Pending[Tensor]:
        """Run all stages."""
        out = self.run()
        return lambda: out


class FormatError(ValueError):
    """A prepare/finalize pair and an experts stage of different formats were composed."""


@dataclass(frozen=True, slots=True)
class ExpertsStage(Generic[Rows]):
    """The middle stage: rows in, outputs out, row for row, router weights untouched."""

    format: ActivationFormat
    run: Callable[[Rows, ExpertWeights], Tensor]


CONTIGUOUS_EXPERTS = ExpertsStage(ActivationFormat.CONTIGUOUS, experts_contiguous)
BATCHED_EXPERTS = ExpertsStage(ActivationFormat.BATCHED, experts_batched)


class StagedMoe(Generic[Rows]):
    """Any prepare/finalize pair around any experts stage of the same format."""

    def __init__(self, pair: PrepareFinalize[Rows], stage: ExpertsStage[Rows]) -> None:
        if pair.format is not stage.format:
            raise FormatError(
                f"{type(pair).__name__} gives {pair.format.value} rows, "
                f"the experts stage takes {stage.format.value} ones"
            )
        self._pair: PrepareFinalize[Rows] = pair
        self._stage: ExpertsStage[Rows] = stage

    def begin(self, x: Tensor, ids: Tensor, weights: Tensor, experts: ExpertWeights) -> Begun:
        """Start the dispatch."""
        if isinstance(self._pair, TokenPair) and runs_natively(x):
            return CarriedBegun(self._pair.carry(x, ids, weights), experts)
        return StagedBegun(self._pair.prepare(x, ids, weights), self._stage, experts)

    def run(self, x: Tensor, ids: Tensor, weights: Tensor, experts: ExpertWeights) -> Tensor:
        """Go through all stages and wait: `[tokens, hidden]`."""
        return self.begin(x, ids, weights, experts).compute()()


@dataclass(frozen=True, slots=True)
class StagedBegun(Generic[Rows]):
    """A dispatch on its way."""

    prepared: Pending[Prepared[Rows]]
    stage: ExpertsStage[Rows]
    experts: ExpertWeights

    def compute(self) -> Pending[Tensor]:
        """Wait for the rows, run the experts, start the combine."""
        prepared = self.prepared()
        return prepared.finalize(self.stage.run(prepared.rows, self.experts))


@dataclass(frozen=True, slots=True)
class CarriedBegun:
    """A dispatch on its way to a CPU that groups, computes and sums up in one operation."""

    carried: Pending[Carried]
    experts: ExpertWeights

    def compute(self) -> Pending[Tensor]:
        """Wait for the tokens, add up what this rank's experts make of each, start the combine."""
        carried = self.carried()
        came = carried.tokens
        return carried.send_back(routed_experts(came.x, came.ids, came.weights, self.experts))
