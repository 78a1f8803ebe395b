"""Starts workers and talks to them."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from umfa.bench.engines import ENGINES, FOUND_BY_THEMSELVES, OURS

# A worker may run in an environment that has no umfa: a package without its __init__ has only the
# modules that need nothing else.
BOOTSTRAP = """
import sys, types
package = types.ModuleType("umfa")
package.__path__ = [sys.argv.pop(1)]
sys.modules["umfa"] = package
from umfa.bench.worker import main
main()
"""
# What would give one library other kernels or more threads than the next.
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_DEBUG_CPU_TYPE", "GOMP_CPU_AFFINITY")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TBB_NUM_THREADS")


class PeerFailed(Exception):
    """A worker could not be started, died, or was silent for too long."""


def parse_peer(text: str) -> tuple[str, Path | None]:
    """Reads "torch", "torch=/path/to/python" or "ggml=/path/to/libggml.so"."""
    name, _, path = text.partition("=")
    if name not in ENGINES or name == OURS:
        names = ", ".join(sorted(set(ENGINES) - {OURS}))
        raise ValueError(f'no peer "{name}"; there are {names}')
    if path and not Path(path).exists():
        raise ValueError(f'"{path}", given for {name}, does not exist')
    return name, Path(path) if path else None


def peers_here() -> list[str]:
    """The peers that this Python can import."""
    return [name for name in FOUND_BY_THEMSELVES if find_spec(ENGINES[name][0] or name)]


class Worker:
    """A child process with one library, in a Python that may be another one.

    It is stopped while it is not asked: threads of many libraries spin after a call, and would take
    a processor from the next contestant.
    """

    def __init__(self, engine: str, threads: int, where: Path | None = None) -> None:
        self.engine, self.threads, self.where = engine, threads, where
        self.version, self.python = "", ""
        self._last_words = ""
        # It lives as long as the process, and is read where the process ended.
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            self._command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env=environment(os.environ, threads),
            # Processes that a library leaves behind would keep the pipe open: they end with it.
            start_new_session=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            hello = self.ask({"do": "hello"}, 120)
        except PeerFailed:
            self.close()
            raise
        self.version, self.python = hello["version"], hello["python"]

    def _command(self) -> list[str]:
        library = self.where if ENGINES[self.engine][0] is None else None
        python = sys.executable if library or self.where is None else str(self.where)
        options = [self.engine, "--threads", str(self.threads)]
        if library:
            options += ["--library", str(library)]
        if self.engine == OURS:
            return [python, "-m", "umfa.bench.worker", *options]
        return [python, "-c", BOOTSTRAP, str(Path(__file__).parents[1]), *options]

    def _read(self) -> None:
        if self._process.stdout is not None:
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put("")

    def ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """The answer to a request; `PeerFailed` if there is none, or if it says so."""
        try:
            if self._process.stdin is None:
                raise PeerFailed(f"{self.engine} has no input")
            self._signal("SIGCONT")
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=timeout)
            self._signal("SIGSTOP")
        except queue.Empty:
            self.close()
            raise PeerFailed(f"{self.engine}: no answer in {timeout:.0f} s") from None
        except (BrokenPipeError, ValueError):
            line = ""
        if not line:
            self.close()
            raise PeerFailed(f"{self.engine} ended: {self._last_words}")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise PeerFailed(f"{self.engine}: {answer['failed']}")
        return answer

    def _signal(self, name: str) -> None:
        # Windows has neither signal: there the pause after each turn must do.
        if hasattr(signal, name) and self.alive:
            self._process.send_signal(getattr(signal, name))

    @property
    def alive(self) -> bool:
        """Whether the process can still be asked."""
        return self._process.poll() is None

    def close(self) -> None:
        """Ends the process."""
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        elif self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        # The pipe has ended, and so does the thread that reads it.
        self._reader.join()
        if not self._log.closed:
            self._log.seek(0)
            lines = self._log.read().strip().splitlines()
            self._last_words = lines[-1] if lines else f"exit status {self._process.returncode}"
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                # What could not be written to a process that is gone stays unwritten.
                with suppress(OSError):
                    stream.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def environment(given: Mapping[str, str], threads: int) -> dict[str, str]:
    """The variables of a worker: the same number of threads for all, and no settings for one."""
    kept = {name: value for name, value in given.items() if name not in UNSET}
    return {**kept, **dict.fromkeys(THREADS, str(threads))}
