"""Lets the engine process keep the memory that its tensors give back.

glibc returns large blocks to the system when they are freed, and the system clears every page of the next
one: a prompt of 1,000 tokens cost up to 34,000 page faults. What a step has allocated the next one needs
again, so up to `KEPT_BYTES` of free memory stay. `process` calls it once, before it loads.
"""

import ctypes
import platform

KEPT_BYTES = 256 << 20
LARGEST_BYTES = 1 << 30
"""Larger blocks are mapped alone and go back at once."""

M_TRIM_THRESHOLD = -1  # mallopt(3)
M_MMAP_THRESHOLD = -3


def keep_freed_memory() -> bool:
    """Tell the allocator; false where it is not glibc's, which then goes on as it does."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_BYTES) and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))
