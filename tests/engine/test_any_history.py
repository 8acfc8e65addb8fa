"""Whatever order requests, aborts, transfers and failures come in: no block leaks, no wrong token is sent.

A prefill and a decode worker share one fake network; both pools are small, so preemption, eviction and
waiting for leases happen all the time. The fake model reads its history back from the pool, and so notices
foreign bytes.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from baton.engine.messages import Abort, AbortExternal, RequestDone, SamplingParams
from baton.kvtransfer.service import LeaseEnd, PullFailure
from support.fake_model import VOCABULARY, FakeDraft, tokens_after
from support.fake_transfer import FakeNetwork
from support.fake_worker import REMOTE_DECODE, FakeWorker

# Few distinct prompts of lengths around block borders, so that prefixes are often shared.
PROMPTS = st.builds(
    lambda length, kind: [(i * 7 + (kind if i > 6 else 0)) % VOCABULARY for i in range(length)],
    st.integers(1, 26),
    st.integers(0, 2),
)
MAX_TOKENS = st.integers(1, 20)


class TwoWorkers(RuleBasedStateMachine):
    """Drives both workers by single events."""

    run_ahead = False
    draft_tokens = 0

    def __init__(self) -> None:
        super().__init__()
        network = FakeNetwork()
        self.prefill, self.decode = (
            FakeWorker(
                kind,
                blocks=blocks,
                max_num_seqs=3,
                network=network,
                layer=FakeDraft(0.7),
                draft_tokens=self.draft_tokens,
                run_ahead=self.run_ahead,
            )
            for kind, blocks in (("prefill", 18), ("decode", 14))
        )
        self.submitted = 0
        self.prompts: dict[str, tuple[FakeWorker, list[int], int, int]] = {}
        self.offers_taken: set[str] = set()
        self.aborted: set[str] = set()

    def _submit(
        self, worker: FakeWorker, prompt: list[int], count: int, n: int = 1, **options: object
    ) -> str:
        self.submitted += 1
        name = f"r{self.submitted}"
        worker.submit(name, prompt, count, n=n, **options)  # type: ignore[arg-type]
        self.prompts[name] = (worker, prompt, count, n)
        return name

    @rule(prompt=PROMPTS, count=MAX_TOKENS, n=st.integers(1, 3), on_prefill=st.booleans())
    def serve_whole(self, prompt: list[int], count: int, n: int, on_prefill: bool) -> None:
        self._submit(self.prefill if on_prefill else self.decode, prompt, count, n)

    @rule(prompt=PROMPTS, count=MAX_TOKENS, stop_after=st.integers(0, 19), on_prefill=st.booleans())
    def serve_up_to_a_stop_token(
        self, prompt: list[int], count: int, stop_after: int, on_prefill: bool
    ) -> None:
        expected = tokens_after(prompt, 20)
        stop = expected[stop_after]
        sampling = SamplingParams(max_tokens=count, temperature=0.0, stop_token_ids=(stop,))
        cut = min(count, expected.index(stop) + 1)
        self._submit(self.prefill if on_prefill else self.decode, prompt, cut, sampling=sampling)

    @rule(prompt=PROMPTS)
    def prefill_for_another(self, prompt: list[int]) -> None:
        self._submit(self.prefill, prompt, 1, kv_transfer=REMOTE_DECODE)

    @rule(count=MAX_TOKENS, n=st.integers(1, 2))
    def hand_over(self, count: int, n: int) -> None:
        for message in self.prefill.inbox.sent:
            if isinstance(message, RequestDone) and message.kv_transfer is not None:
                if message.request_id in self.offers_taken:
                    continue
                self.offers_taken.add(message.request_id)
                prompt = self.prompts[message.request_id][1]
                self._submit(self.decode, prompt, count, n, kv_transfer=message.kv_transfer)

    @rule(turns=st.integers(1, 4))
    def turn_prefill(self, turns: int) -> None:
        for _ in range(turns):
            self.prefill.turn()

    @rule(turns=st.integers(1, 6))
    def turn_decode(self, turns: int) -> None:
        for _ in range(turns):
            self.decode.turn()

    @rule(pick=st.integers(0, 9), by_external_id=st.booleans())
    def abort(self, pick: int, by_external_id: bool) -> None:
        for name in list(self.prompts)[-1 - pick :][:1]:
            self.aborted.add(name)
            worker = self.prompts[name][0]
            message = (
                AbortExternal(call_id="c", external_id=f"x-{name}")
                if by_external_id
                else Abort(request_id=name)
            )
            worker.tell(message)

    @rule()
    def finish_pulls(self) -> None:
        self.decode.service.finish_all()

    @rule(reason=st.sampled_from(PullFailure), reusable=st.booleans())
    def fail_a_pull(self, reason: PullFailure, reusable: bool) -> None:
        for pull_id in list(self.decode.service.pulls)[:1]:
            self.decode.service.fail(pull_id, reason, reusable=reusable)

    @rule()
    def lift_quarantine(self) -> None:
        for pull_id in list(self.decode.service.quarantined):
            self.decode.service.lift(pull_id)

    @rule(how=st.sampled_from(LeaseEnd))
    def end_a_lease(self, how: LeaseEnd) -> None:
        read_now = {running.pull.lease_id for running in self.decode.service.pulls.values()}
        for lease_id in [name for name in self.prefill.service.offers if name not in read_now][:1]:
            self.prefill.service.end_lease(lease_id, how)

    def teardown(self) -> None:
        for _ in range(200):
            self.decode.service.finish_all()
            self.lift_quarantine()
            for lease_id in list(self.prefill.service.offers):
                self.prefill.service.end_lease(lease_id, LeaseEnd.EXPIRED)
            self.prefill.run()
            self.decode.run()
            if not any((*self._open(), self.prefill.service.offers, self.decode.service.pulls)):
                break
        self._check_the_end()

    def _open(self) -> list[int]:
        return [len(worker.scheduler.requests) for worker in (self.prefill, self.decode)]

    def _check_the_end(self) -> None:
        for worker in (self.prefill, self.decode):
            counts = worker.pool.counts()
            assert (counts.in_use, counts.quarantined, worker.scheduler.leases, worker.scheduler.pulls) == (
                0,
                0,
                0,
                0,
            )
        for name, (worker, prompt, count, n) in self.prompts.items():
            worker.done(name)
            expected = tokens_after(prompt, count)
            for choice in range(n):
                tokens = worker.tokens_of(name, choice)
                assert tokens == expected[: len(tokens)]
                assert name in self.aborted or tokens == expected


class TwoWorkersThatRunAhead(TwoWorkers):
    """The same with a step launched before the one ahead of it has landed."""

    run_ahead = True


class TwoGuessingWorkers(TwoWorkers):
    """The same with guesses, of which most are right; the draft notices gaps in its own KV."""

    draft_tokens = 2


TestTwoWorkers = TwoWorkers.TestCase
TestTwoWorkers.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestTwoWorkersThatRunAhead = TwoWorkersThatRunAhead.TestCase
TestTwoWorkersThatRunAhead.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestTwoGuessingWorkers = TwoGuessingWorkers.TestCase
TestTwoGuessingWorkers.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
