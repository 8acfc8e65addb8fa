"""Lease table and pull machine back to back, over a network that loses, delays and reorders.

Whatever it does: accepted bytes were read of blocks that were held the whole time, no destination block is
reused while a transfer may write it, and when all is quiet both tables are empty.
"""

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from baton.kvtransfer.lease import LeaseTable, Settled, Settlement
from baton.kvtransfer.pull import (
    AskGrant,
    AskRenewal,
    CheckBlocks,
    Command,
    Connect,
    PostRead,
    PullLimits,
    PullMachine,
    PullState,
    Report,
    Settle,
)
from baton.kvtransfer.service import (
    LeaseEnded,
    Offer,
    Pull,
    PullFailed,
    PullFailure,
    PullFinished,
    QuarantineLifted,
)

TTL_S = 10.0
LIMITS = PullLimits(timeout_s=25.0, margin_s=1.0, settle_for_s=TTL_S)
BLOCKS = 4
REACHABLE = (
    PullFailure.CANCELLED,
    PullFailure.LEASE_TOO_LATE,
    PullFailure.LEASE_UNKNOWN,
    PullFailure.PEER_LOST,
    PullFailure.TIMEOUT,
)


@dataclass(frozen=True)
class Packet:
    """Something on its way: what happens when it arrives, and when it never does."""

    arrive: Callable[[], None]
    lost: Callable[[], None]


def nobody_notices() -> None:
    """What happens when a packet is lost that its sender has a timeout for."""


