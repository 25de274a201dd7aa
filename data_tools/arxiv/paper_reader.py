"""One paper's source → its parts, in a process that can be killed: no paper stops the work, whatever is in it.

    with PaperReader(seconds=20) as reader:
        parts = reader.read(source_bytes)             # {"title", "abstract", "introduction", …} or raises ArchiveError

The process answers one paper after another over pipes. Its own alarms end it when a paper takes too long, also where Python would
not look (inside a regular expression), also when nobody listens any more; the next paper gets a new process. The limit is one of
processor time, so that a busy machine does not decide what is in a corpus; the clock on the wall may take ten times as long.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

from data_tools.archives.limits import ArchiveError
from data_tools.archives.source import read_folder, read_source

PATIENCE = 10  # seconds on the clock for one of processor time
MEMORY = 3 << 30  # bytes of address space for one paper


class PaperReader:
    def __init__(self, seconds: float = 5.0) -> None:
        self.seconds = seconds
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> PaperReader:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process:
            self.process.stdin.close()
            self.process.stdout.close()
            self.process.kill()
            self.process.wait()

    def read(self, source: bytes | Path, title: str = "") -> dict[str, Any]:
        """Parts of the paper in a source's bytes or a local folder; of several files the one with this title, if that decides.

        `main` says which file was taken and why, where others could have been it. Raises ArchiveError, also for time_limit, memory, crashed.
        """
        if self.process is None:
            self.process = self._start()
        head = {"folder": str(source)} if isinstance(source, Path) else {"bytes": len(source)}
        head["title"] = title
        try:
            self.process.stdin.write(json.dumps(head).encode() + b"\n")
            if not isinstance(source, Path):
                self.process.stdin.write(source)
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if not answer.endswith(b"\n"):
            raise self._buried()
        reply = json.loads(answer)
        if "reason" in reply:
            raise ArchiveError(reply["reason"], reply["detail"])
        return reply

    def _start(self) -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        return subprocess.Popen(
            [sys.executable, "-m", "data_tools.arxiv.paper_reader", str(self.seconds)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def _buried(self) -> ArchiveError:
        process, self.process = self.process, None
        process.stdout.close()
        code = process.wait()
        if code in (-signal.SIGPROF, -signal.SIGALRM):
            return ArchiveError("time_limit", f"not done within {self.seconds:g} s of processor time")
        return ArchiveError("memory" if code == -signal.SIGKILL else "crashed", f"the process reading it ended with {code}")


def serve(requests: BinaryIO, replies: BinaryIO, seconds: float) -> None:
    """Answer until the requests end."""
    import resource

    from data_tools.latex.limits import PaperError

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while line := requests.readline():
        head = json.loads(line)
        source = Path(head["folder"]) if "folder" in head else requests.read(head["bytes"])
        _alarms(seconds)
        try:
            reply = _parts(source, head["title"], seconds)
        except (ArchiveError, PaperError) as error:
            reply = {"reason": error.reason.replace(" ", "_"), "detail": error.detail}
        except MemoryError:
            reply = {"reason": "memory", "detail": f"more than {MEMORY} bytes"}
        except RecursionError:
            reply = {"reason": "nested_too_deeply", "detail": "more levels than Python allows"}
        _alarms(0)
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.flush()


def _alarms(seconds: float) -> None:
    """Without handlers: the system itself ends this process. 0 switches them off."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, seconds * PATIENCE)


def _parts(source: bytes | Path, title: str, seconds: float) -> dict[str, Any]:
    from data_tools.latex.limits import Deadline
    from data_tools.latex.main_file.choice import choose_main
    from data_tools.latex.paper import read_paper

    tree = read_folder(source) if isinstance(source, Path) else read_source(source)
    choice = choose_main(tree, Deadline(seconds * PATIENCE), title)
    paper = read_paper(tree, choice.name, seconds=seconds * PATIENCE)  # it looks at the clock; mostly the alarm comes first
    body = "\n\n".join(passage for section in paper.sections for passage in (section["title"], section["text"]) if passage)
    return {
        "title": paper.title,
        "abstract": paper.abstract,
        "introduction": paper.introduction,
        "conclusion": paper.conclusion,
        "body": body,
        "notes": paper.notes[:20],
        "main": {"file": choice.name, "because": choice.reason} if choice.rivals else None,
    }


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a stray print must not be taken for an answer
    serve(sys.stdin.buffer, answers, float(sys.argv[1]))
