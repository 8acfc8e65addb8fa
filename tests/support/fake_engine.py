"""An engine process's end of the pair socket without a model: scripted tokens, the real messages and rules.

It keeps the contract (an aborted choice gets no more output, every other request ends in exactly one
`RequestDone` or `RequestFailed`) and notes what the frontend does against it in `violations`. It runs in a
thread of its own, or as a process: `python fake_engine.py --config PATH --ipc PATH`.
"""

import argparse
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import zmq

from baton.engine.messages import (
    Abort,
    AbortExternal,
    AbortResult,
    BlockCounts,
    CheckIntegrity,
    ConnectPeer,
    EngineFatal,
    EngineMessage,
    EngineReady,
    EngineStats,
    ExpertBalance,
    FailureKind,
    FinishReason,
    FirstToken,
    FrontendMessage,
    Generate,
    IntegrityReport,
    LeaveRanks,
    LeaveResult,
    Loading,
    PeerResult,
    PhaseTimes,
    RequestDone,
    RequestFailed,
    SequenceOutput,
    Shutdown,
    StepOutputs,
    TokenLogprob,
    TopLogprob,
)
from baton.kvtransfer.params import KvTransferParams

VOCABULARY = 384
MAX_MODEL_LEN = 256
INCARNATION = "f00d" * 8
PEER = "beef" * 8
POLL_MS = 2
IDLE_POLL_MS = 20
BLOCKS = BlockCounts(free=60, cached=2, in_use=1, quarantined=0, total=63)
PHASES = PhaseTimes(queue_s=0.25, prefill_s=0.5)
PULL_PHASES = PhaseTimes(queue_s=0.125, transfer_s=0.0625, first_step_s=0.03125)


@dataclass
class Script:
    """What the engine does with requests; a test sets it before it sends one."""

    reply: list[int] = field(default_factory=lambda: [5, 6, 7, 8])
    """Tokens of every choice, repeated until `max_tokens`; a stop token ends the choice."""
    tokens_a_step: int = 1
    hold_after: int | None = None
    """After so many tokens of a choice nothing comes any more: only an abort ends it."""
    fail: FailureKind | None = None
    fail_param: str | None = None
    fail_after: int = 0
    """Tokens before the failure."""
    is_rank: bool = False
    """It has other ranks to leave."""
    stays_because: str | None = None
    """Why the other ranks cannot do without it, the first time that it is to leave."""
    die_after: int | None = None
    """As a process: exit with status 7 after so many tokens."""


@dataclass
class Running:
    """One choice under way."""

    generate: Generate
    choice: int
    produced: int = 0


