"""Timing several contenders in turns, so that a change of the machine's mood hits all of them."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence


def rate(batches: Iterator, batch_size: int, seconds: float) -> float:
    """Examples a second that ``batches`` delivers, over at least ``seconds`` and three batches."""
    started, count = time.perf_counter(), 0
    while count < 3 or time.perf_counter() - started < seconds:
        next(batches)
        count += 1
    return count * batch_size / (time.perf_counter() - started)


def in_turns(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each contender measured in each of ``rounds`` rounds, all of them once a round."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, measure in contenders.items():
            found[name].append(measure())
    return found


def medians(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each contender's rounds."""
    return {name: statistics.median(values) for name, values in found.items()}
