"""What the training descends: the loss, the learning rate, one update.

No files and no clock.  Called by `train.py`.
"""

import msgspec
import torch
from torch import Tensor, distributed
from torch.nn import functional

from .batches import Batch
from .model import DemoModel, Gate

_WARMUP_STEPS = 100
_DECAY_SHARE = 0.4
_CONTEXT_LOSS = 0.1  # weight of tokens that are not answers
_CONTEXT_EVERY = 4  # positions: the head costs as much as a layer
_MTP_LOSS = 0.3
_BALANCE_STEP = 1e-3
_CLIP = 1.0


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """Trapezoid: linear warm-up in steps, constant, linear to zero over the end of the token budget."""

    tokens: int
    peak_rate: float

    def rate(self, *, steps: int, tokens: int) -> float:
        """Learning rate after `steps` steps and `tokens` tokens."""
        left = max(0.0, 1 - tokens / self.tokens)
        return self.peak_rate * min(1.0, (steps + 1) / _WARMUP_STEPS, left / _DECAY_SHARE)


def losses(model: DemoModel, batch: Batch, *, mtp: bool) -> tuple[Tensor, Tensor]:
    """Weighted loss to descend, and the plain loss on answers."""
    states = model.states(batch.ids)
    answers, sampled = batch.is_answer[:, 1:], batch.is_text[:, 1:].clone()
    sampled[:, torch.arange(sampled.shape[1]) % _CONTEXT_EVERY != 0] = False
    scored = answers | sampled
    logits, targets = model.lm_head(states[:, :-1][scored]), batch.ids[:, 1:][scored]
    per_token = functional.cross_entropy(logits, targets, reduction="none")
    answer_loss = per_token[answers[scored]].mean()
    loss = answer_loss + _CONTEXT_LOSS * per_token[sampled[scored]].mean()
    if mtp:
        second = batch.is_answer[:, 2:]
        ahead = model.next_states(batch.ids, states)[:, :-1][second]
        loss = loss + _MTP_LOSS * functional.cross_entropy(model.lm_head(ahead), batch.ids[:, 2:][second])
    return loss, answer_loss.detach()


def optimizer_for(model: DemoModel) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-9, fused=True)


def train_step(
    model: DemoModel, optimizer: torch.optim.AdamW, batch: Batch, rate: float, *, mtp: bool
) -> float:
    """One update, averaged over the processes if there are several; returns the loss on answers before it."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss, answer_loss = losses(model, batch, mtp=mtp)
    loss.backward()  # type: ignore[no-untyped-call]
    _share(model)
    torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
    optimizer.step()
    model.balance(_BALANCE_STEP)
    return answer_loss.item()


def _share(model: DemoModel) -> None:
    """Average gradients and sum the routers' loads over all processes, in one message."""
    if not distributed.is_initialized():
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    loads = [module.load for module in model.modules() if isinstance(module, Gate)]
    flat = torch.cat([t.flatten() for t in gradients + loads])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    parts = torch.split(flat, [t.numel() for t in gradients + loads])
    for tensor, part in zip(gradients + loads, parts, strict=True):
        tensor.copy_(part.view_as(tensor))
