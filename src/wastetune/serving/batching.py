"""Pictures of many requests run through the model together, and only so many wait for it."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from wastetune.models.loading import Run

# Pictures in one run. More are no faster on a CPU, and take memory that is not given back: InceptionV3 had 915 MB
# with sixteen and 455 MB with four.
_MOST = 4


class Full(Exception):
    """There is no place for so many pictures now."""


class Batcher:
    """Runs what waits, as many pictures at once as there are, up to four, one run after another."""

    def __init__(self, run: Run, places: int, seen: Callable[[int], object] = lambda pictures: None) -> None:
        self._run = run
        self._places = places
        self._taken = 0
        self._seen = seen  # told the size of each run
        self._waiting: deque[tuple[NDArray[np.uint8], asyncio.Future[NDArray[np.float32]]]] = deque()
        self._woken = asyncio.Event()
        self._closing = False

    @property
    def taken(self) -> int:
        """Places that are taken: pictures that are being read, wait, or run."""
        return self._taken

    @property
    def full(self) -> bool:
        """Whether no place is left."""
        return self._taken >= self._places

    @contextmanager
    def places(self, pictures: int) -> Iterator[None]:
        """Inside, so many places are taken. Full where there are fewer."""
        if self._taken + pictures > self._places:
            raise Full
        self._taken += pictures
        try:
            yield
        finally:
            self._taken -= pictures

    async def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The probabilities (classes,) of one picture (size, size, 3)."""
        answer: asyncio.Future[NDArray[np.float32]] = asyncio.get_running_loop().create_future()
        self._waiting.append((pixels, answer))
        self._woken.set()
        return await answer

    async def work(self) -> None:
        """Runs what comes, until `close` is called and nothing waits any more."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="model") as thread:
            while self._waiting or not self._closing:
                if not self._waiting:
                    self._woken.clear()
                    await self._woken.wait()
                    continue
                taken = [self._waiting.popleft() for _ in range(min(_MOST, len(self._waiting)))]
                batch = [each for each in taken if not each[1].cancelled()]
                if not batch:
                    continue
                self._seen(len(batch))
                try:
                    said = await loop.run_in_executor(thread, self._run, np.stack([pixels for pixels, _ in batch]))
                    rows = list(zip(batch, said, strict=True))
                except Exception as error:  # out of memory, say: this batch is lost, the next may go
                    for _, answer in batch:
                        if not answer.cancelled():
                            answer.set_exception(error)
                    continue
                for (_, answer), row in rows:
                    if not answer.cancelled():
                        answer.set_result(row)

    def close(self) -> None:
        """Lets `work` end when nothing waits any more."""
        self._closing = True
        self._woken.set()
