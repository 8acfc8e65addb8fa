"""The sizes a decode batch is padded to, so that a step has one of few static shapes. Pure.

By default 1, 2, 4, then every eighth: small batches waste little, and the number of shapes (each of which may
become a captured graph) stays low.
"""

from bisect import bisect_left


def default_bucket_sizes(max_rows: int) -> list[int]:
    """Return 1, 2, 4, 8, 16, 24, ... ending with `max_rows` itself."""
    sizes = [size for size in (1, 2, 4, *range(8, max_rows, 8)) if size < max_rows]
    return [*sizes, max_rows]


def check_bucket_sizes(sizes: list[int], max_rows: int) -> list[int]:
    """Return configured sizes in order. Raises `ValueError` when they cannot hold every batch."""
    ordered = sorted(set(sizes))
    if not ordered or ordered[0] < 1 or ordered[-1] < max_rows:
        raise ValueError(
            f"bucket_sizes: {sizes} must be positive and reach {max_rows}: max_num_seqs, times the tokens "
            "that a step may give a sequence"
        )
    return ordered


class Buckets:
    """Chooses the size a batch is padded to."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes

    def __call__(self, live: int) -> int:
        """Return the smallest size that holds `live` rows."""
        return self.sizes[bisect_left(self.sizes, live)]
