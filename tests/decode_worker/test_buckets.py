"""A batch is padded to the smallest size that holds it."""

import pytest

from baton.decode_worker.buckets import Buckets, check_bucket_sizes, default_bucket_sizes


@pytest.mark.parametrize(
    ("max_num_seqs", "sizes"),
    [
        (1, [1]),
        (2, [1, 2]),
        (3, [1, 2, 3]),
        (8, [1, 2, 4, 8]),
        (30, [1, 2, 4, 8, 16, 24, 30]),
        (32, [1, 2, 4, 8, 16, 24, 32]),
    ],
)
def test_default_sizes_end_with_the_largest_batch(max_num_seqs: int, sizes: list[int]) -> None:
    assert default_bucket_sizes(max_num_seqs) == sizes


def test_every_batch_gets_the_smallest_size_that_holds_it() -> None:
    buckets = Buckets(default_bucket_sizes(20))

    assert [buckets(live) for live in (1, 2, 3, 4, 5, 8, 9, 16, 17, 20)] == [1, 2, 4, 4, 8, 8, 16, 16, 20, 20]


def test_configured_sizes_are_put_in_order() -> None:
    assert check_bucket_sizes([8, 1, 8, 3], 8) == [1, 3, 8]


@pytest.mark.parametrize("sizes", [[], [0, 8], [1, 4]])
def test_sizes_that_cannot_hold_every_batch_are_refused(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="bucket_sizes"):
        check_bucket_sizes(sizes, 8)
