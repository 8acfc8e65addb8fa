"""The draft: guesses a chain of tokens for each sequence, one application of its layer a link.

Called by `runner` after the model's step, with the model's final states.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..batch import DecodeBatch
from ..sampler import Sampler
from ..sampling_state import SamplingState
from ..sequence import Sequence
from ..staging import DecodeStaging


class DraftLayer(Protocol):
    """Predicts from a state and the token after it; `models.mtp.MtpLayer` implements it."""

    def write(self, token_ids: Tensor, positions: Tensor, slots: Tensor, states: Tensor, kv: Tensor) -> None:
        """Write the layer's KV at some positions."""

    def predict(self, batch: DecodeBatch, states: Tensor, kv: Tensor) -> tuple[Tensor, Tensor]:
        """Write KV, and return float32 logits `[live, vocab]` and states `[live, hidden]`."""
        ...


@dataclass(frozen=True, slots=True)
class Prospect:
    """A sequence to guess for."""

    sequence: Sequence
    state: Tensor
    """[1, hidden], the model's final state before the last token"""
    place: int
    """Position of the state"""
    token_id: int
    """The last token, just drawn"""
    sampling: SamplingState
    gained: int
    """Tokens drawn in this step, which `sampling` does not count yet"""
    wanted: int
    """Guesses of use, at least 1"""


class Draft:
    """Guesses for all sequences of a step at once."""

    def __init__(
        self, layer: DraftLayer, kv: Tensor, staging: DecodeStaging, *, vocab_size: int, tokens: int
    ) -> None:
        """`tokens` are the guesses a sequence at most; `staging` has a row for each sequence."""
        self._layer = layer
        self._kv = kv
        self._staging = staging
        # One for each link of the chain, because each keeps the parameters of its last batch.
        self._samplers = [Sampler(vocab_size, kv.device) for _ in range(tokens)]

    def guesses(self, prospects: list[Prospect]) -> list[list[int]]:
        """Return the guesses for each prospect, as many as wanted."""
        links = [(rows, token_ids.tolist()) for rows, token_ids in self._links(prospects)]
        chains: list[list[int]] = [[] for _ in prospects]
        for rows, guessed in links:
            for row, token_id in zip(rows, guessed, strict=True):
                chains[row].append(token_id)
        return chains

    def _links(self, prospects: list[Prospect]) -> list[tuple[list[int], Tensor]]:
        """For each link the prospects that have it, and their guesses, which the host need not know yet."""
        links: list[tuple[list[int], Tensor]] = []
        rows = [row for row, prospect in enumerate(prospects) if prospect.wanted]
        states = torch.cat([prospects[row].state for row in rows]) if rows else None
        token_ids: list[int] | Tensor = [prospects[row].token_id for row in rows]
        for link, sampler in enumerate(self._samplers):
            if states is None or not rows:
                break
            members = [prospects[row] for row in rows]
            places = [member.place + link for member in members]
            batch = self._staging.pack_rows([member.sequence for member in members], token_ids, places)
            logits, states = self._layer.predict(batch, states, self._kv)
            # Slots after those in which guesses are checked.
            slot = len(self._samplers) + 1 + link
            sampling = [member.sampling.later(member.gained + link, slot) for member in members]
            guessed = sampler.guess(logits, sampling)
            links.append((rows, guessed))
            kept = [at for at, member in enumerate(members) if member.wanted > link + 1]
            token_ids = guessed
            if len(kept) < len(rows):
                rows, states, token_ids = [rows[at] for at in kept], states[kept], guessed[kept]
        return links
