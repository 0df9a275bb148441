"""The process a user's reward function runs in: one JSON line in per call, one JSON line out.

:mod:`zero2r1.rewards.worker_process` starts this file as a script and stands at the other end of its pipes. Only the
standard library is imported at the top, because the first line that is read says where the package lies.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import IO, Any

_PR_SET_PDEATHSIG = 1  # of Linux' prctl.h
_SHOWN = 500
"""Characters of an error's text that are told; a function may put a whole completion into its message."""


def locate(name: str) -> tuple[str, str]:
    """``my_rewards.py:f``, ``package.module:f`` or ``package.module.f`` as (file or module, function); files become absolute.

    Raises:
        ValueError: the name has none of the three forms, or there is no such file.
    """
    place, _, function = name.rpartition(":") if ":" in name else name.rpartition(".")
    if not place or not function.isidentifier() or function == "py":
        raise ValueError(f"a reward function is named my_rewards.py:function or package.module:function, not {name!r}")
    if not place.endswith(".py"):
        return place, function
    if not Path(place).is_file():
        raise ValueError(f"{name}: there is no file {place} (looked in {Path.cwd()})")
    return str(Path(place).resolve()), function


def load(place: str, name: str) -> Callable[..., Any]:
    """The function ``name`` of a file or a module, which is imported.

    Raises:
        ValueError: it has no such function. What the import raises passes through.
    """
    module = _import_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    function = getattr(module, name, None)
    if not callable(function):
        own = [key for key, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == module.__name__]
        raise ValueError(f"{place} has no function {name!r}; it has {', '.join(own) or 'none'}")
    loaded: Callable[..., Any] = function
    return loaded


def _import_file(path: Path) -> ModuleType:
    name = path.stem if path.stem not in sys.modules else f"reward_file_{path.stem}"  # my json.py must not become everybody's json
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # data classes look their module up
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Greet, import the function, and answer calls until the parent closes the pipe."""
    requests, replies = _take_pipes()
    first = requests.readline()
    if not first:
        return  # the parent ended before it had a use for this process
    greeting = json.loads(first)
    _end_with(greeting["parent"])
    sys.path[:] = greeting["path"]
    try:
        answer = _answering(greeting["function"], greeting["name"], replies)
    except BaseException as error:  # importing is running the user's code: sys.exit() too is told to the parent
        _write(replies, {"failed": _why_not_imported(error)})
        return
    for line in requests:
        answer(json.loads(line))
    os._exit(0)  # threads of the user's code must not keep the process


def _take_pipes() -> tuple[IO[bytes], int]:
    """The pipes to the parent, under numbers the user's code does not know: its prints go to stderr, and it reads nothing."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return requests, replies


def _end_with(parent: int) -> None:
    """Die when the thread that started this process does, whatever is running here; elsewhere than on Linux, at the end of a call."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _answering(target: list[str], name: str | None, replies: int) -> Callable[[dict[str, Any]], None]:
    """Import the function, tell the parent about it, and return what answers one call."""
    from zero2r1.rewards.adapters import adapt
    from zero2r1.rewards.combine import RewardError, call_reward

    reward = adapt(load(*target))
    name = name or reward.name
    where = f'reward "{name}" ({reward.place})'
    source = getattr(sys.modules.get(reward.function.__module__), "__file__", None)
    loop: list[Any] = []

    def wait(awaitable: Any) -> Any:
        """All calls share one event loop, so that a client an async function opened still works at the next call."""
        import asyncio

        async def result() -> Any:
            return await awaitable

        loop[:] = loop or [asyncio.Runner()]
        return loop[0].run(result())

    def answer(columns: dict[str, Any]) -> None:
        try:
            part = call_reward(where, reward, columns, wait=wait)
            reply = {"values": part.values, "logged": dict(part.logged), "metrics": dict(part.metrics)}
            line = json.dumps(reply, default=_plain)
        except RewardError as error:
            line = json.dumps({"fault": str(error)})
        except BaseException as error:  # the trust boundary itself: SystemExit and libraries' own BaseExceptions are faults as well
            line = json.dumps({"reason": _why_raised(error, source)})
        _write(replies, line)

    signature = reward.signature
    about = {"name": name, "place": reward.place, "style": signature.style, "takes_all": signature.takes_all}
    _write(replies, {"ready": {**about, "names": sorted(signature.names)}})
    return answer


def _plain(value: Any) -> Any:
    """What a function logged as JSON: arrays as lists, and the rest as it prints."""
    return value.tolist() if hasattr(value, "tolist") else repr(value)


def _write(replies: int, message: dict[str, Any] | str) -> None:
    line = (message if isinstance(message, str) else json.dumps(message)).encode("ascii") + b"\n"
    while line:
        line = line[os.write(replies, line) :]


def _why_raised(error: BaseException, source: str | None) -> str:
    """``raised ValueError: no digits (my_rewards.py:12)``, with the user's own innermost line."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == source] or list(frames)
    text = str(error)[:_SHOWN].encode("utf-8", "backslashreplace").decode()  # it ends up in files, which take no lone surrogates
    return f"raised {type(error).__name__}: {text} ({Path(own[-1].filename).name}:{own[-1].lineno})"


def _why_not_imported(error: BaseException) -> str:
    """The end of the traceback, without the frames of this file and of the import system."""
    report = traceback.TracebackException.from_exception(error)
    report.stack[:] = [f for f in report.stack if f.filename != __file__ and not f.filename.startswith("<frozen importlib")]
    lines = "".join(report.format()).strip().splitlines()
    return "\n".join(lines[-12:]) if report.stack or isinstance(error, SyntaxError) else f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
