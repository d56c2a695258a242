"""The same numbers each time: seeds, threads and deterministic kernels for the length of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def deterministic(seed: int, threads: int = 1) -> Iterator[None]:
    """Seed torch and NumPy, fix the number of threads and refuse kernels that are not deterministic.

    Results are byte-identical for one `threads` on one kind of machine; sums are split otherwise with another.
    """
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (libraries that ask the global generator)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


def pick_device(asked: str) -> str:
    """`cpu` or `cuda` for ``auto``, ``cpu`` or ``cuda``.

    Raises
    ------
    ModelError
        If ``cuda`` is asked for and there is none.
    """
    import torch

    from histostudy.errors import ModelError

    if asked == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if asked == "cuda":
        raise ModelError("training.device is cuda, and there is none here", todo="set it to auto or cpu")
    return "cpu"
