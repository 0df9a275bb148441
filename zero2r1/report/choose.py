"""Transcripts chosen by rules that are printed beside them, so that nobody has to trust a hand that picked the good ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zero2r1.report.files import RunFiles, count, number
from zero2r1.report.values import SETS, HeldOutAnswer, HeldOutQuestion, StageRun, Transcript, checkpoint_rank, probe_step

ASKED = {"helpful": "ordinary request", "harmless": "harmful request"}
GRADES = ("step", "group", "sample", "r_accuracy", "reward", "self_check")
Row = Mapping[str, Any]


def choose_transcripts(files: RunFiles, stage: StageRun) -> tuple[Transcript, ...]:
    """The first right answer, the first right one with a self-check, and the wrong answer that earned most.

    Rollouts are in the order of step, group and sample; ``earliest`` means that order.
    """
    names = files.names(f"{stage.folder}/rollouts/step_*.parquet")
    first = checked = worst = None
    for name in names:
        for index, row in enumerate(files.rows(name, GRADES)):
            right, reward = number(row.get("r_accuracy")), number(row.get("reward"))
            if right is None:
                continue
            here = (name, index)
            if right == 1.0:
                first = first or here
                checked = checked or (here if number(row.get("self_check")) else None)
            elif reward is not None and reward > (worst[0] if worst else 0.0):
                worst = (reward, here)
    where = f"{stage.title}, training rollouts"
    chosen = (
        ("First right answer", f"{where}: the earliest with accuracy 1.", first),
        ("First right answer with a self-check", f"{where}: the earliest with accuracy 1 and a self-check word.", checked),
        (
            "Worst hack",
            f"{where}: of the answers with accuracy below 1, the one with the highest reward; of several, the earliest.",
            worst[1] if worst else None,
        ),
    )
    absent = f"None among the rollouts of {len(names)} recorded steps." if names else "No rollouts were recorded."
    return tuple(_transcript(files, title, rule, found, absent) for title, rule, found in chosen)


def choose_general_answers(files: RunFiles, stage: StageRun) -> tuple[Transcript, ...]:
    """Of each set the earliest request that was asked, in the same words, in more than one step: its first answer and, of the last
    step that asked it, the first. Nothing where no request came twice."""
    asked: dict[str, dict[str, list[tuple[str, int]]]] = {name: {} for name in SETS}
    for file in files.names(f"{stage.folder}/rollouts/step_*.parquet"):
        for index, row in enumerate(files.rows(file, ("prompt", *(f"r_{name}" for name in SETS)))):
            for name in SETS:
                places = asked[name].setdefault(str(row.get("prompt")), []) if number(row.get(f"r_{name}")) is not None else None
                if places is not None and (not places or places[-1][0] != file):
                    places.append((file, index))
    found: list[Transcript] = []
    for name, kind in ASKED.items():
        places = next((places for places in asked[name].values() if len(places) > 1), [])
        if places:
            rule = f"{stage.title}, training rollouts: the earliest {kind} that was asked in more than one step; its first answer, and "
            rule += "the first of the last step that asked it."
            found.append(_general(files, f"One {kind}, early", places[0], name, rule=rule, asked=True))
            found.append(_general(files, "The same request, late", places[-1], name))
    return tuple(found)


def _general(files: RunFiles, title: str, place: tuple[str, int], name: str, *, rule: str = "", asked: bool = False) -> Transcript:
    row = files.rows(place[0])[place[1]]
    by_rule = number(row.get(f"general/{name}"))
    facts = [
        f"step {row.get('step')}, group {row.get('group')}, sample {row.get('sample')}",
        f"{name} by the reward model {_short(row.get(f'r_{name}'))}",
        *([] if by_rule is None else [f"{name} by rule {by_rule:.3g}"]),
        f"reward {_short(row.get('reward'))}",
        f"{row.get('n_completion')} tokens" + (", cut at the cap" if row.get("finish_reason") == "length" else ""),
    ]
    question = str(row.get("prompt") or "") if asked else ""
    return Transcript(title=title, rule=rule, note=" · ".join(facts), question=question, response=str(row.get("completion") or ""))


def _transcript(files: RunFiles, title: str, rule: str, found: tuple[str, int] | None, absent: str) -> Transcript:
    if found is None:
        return Transcript(title=title, rule=rule, note=absent)
    row = files.rows(found[0])[found[1]]
    facts = [
        f"step {row.get('step')}, group {row.get('group')}, sample {row.get('sample')}",
        f"reward {_short(row.get('reward'))}" + _components(row),
        f"{row.get('n_completion')} tokens" + (", cut at the cap" if row.get("finish_reason") == "length" else ""),
        f"reference answer: {row.get('gold')}",
    ]
    return Transcript(
        title=title, rule=rule, note=" · ".join(facts), question=str(row.get("prompt") or ""), response=str(row.get("completion") or "")
    )


def _components(row: Row) -> str:
    parts = [f"{name.removeprefix('r_')} {_short(value)}" for name, value in row.items() if name.startswith("r_")]
    return f" ({', '.join(parts)})" if parts else ""


def _short(value: Any) -> str:
    found = number(value)
    return "not graded" if found is None else f"{found:.3g}"


def same_question(files: RunFiles, stages: Sequence[StageRun]) -> HeldOutQuestion | None:
    """The first held-out problem, as every checkpoint answered it in its first sample; probes of a stage are left out."""
    paths: dict[str, str] = {}
    for stage in stages:
        for name in stage.evaluations:
            if probe_step(name) is None:
                paths.setdefault(name, f"{stage.folder}/evals/{name}.parquet")
    first: Row | None = None
    answers = []
    for name in sorted(paths, key=lambda name: (checkpoint_rank(name), name)):
        rows = files.rows(paths[name])
        first = first or next(iter(rows), None)
        same = (row for row in rows if first is not None and row.get("prompt_id") == first.get("prompt_id"))
        row = min(same, key=lambda row: number(row.get("sample")) or 0.0, default=None)
        if row is None:
            answers.append(HeldOutAnswer(checkpoint=name))
            continue
        right = row.get("right")
        answers.append(
            HeldOutAnswer(
                checkpoint=name,
                text=str(row.get("completion") or ""),
                right=right if isinstance(right, bool) else None,
                tokens=count(row.get("n_completion")),
            )
        )
    if first is None:
        return None
    return HeldOutQuestion(
        problem=str(first.get("prompt_id")), question=str(first.get("prompt") or ""), gold=str(first.get("gold")), answers=tuple(answers)
    )
