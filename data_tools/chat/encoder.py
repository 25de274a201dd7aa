"""Pieces of a chat's text → ids, so that the pieces add up to what the tokenizer makes of the whole, and marks stay marks.

folder → `TextEncoder.load` → `run` (a text after a control id, or at the start) and `go_on` (the text after that text).
A control token comes from `marks`, by name, never out of a text: `</s>` in somebody's words is three ordinary tokens.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from data_tools.chat.turns import ChatError
from data_tools.tokens.tokenizer import Tokenizer

_LLAMA_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast")


class _Backend(Protocol):
    marks: dict[str, int]  # text of every token that a template may name → id
    scheme: str  # when a space is put before a text: "always", "first" (only where nothing stands before it) or "" (never)

    def spaced(self, text: str) -> list[int]: ...  # with the tokenizer's own space in front, where it puts one
    def bare(self, text: str) -> list[int]: ...
    def decode(self, ids: list[int]) -> str: ...


class TextEncoder:
    """The ids of a chat's texts. `bos`, `eos`: the tokenizer's own, as text, None where it has none; their ids are in `marks`."""

    def __init__(self, backend: _Backend, special: dict[str, Any]) -> None:
        self.marks, self.special = backend.marks, {name: text for name, text in special.items() if text in backend.marks}
        self.bos, self.eos = self.special.get("bos_token"), self.special.get("eos_token")
        self._backend = backend
        self._matched: set[str] = set()
        self._cuts: re.Pattern[str] | None = None
        self.protect(mark for mark in (self.bos, self.eos) if mark is not None)

    @classmethod
    def load(cls, folder: Path, *, as_transformers: bool = False) -> "TextEncoder":
        """Over the file that `Tokenizer` reads, tokenizer.model before tokenizer.json. Raises ChatError, ShardError.

        as_transformers: for a model's own template, the ids that transformers 5 makes: tokenizer.json first, and its rule for
        the space in front of a text.
        """
        folder, config, tokenizer = Path(folder), read_config(Path(folder)), Tokenizer.load(folder)
        path = tokenizer.file
        if as_transformers and (folder / "tokenizer.json").is_file():
            path = folder / "tokenizer.json"
        if path.suffix == ".json":
            backend: _Backend = _HuggingFace(path, config if as_transformers else {})
        else:
            scheme = "first" if as_transformers and config.get("legacy") is not True else "always"
            backend = _SentencePiece(path, tokenizer.control, scheme)
        names = {id: text for text, id in backend.marks.items()}
        special = {name: token_text(value) for name, value in config.items() if name.endswith("_token")}
        special |= {"bos_token": names.get(tokenizer.bos_id), "eos_token": names.get(tokenizer.eos_id)}
        return cls(backend, special)

    def run(self, text: str, *, first: bool) -> list[int]:
        """Ids of a text after a control id; `first`: nothing stands before it at all."""
        head, *rest = self._pieces(text)
        ids = self._backend.spaced(head) if first or self._backend.scheme == "always" else self._backend.bare(head)
        return ids + [id for piece in rest for id in self._backend.bare(piece)]

    def go_on(self, text: str) -> list[int]:
        """Ids of a text that follows another text: no space is put in front of it."""
        return [id for piece in self._pieces(text) for id in self._backend.bare(piece)]

    def decode(self, ids: list[int]) -> str:
        """The text of `go_on`'s ids, every leading space kept."""
        return self._backend.decode(ids)

    def settings(self) -> dict[str, Any]:
        """What tokenizer_config.json must say for transformers 5 to put spaces where we do: it has two rules for LLaMA-2's kind."""
        return {"legacy": self._backend.scheme == "always"} if self._backend.scheme else {}

    def whole(self, text: str) -> list[int] | None:
        """What tokenizer.json makes of a rendered chat, marks and all; None over SentencePiece, which has no such notion."""
        return self._backend.whole(text) if isinstance(self._backend, _HuggingFace) else None

    def protect(self, marks: Iterable[str]) -> None:
        """From now on these marks, written in a text, are ordinary tokens, also where the tokenizer itself would match them.

        Most tokenizers can be told so. Where not (a SentencePiece symbol "defined by the user"), the text is cut after the
        mark's first character, so that nothing sees the mark whole. Raises ChatError for a mark that cannot be cut.
        """
        self._matched |= {mark for mark in marks if self.marks[mark] in self._backend.bare(mark)}
        if self._matched:
            self._cuts = re.compile("|".join(re.escape(mark) for mark in sorted(self._matched)))
        for mark in self._matched:
            if self.marks[mark] in self.go_on(mark):
                raise ChatError(f"the tokenizer makes the control token {mark!r} of text that merely says so; use another template")

    def _pieces(self, text: str) -> list[str]:
        if self._cuts is None:
            return [text]
        cuts = [0, *(found.start() + 1 for found in self._cuts.finditer(text)), len(text)]
        return [text[start:end] for start, end in zip(cuts, cuts[1:])]