class FakeEngine:
    """Speaks the engine's side of the messages."""

    def __init__(self, ipc_path: Path, script: Script | None = None) -> None:
        self.script = script or Script()
        self.received: list[FrontendMessage] = []
        self._leaves = False
        self.violations: list[str] = []
        self.running: dict[tuple[str, int], Running] = {}
        self.changed = threading.Condition()
        self._seen: dict[str, Generate] = {}
        self._path = ipc_path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.run, name="fake engine", daemon=True)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[FrontendMessage] = msgspec.msgpack.Decoder(FrontendMessage)
        self._socket: zmq.Socket[bytes]

    @property
    def generates(self) -> list[Generate]:
        """Requests seen so far."""
        return [message for message in self.received if isinstance(message, Generate)]

    @property
    def aborts(self) -> list[Abort]:
        """Aborts seen so far."""
        return [message for message in self.received if isinstance(message, Abort)]

    def start(self) -> None:
        """Run in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, if it was started."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
        """Block until `condition` holds; False when it does not in time."""
        with self.changed:
            return self.changed.wait_for(condition, timeout_s)

    def run(self) -> None:
        """Serve until stopped or told to shut down."""
        with zmq.Context[zmq.Socket[bytes]]() as context, context.socket(zmq.PAIR) as self._socket:
            self._socket.set(zmq.LINGER, 1000)
            self._socket.connect(f"ipc://{self._path}")
            self._begin()
            self._serve()

    def _serve(self) -> None:
        while not self._stop.is_set():
            if self._socket.poll(POLL_MS if self._moving() else IDLE_POLL_MS):
                self._on_message(self._decoder.decode(self._socket.recv()))
            else:
                self._step()

    def _begin(self) -> None:
        for done in (1, 2):
            self._send(Loading(stage="weights", done=done, total=2))
        self._send(
            EngineReady(
                incarnation=INCARNATION,
                kv_host="127.0.0.1",
                kv_port=5600,
                max_model_len=MAX_MODEL_LEN,
                num_blocks=64,
                block_tokens=16,
                block_bytes=4096,
                bucket_sizes=[1, 2, 4],
                captured_batch_sizes=[1, 2],
                vocab_size=VOCABULARY,
            )
        )
        self._send(stats())

    def _send(self, message: EngineMessage) -> None:
        self._socket.send(self._encoder.encode(message))

    def _on_message(self, message: FrontendMessage) -> None:
        with self.changed:
            self.received.append(message)
            match message:
                case Generate():
                    self._on_generate(message)
                case Abort():
                    self._on_abort(message)
                case AbortExternal():
                    self._on_abort_external(message)
                case ConnectPeer():
                    self._on_connect(message)
                case CheckIntegrity():
                    self._send(
                        IntegrityReport(
                            call_id=message.call_id,
                            problems=[],
                            blocks=BLOCKS,
                            leases=1,
                            pulls=2,
                            requests=len(self.running),
                        )
                    )
                case LeaveRanks():
                    self._leaves = self.script.is_rank
                case Shutdown():
                    self._on_shutdown()
            self.changed.notify_all()

    def _on_shutdown(self) -> None:
        refusal, self.script.stays_because = self.script.stays_because, None
        if self._leaves:
            self._send(LeaveResult(stays_because=refusal))
        if not self._leaves or refusal is None:
            self._stop.set()

    def _on_generate(self, generate: Generate) -> None:
        sampling = generate.sampling
        room = MAX_MODEL_LEN - len(generate.prompt_token_ids)
        rules = {
            "request_id used twice": generate.request_id not in self._seen,
            "empty prompt": bool(generate.prompt_token_ids),
            "token id outside the vocabulary": max(generate.prompt_token_ids, default=0) < VOCABULARY,
            "max_tokens not clipped to the context": 1 <= sampling.max_tokens <= room,
            "min_tokens above max_tokens": sampling.min_tokens <= sampling.max_tokens,
            "request_id without the external id": generate.request_id.startswith(f"{generate.external_id}-"),
        }
        self.violations += [rule for rule, kept in rules.items() if not kept]
        self._seen[generate.request_id] = generate
        for choice in range(generate.n):
            self.running[generate.request_id, choice] = Running(generate, choice)

    def _on_abort(self, abort: Abort) -> None:
        if abort.request_id not in self._seen:
            self.violations.append(f"abort of an unknown request {abort.request_id}")
        for key in list(self.running):
            if key[0] == abort.request_id and abort.choice in (None, key[1]):
                del self.running[key]

    def _on_abort_external(self, abort: AbortExternal) -> None:
        ended = {key[0] for key, run in self.running.items() if run.generate.external_id == abort.external_id}
        for key in list(self.running):
            if key[0] in ended:
                del self.running[key]
        self._send(AbortResult(call_id=abort.call_id, aborted=len(ended), released=2))

    def _on_connect(self, connect: ConnectPeer) -> None:
        refused = connect.port == 1
        self._send(
            PeerResult(
                call_id=connect.call_id,
                incarnation=None if refused else PEER,
                error="connection refused" if refused else None,
            )
        )

    def _moving(self) -> bool:
        return any(not self._held(run) for run in self.running.values())

    def _held(self, run: Running) -> bool:
        return self.script.hold_after is not None and run.produced >= self.script.hold_after

    def _step(self) -> None:
        with self.changed:
            if self.script.fail is not None:
                self._fail_due()
            outputs = [self._advance(run) for run in list(self.running.values()) if not self._held(run)]
            if outputs:
                self._send(StepOutputs(outputs=outputs))
            for output in outputs:
                if output.finish is not None:
                    self._finish(output)
            self.changed.notify_all()

    def _fail_due(self) -> None:
        assert self.script.fail is not None
        due = [run for run in self.running.values() if run.produced >= self.script.fail_after]
        for request_id in {run.generate.request_id for run in due}:
            for key in [key for key in self.running if key[0] == request_id]:
                del self.running[key]
            self._send(
                RequestFailed(
                    request_id=request_id,
                    kind=self.script.fail,
                    message="told to fail",
                    param=self.script.fail_param,
                )
            )

    def _advance(self, run: Running) -> SequenceOutput:
        generate, sampling = run.generate, run.generate.sampling
        if run.produced == 0 and run.choice == 0:
            self._send(first_token(generate))
        tokens: list[int] = []
        finish, stop_token_id = None, None
        while finish is None and len(tokens) < self.script.tokens_a_step:
            token = self.script.reply[run.produced % len(self.script.reply)]
            tokens.append(token)
            run.produced += 1
            if token in sampling.stop_token_ids and run.produced > sampling.min_tokens:
                finish, stop_token_id = FinishReason.STOP, token
            elif run.produced == sampling.max_tokens:
                finish = FinishReason.LENGTH
        if self.script.die_after is not None and run.produced >= self.script.die_after:
            self._send(EngineFatal(message="told to die"))
            raise SystemExit(7)
        return SequenceOutput(
            request_id=generate.request_id,
            choice=run.choice,
            token_ids=tokens,
            logprobs=None if sampling.logprobs is None else [logprob(t, sampling.logprobs) for t in tokens],
            finish=finish,
            stop_token_id=stop_token_id,
        )

    def _finish(self, output: SequenceOutput) -> None:
        generate = self.running.pop((output.request_id, output.choice)).generate
        if not any(key[0] == output.request_id for key in self.running):
            self._send(RequestDone(request_id=output.request_id, kv_transfer=offer(generate)))


def logprob(token_id: int, best: int) -> TokenLogprob:
    """-1 for the chosen token, -2, -3, ... for those after it; the last is impossible."""
    top = [TopLogprob(token_id=token_id + place, logprob=-1.0 - place) for place in range(best)]
    return TokenLogprob(token_id=token_id, logprob=-1.0, top=top)


def first_token(generate: Generate) -> FirstToken:
    """Half of the prompt was cached; a pull moved 4096 bytes."""
    pulled = generate.kv_transfer is not None and generate.kv_transfer.do_remote_prefill
    return FirstToken(
        request_id=generate.request_id,
        cached_tokens=len(generate.prompt_token_ids) // 2,
        kv_bytes=4096 if pulled else 0,
        phases=PULL_PHASES if pulled else PHASES,
    )


def offer(generate: Generate) -> KvTransferParams | None:
    """Return what a prefill worker answers."""
    if generate.kv_transfer is None or not generate.kv_transfer.do_remote_decode:
        return None
    return KvTransferParams(
        do_remote_prefill=True,
        remote_engine_id=INCARNATION,
        remote_request_id=generate.request_id,
        remote_block_ids=[[1, 2, 3]],
        remote_host="127.0.0.1",
        remote_port=5600,
        remote_num_tokens=len(generate.prompt_token_ids),
    )


def stats() -> EngineStats:
    """Return statistics in which no two numbers are equal."""
    return EngineStats(
        running=1,
        waiting=2,
        waiting_for_kv=3,
        kv_usage=0.25,
        prefix_queries_tokens=400,
        prefix_hits_tokens=100,
        prompt_tokens=500,
        prompt_tokens_local_compute=310,
        prompt_tokens_local_cache=110,
        prompt_tokens_pulled=80,
        generated_tokens=900,
        preemptions=4,
        steps=700,
        leases=5,
        leases_expired=6,
        pulls=7,
        pulls_failed={"timeout": 8, "checksum": 9},
        kv_bytes_pulled=8192,
        peers=[PEER],
        blocks=BLOCKS,
        expert_balance=ExpertBalance(measured=0.5, planned=0.875),
        drafts=30,
        draft_tokens=60,
        accepted_tokens=[25, 20],
    )


def end_with_the_frontend() -> None:
    """End this process when its standard input closes: the frontend holds the other end."""
    os.read(0, 1)
    os._exit(2)


def main() -> None:
    """Run as the engine process of a worker."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--ipc", type=Path, required=True)
    parser.add_argument("--script", default="{}")
    arguments = parser.parse_args()
    threading.Thread(target=end_with_the_frontend, daemon=True).start()
    assert json.loads(arguments.config.read_bytes())["model"]
    FakeEngine(arguments.ipc, Script(**json.loads(arguments.script))).run()


if __name__ == "__main__":
    main()
