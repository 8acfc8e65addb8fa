"""The index knows what was sent where, forgets in time, and never outgrows its cap."""

import random
import subprocess
import sys
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.proxy.routing.prefix_index import KEY_BYTES, RUN_BYTES, PrefixIndex, prefix_keys

CHUNK = 16
MODEL_SEED = 3


def index(*, max_bytes: int = 1 << 24, max_age_s: float = 100.0) -> PrefixIndex:
    return PrefixIndex(max_bytes=max_bytes, max_age_s=max_age_s, now=0.0)


def keys(text: bytes) -> list[int]:
    return prefix_keys(text, CHUNK, MODEL_SEED)


def chunks(*letters: str) -> bytes:
    return b"".join(letter.encode() * CHUNK for letter in letters)


def fresh_keys(generator: random.Random, count: int) -> list[int]:
    return [generator.getrandbits(64) for _ in range(count)]


def test_prompts_share_keys_exactly_as_far_as_they_are_equal() -> None:
    one, other = keys(chunks(*"abcd")), keys(chunks(*"abxd"))

    assert one[:2] == other[:2]
    assert not set(one[2:]) & set(other[2:])


def test_the_same_chunk_at_another_place_has_another_key() -> None:
    assert len(set(keys(chunks(*"aaaa")))) == 4


def test_a_part_of_a_chunk_has_no_key() -> None:
    assert keys(chunks("a", "b") + b"c" * (CHUNK - 1)) == keys(chunks("a", "b"))
    assert keys(b"c" * (CHUNK - 1)) == []


def test_the_seed_separates_models_and_memory_views_hash_like_bytes() -> None:
    text = chunks("a", "b")

    assert not set(prefix_keys(text, CHUNK, 1)) & set(prefix_keys(text, CHUNK, 2))
    assert prefix_keys(memoryview(text), CHUNK, 1) == prefix_keys(text, CHUNK, 1)


def test_one_lookup_tells_the_match_on_every_worker() -> None:
    known = index()
    for worker, text in (
        ("none", "xbcd"),
        ("one", "axcd"),
        ("three", "abcx"),
        ("all", "abcd"),
        ("more", "abcde"),
    ):
        known.insert(worker, keys(chunks(*text)), now=0.0)

    match = known.lookup(keys(chunks(*"abcd")), now=0.0)

    assert match.by_worker() == {"one": 1, "three": 3, "all": 4, "more": 4}
    assert [match.chunks(worker) for worker in ("none", "one", "three", "all", "stranger")] == [0, 1, 3, 4, 0]
    assert match.longest == 4


def test_nothing_matches_an_empty_index_or_an_empty_prompt() -> None:
    known = index()
    assert known.lookup(keys(chunks("a")), now=0.0).longest == 0
    known.insert("a", keys(chunks("a")), now=0.0)
    assert known.lookup([], now=0.0).by_worker() == {}


