"""What a report says, in its order: verdict and doubts first, then curves, checkpoints, data, transcripts, costs and how to repeat it."""

from __future__ import annotations

from zero2r1.report.document import Block, Cell, Document, Listing, Look, Notes, Section, Table, Text
from zero2r1.report.doubts import doubts
from zero2r1.report.evidence import behaviour, checkpoints, curves, kept_samples, one_question, transcripts
from zero2r1.report.files import number
from zero2r1.report.scenarios import all_scenarios, reward_models
from zero2r1.report.students import students
from zero2r1.report.values import CHECKPOINTS, Claim, RunRecord, StageRun, State, checkpoint_title, is_variant
from zero2r1.report.wording import clipped, duration, listed, measured, percent

MACHINE = ("seed", "git", "git_dirty", "platform", "cpu", "cpu_count", "gpu", "threads")
"""Keys of env.json that are no versions."""
LONGEST_CONFIG = 60_000

METHODS = {"zero": "pure reinforcement learning on a base model (R1-Zero)", "run": "training"}
LOOKS: dict[State, Look] = {"done": "good", "killed": "bad", "failed": "bad", "stopped": "bad"}


def compose(record: RunRecord) -> Document:
    """The report of a run."""
    sections = [
        Section(title="What was claimed, and what was measured", blocks=(_verdict(record),)),
        Section(title="What to distrust", blocks=(Notes(sentences=doubts(record)),)),
        Section(title="Stages", blocks=(_stage_table(record),)) if record.pipeline else None,
        curves(record),
        checkpoints(record),
        students(record),
        behaviour(record),
        reward_models(record),
        *all_scenarios(record),
        *kept_samples(record),
        transcripts(record),
        one_question(record),
        _costs(record),
        _repeat(record),
    ]
    return Document(
        title=f"{_kind(record)}: {record.name}",
        status=_status(record),
        look=LOOKS.get(record.state, ""),
        lead=_lead(record),
        sections=tuple(section for section in sections if section is not None and section.blocks),
    )


def _kind(record: RunRecord) -> str:
    return "DeepSeek-R1 pipeline" if record.pipeline else record.stages[0].title if record.stages[0].name != "run" else "Training run"


def _status(record: RunRecord) -> str:
    """How the run ended, and where."""
    words = {
        "done": "Done", "running": "Still running", "killed": "Killed", "stopped": "Stopped", "failed": "Failed",
        "unknown": "Unfinished; from here nobody can see whether it still runs",
    }  # fmt: skip
    word = words.get(record.state, "Unfinished")
    where = "" if record.state == "done" else _where(record)
    missing = [stage.title for stage in record.stages if stage.state == "not run"] if record.state == "done" else []
    skipped = f"; not run: {listed(missing)}" if missing else ""
    return word + where + skipped + (f". {clipped(record.reason, 500)}" if record.reason else "")


def _where(record: RunRecord) -> str:
    reached = [stage for stage in record.stages if stage.state not in ("done", "not run", "waiting")]
    if not reached:
        return " between two stages" if record.pipeline else ""
    stage = reached[0]
    return f" in {_numbered(stage)}, {_reached(stage)}" if record.pipeline else f", {_reached(stage)}"


def _reached(stage: StageRun) -> str:
    if not stage.last_step:
        return "before its first step"
    return f"after step {stage.last_step}" + (f" of {stage.steps}" if stage.steps else "")


def _numbered(stage: StageRun) -> str:
    return f"stage {stage.number} ({stage.title})" if stage.number is not None else stage.title


def _lead(record: RunRecord) -> tuple[str, ...]:
    seed = f", seed {record.seed}" if record.seed is not None else ""
    machine = f", on {_machine(record)}" if record.environment else ""
    if record.pipeline:
        size = f", size {record.size}" if record.size else ""
        done = sum(stage.state == "done" for stage in record.stages)
        what = f"One run of the DeepSeek-R1 pipeline{size}{seed}{machine}: {done} of {len(record.stages)} stages done."
    else:
        stage = record.stages[0]
        method = METHODS.get(stage.name, stage.title)
        steps = f", {stage.last_step} steps" if stage.last_step else ""
        what = f"One run of {method}{steps}{seed}{machine}."
    control = [f"A control: {name.replace('_', ' ')} is on, and no claim that needs rewards should hold." for name in record.control]
    return (what, *control, *_headline(record))


def _headline(record: RunRecord) -> list[str]:
    """pass@1 of every checkpoint in one sentence."""
    found = [(name, e, value) for name, e in record.evaluations.items() if (value := e.get("pass@1")) is not None and not is_variant(name)]
    if not found:
        return []
    sizes = sorted({evaluation.problems for _, evaluation, _ in found if evaluation.problems})
    problems = f" on {listed([f'{size:,}' for size in sizes])} held-out problems" if sizes else ""
    figures = listed([f"{checkpoint_title(name)} {percent(value, unit=True)}" for name, _, value in found])
    return [f"pass@1{problems}, ± one standard error: {figures}."]


