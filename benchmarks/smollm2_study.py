"""Does pure GRPO lift SmolLM2-135M-Instruct on sums of two terms? `python benchmarks/smollm2_study.py --out runs/smollm2_study`.

    --gsm8k gsm8k_test.jsonl --gsm8k-problems 100     also measured on the first of these, before and after
    --arms rl,format_only,shuffled                    which trainings; those that are done are not done again
    --steps=2 --evaluation.problems=8                 any setting of the recipe

Every arm starts from the same weights and sees the same questions: `rl` as the recipe says, `format_only` paid for the layout alone,
`shuffled` with the rewards of each group dealt out at random. OUT holds a run folder for each, study.json, study.md, verdict.json and
figures (right answers and layout, entropy, length against steps).
Figures are means over held-out problems; intervals are 95 %, from a bootstrap over problems, paired with the base.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zero2r1 import process
from zero2r1.config import load_settings
from zero2r1.eval.metrics import bootstrap_difference
from zero2r1.eval.runner import EvalResult
from zero2r1.pipeline.api import held_out_set, load_stage, load_world
from zero2r1.pipeline.config import RECIPES, EvaluationSettings, RewardSettings, ZeroSettings
from zero2r1.pipeline.evaluations import claim_lines, judge_run, keep_evaluation, measured_arrays
from zero2r1.pipeline.rl import Extras, run_rl
from zero2r1.pipeline.stage import Stage
from zero2r1.pipeline.world import measure
from zero2r1.report.charts import TONES, Band, Curve, Point, line_chart, standalone
from zero2r1.report.figures import smoothed
from zero2r1.report.wording import Z95
from zero2r1.run_dir import RunDir
from zero2r1.types import Problem

ARMS: Mapping[str, Callable[[ZeroSettings], dict[str, Any]]] = {
    "rl": lambda settings: {},
    "format_only": lambda settings: {"reward": RewardSettings(weights={"accuracy": 0.0, "format": 1.0})},  # accuracy is only recorded
    "shuffled": lambda settings: {"shuffle_rewards": True},
}
"""What an arm changes of the recipe."""
TRANSCRIPTS = 3
FIGURES: Mapping[str, tuple[str, dict[str, str]]] = {
    "shares": ("share of answers", {"rewards/accuracy/mean": "right", "rewards/format/mean": "in the layout"}),
    "entropy": ("nats a token", {"entropy": "entropy"}),
    "length": ("tokens an answer", {"completions/mean_length": "length"}),
}
"""File of a figure -> title of its axis, and which metrics it shows under which name."""
KINDS = {"wrong before, right after": (False, True), "right before, wrong after": (True, False), "wrong before and after": (False, False)}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Problems of another set, or the same ones greedily: one answer each, at temperature 0."""

    problems: tuple[Problem, ...]
    cap: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What is trained, what is measured, and where it is kept."""

    out: Path
    settings: ZeroSettings
    problems: tuple[Problem, ...]
    probes: Mapping[str, Probe]
    """By the ending of their names: ``greedy`` makes ``base_greedy``, ``rl_greedy``, ..."""

    def names(self, arm: str) -> list[str]:
        """The evaluations of an arm."""
        return [arm, *(f"{arm}_{probe}" for probe in self.probes)]

    def measured(self, arm: str, name: str) -> bool:
        return (self.out / arm / "evals" / f"{name}.json").exists()

    def done(self, arm: str) -> bool:
        return all(self.measured(arm, name) for name in self.names(arm))


def study_of(asked: argparse.Namespace, flags: Sequence[str]) -> Study:
    """Settings and problems."""
    settings: ZeroSettings = load_settings(ZeroSettings, files=[asked.config], flags=flags).settings
    # A policy that keeps the layout always earns the same for it, and has no more to learn: no reason to halt here.
    settings = settings.model_copy(update={"stop_after_dead_steps": settings.steps + 1})
    held_out = load_world(settings).held_out[: settings.evaluation.problems]
    cap = settings.rollout.cap_at(settings.steps)
    probes = {
        "greedy": Probe(problems=held_out, cap=cap),
        "words": Probe(problems=held_out_set("word_problems", columns={})[: asked.word_problems], cap=cap + 16),
    }
    if asked.gsm8k is not None:
        probes["gsm8k"] = Probe(problems=held_out_set(str(asked.gsm8k), columns={})[: asked.gsm8k_problems], cap=128)
    return Study(out=asked.out, settings=settings, problems=held_out, probes=probes)


def run_arm(study: Study, arm: str) -> None:
    """Train, unless it is the base, and measure. What is there already is not done again.

    Raises:
        ValueError: the folder was begun with other settings.
    """
    settings = study.settings if arm == "base" else study.settings.model_copy(update=ARMS[arm](study.settings))
    config = settings.model_dump_json(indent=1, exclude={"threads"}) + "\n"
    known = study.out / arm / "config.yaml"
    if known.exists() and known.read_text(encoding="utf-8") != config:
        raise ValueError(f"{known} holds other settings than these: give another --out, or the settings it was begun with")
    if study.done(arm):
        print(f"{arm}: done already")
        return
    run = RunDir.start(study.out / arm, command=["smollm2_study", arm], config=config, seed=settings.seed)
    began = time.monotonic()
    stage = load_stage(settings, say=print)
    if arm != "base":
        run_rl(stage, settings, run, Extras(before=None, after=arm, on_step=lambda row: told(arm, row, settings.steps)))
    elif not study.measured(arm, arm):
        keep_evaluation(run, stage.measure(arm))
    for name, probe in study.probes.items():
        if not study.measured(arm, f"{arm}_{name}"):
            keep_evaluation(run, probed(stage, f"{arm}_{name}", probe))
    run.append_event("measured", seconds=round(time.monotonic() - began, 1))
    run.close("done")


def told(arm: str, row: Mapping[str, Any], steps: int) -> None:
    """One line a step."""
    shown = (("reward", "reward"), ("accuracy", "rewards/accuracy/mean"), ("format", "rewards/format/mean"), ("entropy", "entropy"))
    figures = "  ".join(f"{name} {row[key]:.3f}" for name, key in shown if row.get(key) is not None)
    print(f"{arm} {row['step']}/{steps}  {figures}  length {row['completions/mean_length']:.1f}  {row['step_time']:.1f} s", flush=True)


def probed(stage: Stage, name: str, probe: Probe) -> EvalResult:
    """Greedy answers to a set of problems."""
    return measure(
        stage.engine,
        dataclasses.replace(stage.world, held_out=probe.problems),
        name=name,
        encode=lambda problem: (stage.prompt_ids(problem), ()),
        settings=EvaluationSettings(problems=max(2, len(probe.problems)), samples=1, temperature=0.0),
        max_new_tokens=probe.cap,
        stop_token_ids=stage.stops,
    )


# What was found


def summary(study: Study, arms: Sequence[str]) -> dict[str, Any]:
    """Figures of every arm, its gains over the base, and what single answers became."""
    arrays = measured_arrays(study.out / arm for arm in arms)
    found: dict[str, Any] = {"steps": study.settings.steps, "seed": study.settings.seed, "arms": {}}
    for arm in arms:
        result = EvalResult(name=arm, problems=study.problems, answers=(), arrays={n: tuple(v) for n, v in arrays[arm].items()})
        measured = {name: arrays[name]["pass@1"] for name in study.names(arm)}
        before = {name: arrays[name]["pass@1"] for name in study.names("base")}
        found["arms"][arm] = {
            "pass@1": {name.removeprefix(arm).lstrip("_") or "sampled": _mean(values) for name, values in measured.items()},
            "gain": {
                name.removeprefix(arm).lstrip("_") or "sampled": bootstrap_difference(values, before[name.replace(arm, "base", 1)], seed=0)
                for name, values in measured.items()
            },
            **{name: _mean(arrays[arm][name]) for name in ("format_ok", "length", "truncated")},
            "by": {column: result.by(column) for column in ("domain", "level", "new_phrasing")},
            "step_seconds": [round(row["step_time"], 2) for row in RunDir.open(study.out / arm).metrics()],
        }
    if {"rl", "format_only"} <= set(arms):
        rl, other = (found["arms"][name]["gain"]["sampled"] for name in ("rl", "format_only"))
        found["lower_bound_above_gain_of_format_only"] = rl[1] > other[0]
    found["transcripts"] = {arm: transcripts(study, arm) for arm in arms if arm != "base"}
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def transcripts(study: Study, arm: str) -> dict[str, list[dict[str, Any]]]:
    """The first held-out problems, in their order, of each kind; by the greedy answers, so that nothing is chosen."""
    before, after = (answers_of(study.out / name / "evals" / f"{name}_greedy.parquet") for name in ("base", arm))
    pairs = list(zip(before, after, strict=True))
    return {
        kind: [
            {"question": b["prompt"], "gold": b["gold"], "before": b["completion"], "after": a["completion"]}
            for b, a in pairs
            if (b["right"] is True, a["right"] is True) == wanted
        ][:TRANSCRIPTS]
        for kind, wanted in KINDS.items()
    }


def answers_of(file: Path) -> list[dict[str, Any]]:
    """The answers of an evaluation, in the order of its problems."""
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    return rows


def figure(study: Study, arms: Sequence[str], name: str) -> str:
    """Curves of the trainings side by side; where there are shares, held-out pass@1 before and after with 95 % intervals."""
    axis, metrics = FIGURES[name]
    bands = []
    for arm in arms:
        rows = RunDir.open(study.out / arm).metrics()
        curves = [
            Curve(points=smoothed(rows, metric), tone=tone, label=label)
            for tone, (metric, label) in zip(TONES, metrics.items(), strict=False)
        ]
        if name == "shares":
            ends = {0.0: "base", float(study.settings.steps): arm}
            points = tuple(held_out(study, x, evaluation) for x, evaluation in ends.items())
            curves.append(Curve(points=points, tone="c6", label="right, held out", marks=True))
        bands.append(Band(title=arm.replace("_", " "), steps=study.settings.steps, curves=tuple(curves)))
    return standalone(line_chart(bands, y_title=axis, describe=f"{axis} of {', '.join(arms)}", share=name == "shares"))


def held_out(study: Study, x: float, evaluation: str) -> Point:
    measured = RunDir.open(study.out / evaluation).read_json(f"evals/{evaluation}.json")["figures"]
    return Point(x=x, y=measured["pass@1"], error=Z95 * measured["pass@1/stderr"])


def markdown(found: Mapping[str, Any], settings: ZeroSettings) -> str:
    """The tables and transcripts of a study."""
    arms = found["arms"]
    kinds = list(arms["base"]["pass@1"])
    samples = f"{settings.evaluation.samples} answers at temperature {settings.evaluation.temperature:g}"
    titles = {"sampled": f"pass@1 ({samples})", "greedy": "greedy", "words": "word problems, greedy", "gsm8k": "GSM8K test, greedy"}
    lines = [f"{found['steps']} steps, seed {found['seed']}; gains over the base with their 95 % intervals", ""]
    lines += _table(["", *(titles.get(kind, kind) for kind in kinds), "format", "length"])
    for arm, values in arms.items():
        cells = [f"{values['pass@1'][k]:.3f}" + ("" if arm == "base" else f" ({_interval(values['gain'][k])})") for k in kinds]
        lines.append(_row([arm, *cells, f"{values['format_ok']:.3f}", f"{values['length']:.1f}"]))
    columns = [(column, key) for column, group in arms["base"]["by"].items() for key in group]
    lines += ["", *_table(["pass@1 by", *(f"{column.replace('_', ' ')}: {key}" for column, key in columns)])]
    lines += [_row([arm, *(f"{values['by'][column][key]:.3f}" for column, key in columns)]) for arm, values in arms.items()]
    if "lower_bound_above_gain_of_format_only" in found:
        word = "is" if found["lower_bound_above_gain_of_format_only"] else "is not"
        lines += ["", f"The lower bound of the gain of rl {word} above the gain of format_only."]
    for arm, kinds_of_change in found["transcripts"].items():
        for kind, chosen in kinds_of_change.items():
            lines += ["", f"### {arm}: {kind}", "", "Greedy answers, in the order of the held-out problems." if chosen else "None."]
            for one in chosen:
                lines += ["", f"{one['question']} ({one['gold']})", "", f"    before  {one['before']!r}", f"    after   {one['after']!r}"]
    return "\n".join(lines) + "\n"


def _table(header: Sequence[str]) -> list[str]:
    return [_row(header), "|" + " --- |" * len(header)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _interval(gain: Sequence[float]) -> str:
    return f"{gain[0]:+.3f} [{gain[1]:+.3f}, {gain[2]:+.3f}]"


def main() -> None:
    """Measure the base, run the arms that are not done, write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=RECIPES / "smollm2" / "arithmetic.yaml")
    parser.add_argument("--claims", type=Path, default=RECIPES / "smollm2" / "claims.yaml")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--gsm8k", type=Path, help="a file of problems; not measured if left out")
    parser.add_argument("--gsm8k-problems", type=int, default=100)
    parser.add_argument("--word-problems", type=int, default=100)
    asked, flags = parser.parse_known_args()
    arms = ["base", *asked.arms.split(",")]
    if unknown := set(arms[1:]) - set(ARMS):
        parser.error(f"--arms names {sorted(unknown)}; there are {', '.join(ARMS)}")
    study = study_of(asked, flags)
    if study.settings.threads is not None:
        import torch

        torch.set_num_threads(study.settings.threads)
    for arm in arms:
        run_arm(study, arm)
        done = [name for name in ("base", *ARMS) if study.done(name)]
        found = summary(study, done)
        out = RunDir(study.out)
        verdicts, missing = judge_run(out, asked.claims, folders=[study.out / name for name in done])
        out.write_json("study.json", found)
        for name in FIGURES if len(done) > 1 else ():
            out.write_text(f"figures/{name}.svg", figure(study, [one for one in done if one != "base"], name))
        out.write_text("study.md", markdown(found, study.settings) + "\n```\n" + claim_lines(verdicts, missing) + "\n```\n")
    print((study.out / "study.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    process.prepare()
    main()
