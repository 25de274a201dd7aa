"""What a folder of documents holds, as `prepare arxiv` makes it, and `prepare corpus` and `prepare report` read it.

documents/train-007.jsonl.gz    one JSON a line: id, text, meta
heldout/heldout-007.jsonl.gz    the same, of the papers held out: a corpus made of documents/ holds none of them
dropped/dropped-007.jsonl.gz    the same, with reason and detail
counts.json                     how many were read, kept, dropped and why, by input
provenance.json                 the record of what was made from what, with the hash of each file; written last: without it nothing is finished
"""

import re

FORMAT_VERSION = 1
RECORD = "provenance.json"
COUNTS = "counts.json"
FOLDERS = {"train": "documents", "heldout": "heldout", "dropped": "dropped"}  # by side
MADE = re.compile(rf"({'|'.join(f'{folder}/{side}' for side, folder in FOLDERS.items())})-\d{{3}}\.jsonl\.gz")


def file_name(side: str, bucket: int) -> str:
    """A file's path in the folder; `MADE` matches it."""
    return f"{FOLDERS[side]}/{side}-{bucket:03d}.jsonl.gz"