def _machine(record: RunRecord) -> str:
    known = record.environment
    cores = f"{known['cpu_count']} cores of " if known.get("cpu_count") else ""
    devices = [str(known[key]) for key in ("gpu", "cpu") if known.get(key)]
    return cores + (devices[0] if devices else "an unnamed machine")


# Verdict and stages


def _verdict(record: RunRecord) -> Block:
    if not record.claims:
        why = "the run has no verdict.json" if record.claims is None else "its verdict.json is empty"
        when = "" if record.state == "done" else " It is written when the last stage has been measured."
        return Text(text=f"No claim was judged: {why}.{when}")
    held = sum(claim.holds is True for claim in record.claims)
    judged = sum(claim.holds is not None for claim in record.claims)
    open_ = len(record.claims) - judged
    caption = f"{held} of {judged} judged claims hold" + (f"; {open_} not run" if open_ else "") + ". "
    caption += "Estimate and 95 % interval over the held-out problems; a claim holds when the interval lies beyond what was asked for."
    return Table(columns=("", "Claim", "Measured"), rows=tuple(_claim_row(claim) for claim in record.claims), caption=caption, prose=True)


def _claim_row(claim: Claim) -> tuple[Cell, ...]:
    said = Cell(text=f"{claim.name.replace('_', ' ')}\n{claim.says}", strong=frozenset({0}))
    if claim.holds is None:
        lines = [claim.reason, *(measured(part)[1] for part in claim.measured)]
        return Cell(text="not run", look="quiet"), said, Cell(text="\n".join(lines), look="quiet")
    mark = Cell(text="✓ holds", look="good") if claim.holds else Cell(text="✗ no", look="bad")
    lines = [line for part in claim.measured for line in measured(part)]
    return mark, said, Cell(text="\n".join(lines), strong=frozenset(range(0, len(lines), 2)))


def _stage_table(record: RunRecord) -> Table:
    rows = []
    for stage in record.stages:
        progress = f", {_reached(stage)}" if stage.state in ("running", "killed", "stopped", "failed") else ""
        results = [(name, stage.evaluations[name].get("pass@1")) for name in CHECKPOINTS if name in stage.evaluations and name != "base"]
        after = ", ".join(f"{checkpoint_title(name)} {percent(value, unit=True)}" for name, value in results if value)
        title = stage.title if stage.number is None else f"{stage.number}. {stage.title}"
        cells = (title, "", duration(stage.seconds) if stage.seconds is not None else "", after, stage.why)
        row = [Cell(text=text) for text in cells]
        row[1] = Cell(text=stage.state + progress, look=LOOKS.get(stage.state, "quiet"))
        rows.append(tuple(row))
    why = "Why it ran, or did not" if any(stage.state == "not run" and stage.why for stage in record.stages) else "Why it ran"
    return Table(columns=("Stage", "State", "Time", "pass@1 after it", why), rows=tuple(rows), prose=True)


# Costs and how to repeat it


def _costs(record: RunRecord) -> Section | None:
    rows = []
    total = sum(stage.seconds or 0.0 for stage in record.stages)
    for stage in record.stages:
        seconds, sampled = (sum(number(row.get(key)) or 0.0 for row in stage.metrics) for key in ("step_time", "num_tokens"))
        if stage.seconds is None and not seconds:
            continue
        tokens = f"{sampled:,.0f}" if sampled and stage.is_rl else "–"
        steps = duration(seconds) if seconds else "–"
        whole = duration(stage.seconds) if stage.seconds is not None else "–"
        part = f"{100 * stage.seconds / total:.0f}" if stage.seconds is not None and total else "–"
        rows.append(tuple(Cell(text=text) for text in (stage.title, whole, part, str(stage.last_step or "–"), steps, tokens)))
    if not rows:
        return None
    caption = f"Machine: {_machine(record)}." + (f" All stages: {duration(total)}." if total else "")
    columns = ("Stage", "In all", "%", "Steps", "In its steps", "Tokens sampled")
    return Section(title="Costs", blocks=(Table(columns=columns, rows=tuple(rows), caption=caption),))


def _repeat(record: RunRecord) -> Section:
    known = record.environment
    changed = {True: ", with uncommitted changes (code.diff)", False: ""}.get(bool(known.get("git_dirty")), "")
    versions = [f"{name} {value}" for name, value in known.items() if name not in MACHINE and value is not None]
    facts = [
        ("Seed", str(record.seed if record.seed is not None else "unknown")),
        ("Source", f"{known.get('git') or 'unknown'}{changed}"),
        ("Machine", ", ".join([_machine(record), *(str(known[key]) for key in ("platform",) if known.get(key))])),
        ("Versions", ", ".join(versions) or "unknown"),
    ]
    blocks: list[Block] = [Listing(title="Command", text=record.command or "(command.txt is missing)")]
    rows = tuple((Cell(text=name), Cell(text=clipped(value, 1000))) for name, value in facts)
    blocks.append(Table(columns=("", ""), rows=rows, prose=True))
    if record.config:
        blocks.append(Listing(title="Settings (config.yaml)", text=clipped(record.config, LONGEST_CONFIG), folded=True))
    return Section(title="How to repeat it", blocks=tuple(blocks))
