"""The model's own tokenizer and chat template, built from the GGUF metadata."""

from __future__ import annotations

from typing import Any

from ._gguf import Metadata, told
from ._model import ModelError

# Token types of the GGUF specification that stand for themselves in a text.
_CONTROL, _USER_DEFINED = 3, 4


class Tokenizer:
    """Byte-level BPE of a GGUF file whose ``tokenizer.ggml.model`` is ``gpt2``."""

    def __init__(self, reader: Any) -> None:
        from tokenizers import AddedToken, decoders, pre_tokenizers
        from tokenizers import Tokenizer as Bpe
        from tokenizers.models import BPE

        metadata = Metadata(reader)
        kind, split = metadata.text("tokenizer.ggml.model"), metadata.text("tokenizer.ggml.pre")
        if (kind, split) != ("gpt2", "smollm"):
            raise ModelError(f"tokenizer '{kind}/{split}' found, 'gpt2/smollm' expected")
        tokens = metadata.list_of(str, "tokenizer.ggml.tokens")
        merges = metadata.list_of(str, "tokenizer.ggml.merges")
        types = metadata.list_of(int, "tokenizer.ggml.token_type")
        if len(types) != len(tokens):
            raise ModelError(f"{len(types)} types of tokens found, {len(tokens)} expected")
        pairs = [tuple(merge.split(" ", 1)) for merge in merges]
        alone = next((merge for merge, pair in zip(merges, pairs) if len(pair) != 2), None)
        if alone is not None:
            raise ModelError(f"merge {alone!r} found, two tokens with a blank between expected")
        with told("the tokenizer"):
            self._bpe = Bpe(BPE({token: i for i, token in enumerate(tokens)}, pairs))
            # "smollm": every digit is a token of its own, then GPT-2's split.
            self._bpe.pre_tokenizer = pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
            )
            self._bpe.decoder = decoders.ByteLevel()
            self._bpe.add_special_tokens(
                [AddedToken(t, special=True) for t, k in zip(tokens, types) if k == _CONTROL]
            )
            self._bpe.add_tokens([t for t, k in zip(tokens, types) if k == _USER_DEFINED])
            #: Every token's number is below this one.
            self.size = 1 + max(self._bpe.get_vocab().values(), default=-1)
        self.end = metadata.integer("tokenizer.ggml.eos_token_id", least=0, most=self.size - 1)
        self._template = self._compiled(metadata.text("tokenizer.chat_template"))

    @staticmethod
    def _compiled(template: str) -> Any:
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        with told("the chat template"):
            return ImmutableSandboxedEnvironment().from_string(template)

    def encode(self, text: str) -> list[int]:
        """Token ids; special tokens written out in ``text`` are recognised."""
        return list(self._bpe.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: list[int]) -> str:
        """The text of ``tokens``, without special tokens."""
        return str(self._bpe.decode(tokens, skip_special_tokens=True))

    def chat(self, user: str) -> list[int]:
        """Token ids of a conversation with one question, up to where the answer starts."""
        messages = [{"role": "user", "content": user}]
        with told("the chat template"):
            text = self._template.render(messages=messages, add_generation_prompt=True)
        tokens = self.encode(text)
        if not tokens:
            raise ModelError("the chat template: no token found in what it makes of a question")
        return tokens
