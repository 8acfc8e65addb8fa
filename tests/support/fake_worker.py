"""An engine in one thread and without a process: real loop, scheduler, staging, runner and sampler.

Around them are a fake model, a fake transfer service, an inbox of lists, and a clock that ticks once a turn.

After every turn the self-check runs and offered blocks are compared with what was offered.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Ids
from typing import cast

import torch

from baton.decode_worker.buckets import Buckets, default_bucket_sizes
from baton.decode_worker.scheduler import DecodeScheduler
from baton.engine.block_pool import BlockListener, BlockPool
from baton.engine.intake import Limits
from baton.engine.kv_cache import KvCache
from baton.engine.loop import EngineLoop
from baton.engine.messages import (
    EngineMessage,
    FirstToken,
    FrontendMessage,
    Generate,
    RequestDone,
    RequestFailed,
    SamplingParams,
    SequenceOutput,
    StepOutputs,
)
from baton.engine.models import Model
from baton.engine.runner import Flight, ModelRunner, StepRunner
from baton.engine.scheduler import Scheduler
from baton.engine.speculation.draft import DraftLayer
from baton.engine.speculation.runner import Chain, DraftingModel, SpeculativeRunner, Stagings
from baton.engine.staging import DecodeStaging, PrefillStaging
from baton.engine.step import Step
from baton.engine.threads import ComputeThreads
from baton.kvtransfer.params import KvTransferParams
from baton.kvtransfer.service import TransferEvent
from baton.prefill_worker.scheduler import OfferedBy, PrefillScheduler

from .fake_model import FakeModel
from .fake_transfer import FakeNetwork, FakeTransferService

REMOTE_DECODE = KvTransferParams(do_remote_decode=True)
MANY_TURNS = 2000


class FakeInbox:
    """Two lists; `wait` is never reached because tests call `turn`."""

    def __init__(self) -> None:
        self.from_frontend: list[FrontendMessage] = []
        self.from_service: list[TransferEvent] = []
        self.sent: list[EngineMessage] = []
        self.waits: list[float] = []

    def messages(self) -> list[FrontendMessage]:
        taken, self.from_frontend = self.from_frontend, []
        return taken

    def events(self) -> list[TransferEvent]:
        taken, self.from_service = self.from_service, []
        return taken

    def wait(self, timeout_s: float) -> None:
        self.waits.append(timeout_s)

    def hear(self, event: TransferEvent) -> None:
        self.from_service.append(event)

    def send(self, message: EngineMessage) -> None:
        self.sent.append(message)


class FakeClock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class CheckedRunner:
    """Runs steps and notes what is inconsistent in them: a loop would take an error for the device's."""

    def __init__(self, runner: StepRunner) -> None:
        self._runner = runner
        self.scheduler: Scheduler | None = None
        self.problems: list[str] = []

    def launch(self, step: Step) -> Flight:
        assert self.scheduler is not None
        limits, pulling = self.scheduler.limits, self.scheduler.roster.pulling
        targets = [copy.target for copy in step.copies]
        rules = {
            "a copy goes into a block that nobody holds": _all(self.scheduler.holders()) >= set(targets),
            "a copy goes into a block that a transfer writes": _all(s.blocks for s in pulling).isdisjoint(
                targets
            ),
            "two copies go into one block": len(set(targets)) == len(targets),
            "too many rows": len(step.decode) <= limits.max_num_seqs,
            "too many prompt tokens": sum(c.length for c in step.chunks) <= limits.max_batched_tokens,
        }
        self.problems += [rule for rule, is_kept in rules.items() if not is_kept]
        return self._runner.launch(step)


def _all(block_lists: Iterable[list[int]]) -> set[int]:
    return {block for blocks in block_lists for block in blocks}


