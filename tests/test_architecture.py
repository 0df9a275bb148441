"""The rules that keep the source readable: who may import whom, how large things may grow, what must never appear."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import zero2r1

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "zero2r1"

LAYERS: dict[str, int] = {
    name: layer
    for layer, names in enumerate(
        [
            "types template seeds process",
            "samples",
            "config run_dir tasks rewards models tracking",
            "checkpoint",
            "rollout training",
            "grpo sft distill reward_models cold_start rejection_sampling eval pretraining panel",
            "pipeline",
            "distributed serve dashboard report",
            "cli",
        ]
    )
    for name in names.split()
}
SETTINGS_BASE = {"zero2r1.config"}
"""`config.py` of any package may build on it, whatever its layer: a setting is no computation."""

TORCH_FREE = (
    "types", "template", "seeds", "process", "config", "run_dir", "tasks", "rewards", "samples", "dashboard", "report", "cli",
    "eval.metrics",
)  # fmt: skip
FILE_LINES, FUNCTION_LINES, POSITIONAL = 400, 60, 6
BANNED_NAMES = {"utils", "util", "common", "misc", "helpers", "helper"}
BANNED_IMPORTS = {
    "pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "sympy", "math_verify", "latex2sympy2_extended",
}  # fmt: skip
BANNED_CALLS = {
    "eval", "exec", "compile", "__import__", "torch.load", "torch.save", "os.system", "os.popen", "np.load", "numpy.load",
    "yaml.unsafe_load", "sympify", "sympy.sympify", "parse_expr", "sympy.parse_expr", "parse_latex", "literal_eval", "ast.literal_eval",
}  # fmt: skip
ONLY_UNDER = {
    "transformers": ("zero2r1.models", "zero2r1.rollout.torch_engine", "zero2r1.rollout.kv_cache"),
    "peft": ("zero2r1.models",),
    "ray": ("zero2r1.distributed",),
    "vllm": ("zero2r1.rollout.vllm_engine",),
}


def python_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every imported module with its line, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            assert node.module is not None
            yield node.module, node.lineno
            if node.module == "zero2r1":
                yield from ((f"zero2r1.{alias.name}", node.lineno) for alias in node.names if alias.name in LAYERS)


def type_only(tree: ast.AST) -> set[int]:
    """Lines inside ``if TYPE_CHECKING:``; they import nothing when the program runs."""
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body
        for line in range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
    }


def layer_faults(module: str, imported: str) -> str | None:
    """Why ``module`` may not import ``imported``, or ``None``."""
    own, other = (name.partition(".")[2].partition(".")[0] for name in (module, imported))
    if own == other or imported == "zero2r1" or (module.endswith(".config") and imported in SETTINGS_BASE):
        return None
    for name in (own, other):
        if name not in LAYERS:
            return f"zero2r1.{name} has no place in LAYERS"
    if LAYERS[other] > LAYERS[own]:
        return f"imports zero2r1.{other} (layer {LAYERS[other]}) from layer {LAYERS[own]}: up"
    if LAYERS[other] == LAYERS[own]:
        return f"imports zero2r1.{other} of its own layer {LAYERS[own]}: sideways"
    return None


@pytest.mark.parametrize(
    ("module", "imported", "fault"),
    [
        ("zero2r1.grpo.trainer", "zero2r1.training.packing", None),
        ("zero2r1.grpo.trainer", "zero2r1.grpo.loss", None),
        ("zero2r1.tasks.config", "zero2r1.config", None),
        ("zero2r1.rollout.engine", "zero2r1.grpo.config", "up"),
        ("zero2r1.grpo.trainer", "zero2r1.eval.metrics", "sideways"),
        ("zero2r1.rewards.format", "zero2r1.tasks.laptop.checker", "sideways"),
        ("zero2r1.oddments", "zero2r1.types", "no place"),
    ],
)
def test_the_layer_rule_itself_finds_what_it_should(module: str, imported: str, fault: str | None) -> None:
    found = layer_faults(module, imported)
    assert found is None if fault is None else found is not None and fault in found


def test_imports_point_down_never_sideways_or_up() -> None:
    faults = []
    for path in python_files(PACKAGE):
        module = module_name(path)
        for imported, line in imports(tree_of(path)):
            if imported.split(".")[0] == "zero2r1" and module != "zero2r1":
                fault = layer_faults(module, imported)
                faults += [f"{path.relative_to(ROOT)}:{line} {fault}"] if fault else []
    assert not faults, "\n".join(faults)


def test_heavy_libraries_stay_where_they_belong() -> None:
    faults = []
    for path in python_files(PACKAGE):
        tree = tree_of(path)
        types = type_only(tree)
        for imported, line in imports(tree):
            places = ONLY_UNDER.get(imported.split(".")[0])
            if places and line not in types and not module_name(path).startswith(places):
                faults.append(f"{path.relative_to(ROOT)}:{line} imports {imported}; only {' and '.join(places)} may")
    assert not faults, "\n".join(faults)


def torch_free_modules() -> list[str]:
    names = [module_name(path) for path in python_files(PACKAGE)]
    roots = tuple(f"zero2r1.{name}" for name in TORCH_FREE)
    return [n for n in names if n == "zero2r1" or n.endswith(".config") or n in roots or n.startswith(tuple(f"{r}." for r in roots))]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)


BLOCK = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "vllm", "ray"):
            raise ImportError(f"{name} was imported")
sys.meta_path.insert(0, Blocker())
"""


