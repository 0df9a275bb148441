"""The paper's figures 2 and 3 for a run, drawn from its files: accuracy and length against steps, and what came with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zero2r1.run_dir import RunDir

BLUE, RED, GREY, GREEN = "#2b5fb4", "#c0392b", "#8a8f98", "#2f8f5b"


def draw_figures(run: RunDir) -> list[Path]:
    """Write ``figures/accuracy.png``, ``length.png`` and ``behaviour.png``.

    Raises:
        ValueError: matplotlib is missing (install the ``plots`` extra), or the run has no metrics.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ValueError('figures need matplotlib:  pip install "zero2r1[plots]"') from error
    rows = run.metrics()
    if not rows:
        raise ValueError(f"{run.path} has no metrics yet")
    folder = run.path / "figures"
    folder.mkdir(exist_ok=True)
    steps = [row["step"] for row in rows]
    written = []
    for name, draw in (("accuracy", _accuracy), ("length", _length), ("behaviour", _behaviour)):
        figure, axes = plt.subplots(figsize=(7, 4.2), dpi=120)
        draw(axes, run, steps, rows)
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)
        figure.tight_layout()
        path = folder / f"{name}.png"
        figure.savefig(path)
        plt.close(figure)
        written.append(path)
    return written


def _smooth(values: list[float], window: int = 5) -> list[float]:
    return [sum(values[max(0, i - window + 1) : i + 1]) / len(values[max(0, i - window + 1) : i + 1]) for i in range(len(values))]


def _curve(axes: Any, steps: list[int], rows: list[dict[str, Any]], key: str, label: str, color: str) -> None:
    values = [float(row.get(key) or 0.0) for row in rows]
    axes.plot(steps, values, color=color, alpha=0.25, linewidth=1)
    axes.plot(steps, _smooth(values), color=color, linewidth=2, label=label)


def _evaluations(run: RunDir) -> list[tuple[int, dict[str, float]]]:
    found = []
    for path in sorted((run.path / "evals").glob("*.json")):
        figures = run.read_json(f"evals/{path.name}")["figures"]
        if path.stem == "base":
            found.append((0, figures))
        elif path.stem == "zero":
            found.append((run.metrics()[-1]["step"], figures))
        elif path.stem.startswith("step_"):
            found.append((int(path.stem.removeprefix("step_")), figures))
    return sorted(found, key=lambda item: item[0])


def _accuracy(axes: Any, run: RunDir, steps: list[int], rows: list[dict[str, Any]]) -> None:
    _curve(axes, steps, rows, "rewards/accuracy/mean", "training problems", GREY)
    points = _evaluations(run)
    for key, label, color, marker in (("pass@1", "held-out, pass@1", BLUE, "o"), ("maj@8", "held-out, majority of 8", RED, "s")):
        chosen = [(step, figures) for step, figures in points if key in figures]
        if chosen:
            axes.errorbar(
                [step for step, _ in chosen],
                [figures[key] for _, figures in chosen],
                yerr=[1.96 * figures.get(f"{key}/stderr", 0.0) for _, figures in chosen],
                color=color,
                marker=marker,
                markersize=5,
                linewidth=1.6,
                capsize=2,
                label=label,
            )
    web = run.path / "evals" / "base_web.json"
    if web.exists():
        level = run.read_json("evals/base_web.json")["figures"]["pass@1"]
        axes.axhline(level, color=GREEN, linestyle="--", linewidth=1.2, label="base in the layout of its pretraining text")
    axes.set_ylim(0, 1)
    axes.set_ylabel("accuracy")
    axes.set_title("Accuracy during training (paper, figure 2)", fontsize=11, loc="left")


def _length(axes: Any, run: RunDir, steps: list[int], rows: list[dict[str, Any]]) -> None:
    _curve(axes, steps, rows, "completions/mean_length", "mean length of an answer", BLUE)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("tokens")
    axes.set_title("Length of answers during training (paper, figure 3)", fontsize=11, loc="left")


def _behaviour(axes: Any, run: RunDir, steps: list[int], rows: list[dict[str, Any]]) -> None:
    for key, label, color in (
        ("reasoning/format_ok", "strict format", GREEN),
        ("reasoning/self_check", "answers with a self-check", RED),
        ("reasoning/one_language", "answers in one language", BLUE),
    ):
        if key in rows[0]:
            _curve(axes, steps, rows, key, label, color)
    axes.set_ylim(0, 1)
    axes.set_ylabel("share of answers")
    axes.set_title("What came with it", fontsize=11, loc="left")
