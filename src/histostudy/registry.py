"""The one way things are registered by name: segmenters, encoders, aggregators, recipes, figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Generic, TypeVar

from histostudy.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to objects; an unknown name is an error that lists the known ones.

    Parameters
    ----------
    kind : str
        What is registered, for the error message: ``aggregator``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorate a class or function to register it under `name`."""

        def add(item: T) -> T:
            if name in self._items:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._items[name] = item
            return item

        return add

    def __getitem__(self, name: str) -> T:
        if name not in self._items:
            close = get_close_matches(name, self._items, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(self)}"
            raise ConfigError(f"unknown {self.kind} {name!r}", todo=hint)
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._items))

    def __len__(self) -> int:
        return len(self._items)
