"""Fields of a record beside its conversation: which of them say nothing of it, and which would be lost.

A question about a passage that stands in a field nobody reads is trained without the passage: such a record is refused by the
field's name. What is known to be about the record (ids, sources, scores), or already said in the conversation, is no loss.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from data_tools.chat.flags import is_flag
from data_tools.chat.turns import ROLES, Refused, Turn, nothing

# What chat files say about a record or a message as a thing: where it is from, who made it, when, how well, how long.
_ABOUT = {
    *("id", "ids", "uid", "uuid", "guid", "index", "idx", "hash", "name", "turn", "turn_identifier", "parent", "parents", "children"),
    *(
        "source",
        "dataset",
        "data_source",
        "origin",
        "subset",
        "split",
        "config",
        "url",
        "link",
        "license",
        "licence",
        "provenance",
        "paper",
    ),
    *("doi", "bibcode", "arxiv", "title", "author", "authors", "journal", "year", "version", "file", "filename", "path", "row", "line"),
    *("lang", "language", "languages", "locale", "country", "state", "category", "categories", "subcategory", "topic", "topics", "subject"),
    *(
        "subjects",
        "domain",
        "field",
        "task",
        "task_type",
        "task_name",
        "task_category",
        "type",
        "tag",
        "tags",
        "skill",
        "skills",
        "ability",
    ),
    *(
        "intent",
        "difficulty",
        "level",
        "quality",
        "input_quality",
        "rating",
        "ratings",
        "score",
        "scores",
        "reward",
        "rewards",
        "views",
        "likes",
    ),
    *(
        "model",
        "models",
        "model_name",
        "model_slug",
        "generator",
        "engine",
        "annotator",
        "worker",
        "user",
        "username",
        "avatar",
        "avatar_name",
    ),
    *("timestamp", "tstamp", "time", "date", "datetime", "created", "updated", "created_at", "updated_at", "create_time", "update_time"),
    *("finish_reason", "stop_reason", "status", "seed", "temperature", "top_p", "max_tokens", "max_new_tokens", "tokens", "length"),
    *(
        "token_counter",
        "system_fingerprint",
        "toxic",
        "redacted",
        "motivation_app",
        "skip_prompt_formatting",
        "enable_thinking",
        "hashed_ip",
    ),
    *("tool_choice", "parallel_tool_calls", "reward_model", "llama_guard_2"),
}
_ABOUT_ENDS = re.compile(
    r"(num|avg|total)_\w+|\w+_(id|ids|idx|index|uuid|hash|url|count|counts|score|scores|length|len|tokens|rating|reward)"
)
_SHORT = 300  # characters: what is longer is no name of a source or a topic, but a text that somebody may ask about
# Whatever these hold: notes of programs, and the answers of preference data that are not the one to be learned.
_NOTES = {
    *("meta", "metadata", "extra_info", "usage", "logprobs", "openai_moderation", "detoxify_moderation", "moderation", "header", "headers"),
    *("annotations", "cache_control", "gen_input_configs", "embedding", "embeddings", "chosen", "rejected", "rejected_response"),
}
# Other shapes of the same conversation, which some files carry beside it: what they say may stand in the answers, too.
_SHAPES = {
    "messages",
    "conversations",
    "conversation",
    "prompt",
    "completion",
    "question",
    "query",
    "instruction",
    "response",
    "answer",
    "output",
}
_READ_BY_ALL = {"system", "system_prompt", "tools", "functions"}


def says_nothing_of_it(name: str, value: Any) -> bool:
    """Whether a field is about its record or message, and no part of what is said."""
    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_").strip("_")
    if plain in _NOTES:
        return True
    short = not any(isinstance(leaf, str) and len(leaf) > _SHORT for leaf in _leaves(value))
    return short and (plain in _ABOUT or _ABOUT_ENDS.fullmatch(plain) is not None)


def refuse_unread(record: dict[str, Any], read: Collection[str], turns: Sequence[Turn]) -> None:
    """read: the fields that were made turns. Raises Refused with the names of those that would be lost."""
    lost = [name for name, value in record.items() if name not in read and _would_be_lost(str(name), value, turns)]
    if lost:
        raise Refused(f"unknown field beside the conversation: {', '.join(sorted(map(repr, lost))[:8])}")


def _would_be_lost(name: str, value: Any, turns: Sequence[Turn]) -> bool:
    if nothing(value) or name in _READ_BY_ALL or is_flag(name) or says_nothing_of_it(name, value):
        return False
    if name in ("text", "prompt") and isinstance(value, str) and _renders(name, value, turns):
        return False
    said = [turn.text for turn in turns if name in _SHAPES or turn.role != "assistant"]
    return not all(isinstance(leaf, str) and any(leaf.strip() in text for text in said) for leaf in _leaves(value))


def _renders(name: str, value: str, turns: Sequence[Turn]) -> bool:
    """Alpaca's `text` is the whole record in its own template; elsewhere a `text` may be what the question is about."""
    wanted = [turn.text for turn in turns if name == "text" or turn.role != "assistant"]
    return value.startswith("Below is") or all(text.strip() in value for text in wanted)


def _leaves(value: Any) -> Iterator[Any]:
    """Everything said in a field, names of roles left out."""
    if isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    elif value is not None and not (isinstance(value, str) and (not value.strip() or value.strip().lower() in ROLES)):
        yield value


def without(record: dict[str, Any], names: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """A record without the fields of these names, beside its conversation and in its messages; and those of them that said something."""
    seen: set[str] = set()

    def cut(fields: dict[str, Any]) -> dict[str, Any]:
        seen.update(name for name in names if not nothing(fields.get(name)))
        return {name: value for name, value in fields.items() if name not in names}

    def cut_inside(value: Any) -> Any:
        if isinstance(value, dict):
            return cut(value)
        return [cut(item) if isinstance(item, dict) else item for item in value] if isinstance(value, list) else value

    inside = {*_SHAPES, "instances"}
    kept = {name: cut_inside(value) if name in inside else value for name, value in cut(record).items()}
    return kept, sorted(seen)
