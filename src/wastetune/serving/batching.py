"""Batches the pictures of many requests for the model, up to a number of pending pictures."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

Predicted = tuple[NDArray[np.float32], float | None]  # probabilities (classes,) and likeness
Run = Callable[[NDArray[np.uint8]], Sequence[Predicted]]

# Pictures in one batch. More are no faster on a CPU and take memory that is not returned: InceptionV3 used 915 MB with
# sixteen and 455 MB with four.
_MOST = 4


class Full(Exception):
    """Too many pictures are pending."""


class Batcher:
    """Runs the model on pending pictures in batches of up to four, one batch after another."""

    def __init__(self, run: Run, places: int, on_batch: Callable[[int], object] = lambda pictures: None) -> None:
        self._run = run
        self._places = places
        self._taken = 0
        self._on_batch = on_batch  # called with the size of each batch
        self._waiting: deque[tuple[NDArray[np.uint8], asyncio.Future[Predicted]]] = deque()
        self._woken = asyncio.Event()
        self._closing = False

    @property
    def taken(self) -> int:
        """The number of pending pictures: being decoded, waiting or in a batch."""
        return self._taken

    @property
    def full(self) -> bool:
        """Whether no more pictures are accepted."""
        return self._taken >= self._places

    @contextmanager
    def places(self, pictures: int) -> Iterator[None]:
        """Reserves places for so many pictures within the block. Raises Full where there are fewer."""
        if self._taken + pictures > self._places:
            raise Full
        self._taken += pictures
        try:
            yield
        finally:
            self._taken -= pictures

    async def predict(self, pixels: NDArray[np.uint8]) -> Predicted:
        """What the model predicts for one picture (size, size, 3)."""
        answer: asyncio.Future[Predicted] = asyncio.get_running_loop().create_future()
        self._waiting.append((pixels, answer))
        self._woken.set()
        return await answer

    async def work(self) -> None:
        """Runs batches until `close` is called and no picture is waiting."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="model") as thread:
            while self._waiting or not self._closing:
                if not self._waiting:
                    self._woken.clear()
                    await self._woken.wait()
                    continue
                next_up = [self._waiting.popleft() for _ in range(min(_MOST, len(self._waiting)))]
                batch = [each for each in next_up if not each[1].cancelled()]
                if not batch:
                    continue
                self._on_batch(len(batch))
                try:
                    predicted = await loop.run_in_executor(thread, self._run, np.stack([pixels for pixels, _ in batch]))
                    rows = list(zip(batch, predicted, strict=True))
                except Exception as error:  # out of memory, for example: only this batch fails
                    for _, answer in batch:
                        if not answer.cancelled():
                            answer.set_exception(error)
                    continue
                for (_, answer), row in rows:
                    if not answer.cancelled():
                        answer.set_result(row)

    def close(self) -> None:
        """Makes `work` return when no picture is waiting."""
        self._closing = True
        self._woken.set()
