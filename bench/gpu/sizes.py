"""The shapes of DeepSeek-R1 that the kernel table uses, and small ones with the same code paths.

Small shapes keep every width that a kernel is compiled for, so that compiling them for a GPU that is not
there, or interpreting them, goes through the code that full shapes run.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers of things; widths that a kernel is compiled for stand in the table itself."""

    decode_rows: int
    prefill_tokens: int
    context: int
    heads: int
    """Of MLA"""
    dense_heads: int
    """Of attention over dense keys"""
    owned: int
    """Experts that rows are grouped by, in place of 256"""
    split_context: int
    """Keys of the two sequences that are split over many programs"""
    depth: int
    """In place of 7,168, 16,384 and other input widths of products"""
    width: int
    """In place of output widths of products"""
    expert_rows: int
    """Rows that each of four local experts gets"""
    vocab: int
    pool_blocks: int


FULL = Sizes(
    decode_rows=128,
    prefill_tokens=8192,
    context=4096,
    heads=128,
    dense_heads=32,
    owned=256,
    split_context=8192,
    depth=7168,
    width=4096,
    expert_rows=256,
    vocab=129_280,
    pool_blocks=64,
)
SMALL = Sizes(
    decode_rows=2,
    prefill_tokens=18,
    context=100,
    heads=64,
    dense_heads=2,
    owned=8,
    split_context=600,
    depth=1152,
    width=136,
    expert_rows=5,
    vocab=5000,
    pool_blocks=3,
)