operations = st.lists(
    st.tuples(
        st.sampled_from(["insert", "retract", "clear"]),
        st.sampled_from(["p", "q", "r"]),
        st.text("ab", max_size=5),
        st.integers(0, 5),
    ),
    max_size=30,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(steps=operations, probe=st.text("ab", max_size=6))
def test_matches_equal_those_of_sets_kept_by_worker(
    steps: list[tuple[str, str, str, int]], probe: str
) -> None:
    known = index()
    held: dict[str, set[int]] = {"p": set(), "q": set(), "r": set()}
    for operation, worker, text, kept in steps:
        prompt = keys(chunks(*text))
        if operation == "insert":
            known.insert(worker, prompt, now=0.0)
            held[worker] |= set(prompt)
        elif operation == "retract":
            known.retract(worker, prompt, kept_chunks=kept)
            held[worker] -= set(prompt[kept:])
        else:
            known.clear_worker(worker)
            held[worker] = set()

    wanted = keys(chunks(*probe))
    expected = {}
    for worker, has in held.items():
        depth = next((i for i, key in enumerate(wanted) if key not in has), len(wanted))
        if depth:
            expected[worker] = depth
    assert known.lookup(wanted, now=0.0).by_worker() == expected


def test_a_restarted_worker_holds_nothing_even_while_its_old_entries_are_in_memory() -> None:
    known, prompt = index(), keys(chunks(*"abc"))
    known.insert("stays", prompt, now=0.0)
    known.insert("restarts", prompt, now=0.0)

    known.clear_worker("restarts")
    assert known.lookup(prompt, now=0.0).by_worker() == {"stays": 3}
    known.insert("restarts", prompt[:1], now=0.0)
    assert known.lookup(prompt, now=0.0).by_worker() == {"stays": 3, "restarts": 1}


def test_a_new_worker_does_not_inherit_what_a_removed_one_held() -> None:
    known, prompt = index(max_age_s=100.0), keys(chunks(*"abc"))
    known.insert("removed", prompt, now=49.0)
    known.clear_worker("removed")

    for now in (49.0, 51.0, 99.0, 101.0, 151.0):
        known.insert(f"added at {now}", [], now=now)
        assert known.lookup(prompt, now=now).by_worker() == {}


def test_workers_that_restart_forever_do_not_widen_the_sets_forever() -> None:
    known, prompt = index(max_age_s=100.0), keys(chunks("a"))
    for restart in range(500):
        known.insert("loops", prompt, now=restart * 10.0)
        known.clear_worker("loops")
        known.insert("stays", prompt, now=restart * 10.0)

    assert known.lookup(prompt, now=5000.0).by_worker() == {"stays": 1}
    assert known._bits.slots < 30


def test_an_entry_lives_at_least_half_of_its_age_and_at_most_all_of_it() -> None:
    for used_at in (0.0, 20.0, 49.9, 50.0, 73.0):
        known, prompt = index(max_age_s=100.0), keys(chunks("a"))
        known.insert("a", prompt, now=used_at)

        assert known.lookup(prompt, now=used_at + 49.9).longest == 1
        assert known.lookup(prompt, now=used_at + 100.0).longest == 0


def test_workers_age_apart_on_one_chunk() -> None:
    known, prompt = index(max_age_s=100.0), keys(chunks("a"))
    known.insert("idle", prompt, now=0.0)
    for now in range(0, 120, 10):
        known.insert("busy", prompt, now=float(now))

    assert known.lookup(prompt, now=120.0).by_worker() == {"busy": 1}


def test_forgotten_entries_are_freed_little_by_little() -> None:
    known, generator = index(max_age_s=100.0), random.Random(0)
    known.insert("a", fresh_keys(generator, 5000), now=0.0)
    sizes = []
    for now in range(100, 140):
        known.insert("a", fresh_keys(generator, 100), now=float(now))
        sizes.append(len(known))

    assert sizes[0] > 4000
    assert sizes[-1] == 40 * 100


def test_a_long_silence_forgets_everything_at_once() -> None:
    known, prompt = index(max_age_s=100.0), keys(chunks("a"))
    known.insert("a", prompt, now=0.0)

    assert known.lookup(prompt, now=1e9).longest == 0
    known.insert("a", prompt, now=1e9)
    assert known.lookup(prompt, now=1e9 + 49).longest == 1


@pytest.mark.parametrize("workers", [60, 1000])
@pytest.mark.parametrize("turns_every", [28, 55, 100, 10_000])
def test_the_byte_cap_holds_in_real_memory_while_it_is_filled_many_times_over(
    workers: int, turns_every: int
) -> None:
    generator = random.Random(0)
    cap = 2_000_000
    tracemalloc.start()
    try:
        known = index(max_bytes=cap, max_age_s=2.0 * turns_every)
        for worker in range(workers):
            known.insert(f"w{worker}", [], now=0.0)
        before = tracemalloc.get_traced_memory()[0]
        used = []
        for step in range(300):
            known.insert(f"w{generator.randrange(workers)}", fresh_keys(generator, 128), now=float(step))
            used.append(tracemalloc.get_traced_memory()[0] - before)
            assert known.memory_bytes <= cap
    finally:
        tracemalloc.stop()

    assert 0.25 * cap < max(used) <= cap


def test_the_least_recently_used_prompts_leave_first_and_their_ends_before_their_beginnings() -> None:
    generator = random.Random(0)
    known = index(max_bytes=200_000)
    hot, cold = fresh_keys(generator, 100), fresh_keys(generator, 500)
    known.insert("a", cold, now=0.0)
    known.insert("b", hot, now=0.0)

    left = [500]
    for _ in range(100):
        known.insert("a", fresh_keys(generator, 10), now=0.0)
        known.insert("a", hot, now=0.0)
        left.append(known.lookup(cold, now=0.0).longest)
    assert left == sorted(left, reverse=True)
    assert len(set(left)) > 20
    assert left[-1] == 0
    assert known.lookup(hot, now=0.0).by_worker() == {"a": 100, "b": 100}


def test_what_a_prompt_shares_is_used_by_it_and_what_it_does_not_share_is_not() -> None:
    generator = random.Random(0)
    known = index(max_bytes=200_000)
    shared, left, other = (fresh_keys(generator, 100) for _ in range(3))
    known.insert("a", shared + left, now=0.0)
    known.insert("a", other, now=0.0)
    known.insert("a", shared, now=0.0)
    while known.lookup(other, now=0.0).longest == 100:
        known.insert("a", fresh_keys(generator, 10), now=0.0)

    assert known.lookup(shared + left, now=0.0).longest == 100


def test_of_a_prompt_that_was_taken_back_in_part_the_end_still_leaves_first() -> None:
    generator = random.Random(0)
    known, prompt = index(max_bytes=200_000), fresh_keys(generator, 90)
    known.insert("a", prompt, now=0.0)
    known.insert("b", prompt, now=0.0)
    known.retract("b", prompt[30:60], kept_chunks=0)

    left = [90]
    while left[-1]:
        known.insert("a", fresh_keys(generator, 10), now=0.0)
        left.append(known.lookup(prompt, now=0.0).longest)
    # As much at a time as comes, where the beginning would else take along all that builds on it.
    assert max(before - after for before, after in pairwise(left)) < 20


def test_a_prompt_larger_than_the_cap_keeps_its_beginning() -> None:
    known, prompt = index(max_bytes=100_000), fresh_keys(random.Random(0), 5_000)
    known.insert("a", prompt, now=0.0)

    assert known.lookup(prompt, now=0.0).longest == len(known) > 200
    known.insert("b", prompt[:3], now=0.0)
    assert known.lookup(prompt, now=0.0).chunks("b") == 3


def test_answers_teach_how_far_a_worker_can_be_trusted() -> None:
    known, prompt = index(), fresh_keys(random.Random(0), 50)
    assert known.trust("a") == 1.0
    for _ in range(40):
        known.confirm("a", prompt, promised_chunks=50, cached_chunks=0, now=0.0)
        known.confirm("b", prompt, promised_chunks=50, cached_chunks=90, now=0.0)
    assert known.trust("a") < 0.05
    assert known.trust("b") == 1.0
    for _ in range(150):
        known.confirm("a", prompt, promised_chunks=50, cached_chunks=40, now=0.0)
    assert known.trust("a") == pytest.approx(0.8, abs=0.03)

    assert known.lookup(prompt, now=0.0).by_worker() == {"a": 50, "b": 50}
    known.clear_worker("a")
    assert known.trust("a") == 1.0


def test_the_index_needs_neither_sockets_nor_clocks_nor_tensors() -> None:
    check = (
        "import sys, baton.proxy.routing.prefix_index\n"
        "print(sorted({'torch', 'numpy', 'aiohttp', 'asyncio', 'zmq'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout

    assert printed.strip() == "[]"


def test_a_match_tells_depth_by_bit_and_lists_all_but_the_majority() -> None:
    known = index()
    for worker, text in (("a", "x"), ("b", "x"), ("c", "x"), ("d", "xyz"), ("e", "xy"), ("f", "q")):
        known.insert(worker, keys(chunks(*text)), 0.0)
    names = "abcdef"
    bits = {name: known.bit(name) for name in names}
    match = known.lookup(keys(chunks(*"xyz")), 1.0)

    assert {name: match.depth(bit) for name, bit in bits.items()} == dict(
        zip(names, [1, 1, 1, 3, 2, 0], strict=True)
    )
    assert list(match.minorities(sum(bits.values()), names)) == [["d"], ["e"], ["a", "b", "c"]]
    assert list(match.minorities(sum(bits[name] for name in "abce"), names)) == [["e"]]


def test_a_turn_forgets_what_was_not_used_since_the_turn_before() -> None:
    known = index()
    for worker in ("used", "unused"):
        known.insert(worker, keys(chunks("a")), 0.0)
    known.turn(1.0)
    known.insert("used", keys(chunks("a")), 1.0)
    assert known.lookup(keys(chunks("a")), 1.0).by_worker() == {"used": 1, "unused": 1}

    known.turn(2.0)
    assert known.lookup(keys(chunks("a")), 2.0).by_worker() == {"used": 1}


def test_bits_stay_until_a_worker_comes_or_goes() -> None:
    known = index()
    bit, version = known.bit("a"), known.bits_version

    assert (known.bit("a"), known.bits_version) == (bit, version)
    known.clear_worker("a")
    assert known.bits_version != version


def test_prompts_that_part_cost_a_run_each_and_not_an_entry_for_every_chunk() -> None:
    known, generator = index(), random.Random(0)
    shared = fresh_keys(generator, 1000)
    known.insert("a", shared + fresh_keys(generator, 1000), now=0.0)
    known.insert("a", shared + fresh_keys(generator, 1000), now=0.0)

    assert known.memory_bytes == 3000 * KEY_BYTES + 3 * (RUN_BYTES + 8)
    assert known.lookup(shared, now=0.0).longest == 1000


def test_what_is_taken_back_from_the_middle_leaves_what_is_around_it() -> None:
    known, prompt = index(), fresh_keys(random.Random(0), 9)
    for worker in "ab":
        known.insert(worker, prompt, now=0.0)
    known.retract("a", [prompt[7], prompt[3], prompt[4]], kept_chunks=0)

    assert known.lookup(prompt, now=0.0).by_worker() == {"a": 3, "b": 9}
    known.insert("a", prompt[:5], now=0.0)
    assert known.lookup(prompt, now=0.0).by_worker() == {"a": 7, "b": 9}
