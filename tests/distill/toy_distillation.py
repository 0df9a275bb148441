"""A complete on-policy distillation on the toy task, in seconds: `python -m tests.distill.toy_distillation FOLDER`.

The teacher has learnt to answer the prompt's word with the same word, once or twice, and to end; the student has learnt nothing.
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from tests.toy_run import EOS, VOCABULARY, toy_policy, toy_problems
from zero2r1.distill.config import OnPolicySettings, StudentRolloutSettings
from zero2r1.distill.trainer import OnPolicyTrainer, Questions
from zero2r1.rollout.torch_engine import TorchEngine
from zero2r1.run_dir import RunDir
from zero2r1.training.config import ComputeSettings, OptimizerSettings
from zero2r1.training.loop import Hooks
from zero2r1.types import Problem


def prompt(problem: Problem) -> tuple[int, ...]:
    return (VOCABULARY - 1, int(problem.question), VOCABULARY - 2)


@cache
def toy_teacher() -> LlamaForCausalLM:
    """Cross-entropy on all right answers at once, until it has nothing to lose but which of the two lengths comes."""
    teacher = toy_policy(7)
    words = [int(problem.question) for problem in toy_problems()]
    rows = torch.tensor([[VOCABULARY - 1, w, VOCABULARY - 2, w, *end] for w in words for end in ((EOS, EOS), (w, EOS))])
    answered = torch.tensor([[True, True, end == 1] for _ in words for end in (0, 1)])  # what comes after the first end is no answer
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(80):
        logprobs = teacher(input_ids=rows).logits[:, 2:-1].log_softmax(-1)
        loss = -logprobs.gather(-1, rows[:, 3:, None])[..., 0][answered].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return teacher


def toy_settings(*, seed: int = 0, steps: int = 100, **changes: object) -> OnPolicySettings:
    given = {
        "rollout": StudentRolloutSettings(prompts_per_step=12, samples_per_prompt=2, max_new_tokens=4),
        "optimizer": OptimizerSettings(learning_rate=1e-2, warmup_steps=2, schedule="cosine", final_factor=0.1),
        "compute": ComputeSettings(tokens_per_micro_batch=64),
        "checkpoint_every": 4,
        **changes,
    }
    return OnPolicySettings(seed=seed, steps=steps, **given)


def toy_distillation(
    folder: Path,
    settings: OnPolicySettings,
    *,
    student: LlamaForCausalLM | None = None,
    teacher: LlamaForCausalLM | None = None,
    problems: list[Problem] | None = None,
    hooks: Hooks | None = None,
) -> tuple[OnPolicyTrainer, LlamaForCausalLM, RunDir]:
    student = student or toy_policy(settings.seed)
    run = RunDir.start(folder, command=["toy"], config="", seed=settings.seed)
    trainer = OnPolicyTrainer(
        student,
        teacher or toy_teacher(),
        TorchEngine(student, lambda ids: " ".join(map(str, ids))),
        Questions(problems=toy_problems() if problems is None else problems, encode=prompt, stop_token_ids=(EOS,)),
        settings,
        run=run,
        checkpoints=folder / "checkpoints",
        save_model=student.save_pretrained,
        hooks=hooks,
    )
    return trainer, student, run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    trainer, student, run = toy_distillation(folder, toy_settings(steps=40))
    print("ready", flush=True)
    trainer.train()
    student.save_pretrained(folder / "final")
    run.close("done")
    print("finished", flush=True)


if __name__ == "__main__":
    main()
