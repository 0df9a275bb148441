"""Figures that the trainer remembers between steps, because a rule decides by their history whether to go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zero2r1.grpo.config import ConvergenceSettings, MonitorSettings
from zero2r1.grpo.convergence import converged
from zero2r1.grpo.monitor import Hacking, find_hacking


class Watch:
    """The history of the figures that the rules of a run are about.

    ``state`` is what a checkpoint keeps: figures by name, one value a step.
    """

    def __init__(self, convergence: ConvergenceSettings | None, monitor: MonitorSettings | None) -> None:
        self._convergence, self._monitor = convergence, monitor
        self.state: dict[str, Any] = {"convergence": [], "score": [], "benchmark": [], "warned": False}

    def add(self, row: Mapping[str, Any], step: int) -> None:
        """Remember the figures of a step.

        Raises:
            ValueError: the first step has no figure that convergence is to be decided by, so no step will have it; or the first step with
                the monitored score has no benchmark.
        """
        rule, monitor = self._convergence, self._monitor
        if rule is not None:
            if rule.figure in row:
                self.state["convergence"] = [*self.state["convergence"], float(row[rule.figure])][-(2 * rule.window + rule.patience - 1) :]
            elif step == 1:  # later a figure may be missing, in a step in which nothing could be graded
                raise ValueError(f"convergence.figure is {rule.figure}, which this run does not measure. It has: {', '.join(sorted(row))}")
        if monitor is None or monitor.score not in row:
            return  # general requests may come late, so a score need not be there from the first step
        if monitor.benchmark not in row and not self.state["benchmark"]:
            raise ValueError(
                f"monitor.benchmark is {monitor.benchmark}, which this run does not measure beside {monitor.score}. It has: "
                f"{', '.join(sorted(row))}"
            )
        if monitor.benchmark in row:
            self.state["score"].append(float(row[monitor.score]))
            self.state["benchmark"].append(float(row[monitor.benchmark]))

    @property
    def converged(self) -> bool:
        """Whether the figure of the convergence rule no longer rises."""
        rule = self._convergence
        return rule is not None and converged(self.state["convergence"], window=rule.window, min_gain=rule.min_gain, patience=rule.patience)

    def hacking(self) -> Hacking | None:
        """What the monitor finds, the first time it does."""
        rule = self._monitor
        if rule is None or self.state["warned"]:
            return None
        found = find_hacking(
            self.state["score"], self.state["benchmark"], window=rule.window, min_rise=rule.min_rise, min_fall=rule.min_fall
        )
        self.state["warned"] = found is not None
        return found
