"""What `top_level.c` offers once it is compiled; only `body.py` makes use of it."""

from msgspec import Raw

def split(body: bytes, /) -> dict[str, Raw] | None:
    """Return the values of a JSON object by name, as they stand in `body`; None where msgspec has to look."""
