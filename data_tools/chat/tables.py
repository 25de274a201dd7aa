"""What tables (Arrow, parquet, `datasets`) do to objects of many shapes, undone.

A table gives every object each field of any other in its column, null where it had none, and stores lists of objects the other way
round. So `"band": null` stands in the arguments of a call that never named a band, and `role: null` beside `from`.
"""

from typing import Any


def without_nulls(value: Any) -> Any:
    """Objects without their null fields, at any depth; nulls of lists stay.

    A null that the author wrote looks the same in a table. Of the two, keeping the invented ones teaches every call all parameters
    of all tools; leaving out a written one says the same to the tool. Arguments stored as text keep theirs.
    """
    if isinstance(value, dict):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    if not isinstance(value, list):
        return value
    if value and all(isinstance(item, tuple) for item in value) and len({name for name, _ in value}) == len(value):
        return {name: without_nulls(item) for name, item in value}  # a map has only the keys it was given: its nulls are the author's
    return [without_nulls(item) for item in value]


def written_from_a_table(messages: Any) -> bool:
    """Whether these messages of a JSON file were once a table's: all have the same keys, the questions a null for a call, too.

    Else the nulls of a JSON file are its author's and stay: `"band": null` is what the assistant said.
    """
    if not isinstance(messages, list) or len(messages) < 2 or not all(isinstance(message, dict) for message in messages):
        return False
    calls = set(messages[0]) & {"tool_calls", "function_call"}
    return len({frozenset(message) for message in messages}) == 1 and any(message[name] is None for message in messages for name in calls)


def as_rows(value: Any) -> Any:
    """A list of objects as `datasets` may have turned it round, {name: [values]}, turned back; all else as it is."""
    if not isinstance(value, dict):
        return value
    columns = {name: column for name, column in value.items() if column is not None}
    if not columns or not all(isinstance(column, list) and len(column) == len(next(iter(columns.values()))) for column in columns.values()):
        return value
    return [dict(zip(columns, row)) for row in zip(*columns.values())]
