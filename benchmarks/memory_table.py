"""Memory of GRPO on a GPU by the arithmetic of the dry run, in full and with LoRA. Nothing is loaded, nothing is measured.

    python benchmarks/memory_table.py

Prints a table in Markdown: R1-Zero of 16 questions x 8 answers of at most 2,048 tokens, the parts of its fullest moment, and the GPUs it
fits. A second one has SmolLM2-135M on a CPU as calculated, beside peaks that were measured (docs/results.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from zero2r1.config import load_settings
from zero2r1.pipeline.config import RECIPES, ZeroSettings
from zero2r1.pipeline.dry_run_page import GPUS
from zero2r1.pipeline.estimates import GIB, Peak
from zero2r1.pipeline.model_shapes import KNOWN
from zero2r1.pipeline.recipe import PipelineSettings
from zero2r1.pipeline.stage_counts import Rows
from zero2r1.pipeline.stage_plans import Planner

MODELS: Mapping[str, str] = {"Qwen2.5-0.5B": "qwen2.5-0.5b", "Qwen2.5-1.5B": "qwen2.5-1.5b", "Qwen2.5-7B": "qwen2.5-7b"}
RANK, ANSWER = 32, 2_048
PARTS = ("weights", "gradients", "moments", "reference", "half_copy", "activations", "head", "cache", "twin")
MEASURED: Mapping[int, float] = {4_096: 13.1e9 / GIB, 1_024: 6.3}
"""Tokens a micro-batch -> GiB that recipes/laptop/gsm8k.yaml took on a CPU: the whole run, and two steps of it alone."""


def peak_of(model: str, *, lora: bool, beta: float) -> Peak:
    """The fullest moment of R1-Zero by its settings; prompts of 256 tokens, the dry run's guess, and one answer a micro-batch."""
    section: dict[str, Any] = {
        "rollout": {
            "prompts_per_rollout": 16, "group_size": 8, "max_new_tokens": ANSWER, "max_new_tokens_from_step": {}, "token_budget": 32_768,
        },
        "grpo": {"mini_batches": 1, "beta": beta, "reference_reset_steps": 400 if beta else None},
        "compute": {"dtype": "bfloat16", "gradient_checkpointing": True, "tokens_per_micro_batch": Rows().longest_prompt + ANSWER},
        "lora": {"rank": RANK} if lora else None,
    }  # fmt: skip
    return planned(model, section, {"max_new_tokens": ANSWER}, gpu=True)


def planned(model: str, section: Mapping[str, Any], evaluation: Mapping[str, Any], *, gpu: bool = False) -> Peak:
    """The dry run's peak of a section of R1-Zero."""
    settings = PipelineSettings.model_validate({"model": model, "zero": section, "evaluation": evaluation})
    peak = Planner(settings=settings, rows=Rows(), shape=KNOWN[model], student=None, gpu=gpu).plan("zero").peak
    assert peak is not None
    return peak


def gpu_rows() -> Iterator[list[str]]:
    """The head of the table and its rows."""
    yield ["model", "trained", "beta", *(part.replace("_", " ") for part in PARTS), "peak", *GPUS]
    for name, model in MODELS.items():
        for lora in (False, True):
            count = KNOWN[model].adapters(RANK)
            for beta in (0.001, 0.0):
                peak = peak_of(model, lora=lora, beta=beta)
                parts = [f"{size / GIB:.1f}" if (size := getattr(peak, part)) else "" for part in PARTS]
                fits = ["yes" if peak.total <= size * GIB else "no" for size in GPUS.values()]
                trained = f"LoRA {RANK}: {count / 1e6:.1f} M" if lora else f"all: {KNOWN[model].parameters / 1e6:,.0f} M"
                yield [name, trained, f"{beta:g}", *parts, f"**{peak.total / GIB:.1f}**", *fits]


def cpu_rows() -> Iterator[list[str]]:
    """SmolLM2-135M by the recipe for GSM8K, with the cache of its evaluation and with that of its rollouts alone."""
    yield ["tokens a micro-batch", "calculated for the whole run", "calculated without evaluation", "measured"]
    recipe = load_settings(ZeroSettings, files=[RECIPES / "laptop" / "gsm8k.yaml"]).settings
    for tokens, measured in MEASURED.items():
        section = {
            "rollout": recipe.rollout.model_dump(),
            "grpo": recipe.grpo.model_dump(),
            "compute": {**recipe.compute.model_dump(), "tokens_per_micro_batch": tokens},
        }
        evaluation = {"problems": recipe.evaluation.problems, "samples": recipe.evaluation.samples, "max_new_tokens": 128}
        figures = [planned("smollm2-135m", section, {**evaluation, "problems": problems}).total / GIB for problems in (100, 2)]
        yield [f"{tokens:,}", *(f"{figure:.1f}" for figure in figures), f"{measured:.1f}"]


def markdown(rows: Iterator[list[str]]) -> str:
    """A table; the first row is its head."""
    head, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))


def main() -> None:
    """Print both tables."""
    print(markdown(gpu_rows()), markdown(cpu_rows()), sep="\n\n")


if __name__ == "__main__":
    main()