class FakeWorker:
    """One engine of either kind, driven turn by turn."""

    def __init__(
        self,
        kind: str = "decode",
        *,
        blocks: int = 32,
        block_tokens: int = 4,
        max_num_seqs: int = 8,
        max_batched_tokens: int = 16,
        max_waiting: int = 64,
        prefix_cache: bool = True,
        network: FakeNetwork | None = None,
        listener: BlockListener | None = None,
        model: Model | None = None,
        run_ahead: bool = False,
        layer: DraftLayer | None = None,
        draft_tokens: int = 0,
    ) -> None:
        """With `draft_tokens`, `layer` guesses from the states of `model`."""
        self.model = FakeModel(layers=2 if draft_tokens else 1)
        """Counts what is computed, unless another model runs."""
        model = model or self.model
        self.kv = model.new_kv_pool(blocks + 1, block_tokens)
        self.pool = BlockPool(blocks + 1, listener)
        self.service = FakeTransferService(f"{kind}-engine", self.kv, network)
        self.inbox = FakeInbox()
        self.clock = FakeClock()
        self.service.start(self.inbox.hear)
        cache = KvCache(self.pool, block_tokens, prefix_cache=prefix_cache)
        limits = Limits(
            max_model_len=min(model.config.max_position_embeddings, blocks * block_tokens),
            vocab_size=model.config.vocab_size,
            max_num_seqs=max_num_seqs,
            max_batched_tokens=max_batched_tokens,
            max_waiting=max_waiting,
            draft_tokens=draft_tokens,
        )
        self.scheduler = self._scheduler(kind, limits, cache)
        self.runner = CheckedRunner(runner_of(model, layer, self.kv, limits, block_tokens))
        self.runner.scheduler = self.scheduler
        self.loop = EngineLoop(
            scheduler=self.scheduler,
            runner=self.runner,
            service=self.service,
            inbox=self.inbox,
            clock=self.clock,
            stats_interval_s=1.0,
            check_parent=lambda: None,
            publish=lambda: None,
            run_ahead=run_ahead,
        )

    def _scheduler(self, kind: str, limits: Limits, cache: KvCache) -> Scheduler:
        if kind == "decode":
            return DecodeScheduler(limits, cache)
        host, port = self.service.address
        offered_by = OfferedBy(worker="p:80", incarnation=self.service.incarnation, host=host, port=port)
        return PrefillScheduler(limits, cache, offered_by)

    # -- what a test does --

    def tell(self, message: FrontendMessage) -> None:
        """Send a message; it is heard in the next turn."""
        self.inbox.from_frontend.append(message)

    def submit(
        self,
        request_id: str,
        prompt: Ids[int],
        max_tokens: int = 4,
        *,
        n: int = 1,
        kv_transfer: KvTransferParams | None = None,
        sampling: SamplingParams | None = None,
        cache_salt: str = "",
    ) -> None:
        """Send a greedy request, unless `sampling` says otherwise."""
        self.tell(
            Generate(
                request_id=request_id,
                external_id=f"x-{request_id}",
                prompt_token_ids=list(prompt),
                sampling=sampling or SamplingParams(max_tokens=max_tokens, temperature=0.0),
                n=n,
                kv_transfer=kv_transfer,
                cache_salt=cache_salt,
            )
        )

    def turn(self) -> bool:
        """One turn of the loop, one second later, with every invariant checked after it."""
        self.clock.now += 1.0
        has_computed = self.loop.turn()
        assert self.scheduler.problems() + self.runner.problems == []
        self.service.check_offers()
        return has_computed

    def run(self) -> None:
        """Turn until there is nothing to hear and nothing to compute."""
        for _ in range(MANY_TURNS):
            if not self.turn() and not self.inbox.from_service and not self.inbox.from_frontend:
                return
        raise AssertionError(f"still busy after {MANY_TURNS} turns")

    # -- what came of it --

    def tokens_of(self, request_id: str, choice: int = 0) -> list[int]:
        """All tokens sent for a choice."""
        return [token for output in self.outputs_of(request_id, choice) for token in output.token_ids]

    def outputs_of(self, request_id: str, choice: int = 0) -> list[SequenceOutput]:
        return [
            output
            for message in self.inbox.sent
            if isinstance(message, StepOutputs)
            for output in message.outputs
            if (output.request_id, output.choice) == (request_id, choice)
        ]

    def done(self, request_id: str) -> RequestDone:
        [done] = [m for m in self.inbox.sent if isinstance(m, RequestDone) and m.request_id == request_id]
        return done

    def failure(self, request_id: str) -> RequestFailed:
        [failed] = [m for m in self.inbox.sent if isinstance(m, RequestFailed) and m.request_id == request_id]
        return failed

    def first(self, request_id: str) -> FirstToken:
        [first] = [m for m in self.inbox.sent if isinstance(m, FirstToken) and m.request_id == request_id]
        return first

    @property
    def in_use(self) -> int:
        return self.pool.counts().in_use


def runner_of(
    model: Model, layer: DraftLayer | None, kv: torch.Tensor, limits: Limits, block_tokens: int
) -> StepRunner:
    """Return the runner that an engine with these limits has, on a CPU."""
    rows = limits.max_num_seqs * (1 + limits.draft_tokens)

    def decode_staging() -> DecodeStaging:
        return DecodeStaging(
            max_rows=rows,
            max_blocks=-(-limits.max_model_len // block_tokens),
            block_tokens=block_tokens,
            device=torch.device("cpu"),
            bucket_of=Buckets(default_bucket_sizes(rows)),
        )

    prompts = PrefillStaging(limits.max_batched_tokens, block_tokens, torch.device("cpu"))
    threads = ComputeThreads(1, 1)
    if not limits.draft_tokens:
        return ModelRunner(model, kv, prompts, decode_staging(), threads)
    assert layer is not None
    stagings = Stagings(prompts, decode_staging(), decode_staging())
    chain = Chain(limits.draft_tokens, limits.max_model_len)
    return SpeculativeRunner(cast(DraftingModel, model), layer, kv, stagings, chain=chain, threads=threads)


def hand_over(prefill: FakeWorker, request_id: str, prompt: Ids[int]) -> KvTransferParams:
    """Have a prompt computed by a prefill worker; return its offer, as a proxy would forward it."""
    prefill.submit(request_id, prompt, kv_transfer=REMOTE_DECODE)
    prefill.run()
    offer = prefill.done(request_id).kv_transfer
    assert offer is not None
    return offer
