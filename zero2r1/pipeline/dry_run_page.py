"""What `--dry-run` prints: tables of text, aligned, with the formulas they come from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType

from zero2r1.pipeline.dry_run import DryRun, ModelHere, dry_run
from zero2r1.pipeline.estimates import ALLOCATOR, GIB, RUNTIME, ModelShape, Peak, Speed, layer_bytes, speed_of
from zero2r1.pipeline.recipe import PipelineSettings
from zero2r1.pipeline.stage_counts import StagePlan
from zero2r1.pipeline.stages import STAGES

GPUS: Mapping[str, float] = MappingProxyType({"24 GB": 23.6, "80 GB": 79.1, "141 GB": 139.7})
"""What is sold as that -> GiB that a program sees of it."""
FORMULA = (
    "Weights, gradients and reference take 4 bytes a parameter, moments 8: float32 whatever the compute dtype. The half copy is 2 bytes",
    "for each weight in the layers' matrices, by autocast. The head is up to 0.6 GiB of logits and a gradient of the vocabulary's matrix.",
    "The cache is rows x positions x (2 x layers x kv heads x head size x 4 + 20) bytes (x 2 in half on a GPU), positions = prompt + cap,",
    "rows = min(max_rows, token_budget / positions, answers). One process on one device holds all of it. Estimates: leave a few GiB.",
)
LORA_FORMULA = (
    "LoRA: weights in full, adapters beside them; gradients, moments and, once it was reset, the reference are theirs alone. Merged is",
    "a copy of the layers' weights, to write the model and to sample in float32: between steps, without gradients, activations and head;",
    "on a GPU it is written from the host's memory.",
)


def look(settings: PipelineSettings, *, recipe: str, speed: str | None, say: Callable[[str], None]) -> bool:
    """Print what a recipe would do. Returns whether it could run.

    Raises:
        ValueError: a speed that is none.
    """
    known = None if speed is None else speed_of(speed)
    looked = dry_run(settings)
    say(page(looked, recipe=recipe, speed=known))
    return looked.can_run


def page(looked: DryRun, *, recipe: str, speed: Speed | None) -> str:
    """All of it, ready to print."""
    blocks = [
        [f"dry run of {recipe}: nothing is written, nothing is fetched"],
        list(_models(looked)),
        list(_data(looked)),
        ["What runs. Tokens are upper bounds: every answer at its cap, every candidate kept.", *_stages(looked, speed)],
        list(_activities(looked)),
        list(_memory(looked)),
        _time(looked, speed),
        list(_prompts(looked)),
        list(_verdict(looked)),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def aligned(rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Rows of cells as lines, the first ``left`` columns to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def short(count: float) -> str:
    """1234567 -> ``1.2 M``."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if count >= size:
            return f"{count / (1e3 if letter == 'k' else size):.{0 if letter == 'k' else 1}f} {letter}"
    return str(round(count))


def duration(seconds: float) -> str:
    """5400 -> ``1.5 h``."""
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def _models(looked: DryRun) -> Iterator[str]:
    for role, model in looked.models.items():
        size = "its shape is not known" if model.shape is None else f"{short(model.shape.parameters)} parameters"
        yield f"{role}: {model.name}, {size}; {model.says}"


def _data(looked: DryRun) -> Iterator[str]:
    rows = looked.rows
    counts = {"problems": rows.problems, "held out": rows.held_out, "general": rows.general, "pairs": rows.pairs, "labels": rows.labels}
    told = [f"{name} {count}" for name, count in counts.items() if count is not None]
    told += [f"requests ({name}) {count}" for name, count in (rows.requests or {}).items()]
    known = ", ".join(told) or "not read, because files are missing or faulty; the recipe's own numbers bound what follows"
    yield f"data: {known}; longest prompt {rows.longest_prompt} tokens{'' if told else ' (a guess)'}"
    yield from looked.notes


def _stages(looked: DryRun, speed: Speed | None) -> list[str]:
    head = ["stage", "answers", "tokens sampled", "tokens trained", "updates", "disk", *(["time"] if speed else [])]
    rows = [head]
    for spec in STAGES:
        if spec.name not in looked.plans:
            continue
        plan = looked.plans[spec.name]
        rows.append([spec.title, *_counts([plan]), _gib(plan.disk)])
        if speed:
            rows[-1].append(_duration([plan], speed))
    plans = list(looked.plans.values())
    rows.append(["all", *_counts(plans), _gib(None if any(plan.disk is None for plan in plans) else sum(plan.disk or 0 for plan in plans))])
    if speed:
        rows[-1].append(_duration(plans, speed))
    titles = {spec.name: spec.title for spec in STAGES}
    return [*aligned(rows), *(f"  left out: {titles[name]} ({why})" for name, why in looked.left_out.items())]


