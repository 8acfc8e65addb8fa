"""One backend for both phases of a rank: prompts of any length, and decode rows that all ranks pad alike.

The layers know nothing of phases; whoever runs a step says beforehand which one it is.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import pad

from .backend import Begun, MoeBackend
from .experts import ExpertWeights
from .pair import Pending


class PhasedMoe:
    """Sends prompt tokens through one backend and decode rows through another, which may be the same."""

    def __init__(self, prefill: MoeBackend, decode: MoeBackend) -> None:
        """Take backends over the same experts."""
        self.prefill = prefill
        self.decode = decode
        self._rows: int | None = None

    def take_over(self, successor: "PhasedMoe") -> None:
        """Send through another one's backends from now on."""
        self.prefill, self.decode = successor.prefill, successor.decode

    def enter_prefill(self) -> None:
        """Let the next layers carry prompt tokens, of which each rank brings its own number."""
        self._rows = None

    def enter_decode(self, rows: int) -> None:
        """Let the next layers carry `rows` decode rows on every rank, as the ranks agreed."""
        self._rows = rows

    def begin(self, x: Tensor, ids: Tensor, weights: Tensor, experts: ExpertWeights) -> Begun:
        """Start the dispatch of this phase; fewer decode rows than agreed are padded with rows to nowhere."""
        if self._rows is None:
            return self.prefill.begin(x, ids, weights, experts)
        live, missing = x.shape[0], self._rows - x.shape[0]
        if missing < 0:
            raise ValueError(f"{live} decode rows, but the ranks agreed on {self._rows}")
        if missing:
            x, weights = (pad(rows, (0, 0, 0, missing)) for rows in (x, weights))
            ids = pad(ids, (0, 0, 0, missing), value=-1)
        begun = self.decode.begin(x, ids, weights, experts)
        return PaddedBegun(begun, live) if missing else begun


@dataclass(frozen=True, slots=True)
class PaddedBegun:
    """A dispatch whose last rows are padding."""

    begun: Begun
    live: int

    def compute(self) -> Pending[Tensor]:
        """Run the experts; the sums come back without the padding."""
        sums = self.begun.compute()
        return lambda: sums()[: self.live]
