"""What is made of an object once and kept as long as the object lives."""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

K = TypeVar("K")
V = TypeVar("V")


def once_each(make: Callable[[K], V]) -> Callable[[K], V]:
    """Mark a function that is called once for each object, which is compared by identity."""
    kept: WeakKeyDictionary[K, V] = WeakKeyDictionary()

    @wraps(make)
    def found(of: K) -> V:
        if of not in kept:
            kept[of] = make(of)
        return kept[of]

    return found