def _counts(plans: Sequence[StagePlan]) -> list[str]:
    """Answers, tokens sampled and trained, updates; ``+ ?`` where a file that is not here would add to them."""
    more = " + ?" if any(plan.unknown for plan in plans) else ""
    total = {what: short(sum(plan.total(what) for plan in plans)) for what in ("samples", "sampled", "trained", "updates")}
    return [total["samples"], total["sampled"], total["trained"] + more, total["updates"] + more]


def _activities(looked: DryRun) -> Iterator[str]:
    for spec in STAGES:
        if spec.name in looked.plans and looked.plans[spec.name].activities:
            yield spec.title
            yield from (f"  {activity.says}" for activity in looked.plans[spec.name].activities)


def _memory(looked: DryRun) -> Iterator[str]:
    peaks = {spec.title: peak for spec in STAGES if spec.name in looked.plans and (peak := looked.plans[spec.name].peak)}
    if not peaks:
        return
    here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    cpu = {f"CPU {here:.0f} GiB": here}
    on_gpu = {spec.title: looked.gpu_peaks[spec.name] for spec in STAGES if spec.name in looked.gpu_peaks}
    title = "Memory at the fullest moment of each stage, in GiB, and what it fits into"
    if on_gpu == peaks:
        yield f"{title} (CPU: this machine's memory, all of it)"
        yield from _peaks(peaks, {**cpu, **GPUS})
    else:
        yield f"{title}: on a CPU (this machine's memory, all of it)"
        yield from _peaks(peaks, cpu)
        yield "On a GPU, where linear layers have a copy that is sampled (twin)"
        yield from _peaks(on_gpu, GPUS)
    lora = LORA_FORMULA if any(plan.adapters for plan in looked.plans.values()) else ()
    yield from (f"  {line}" for line in (*FORMULA, *lora))
    yield from (_of_a_token(model) for model in looked.models.values() if model.shape is not None)


def _peaks(peaks: Mapping[str, Peak], sizes: Mapping[str, float]) -> list[str]:
    """A row a stage: the parts of its peak, and whether it fits."""
    names = [field.name for field in fields(Peak) if any(getattr(peak, field.name) for peak in peaks.values())]
    digits = 1 if max(peak.total for peak in peaks.values()) > 10 * GIB else 2
    rows = [["stage", *(name.replace("_", " ") for name in names), "peak", *sizes]]
    for title, peak in peaks.items():
        fits = ["yes" if peak.total <= size * GIB else "no" for size in sizes.values()]
        rows.append([title, *(f"{size / GIB:.{digits}f}" for size in (*(getattr(peak, name) for name in names), peak.total)), *fits])
    return aligned(rows)


def _of_a_token(model: ModelHere) -> str:
    """Activations of one token with all choices, at a mask of 2,048 positions."""
    assert model.shape is not None
    shape: ModelShape = model.shape
    whole = {half: shape.layers * layer_bytes(shape, tokens=1, longest=2048, half=half) / 2**20 for half in (False, True)}
    kept = 4 * shape.layers * shape.width / 2**20
    return (
        f"  activations of {model.name}: {whole[False]:.2f} MiB a token in float32, {whole[True]:.2f} in bfloat16, {kept:.2f} with "
        f"gradient_checkpointing; x {ALLOCATOR} for the allocator, and {RUNTIME / GIB:.0f} GiB for libraries"
    )


def _time(looked: DryRun, speed: Speed | None) -> list[str]:
    if speed is not None:
        return [f"time = tokens sampled / {speed.decode:g} a second + tokens trained / {speed.train:g} a second: an upper bound"]
    return ["time: not known. Give --speed DECODE,TRAIN in tokens a second" + _known_minutes(looked)]


def _known_minutes(looked: DryRun) -> str:
    minutes = looked.settings.minutes
    return (
        "" if minutes is None else f"; the recipe says {minutes:g} minutes on the machine it was made for, and --size auto probes this one"
    )


def _prompts(looked: DryRun) -> Iterator[str]:
    yield "What the models read"
    titles = {spec.name: spec.title for spec in STAGES}
    seen: dict[str, str] = {}
    for name, text in looked.prompts.items():
        yield f"  {titles[name]}: {f'as in {titles[seen[text]]}' if text in seen else text}"
        seen.setdefault(text, name)


def _verdict(looked: DryRun) -> Iterator[str]:
    if looked.missing:
        yield f"missing, {len(looked.missing)} in all:"
        yield from (f"  {option}: {name}" for option, name in looked.missing.items())
    if looked.faults:
        yield "cannot run:"
        yield from (f"  {fault}" for fault in looked.faults)
    if looked.can_run:
        yield "every file it names is here, and nothing speaks against running it"


def _duration(plans: Sequence[StagePlan], speed: Speed) -> str:
    seconds = sum(speed.seconds(sampled=plan.total("sampled"), trained=plan.total("trained")) for plan in plans)
    return duration(seconds) + (" + ?" if any(plan.unknown for plan in plans) else "")


def _gib(size: int | None) -> str:
    return "?" if size is None else f"{size / GIB:.1f} GiB"
