"""The text whose perplexity is measured."""

from __future__ import annotations

from importlib import resources

SOURCE = "Alice's Adventures in Wonderland, chapters I-IV (Lewis Carroll, 1865; public domain)"


def load_text() -> str:
    """The shipped text without its title page, each paragraph on one line.

    Where it comes from is told in ``data/README.md``. Language models have mostly read prose that
    is not hard-wrapped, and a title in capitals comes apart into tokens that they hardly know.
    """
    path = resources.files(__package__).joinpath("data/alice.txt")
    _, _, prose = path.read_text(encoding="ascii").partition("Down the Rabbit-Hole")
    return "\n\n".join(" ".join(p.split()) for p in prose.split("\n\n") if p.strip())


def load_prompt() -> str:
    """What the model is asked."""
    path = resources.files(__package__).joinpath("data/prompt.txt")
    return path.read_text(encoding="utf-8").strip()
