"""What crosses between the processes that make a corpus, and lies in its work folder until it is finished."""

import json

import pytest

from data_tools.corpus.document import Rule
from data_tools.corpus.records import Part
from data_tools.corpus.tasks import Chunk, PartRead, ReadTask, ShardTask
from data_tools.shards.format import ShardFormat

RULE = Rule((("meta.year", "2019"),), ("title", "abstract"), "id", (("heldout", 0.1),))
TASK = ReadTask(Part("/in/a.jsonl", "lines", 70, start=0, end=70), RULE, "/out/.work/chunks", 3)
VALUES = [
    TASK,
    ReadTask(Part("owner/name", "hub", 0, shard=1, shards=4), RULE, "/out/.work/chunks", 0),
    PartRead(9, ["id", "text"], (4, "not JSON"), [Chunk("00003-00000.arrow", 8, 812, {0: 7, 1: 1})], {"not JSON": 1}, "ab" * 32),
    PartRead(0, [], None, [], {}, None),
    ShardTask(
        "/out/train/00000.arrow", 0, "astro", [("/out/.work/tokens/00003-00000.arrow", 0, 7)], ShardFormat("corpus", 32000, "cd" * 32)
    ),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_what_is_read_back_from_json_is_what_was_written(value):
    assert type(value).of_json(json.loads(json.dumps(value.to_json()))) == value


def test_a_task_lies_on_disk_as_unfinished_work_of_other_versions_has_it():
    part = '{"path": "/in/a.jsonl", "reader": "lines", "bytes": 70, "start": 0, "end": 70}'
    rule = '{"where": [["meta.year", "2019"]], "text_fields": ["title", "abstract"], "id_field": "id", "splits": [["heldout", 0.1]]}'
    assert json.dumps(TASK.to_json()) == f'{{"part": {part}, "rule": {rule}, "chunks": "/out/.work/chunks", "number": 3}}'
