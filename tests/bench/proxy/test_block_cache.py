"""A mock worker's cache finds what it kept, from the first character on, and drops what was used least."""

from baton.bench.proxy.block_cache import BLOCK_CHARS, BlockCache, prompt_text

A, B, C = ("a" * BLOCK_CHARS, "b" * BLOCK_CHARS, "c" * BLOCK_CHARS)


def test_only_an_unbroken_beginning_is_a_hit() -> None:
    cache = BlockCache(None)
    cache.take(A + B)

    assert cache.take(A + C + B) == BLOCK_CHARS
    assert cache.take(B) == 0


def test_part_of_a_block_is_not_kept() -> None:
    cache = BlockCache(None)
    cache.take(A + "b")

    assert cache.take(A + "b") == BLOCK_CHARS


def test_what_was_used_least_recently_goes_first() -> None:
    cache = BlockCache(2)
    cache.take(A)
    cache.take(B)
    cache.take(A)
    cache.take(C)

    assert (cache.take(A), cache.take(C), cache.take(B)) == (BLOCK_CHARS, BLOCK_CHARS, 0)


def test_shares_are_counted_in_characters() -> None:
    cache = BlockCache(None)
    cache.take(A + B)
    cache.take(A + C)

    assert (cache.hit_chars, cache.asked_chars) == (BLOCK_CHARS, 4 * BLOCK_CHARS)


def test_roles_are_part_of_a_chat_prompt() -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "why?"}]

    assert prompt_text({"messages": messages}) == "<system>be brief<user>why?"
    assert prompt_text({"prompt": "why?"}) == "why?"
