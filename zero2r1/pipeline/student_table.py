"""What making a student out of its base computed: ``compute.json``, for the comparison of distillation with RL (the paper's Table 6)."""

from __future__ import annotations

from zero2r1.distill.compute import Compute, multiplied_parameters, rl_compute, sft_compute
from zero2r1.pipeline.config import ZeroSettings
from zero2r1.pipeline.stage import Stage
from zero2r1.run_dir import RunDir

FILE = "compute.json"


def write_sft_compute(run: RunDir) -> Compute:
    """Count what fine-tuning computed, from the metrics of its finished run and the weights it said it trains."""
    started = next(event for event in run.events() if event["event"] == "start")
    return _kept(run, sft_compute(run.metrics(), parameters=started["parameters"]))


def write_rl_compute(run: RunDir, stage: Stage, settings: ZeroSettings) -> Compute:
    """Count what RL on the stage's policy computed, from the metrics of its finished run, and keep it in the run's folder.

    A pass that only reads is made by a reference (beta above 0), and by updates whose old log-probabilities neither
    the sampler nor their own pass knows.
    """
    grpo, compute = settings.grpo, settings.compute
    old = grpo.old_sources(exact=stage.engine.exact and not compute.half)
    found = rl_compute(
        run.metrics(),
        parameters=multiplied_parameters(stage.policy),
        scoring_passes=int(grpo.beta > 0) + old.count("scored") / len(old),
        skips_groups_without_signal=grpo.filter_zero_variance
        or settings.rollout.max_draws > 1  # groups without signal are replaced, though counted as sampled
        or (compute.skip_groups_without_signal and grpo.beta == 0),
    )
    return _kept(run, found)


def _kept(run: RunDir, found: Compute) -> Compute:
    run.write_json(FILE, found.as_row())
    return found
