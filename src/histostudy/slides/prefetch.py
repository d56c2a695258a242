"""Work done ahead by threads, handed over in order: what keeps an encoder from waiting for pixels."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that end, with what they have not begun, when the block is left: by its end, an error or a close."""
    executor = ThreadPoolExecutor(workers, thread_name_prefix="reader")
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def ordered(tasks: Iterable[Callable[[], T]], workers: int, ahead: int) -> Generator[T, None, None]:
    """What `tasks` return, in their order.

    Parameters
    ----------
    tasks : iterable of callable
        Asked for one at a time, by the thread that iterates.
    workers : int
        Threads; 0: each task is done when it is asked for.
    ahead : int
        Tasks that may be under way or waiting to be taken.

    Yields
    ------
    object
        An error of a task is raised in its place; the tasks after it are not begun then.
    """
    if workers < 1:
        for task in tasks:
            yield task()
        return
    with pool(workers) as executor:
        waiting: deque[Future[T]] = deque()
        for task in tasks:
            waiting.append(executor.submit(task))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
