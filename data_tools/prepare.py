"""The road from raw files to token shards, as commands.

python -m data_tools.prepare arxiv  --metadata arxiv.json --out papers          papers → documents
python -m data_tools.prepare corpus papers/documents --tokenizer models/llama-2-7b --out shards/astro
python -m data_tools.prepare chat   chats.jsonl --tokenizer models/llama-2-7b --out shards/chat
python -m data_tools.prepare report papers                                      documents → one HTML page with figures
"""

import argparse
import importlib
import sys
from collections.abc import Callable

from data_tools.work.errors import message

COMMANDS = {  # name: (module with add_arguments(parser) and run(args), what it does)
    "arxiv": ("data_tools.arxiv.prepare", "arXiv metadata and LaTeX sources → cleaned, deduplicated documents"),
    "corpus": ("data_tools.corpus.prepare", "documents, or any text that datasets reads → token shards"),
    "chat": ("data_tools.chat.prepare", "conversations → token shards with a loss mask"),
    "report": ("data_tools.arxiv.report", "one HTML page with figures of what was kept and dropped"),
}


def main(words: list[str] | None = None) -> int:
    """Exit status: 0 all was made, 1 a message says what is wrong, 2 usage, 130 stopped by Ctrl-C."""
    words = sys.argv[1:] if words is None else words
    parser = argparse.ArgumentParser(
        prog="python -m data_tools.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = next((word for word in words if word in COMMANDS), None)
    run = None
    for name, (module_name, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name == chosen:  # only the chosen one is imported
            module = importlib.import_module(module_name)
            module.add_arguments(command)
            run = module.run
    args = parser.parse_args(words)
    assert run is not None, args
    return call(run, args)


def call(run: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> int:
    """Run a door's work; the user's mistakes and a full disk end in one message."""
    try:
        run(args)
    except (ValueError, RuntimeError, OSError) as error:
        if (said := message(error, getattr(args, "out", None) or "stdout", "; the same command goes on")) is None:
            raise
        print(f"error: {said}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
