"""What the probes find in functions whose faults are known."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from zero2r1.rewards.accuracy import accuracy_reward
from zero2r1.rewards.format import format_reward
from zero2r1.rewards.isolated import IsolatedReward
from zero2r1.rewards.probes import LAYOUTS, ProbeReport, probe_reward

BROKEN = str(Path(__file__).with_name("broken_rewards.py"))


def tagged(text: str) -> str | None:
    found = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
    return found and found[1].strip()


def sound(completions, answer, **_):
    return [None if gold is None else float(tagged(text) == gold) for text, gold in zip(completions, answer, strict=True)]


def of_messages(completions, answer, **_):
    return sound([completion[0]["content"] for completion in completions], answer)


def upside_down(completions, answer, **_):
    return [float(tagged(text) not in (None, gold)) for text, gold in zip(completions, answer, strict=True)]


def anywhere(completions, answer, **_):
    return [None if gold is None else float(gold in text) for text, gold in zip(completions, answer, strict=True)]


def fragile(completions, answer, **_):
    return [float(int(text.split("<answer>")[1].split("<")[0]) == int(gold)) for text, gold in zip(completions, answer, strict=True)]


def generous(completions, answer, **_):
    return [float(gold is None or tagged(text) == gold) for text, gold in zip(completions, answer, strict=True)]


def first_only(completions, answer, **_):
    return [float(tagged(completions[0]) == answer[0])]


def ranked(completions, answer, **_):
    scores = [float(tagged(text) == gold) for text, gold in zip(completions, answer, strict=True)]
    return [score - sum(scores) / len(scores) if len(scores) > 1 else score for score in scores]


def unsteady(completions, answer, _ticks=itertools.count(), **_):  # noqa: B008
    return [float(tagged(text) == gold) + next(_ticks) for text, gold in zip(completions, answer, strict=True)]


def named_only(completions, answer):
    return sound(completions, answer)


def scalar(completions, **_):
    return 1.0


def found(report: ProbeReport) -> list[str]:
    return [*(f"fault {fault}" for fault in report.faults), *(f"remark {remark}" for remark in report.remarks)]


def values(report: ProbeReport) -> dict[str, tuple[float | None, ...]]:
    return {probe.name: probe.values for probe in report.probes}


def test_a_sound_function_has_no_fault():
    report = probe_reward(sound)
    assert report.faults == () and report.right_beats_wrong and report.form == "text"
    assert [remark.partition(" (")[0] for remark in report.remarks] == ["reads text, not messages"]
    seen = values(report)
    assert seen["right in <answer> tags"] == (1.0,) and seen["wrong in <answer> tags"] == seen["right in \\boxed"] == (0.0,)
    assert seen["right, wrong and empty in one call"] == (1.0, 0.0, 0.0) and seen["right without a reference"] == (None,)
    assert len(seen) == 2 * len(LAYOUTS) + 7 + 2


def test_the_rewards_of_this_package_pass_their_own_probes():
    report = probe_reward(accuracy_reward())
    assert found(report) == [] and all(values(report)[f"right {layout}"] == (1.0,) for layout in LAYOUTS)
    assert [text.partition(":")[0] for text in found(probe_reward(format_reward()))] == [
        "remark in no layout does a right answer earn more than a wrong one"
    ]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (of_messages, ["remark reads messages, not text"]),
        (
            upside_down,
            [
                "fault the wrong answer (1.00) beats the right one (0.00) in <answer> tags",
                "remark reads text",
                "remark in no layout",
            ],
        ),
        (
            anywhere,
            [
                "fault only the thinking: earns 1.00, as much as the right answer",
                "fault cut off in the thinking: earns 1.00, as much as the right answer",
                "remark reads text",
            ],
        ),
        (
            fragile,
            [
                "fault raised IndexError: list index out of range   (on: right in \\boxed; wrong in \\boxed; right after ####; "
                "wrong after ####; empty; only the thinking; cut off in the thinking; 100,000 characters)",
                "fault raised ValueError: Exceeds the limit",
                "fault raised ValueError: invalid literal for int() with base 10: ' \U0001f449",
                "fault raised ValueError: invalid literal for int() with base 10: ' \\x00 '   (on: control characters)",
                "remark reads text",
            ],
        ),
        (generous, ["fault where the reference is missing an answer earns 1.00; return None there", "remark reads text"]),
        (
            first_only,
            [
                "fault three completions in one call: returned 1 values for 3 completions.",
                "remark where the reference",
                "remark reads text",
            ],
        ),
        (
            ranked,
            [
                "remark values depend on the other completions of the call",
                "remark where the reference is missing an answer earns 0.00; None would leave it out of training",
                "remark reads text",
            ],
        ),
        (named_only, ["remark reads text", "remark has no **kwargs"]),
        (scalar, ["fault returned a float; return a list with one number per completion.   (on: right in", "remark in no layout"]),
    ],
)
def test_what_is_found(function, expected):
    report = found(probe_reward(function))
    assert [text[: len(start)] for text, start in zip(report, expected, strict=True)] == expected


def test_what_cannot_be_repeated_is_a_fault():
    assert probe_reward(unsteady).faults[0].startswith("not the same twice: right in <answer> tags earned ")


def test_slowness_is_remarked():
    assert any(re.match(r"takes 0\.0 s for one completion \(", remark) for remark in probe_reward(sound, slow_s=0.0).remarks)


def test_a_function_in_a_file_is_probed_in_its_own_process():
    report = probe_reward(f"{BROKEN}:reward")
    assert re.match(r'reward  "reward" \(broken_rewards.py:\d+\), called as TRL does', report.lines[0])
    assert any("raised IndexError: list index out of range (broken_rewards.py:" in fault for fault in report.faults)  # the empty text
    with IsolatedReward(f"{BROKEN}:strict", workers=1) as reward:
        assert found(probe_reward(reward))[-2:] == [
            "remark has no **kwargs: here it gets the columns it names, but TRL passes every column",
            "remark in no layout does a right answer earn more than a wrong one: fine for a reward of format or length, and a fault in "
            "one of correctness (does it look for the answer where the model writes it?)",
        ]


def test_a_function_that_always_hangs_is_not_waited_for_again_and_again(tmp_path):
    (tmp_path / "slow.py").write_text("import time\n\ndef slow(completions, **_):\n    time.sleep(1000)\n")
    report = probe_reward(f"{tmp_path}/slow.py:slow", limit_s=0.2)
    waited = [probe.fault for probe in report.probes if probe.fault != "not tried, because too many calls before took too long"]
    assert waited == ["took longer than 0.2 s"]  # after two calls that looked for its form: 3 x 0.2 s are more than 2.5 limits


def test_columns_of_the_data_can_be_given():
    def needs(completions, unit_tests, **_):
        return [float(test in text) for text, test in zip(completions, unit_tests, strict=True)]

    assert "asks for unit_tests" in probe_reward(needs).faults[0]
    report = probe_reward(needs, columns={"unit_tests": "<answer> Paris"}, question="Capital?", answer="Paris", wrong="Rome")
    assert values(report)["right in <answer> tags"] == (1.0,) and report.right_beats_wrong


def test_nothing_a_function_says_steers_the_terminal():
    def rude(completions, **_):
        raise ValueError("\x1b[2J\r\x07 gone")

    lines = probe_reward(rude).lines
    assert all(line.isprintable() for line in lines)
    assert any("\\x1b[2J\\r\\x07 gone" in line for line in lines)
