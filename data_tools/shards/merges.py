"""The two spellings of a tokenizer.json's merges: `"a b"`, which all versions of tokenizers read, and `["a", "b"]`, known since 0.20.

Only a file laid out as tokenizers itself does is spelled anew, so that its other spelling can be told from either.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any

PAIRS, WORDS = re.compile(rb'"merges"\s*:\s*\[\s*\['), re.compile(rb'"merges"\s*:\s*\[\s*"')


@functools.lru_cache(maxsize=1)  # a run writes the same one into every checkpoint
def as_words(tokenizer_json: bytes) -> bytes:
    """tokenizer.json with merges as `"a b"`; as it is where that is its spelling, or the only one for it (a blank in a piece)."""
    found = _read(tokenizer_json) if PAIRS.search(tokenizer_json) else None
    if found is None or not all(_can_be_words(pair) for pair in found["model"]["merges"]):
        return tokenizer_json
    found["model"]["merges"] = [" ".join(pair) for pair in found["model"]["merges"]]
    return _text(found)


def spellings(tokenizer_json: bytes) -> tuple[bytes, ...]:
    """The file, and the same in the other spelling where it has one."""
    if (words := as_words(tokenizer_json)) != tokenizer_json:
        return tokenizer_json, words
    found = _read(tokenizer_json) if WORDS.search(tokenizer_json) else None
    if found is None or any(not isinstance(merge, str) or merge.count(" ") != 1 for merge in found["model"]["merges"]):
        return (tokenizer_json,)
    found["model"]["merges"] = [merge.split(" ") for merge in found["model"]["merges"]]
    return tokenizer_json, _text(found)


def _can_be_words(pair: Any) -> bool:
    return isinstance(pair, list) and all(isinstance(piece, str) and " " not in piece for piece in pair)


def _read(tokenizer_json: bytes) -> Any:
    """The content, None for a file that is laid out otherwise or is none: whoever opens it says so."""
    try:
        content = json.loads(tokenizer_json)
        is_ours = isinstance(content["model"]["merges"], list) and _text(content) == tokenizer_json
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return content if is_ours else None


def _text(content: Any) -> bytes:
    return json.dumps(content, indent=2, ensure_ascii=False).encode()
