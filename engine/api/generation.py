"""The running requests of one HTTP request: what goes to the engine, and what comes back of them."""

import secrets
import time

import msgspec

from ...kvtransfer.params import KvTransferParams
from ..messages import Generate
from .answer import ChoiceResult, Closing
from .frontend import Frontend
from .handover import check_handover
from .mailbox import Mailbox
from .progress import Delta, PromptProgress, TextOptions
from .prompts import Prompt
from .sampling import ModelLimits, build_sampling, stop_strings
from .schema import GenerationRequest
from .usage import offer_of, report_of, usage_of


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A request that passed every check, ready for the engine."""

    request: GenerationRequest
    prompts: list[Prompt]
    limits: ModelLimits
    arrived_at: float
    """Monotonic seconds."""


class Generation:
    """The running requests of one HTTP request."""

    def __init__(self, frontend: Frontend, mailbox: Mailbox, plan: Plan) -> None:
        self._frontend = frontend
        self._mailbox = mailbox
        self.progresses = _progresses(frontend, mailbox, plan)
        self.results = [
            ChoiceResult(choice.index, prompt.token_ids, prompt.text)
            for prompt, progress in zip(plan.prompts, self.progresses, strict=True)
            for choice in progress.choices
        ]
        self._progress_of = {progress.generate.request_id: progress for progress in self.progresses}

    def submit(self) -> None:
        """Hand everything to the engine."""
        self._frontend.engine.submit([progress.generate for progress in self.progresses], self._mailbox)

    @property
    def complete(self) -> bool:
        """Whether all that belongs in the answer is here."""
        for progress in self.progresses:  # noqa: SIM110  asked for every token, where a generator costs more
            if not progress.complete:
                return False
        return True

    @property
    def awaits_offer(self) -> bool:
        """Whether only the hand-over's parameters are missing."""
        for progress in self.progresses:
            if not progress.choices_ended:
                return False
        return not self.complete

    async def next_deltas(self) -> list[Delta]:
        """Wait for the engine and return what it added. Raises `ApiError` when the request failed."""
        events = await self._mailbox.take()
        now = time.monotonic()
        deltas: list[Delta] = []
        for event in events:
            progress = self._progress_of[event.request_id]
            before = progress.last_token_at
            delta = progress.on_event(event, now)
            if delta is not None:
                deltas.append(delta)
                self._frontend.metrics.observe_tokens(progress, before, now)
            if progress.aborts or progress.choices_ended:
                self._follow_up(progress)
        return deltas

    def closing(self) -> Closing:
        """Return what is known at the end, and count the request as served."""
        name = self._frontend.name
        self._frontend.metrics.observe_served(self.progresses)
        return Closing(
            usage=usage_of(self.progresses),
            report=report_of(self.progresses, name),
            offer=offer_of(self.progresses[0], name),
        )

    def _follow_up(self, progress: PromptProgress) -> None:
        """Tell the engine of choices that stop strings ended, and stop listening to ended requests."""
        for abort in progress.aborts:
            self._frontend.engine.abort(abort.request_id, abort.choice)
        progress.aborts.clear()
        if progress.choices_ended and not progress.wants_offer:
            self._frontend.engine.settle(self._mailbox, progress.generate.request_id)


def _progresses(frontend: Frontend, mailbox: Mailbox, plan: Plan) -> list[PromptProgress]:
    request = plan.request
    transfer = check_handover(request.kv_transfer_params, prompts=len(plan.prompts))
    options = _text_options(request)
    n = request.n or 1
    return [
        PromptProgress(
            _generate(mailbox.external_id, prompt, plan, transfer),
            frontend.tokenizer,
            options,
            first_index=place * n,
            arrived_at=plan.arrived_at,
        )
        for place, prompt in enumerate(plan.prompts)
    ]


def _generate(external_id: str, prompt: Prompt, plan: Plan, transfer: KvTransferParams | None) -> Generate:
    request = plan.request
    return Generate(
        request_id=f"{external_id}-{secrets.token_hex(4)}",
        external_id=external_id,
        prompt_token_ids=prompt.token_ids,
        sampling=build_sampling(request, prompt_tokens=len(prompt.token_ids), limits=plan.limits),
        n=request.n or 1,
        kv_transfer=transfer,
        cache_salt=request.cache_salt or "",
    )


def _text_options(request: GenerationRequest) -> TextOptions:
    return TextOptions(
        stops=stop_strings(request),
        include_stop=bool(request.include_stop_str_in_output),
        skip_special_tokens=request.skip_special_tokens is not False,
        asked_stop_token_ids=frozenset(request.stop_token_ids or ()),
    )