class _SentencePiece:
    """tokenizer.model twice: as it is, and without the space it puts before a text."""

    def __init__(self, path: Path, control: dict[str, int], scheme: str) -> None:
        import sentencepiece
        from google.protobuf.message import DecodeError
        from sentencepiece import sentencepiece_model_pb2

        proto = sentencepiece_model_pb2.ModelProto()
        try:
            proto.ParseFromString(path.read_bytes())
            self._as_is = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        except (RuntimeError, DecodeError) as error:
            raise ChatError(f"{path}: not a SentencePiece model ({error}); copy it again") from error
        proto.normalizer_spec.add_dummy_prefix = False
        self._bare = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        kind = sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED
        self.marks = {piece.piece: id for id, piece in enumerate(proto.pieces) if piece.type == kind} | control
        self.scheme = scheme

    def spaced(self, text: str) -> list[int]:
        return self._as_is.encode(text)

    def bare(self, text: str) -> list[int]:
        return self._bare.encode(text)

    def decode(self, ids: list[int]) -> str:
        return self._bare.decode(ids)


class _HuggingFace:
    """tokenizer.json, likewise; its special tokens, written in a text, are text."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        spec = _read_json(path) | {"post_processor": None, "truncation": None, "padding": None}
        self.scheme = _space_scheme(spec["normalizer"]) or _space_scheme(spec["pre_tokenizer"])
        if self.scheme and config.get("tokenizer_class") in _LLAMA_CLASSES:  # transformers 5 builds these anew, not from the file
            self.scheme = "always" if config.get("legacy") is True else "first"
            metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": self.scheme, "split": False}
            spec |= {"normalizer": None, "pre_tokenizer": metaspace}
        bare = {part: _without_space(spec[part], part) for part in ("normalizer", "pre_tokenizer", "decoder")}
        self._spaced, self._bare = _build(path, spec), _build(path, spec | bare)
        added = self._spaced.get_added_tokens_decoder().items()
        # a mark that swallows the spaces around it is none that ids can be proven with
        self.marks = {token.content: id for id, token in added if not (token.lstrip or token.rstrip)}

    def spaced(self, text: str) -> list[int]:
        return self._spaced.encode(text, add_special_tokens=False).ids

    def bare(self, text: str) -> list[int]:
        return self._bare.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        return self._bare.decode(ids, skip_special_tokens=False)

    def whole(self, text: str) -> list[int]:
        self._spaced.encode_special_tokens = False
        ids = self._spaced.encode(text, add_special_tokens=False).ids
        self._spaced.encode_special_tokens = True
        return ids


def _build(path: Path, spec: dict[str, Any]) -> Any:
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(spec))
    except Exception as error:  # the library raises nothing more precise
        raise ChatError(f"{path}: not a tokenizer that this version of tokenizers reads ({error}); copy it again") from error
    tokenizer.encode_special_tokens = True
    return tokenizer


def _space_scheme(node: Any) -> str:
    """A normalizer's or pre-tokenizer's `scheme`."""
    if node is None:
        return ""
    if node["type"] == "Sequence":
        return next((scheme for part in node.get("normalizers") or node["pretokenizers"] if (scheme := _space_scheme(part))), "")
    if node["type"] == "Metaspace":
        scheme = node.get("prepend_scheme") or ("always" if node.get("add_prefix_space") else "never")
        return scheme.replace("never", "")
    return "always" if node["type"] == "Prepend" or (node["type"] == "ByteLevel" and node["add_prefix_space"]) else ""


def _without_space(node: Any, part: str) -> Any:
    """The same normalizer, pre-tokenizer or decoder, which neither puts a space before a text nor takes one away."""
    if node is None or node["type"] == "Prepend" or (part == "decoder" and node["type"] == "Strip"):
        return None
    if node["type"] == "Metaspace":
        return {key: value for key, value in node.items() if key != "add_prefix_space"} | {"prepend_scheme": "never"}
    if node["type"] == "ByteLevel" and part == "pre_tokenizer":
        return node | {"add_prefix_space": False}
    if node["type"] == "Sequence":
        lists = {key: [kept for item in value if (kept := _without_space(item, part))] for key, value in node.items() if key != "type"}
        return node | lists
    return node


def read_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, {} where there is none. Raises ChatError."""
    path = folder / "tokenizer_config.json"
    return _read_json(path) if path.is_file() else {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ChatError(f"{path}: not JSON ({error}); copy it again") from error


def token_text(value: Any) -> Any:
    """A token as tokenizer_config.json names it: text, or an object with its text as `content`."""
    return value.get("content") if isinstance(value, dict) else value
