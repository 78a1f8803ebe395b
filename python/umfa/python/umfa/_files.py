"""The files that a command was asked to write: looked at before the work, and told if they fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class OutputError(RuntimeError):
    """A file cannot be written; the message is for the user."""


def check_output(path: Path | None, *, picture: bool = False) -> None:
    """Refuses a path that cannot be written to, and a picture in a format that cannot be drawn."""
    if path is None:
        return
    if not path.resolve().parent.is_dir():
        raise OutputError(f"cannot write '{path}': its folder does not exist")
    if path.is_dir():
        raise OutputError(f"cannot write '{path}': it is a folder")
    new = not path.exists()
    if new or path.is_file():  # else a device or a pipe, which is not opened twice
        with writing(path), path.open("ab"):
            pass
    if new:
        path.unlink()
    if picture:
        picture_format(path)


def picture_format(path: Path) -> str:
    """What matplotlib is told to draw: PNG where the name does not say."""
    from matplotlib.figure import Figure

    found = path.suffix[1:].lower() or "png"
    known = sorted(Figure().canvas.get_supported_filetypes())
    if found not in known:
        raise OutputError(
            f"cannot draw '{path}': format '{found}' found, one of {', '.join(known)} expected"
        )
    return found


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system says while `path` is written into an `OutputError`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {error.strerror or error}") from error
