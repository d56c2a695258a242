"""One seed a study; every other is derived from it by hashing what it is for."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *parts: object) -> int:
    """Seed (0 to 2**31 - 1) for the purpose named by `parts`, such as task, model, repeat, fold."""
    text = "\x1f".join([str(seed), *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") & 0x7FFFFFFF
