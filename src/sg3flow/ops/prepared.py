"""Calls that were checked and planned once, for calls of the same shapes and numbers."""

from collections.abc import Hashable
from typing import Generic, TypeVar

_MOST = 4096  # random paddings of augmentation make new ones for ever

Call = TypeVar("Call")


class PreparedCalls(Generic[Call]):
    """A bounded table of prepared calls by all that they depend on."""

    def __init__(self) -> None:
        self._calls: dict[Hashable, Call] = {}
        self.get = self._calls.get

    def put(self, key: Hashable, call: Call) -> Call:
        """Keep a call, and give it back."""
        if len(self._calls) >= _MOST:
            self._calls.clear()
        self._calls[key] = call
        return call

    def clear(self) -> None:
        """Forget all of them."""
        self._calls.clear()
