"""The text whose perplexity is measured."""

from __future__ import annotations

from importlib import resources

SOURCE = "Alice's Adventures in Wonderland, chapters I-IV (Lewis Carroll, 1865; public domain)"


def load_text() -> str:
    """The shipped text with each paragraph on one line, as language models have read theirs.

    Where it comes from is told in ``data/README.md``; the file itself is hard-wrapped.
    """
    path = resources.files(__package__).joinpath("data/alice.txt")
    paragraphs = path.read_text(encoding="ascii").split("\n\n")
    return "\n\n".join(" ".join(p.split()) for p in paragraphs if p.strip())
