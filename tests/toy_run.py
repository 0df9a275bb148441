"""A complete GRPO run on a toy task, small enough to be run dozens of times: `python -m tests.toy_run FOLDER [--steps N]`.

The task: answer the prompt's word with the same word. Chance is one in twelve.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from zero2r1.grpo.config import GrpoSettings, RolloutSettings, TrainSettings
from zero2r1.grpo.sampling import EncodedPrompt
from zero2r1.grpo.trainer import Environment, GrpoTrainer
from zero2r1.models.adapters import add_lora, merged_state
from zero2r1.models.attention import use_packed_attention
from zero2r1.rollout.torch_engine import TorchEngine
from zero2r1.run_dir import RunDir
from zero2r1.training.config import ComputeSettings, OptimizerSettings
from zero2r1.training.loop import Hooks
from zero2r1.types import Completion, Grader, Problem, Reward

EOS, WORDS, VOCABULARY = 0, 12, 16


def toy_settings(*, seed: int = 0, steps: int = 12, prompts: int = 8, group_size: int = 8, **grpo: object) -> TrainSettings:
    """On-policy GRPO by default; ``grpo`` replaces single settings of the objective."""
    objective = {"mini_batches": 1, "beta": 0.0, "reference_reset_steps": None, "clip_low": 0.2, "clip_high": 0.2, **grpo}
    return TrainSettings(
        steps=steps,
        seed=seed,
        rollout=RolloutSettings(prompts_per_rollout=prompts, group_size=group_size, max_new_tokens=3, max_new_tokens_from_step={}),
        grpo=GrpoSettings(**objective),
        optimizer=OptimizerSettings(learning_rate=1e-2, warmup_steps=2),
        compute=ComputeSettings(tokens_per_micro_batch=128),
        evaluate_every=None,
        checkpoint_every=4 if steps < 60 else steps,
    )


def toy_policy(seed: int) -> LlamaForCausalLM:
    """One layer, 16 tokens."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        eos_token_id=EOS,
        pad_token_id=EOS,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        policy = LlamaForCausalLM(config).eval()
    use_packed_attention(policy)
    return policy


def toy_problems() -> list[Problem]:
    return [
        Problem(
            id=str(word),
            prompt=str(word),
            answer=str(word),
            verifier="toy",
            domain="math",
            language="en",
            source="toy",
            licence="Apache-2.0",
            split="train",
        )
        for word in range(1, WORDS + 1)
    ]


def grade_toy(problems: Sequence[Problem], completions: Sequence[Completion]) -> list[Reward]:
    """1 when the first word is the one asked for."""
    return [
        Reward(value=right, components={"accuracy": right})
        for problem, completion in zip(problems, completions, strict=True)
        for right in [float(completion.text.split()[:1] == [problem.answer])]
    ]


def negated(problems: Sequence[Problem], completions: Sequence[Completion]) -> list[Reward]:
    return [Reward(value=-float(r.value or 0.0), components=r.components) for r in grade_toy(problems, completions)]


def shuffled(problems: Sequence[Problem], completions: Sequence[Completion]) -> list[Reward]:
    rewards = grade_toy(problems, completions)
    values = [reward.value for reward in rewards]
    random.Random(completions[0].seed).shuffle(values)
    return [Reward(value=value, components=r.components) for value, r in zip(values, rewards, strict=True)]


def toy_trainer(
    folder: Path,
    settings: TrainSettings,
    *,
    grader: Grader = grade_toy,
    hooks: Hooks | None = None,
    policy: LlamaForCausalLM | None = None,
) -> tuple[GrpoTrainer, LlamaForCausalLM, RunDir]:
    policy = policy or toy_policy(settings.seed)
    if settings.lora is not None:
        add_lora(policy, rank=settings.lora.rank, alpha=settings.lora.alpha, targets=settings.lora.targets, seed=settings.seed)
    run = RunDir.start(folder, command=["toy"], config="", seed=settings.seed)
    environment = Environment(
        problems=toy_problems(),
        encode=lambda problem: EncodedPrompt(prompt_ids=(VOCABULARY - 1, int(problem.question), VOCABULARY - 2)),
        grader=grader,
        stop_token_ids=(EOS,),
        describe=lambda problem, completion: {"words": float(len(completion.text.split()))},
    )
    engine = TorchEngine(policy, lambda ids: " ".join(map(str, ids)))
    trainer = GrpoTrainer(
        policy,
        engine,
        environment,
        settings,
        run=run,
        checkpoints=folder / "checkpoints",
        save_model=lambda folder: policy.save_pretrained(folder, state_dict=merged_state(policy)),
        hooks=hooks,
    )
    return trainer, policy, run


def curve(folder: Path) -> list[dict[str, object]]:
    """Metrics without anything that measures time."""
    timed = ("timing_s/", "step_time", "tokens_per_s")
    return [{k: v for k, v in row.items() if not k.startswith(timed)} for row in RunDir(folder).metrics()]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = toy_settings(steps=arguments.steps, beta=0.01, reference_reset_steps=5, mini_batches=2)
    trainer, policy, run = toy_trainer(arguments.folder, settings)
    print("ready", flush=True)
    trainer.train()
    policy.save_pretrained(arguments.folder / "final")
    run.close("done")
    print("finished", flush=True)


if __name__ == "__main__":
    main()
