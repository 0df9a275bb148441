"""A loaded policy with everything around it: prompts, engine, stop tokens, measurement. Built once, then measured and trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from zero2r1.eval.runner import EvalResult
from zero2r1.models.adapters import add_lora
from zero2r1.models.loading import load_policy, save_policy, stop_token_ids
from zero2r1.models.tokenizer import TextEncoder
from zero2r1.pipeline.config import EvaluationSettings
from zero2r1.pipeline.world import World, measure
from zero2r1.rollout.engine import Engine
from zero2r1.rollout.process_engine import ProcessEngine
from zero2r1.rollout.torch_engine import TorchEngine
from zero2r1.sft.examples import SftExample
from zero2r1.template import TEMPLATES, render, write_cold_start, write_thinking
from zero2r1.training.config import ComputeSettings, LoraSettings, SamplerSettings, refuse_processes
from zero2r1.types import Grader, Message, Problem


class Stage:
    """A policy in its world.

    Args:
        folder: a folder or name that `transformers` loads.
        cap: the most tokens an answer may have where it is measured.
        lora: the adapters that will be trained instead of the weights.
        seed: of the adapters.

    Raises:
        ValueError: the model cannot be loaded, or cannot be given these adapters, or be sampled by several processes with them.
    """

    def __init__(
        self,
        folder: str | Path,
        world: World,
        *,
        evaluation: EvaluationSettings,
        cap: int,
        compute: ComputeSettings | None = None,
        sampler: SamplerSettings | None = None,
        lora: LoraSettings | None = None,
        seed: int = 0,
    ) -> None:
        compute, sampler = compute or ComputeSettings(), sampler or SamplerSettings()
        refuse_processes(lora, sampler)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.world, self.evaluation, self.cap = world, evaluation, cap
        self.policy, self.tokenizer = load_policy(folder, device=device)
        if lora is not None:
            add_lora(self.policy, rank=lora.rank, alpha=lora.alpha, targets=lora.targets, seed=seed)
        self.encoder = TextEncoder(self.tokenizer)
        first = next(iter((*world.train[:1], *world.held_out[:1])), None)
        if first is not None and self.decode(self.prompt_ids(first)).rstrip().endswith("<think>"):
            self.world = dataclasses.replace(world, think_open=True)
        self.stops = stop_token_ids(self.policy, self.tokenizer)
        self.engine = self._engine(compute, sampler)

    def _engine(self, compute: ComputeSettings, sampler: SamplerSettings) -> Engine:
        options: dict[str, Any] = {
            "token_budget": sampler.token_budget,
            "max_rows": sampler.max_rows,
            "autocast": torch.bfloat16 if compute.half else None,
            "onednn": compute.onednn != "off",
            "half_head": compute.half_head,
        }
        policy, tokenizer = self.policy, self.tokenizer

        # Functions of these two, not of the stage: an engine that knew its stage would live, with its processes, until the next
        # collection of cycles.
        def decode(ids: Sequence[int]) -> str:
            return str(tokenizer.decode(list(ids), skip_special_tokens=False))

        def save(folder: Path) -> None:
            save_policy(policy, tokenizer, folder, stops=stop_token_ids(policy, tokenizer))

        if sampler.processes > 1 and policy.device.type == "cpu":
            return ProcessEngine(policy, decode, processes=sampler.processes, save=save, **options)
        return TorchEngine(policy, decode, **options)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def prompt_ids(self, problem: Problem, template: str | None = None) -> tuple[int, ...]:
        """The prompt of a problem under a template (the world's if none is given)."""
        template = template or self.world.template
        if template == "chat":
            return self.encoder.encode_chat([{"role": m.role, "content": m.content} for m in problem.messages])
        return self.encoder.encode_plain(*render(TEMPLATES.get(template, template), problem.question))

    def example(self, dialogue: Sequence[Message], *, layout: str = "think") -> SftExample:
        """A dialogue as an example to imitate, under the world's template. ``layout`` is ``think`` or ``special_token``.

        The response ends with the token that ends a turn; under a plain template that is the tokenizer's end token.
        """
        *asked, answer = dialogue
        thinking, content = answer.reasoning_content, answer.content
        if layout == "special_token" and thinking is not None:
            content, thinking = write_cold_start(thinking, content), None
        if self.world.template == "chat":
            last = {"role": "assistant", "content": content} | ({} if thinking is None else {"reasoning_content": thinking})
            encoded = self.encoder.encode_dialogue([*({"role": m.role, "content": m.content} for m in asked), last])
            return SftExample(prompt_ids=encoded.prompt_ids, response_ids=encoded.response_ids)
        if len(asked) != 1:
            raise ValueError(
                f"a dialogue of {len(dialogue)} turns does not fit a plain template, which has room for one question: "
                "use --data.template=chat"
            )
        question = asked[0].content
        prompt = self.encoder.encode_plain(*render(TEMPLATES.get(self.world.template, self.world.template), question))
        written = content if thinking is None else write_thinking(thinking, content)
        return SftExample(prompt_ids=prompt, response_ids=(*self.encoder.encode_written(written), self.encoder.end_token))

    def stop_also_at(self, token: int) -> None:
        """End answers at this token too, and say so in every folder saved from now on: what a model learnt to end its turns with."""
        self.stops = tuple(dict.fromkeys((*self.stops, token)))

    def measure(self, name: str, *, template: str | None = None, grader: Grader | None = None, problems: int | None = None) -> EvalResult:
        """Evaluate the policy as it is now."""
        return measure(
            self.engine,
            self.world,
            name=name,
            encode=lambda problem: (self.prompt_ids(problem, template), ()),
            settings=self.evaluation,
            max_new_tokens=self.evaluation.max_new_tokens or self.cap,
            stop_token_ids=self.stops,
            problems=problems,
            grader=grader,
        )

    def save(self, folder: Path) -> None:
        save_policy(self.policy, self.tokenizer, folder, stops=self.stops)
