"""What `prompt_keys.c` offers once it is compiled; only `prefix_index.py` makes use of it."""

def hashed(data: bytes | memoryview, chunk_bytes: int, seed: int, /) -> list[int] | None:
    """Return the key of each whole chunk of `data`; None where the package xxhash has to hash."""
