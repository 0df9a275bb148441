"""R1-Zero on your own problems in ten lines: `python examples/train_zero.py MODEL TRAIN.jsonl TEST.jsonl [STEPS]`."""

import sys

from zero2r1 import ZeroSettings, read_problems, train_zero

model, train, test, *steps = sys.argv[1:]
settings = ZeroSettings.model_validate(
    {
        "steps": int(steps[0]) if steps else 100,
        "rollout": {"prompts_per_rollout": 8, "group_size": 8, "max_new_tokens": 256},
        "grpo": {"mini_batches": 1},
    }
)
result = train_zero(model, read_problems(train, split="train"), held_out=read_problems(test, split="test"), settings=settings)
print(result.run, {name: evaluation.figures()["pass@1"] for name, evaluation in result.evaluations.items()})
