"""What takes the place of a sample of a stream that cannot be decoded, where it is not to end the run.

The next readable sample of the stream stands in for it, and comes once more in its own turn; behind the last one the
first readable one of the stream's shards does. So a batch is a function of the stream alone: not of the number of
workers, nor of where the run was interrupted.
"""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import Generic, TypeVar

from torch import Tensor

T = TypeVar("T")


class Undecodable(ValueError):
    """A sample cannot be decoded.

    Args:
        name: where it lies.
        reason: why.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} cannot be decoded ({reason}): write its shard again without it")
        self.name = name
        self.reason = reason


class StandIns(Generic[T]):
    """A stream that gives a readable sample for every one that it has.

    Args:
        samples: of the stream, encoded.
        decode: one of them -> its image [C, S, S] uint8, or raises ``Undecodable``.
        again: the same samples in any order of their own, from the start.
        skips: whether anything stands in; or else the first that cannot be decoded is raised.

    ``skipped`` grows to say which samples could not be decoded when their turn came, and why.
    """

    def __init__(
        self, samples: Iterator[T], decode: Callable[[T], Tensor], again: Callable[[], Iterator[T]], skips: bool
    ) -> None:
        self.samples = samples
        self.decode = decode
        self.again = again
        self.skips = skips
        self.ahead: deque[T] = deque()
        self.skipped: dict[str, str] = {}

    def take(self) -> tuple[T, Tensor]:
        """The next sample, or what stands in for it, with its image.

        Raises:
            Undecodable: no sample of the stream can be decoded, or this one cannot and nothing is to stand in.
        """
        sample = self.ahead.popleft() if self.ahead else next(self.samples)
        try:
            return sample, self.decode(sample)
        except Undecodable as error:
            if not self.skips:
                raise
            self.skipped[error.name] = error.reason
            broken = error
        for others in (self.coming, self.again):
            for other in others():
                if (image := self.readable(other)) is not None:
                    return other, image
        raise broken

    def coming(self) -> Iterator[T]:
        """The samples after this one, which come in their turn all the same."""
        for number in count():
            if number == len(self.ahead):
                try:
                    self.ahead.append(next(self.samples))
                except StopIteration:
                    return
            yield self.ahead[number]

    def readable(self, sample: T) -> Tensor | None:
        """The image of a sample, if it can be decoded."""
        try:
            return self.decode(sample)
        except Undecodable:
            return None