class Handover:
    """One prefill worker, one decode worker, one clock, and packets in any order."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.ids = itertools.count()
        self.leases = LeaseTable(ttl_s=TTL_S)
        self.content: dict[int, str] = {}
        """What each block of the prefill worker's pool holds."""
        self.held: dict[str, int] = {}
        self.free = set(range(BLOCKS))
        self.pulls: dict[str, PullMachine] = {}
        self.packets: list[Packet] = []
        self.reads: dict[str, list[str]] = {}
        """Reads in flight: the block contents seen so far."""
        self.read_blocks: dict[str, int] = {}
        self.seen: dict[str, list[str]] = {}
        """Reads that ended."""
        self.outcomes: dict[str, int] = {}
        self.reported: Counter[str] = Counter()

    def step(self) -> None:
        """Do one of the things that can happen now."""
        possible = {
            self.offer: 4 * len(self.free),
            self.release: len(self.held) / 4,
            self.pull: 4 * len(self.held),
            self.cancel: len(self.pulls) / 4,
            self.lose_the_connection: 0.1,
            self.deliver_any_packet: 8 * len(self.packets),
            self.lose_any_packet: len(self.packets) / 4,
            self.move_some_bytes: 2 * len(self.reads),
            self.end_a_read: 2 * len(self.reads),
            self.wait: 8,
        }
        (act,) = self.random.choices(list(possible), list(possible.values()))
        act()
        self.check()

    def pick(self, names: Iterable[str]) -> str:
        return self.random.choice(sorted(names))

    # The prefill worker.

    def offer(self) -> None:
        block = self.free.pop()
        lease_id = f"r{next(self.ids)}"
        self.content[block] = lease_id
        self.held[lease_id] = block
        self.leases.offer(Offer(lease_id=lease_id, block_ids=(block,)), self.now)

    def release(self) -> None:
        self.free_blocks(self.leases.release(self.pick(self.held)))

    def free_blocks(self, ended: list[LeaseEnded]) -> None:
        for event in ended:
            block = self.held.pop(event.lease_id)
            self.content[block] = "garbage"
            self.free.add(block)

    # The decode worker.

    def pull(self) -> None:
        lease_id = self.pick(self.held)
        blocks = () if self.random.random() < 0.1 else (self.held[lease_id],)
        pull_id = f"p{next(self.ids)}"
        machine = PullMachine(
            Pull(
                pull_id=pull_id,
                incarnation="a",
                host="h",
                port=1,
                lease_id=lease_id,
                remote_block_ids=blocks,
                local_block_ids=blocks,
            ),
            limits=LIMITS,
            block_bytes=1,
            verify=self.random.random() < 0.5,
            now=self.now,
        )
        self.pulls[pull_id] = machine
        self.outcomes[pull_id] = 0
        self.perform(machine, machine.start(self.now))

    def cancel(self) -> None:
        machine = self.pulls[self.pick(self.pulls)]
        self.perform(machine, machine.cancel(self.now))

    def lose_the_connection(self) -> None:
        for machine in list(self.pulls.values()):
            self.perform(machine, machine.on_peer_lost(self.now))
        self.lose_all_packets()

    def lose_all_packets(self) -> None:
        packets, self.packets = self.packets, []
        for packet in packets:
            packet.lost()

    def settlement_lost(self, machine: PullMachine) -> None:
        machine.on_settle_lost(self.now)
        self.perform(machine, [])

    def perform(self, machine: PullMachine, commands: list[Command]) -> None:
        pull = machine.pull
        for command in commands:
            match command:
                case Connect():
                    self.send(lambda: self.answer(machine, lambda: machine.on_connected(self.now)))
                case AskGrant():
                    self.send(lambda: self.grant(machine))
                case AskRenewal():
                    self.ask_renewal(machine, self.now)
                case PostRead():
                    self.reads[pull.pull_id] = []
                    self.read_blocks[pull.pull_id] = pull.remote_block_ids[0]
                case CheckBlocks():
                    self.perform(machine, machine.on_verified(self.now))
                case Settle(settlement):
                    self.send_settlement(machine, settlement)
                case Report(event):
                    self.report(machine, event)
        if machine.state is PullState.ENDED:
            self.pulls.pop(pull.pull_id, None)

    def report(self, machine: PullMachine, event: object) -> None:
        pull = machine.pull
        match event:
            case PullFinished():
                self.outcomes[pull.pull_id] += 1
                self.reported["finished"] += bool(pull.remote_block_ids)
                assert pull.pull_id not in self.reads, "finished with the read in flight"
                if pull.remote_block_ids:
                    seen = self.seen.pop(pull.pull_id)
                    assert seen, "finished without a read"
                    assert set(seen) == {pull.lease_id}, f"accepted bytes of a freed block: {seen}"
            case PullFailed():
                self.outcomes[pull.pull_id] += 1
                self.reported[event.reason.value] += 1
                self.reported["quarantined"] += not event.blocks_reusable
                in_flight = pull.pull_id in self.reads
                assert event.blocks_reusable is not in_flight, "a transfer may write reusable blocks"
            case QuarantineLifted():
                self.reported["lifted"] += 1
                assert pull.pull_id not in self.reads, "quarantine lifted with the read in flight"

    # The network between them.

    def send(self, arrive: Callable[[], None], lost: Callable[[], None] = nobody_notices) -> None:
        self.packets.append(Packet(arrive, lost))

    def ask_renewal(self, machine: PullMachine, asked_at: float) -> None:
        self.send(lambda: self.renew(machine, asked_at))

    def send_settlement(self, machine: PullMachine, settlement: Settlement) -> None:
        self.send(lambda: self.settle(machine, settlement), lambda: self.settlement_lost(machine))

    def grant(self, machine: PullMachine) -> None:
        pull = machine.pull
        refusal = self.leases.grant(pull.lease_id, pull.pull_id, pull.remote_block_ids, self.now)
        if refusal is None:
            self.send(lambda: self.answer(machine, lambda: machine.on_granted(TTL_S, (0,), self.now)))
        else:
            denied = PullFailure.LEASE_UNKNOWN
            self.send(lambda: self.answer(machine, lambda: machine.on_denied(denied, "denied")))

    def renew(self, machine: PullMachine, asked_at: float) -> None:
        pull = machine.pull
        if self.leases.renew(pull.lease_id, pull.pull_id, self.now) is None:
            self.send(lambda: self.answer(machine, lambda: machine.on_renewed(asked_at, TTL_S, self.now)))

    def settle(self, machine: PullMachine, settlement: Settlement) -> None:
        pull = machine.pull
        met, ended = self.leases.settle(pull.lease_id, pull.pull_id, settlement)
        assert ended == [] or met is Settled.ACCEPTED
        self.free_blocks(ended)
        self.send(lambda: self.answer(machine, machine.on_settled), lambda: self.settlement_lost(machine))

    def answer(self, machine: PullMachine, react: Callable[[], list[Command]]) -> None:
        if machine.pull.pull_id in self.pulls:
            self.perform(machine, react())

    def deliver_any_packet(self) -> None:
        self.packets.pop(self.random.randrange(len(self.packets))).arrive()

    def lose_any_packet(self) -> None:
        self.packets.pop(self.random.randrange(len(self.packets))).lost()

    # The transport: reads bytes at any time between post and end.

    def move_some_bytes(self) -> None:
        pull_id = self.pick(self.reads)
        self.reads[pull_id].append(self.content[self.read_blocks[pull_id]])

    def end_a_read(self) -> None:
        self.finish_read(self.pick(self.reads), fails=self.random.random() < 0.1)

    def finish_read(self, pull_id: str, fails: bool) -> None:
        seen = self.reads.pop(pull_id)
        # The last bytes move just before the end is seen.
        self.seen[pull_id] = [*seen, self.content[self.read_blocks[pull_id]]]
        machine = self.pulls[pull_id]
        if fails:
            self.perform(machine, machine.on_read_failed("broken", self.now))
        else:
            self.perform(machine, machine.on_read_done(self.now, self.now))

    # Time.

    def wait(self) -> None:
        self.now += self.random.choice([0.01, 0.1, 1.0, 4.0, 9.5])
        self.tick()

    def tick(self) -> None:
        self.free_blocks(self.leases.expire(self.now))
        for machine in list(self.pulls.values()):
            self.perform(machine, machine.on_tick(self.now))

    def check(self) -> None:
        """Every block is free or held, and a quarantine is exactly a failed pull with its read in flight."""
        assert self.free | set(self.held.values()) == set(range(BLOCKS))
        assert len(self.free) + len(self.held) == BLOCKS
        assert len(self.leases) == len(self.held)
        for pull_id, machine in self.pulls.items():
            in_flight = machine.state in {PullState.READING, PullState.QUARANTINED}
            assert (pull_id in self.reads) is in_flight
            assert not machine.quarantined or self.outcomes[pull_id] == 1

    def end(self) -> None:
        """Let everything end: reads become terminal, packets stop arriving, time passes."""
        for pull_id in list(self.reads):
            self.finish_read(pull_id, fails=True)
        for _ in range(20):
            self.lose_all_packets()
            self.now += 5.0
            self.tick()
        assert not self.reads
        assert self.pulls == {}
        assert len(self.leases) == 0
        assert set(self.outcomes.values()) <= {1}


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_nothing_wrong_is_accepted_and_nothing_leaks(seed: int) -> None:
    handover = Handover(seed)
    for _ in range(200):
        handover.step()
    handover.end()


def test_the_network_above_lets_pulls_succeed_fail_and_be_quarantined() -> None:
    states: Counter[str] = Counter()
    for seed in range(30):
        handover = Handover(seed)
        for _ in range(200):
            handover.step()
        states.update(handover.reported)

    assert states.keys() >= {"finished", "quarantined", "lifted", *(f.value for f in REACHABLE)}