def test_modules_that_promise_to_be_free_of_torch_import_without_it() -> None:
    modules = torch_free_modules()
    assert {"zero2r1.types", "zero2r1.cli", "zero2r1.grpo.config"} <= set(modules)
    code = (
        "import importlib, traceback\nfailed = 0\n"
        + BLOCK
        + f"""
for name in {modules!r}:
    try:
        importlib.import_module(name)
    except ImportError:
        failed += 1
        print(name, traceback.format_exc(limit=-3))
sys.exit(failed)
"""
    )
    done = run_python(code)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_block_used_above_does_block() -> None:
    done = run_python(BLOCK + "import zero2r1.checkpoint")
    assert done.returncode == 1 and "torch was imported" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["train", "zero", "--help"], ["config", "show", "--nonsense=1"]])
def test_help_and_mistyped_settings_answer_without_the_heavy_libraries(arguments: list[str]) -> None:
    code = f"""
import sys
sys.argv = ["zero2r1", *{arguments!r}]
from zero2r1.cli import main
try:
    main()
except SystemExit as end:
    print(end.code, sorted({{"torch", "transformers", "pyarrow"}} & set(sys.modules)))
"""
    done = run_python(code)
    expected = 2 if arguments[-1] == "--nonsense=1" else 0
    assert done.stdout.splitlines()[-1] == f"{expected} []", done.stdout + done.stderr


def test_public_names_resolve_and_are_listed() -> None:
    assert sorted(set(zero2r1.__all__)) == sorted(zero2r1.__all__)
    for name in zero2r1.__all__:
        assert getattr(zero2r1, name) is not None
    assert {"train_zero", "Problem", "__version__"} <= set(zero2r1.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        zero2r1.nonsense  # noqa: B018


def sized_files() -> list[Path]:
    return [path for folder in ("zero2r1", "tests", "examples", "benchmarks") for path in python_files(ROOT / folder)]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def test_files_and_functions_stay_small() -> None:
    faults = []
    for path in sized_files():
        where = path.relative_to(ROOT)
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > FILE_LINES:
            faults.append(f"{where}: {lines} lines, at most {FILE_LINES}")
        for function in functions(tree_of(path)):
            length = (function.end_lineno or function.lineno) - function.lineno + 1
            if length > FUNCTION_LINES:
                faults.append(f"{where}:{function.lineno} {function.name}: {length} lines, at most {FUNCTION_LINES}")
            names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
            count = len(names) - (names[:1] in (["self"], ["cls"]))
            autograd = names[:1] == ["ctx"]  # torch hands these their arguments by position, whatever their number
            if count > POSITIONAL and not autograd:
                faults.append(f"{where}:{function.lineno} {function.name}: {count} positional parameters, at most {POSITIONAL}")
    assert not faults, "\n".join(faults)


def test_no_module_is_named_for_everything() -> None:
    assert [str(path) for path in PACKAGE.rglob("*") if path.stem in BANNED_NAMES] == []


def dangers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Lines that evaluate text, unpickle, or run a shell."""
    for imported, line in imports(tree):
        if imported.split(".")[0] in BANNED_IMPORTS:
            yield line, f"imports {imported}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in BANNED_CALLS:
                yield node.lineno, f"calls {name}"
            for keyword in node.keywords:
                if keyword.arg in ("shell", "trust_remote_code", "allow_pickle") and ast.unparse(keyword.value) != "False":
                    yield node.lineno, f"passes {keyword.arg}={ast.unparse(keyword.value)}"


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "sympify(text)",
        "from sympy import sympify",
        "import pickle",
        "from joblib import load",
        "torch.load('x')",
        "f(shell=True)",
        "load('x', trust_remote_code=x)",
    ],
)
def test_the_danger_rule_itself_finds_what_it_should(source: str) -> None:
    assert list(dangers(ast.parse(source)))
    assert not list(dangers(ast.parse("model.eval()\nre.compile('x')\nf(shell=False)")))


def test_nothing_evaluates_text_unpickles_or_runs_a_shell() -> None:
    faults = [
        f"{path.relative_to(ROOT)}:{line} {what}"
        for folder in ("zero2r1", "examples", "benchmarks")
        for path in python_files(ROOT / folder)
        for line, what in dangers(tree_of(path))
    ]
    assert not faults, "\n".join(faults)


def test_a_broad_except_raises_again_or_gives_its_reason() -> None:
    faults = []
    for path in python_files(PACKAGE):
        lines = path.read_text(encoding="utf-8").splitlines()
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.ExceptHandler):
                continue
            broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            if broad and not raises and "#" not in "".join(lines[node.lineno - 1 : node.body[0].lineno]):
                faults.append(f"{path.relative_to(ROOT)}:{node.lineno} catches everything without saying why")
    assert not faults, "\n".join(faults)


def test_every_module_says_what_it_is() -> None:
    silent = [str(p.relative_to(ROOT)) for p in python_files(PACKAGE) if p.read_text().strip() and not ast.get_docstring(tree_of(p))]
    assert silent == []
