"""What a recipe says at its end, whatever was measured, and which size of it is taken."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from zero2r1.eval.claims import Claim, Condition, judge
from zero2r1.pipeline import demo
from zero2r1.pipeline.demo import checkpoint_table, chosen_size, recipe_of_size, what_to_distrust
from zero2r1.pipeline.evaluations import claim_lines


def figures(k: int, **changes: float) -> dict[str, float]:
    found = {"pass@1": 0.5, f"maj@{k}": 0.6, f"pass@{k}": 0.7, "length": 20.25, "format_ok": 1.0, "readable": 0.9, **changes}
    return {**found, **{f"{name}/stderr": 0.01 for name in found}}


@pytest.mark.parametrize("k", [2, 8, 16])
def test_any_number_of_answers_can_be_shown(k):
    text = io.StringIO()
    Console(file=text, width=120).print(checkpoint_table({"base": figures(k), "zero": figures(k)}))
    assert f"maj@{k}" in text.getvalue() and "0.500 ± 0.010" in text.getvalue() and "20.2" in text.getvalue()
    assert "self check" not in text.getvalue()
    assert f"pass@{k} of the base in its own layout is 0.70" in what_to_distrust(
        {"base": figures(k), "base_web": figures(k), "zero": figures(k)}
    )[-1]  # fmt: skip


def test_what_rl_gained_over_the_best_layout_is_said_with_its_number():
    lines = what_to_distrust({"base": figures(8, **{"pass@1": 0.1}), "base_web": figures(8, **{"pass@1": 0.3}), "zero": figures(8)})
    assert any("from 0.10 to 0.50, 0.20 is what the same base" in line for line in lines)


def recipe(folder: Path, **minutes: float) -> Path:
    for name, value in minutes.items():
        (folder / ("r.yaml" if name == "standard" else f"r_{name}.yaml")).write_text(f"minutes: {value}\n", encoding="utf-8")
    return folder / "r.yaml"


@pytest.mark.parametrize(
    ("slower", "minutes", "size"),
    [(1.0, 13, "standard"), (1.0, 60, "long"), (1.0, 12, "standard"), (1.5, 13, "short"), (0.5, 13, "standard"), (9.0, 13, "short")],
)
def test_the_largest_size_that_fits_is_taken(tmp_path, monkeypatch, slower, minutes, size):
    """12 minutes at 1.5 times the time are 18, so in 13 only the short form fits; at 9 times nothing does, and the shortest is taken."""
    monkeypatch.setattr(demo, "probe_machine", lambda: slower * demo.REFERENCE_STEP_S)
    said: list[str] = []
    assert chosen_size("auto", recipe(tmp_path, short=3, standard=12, long=60), minutes, None, said.append) == size
    assert f"{slower:.2f} times" in said[0]


def test_a_run_keeps_the_size_it_began_with(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "probe_machine", lambda: pytest.fail("a run that began is not probed again"))
    (tmp_path / "ledger.json").write_text('{"size": "short", "stages": []}', encoding="utf-8")
    assert chosen_size("auto", recipe(tmp_path, standard=12), 13, tmp_path, lambda line: None) == "short"
    assert chosen_size("long", recipe(tmp_path, standard=12), 13, tmp_path, lambda line: None) == "long"


def test_a_recipe_without_minutes_or_sizes_says_so(tmp_path, monkeypatch):
    (tmp_path / "r.yaml").write_text("seed: 1\n", encoding="utf-8")
    monkeypatch.setattr(demo, "probe_machine", lambda: 1.0)
    with pytest.raises(ValueError, match="states no minutes"):
        chosen_size("auto", tmp_path / "r.yaml", 13, None, lambda line: None)
    with pytest.raises(ValueError, match="comes in no size long"):
        recipe_of_size(tmp_path / "r.yaml", "long")
    with pytest.raises(ValueError, match="--size huge is not known"):
        recipe_of_size(tmp_path / "r.yaml", "huge")


def test_the_probe_takes_a_few_steps_and_returns_seconds():
    assert 0.0 < demo.probe_machine() < 60.0


def test_a_claim_that_fails_is_shown_with_its_number_and_the_reason():
    arrays = {"a": {"x": [0.0] * 50 + [1.0] * 50}, "b": {"x": [0.0] * 60 + [1.0] * 40}}
    better = Condition(kind="difference", of="a.x", over="b.x", more_than=0.0)  # 0.10, and never below 0.04 in a resample
    claims = [
        Claim(name="c", says="a beats b", conditions=(better,)),
        Claim(name="d", says="by far", conditions=(better, Condition(kind="difference", of="a.x", over="b.x", estimate_at_least=0.5))),
    ]
    lines = claim_lines(judge(claims, arrays), {"e": "z was not measured in this run"}).splitlines()
    assert lines[1] == "  ✓ c: a beats b" and lines[3] == "  ✗ d: by far"
    assert lines[2].endswith("a.x against b.x") and lines[5].strip().startswith("0.100 [")
    assert lines[5].endswith("a.x against b.x: the estimate is below 0.5")
    assert lines[6:] == ["  - e: not run, z was not measured in this run", "1 of 2 claims hold, 1 not run"]


def test_a_run_too_short_to_judge_says_neither():
    verdicts = judge([Claim(name="c", says="s", conditions=(Condition(kind="level", of="a.x", at_least=0.9),))], {"a": {"x": [0.0, 1.0]}})
    text = claim_lines(verdicts, {}, judged=False)
    assert "✓" not in text and "✗" not in text and "hold" not in text
