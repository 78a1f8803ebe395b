"""The model's own tokenizer and chat template, built from the GGUF metadata."""

from __future__ import annotations

from typing import Any

from ._model import ModelError

# Token types of the GGUF specification that stand for themselves in a text.
_CONTROL, _USER_DEFINED = 3, 4


class Tokenizer:
    """Byte-level BPE of a GGUF file whose ``tokenizer.ggml.model`` is ``gpt2``."""

    def __init__(self, reader: Any) -> None:
        from tokenizers import AddedToken, decoders, pre_tokenizers
        from tokenizers import Tokenizer as Bpe
        from tokenizers.models import BPE

        def field(name: str) -> Any:
            found = reader.get_field(f"tokenizer.{name}")
            if found is None:
                raise ModelError(f"the GGUF metadata has no 'tokenizer.{name}'")
            return found.contents()

        kind, split = field("ggml.model"), field("ggml.pre")
        if (kind, split) != ("gpt2", "smollm"):
            raise ModelError(f"tokenizer '{kind}/{split}' found, 'gpt2/smollm' expected")
        tokens = field("ggml.tokens")
        merges = [tuple(merge.split(" ", 1)) for merge in field("ggml.merges")]
        types = field("ggml.token_type")
        self._bpe = Bpe(BPE({token: i for i, token in enumerate(tokens)}, merges))
        # "smollm": every digit is a token of its own, then GPT-2's split.
        self._bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
        )
        self._bpe.decoder = decoders.ByteLevel()
        self._bpe.add_special_tokens(
            [AddedToken(t, special=True) for t, k in zip(tokens, types) if k == _CONTROL]
        )
        self._bpe.add_tokens([t for t, k in zip(tokens, types) if k == _USER_DEFINED])
        self.end = int(field("ggml.eos_token_id"))
        self._template = str(field("chat_template"))

    def encode(self, text: str) -> list[int]:
        """Token ids; special tokens written out in ``text`` are recognised."""
        return list(self._bpe.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: list[int]) -> str:
        """The text of ``tokens``, without special tokens."""
        return str(self._bpe.decode(tokens, skip_special_tokens=True))

    def chat(self, user: str) -> list[int]:
        """Token ids of a conversation with one question, up to where the answer starts."""
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        template = ImmutableSandboxedEnvironment().from_string(self._template)
        messages = [{"role": "user", "content": user}]
        return self.encode(template.render(messages=messages, add_generation_prompt=True))
