"""Users' reward functions in processes of their own, so that a broken one costs a sample and never becomes a number.

:class:`IsolatedReward` is called like any reward function; what happens to a call is :mod:`zero2r1.rewards.worker_pool`'s promise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from statistics import fmean
from typing import Any, Literal

from zero2r1.rewards.combine import RewardError
from zero2r1.rewards.worker_pool import Graded, RewardPool

__all__ = ["Graded", "IsolatedReward", "RewardPool"]


class IsolatedReward:
    """A user's function as a :data:`~zero2r1.types.RewardFn` that is safe to call, from several threads too.

    A sample without a value gets ``None``; why stands in the extra column ``why_<name>``, and the metric ``rewards/<name>/invalid``
    counts them. A metric that several samples logged is their mean.

    Args:
        function: ``my_rewards.py:f``, ``package.module:f`` or ``package.module.f``, with TRL's, verl's or OpenRLHF's signature.
        batch: ``one``: the function sees one completion per call, so that a hung one costs only itself. ``all``: it sees all of
            them, for functions that compare completions or await many at once; then they also fail together.

    The other arguments, and what is raised, are :class:`RewardPool`'s.

    To grade one completion as soon as it is there, ``reward.pool.submit`` it. A copy, such as one sent to a Ray actor, starts
    workers of its own.
    """

    concurrent = True
    """See :func:`~zero2r1.rewards.combine.concurrent`."""

    def __init__(
        self,
        function: str,
        *,
        limit_s: float = 10.0,
        workers: int = 2,
        spare_workers: int = 8,
        max_invalid_in_a_row: int = 16,
        name: str | None = None,
        batch: Literal["one", "all"] = "one",
    ) -> None:
        if batch not in ("one", "all"):
            raise ValueError(f"batch is one or all, not {batch!r}")
        self.pool = RewardPool(
            function,
            limit_s=limit_s,
            workers=workers,
            spare_workers=spare_workers,
            max_invalid_in_a_row=max_invalid_in_a_row,
            name=name,
        )
        self.batch = batch
        self.name = self.__name__ = self.pool.facts.name
        self.place = self.pool.facts.place

    def __call__(
        self,
        *,
        completions: Sequence[Any],
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        trainer_state: Any = None,
        **columns: Any,
    ) -> list[float | None]:
        """One value per completion; the function itself gets ``trainer_state=None``.

        Raises:
            RewardError: the function is broken, see :class:`RewardPool`.
            ValueError: a column cannot be sent to another process.
        """
        graded = self._graded(self._calls({"completions": list(completions), **columns}))
        if log_extra is not None:
            for column, values in self._logged(graded).items():
                log_extra(column, values)
        if log_metric is not None:
            for name, value in self._metrics(graded).items():
                log_metric(name, value)
        return [value for one in graded for value in one.values]

    def _graded(self, calls: Sequence[dict[str, Any]]) -> list[Graded]:
        futures: list[Future[Graded]] = []
        graded: list[Graded] = []
        try:
            for call in calls:
                futures.append(self.pool.submit(call))
            for future in futures:
                graded.append(future.result())
        except RewardError as error:
            raise error if error.saved else RewardError(str(error), calls[len(graded)]) from None
        finally:
            for future in futures:
                future.cancel()  # after an error or Ctrl-C nobody waits for the others
        return graded

    def _calls(self, columns: Mapping[str, Any]) -> list[dict[str, Any]]:
        count = len(columns["completions"])
        for name, values in columns.items():
            if not isinstance(values, list) or len(values) != count:
                raise ValueError(f"the column {name!r} must be a list with {count} entries, one per completion")
        if self.batch == "all":
            return [dict(columns)] if count else []
        return [{name: [values[i]] for name, values in columns.items()} for i in range(count)]

    def _logged(self, graded: Sequence[Graded]) -> dict[str, list[Any]]:
        logged: dict[str, list[Any]] = {}
        for column in dict.fromkeys(name for one in graded for name in one.logged):
            logged[column] = [value for one in graded for value in one.logged.get(column, [None] * len(one.values))]
        if any(one.reason for one in graded):
            logged[f"why_{self.name}"] = [one.reason for one in graded for _ in one.values]
        return logged

    def _metrics(self, graded: Sequence[Graded]) -> dict[str, float]:
        names = dict.fromkeys(name for one in graded for name in one.metrics)
        metrics = {name: _mean([one.metrics[name] for one in graded if name in one.metrics]) for name in names}
        metrics[f"rewards/{self.name}/invalid"] = float(sum(len(one.values) for one in graded if one.reason))
        return metrics

    def close(self) -> None:
        """End the workers; forgetting the reward does the same."""
        self.pool.close()

    def __enter__(self) -> IsolatedReward:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(IsolatedReward, self.pool.function, batch=self.batch, **self.pool.settings), ()


def _mean(values: Sequence[Any]) -> Any:
    """The mean of numbers; of anything else that was logged as a metric, the last."""
    return fmean(values) if all(isinstance(value, (int, float)) for value in values) else values[-1]
