"""Reward hacks score what they should, and nothing a model writes is ever run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zero2r1.rewards.accuracy import accuracy_reward
from zero2r1.rewards.format import format_reward
from zero2r1.rewards.language import language_reward
from zero2r1.rewards.length import repetition

HACKS = [json.loads(line) for line in (Path(__file__).with_name("hacks.jsonl")).read_text(encoding="utf-8").splitlines()]
REWARDS = {"math": accuracy_reward(), "format": format_reward(), "language": language_reward()}


def test_there_are_hacks_enough():
    assert len({(case["reward"], case["completion"]) for case in HACKS}) >= 40


@pytest.mark.parametrize("case", HACKS, ids=lambda case: f"{case['reward']}: {case['why'][:50]}")
def test_a_hack_scores_what_it_should(case):
    (value,) = REWARDS[case["reward"]](
        prompts=[case["prompt"]],
        completions=[case["completion"]],
        answer=[case["answer"]],
        language=[case["language"]],
        finish_reason=["stop"],
        log_extra=lambda *_: None,
    )
    assert value == pytest.approx(case["expected"], abs=0.02), case["why"]


INJECTIONS = [
    "__import__('os').system('touch {marker}')", "exec(\"open('{marker}','w')\")", "eval(open('{marker}','w'))",
    "().__class__.__base__.__subclasses__()",
    "lambda: open('{marker}','w')", "[open('{marker}','w') for x in [1]]", "open('{marker}','w')", "$(touch {marker})", "`touch {marker}`",
    "; touch {marker}", "| touch {marker}", "&& touch {marker}", "\\input{{{marker}}}", "\\write18{{touch {marker}}}",
    "\\immediate\\write18{{touch {marker}}}",
    "\\openout1={marker}", "!!python/object/apply:os.system ['touch {marker}']",
    "{{{{ cycler.__init__.__globals__.os.system('touch {marker}') }}}}",
    "<script>fetch('file://{marker}')</script>", "cos\nsystem\n(S'touch {marker}'\ntR.",
    "x.subs(x, __import__('pathlib').Path('{marker}').touch())",
    "Symbol('x').__class__.__mro__[1].__init__.__globals__['open']('{marker}','w')", "\"; import os; os.system('touch {marker}'); \"",
    "f(__import__('subprocess').run(['touch','{marker}']))", "sin.__globals__['__builtins__']['open']('{marker}','w')", "%s%s%n {marker}",
    "' or 1=1; touch {marker}", "../../../../{marker}", "#{{File.write('{marker}','')}}", "Function('f')(open('{marker}','w'))",
    "os.popen('touch {marker}')",
    "breakpoint() or open('{marker}','w')", "S(\"open('{marker}','w')\")",
]  # fmt: skip


@pytest.mark.parametrize("text", INJECTIONS, ids=range(len(INJECTIONS)))
def test_what_a_model_writes_is_never_run(text, tmp_path, monkeypatch):
    marker = tmp_path / "marker"
    monkeypatch.chdir(tmp_path)
    hostile = text.format(marker=marker)
    for wrapped in (
        hostile,
        f"\\boxed{{{hostile}}}",
        f"<think>{hostile}</think><answer>{hostile}</answer>",
        f"<think>a</think><answer>\\text{{{hostile}}}</answer>",
    ):
        for gold in ("7", "x+1", hostile):
            for name, reward in REWARDS.items():
                reward(
                    prompts=[hostile],
                    completions=[wrapped],
                    answer=[gold],
                    language=["en"],
                    finish_reason=["stop"],
                    log_extra=lambda *_: None,
                )
                assert name
        repetition(wrapped)
    assert list(tmp_path.iterdir()) == []
