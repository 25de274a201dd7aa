"""Talk to a model: `python launch/chat.py MODEL`, in the terminal, for one answer in a script, or on a page beside another model."""

import sys
from pathlib import Path

if not __package__:  # run as a script: put the checkout, not launch/, on the import path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import dataclasses
import json
import threading
from typing import Any

from data_tools.chat.conversations import Refused, Turn
from data_tools.files.atomic import write_atomically
from data_tools.work.errors import message

HELP = "/system TEXT sets the system prompt and starts anew, /reset starts anew, /save FILE keeps the conversation, /quit leaves"
EPILOG = """in the conversation:
  /system TEXT   set the system prompt and start anew; without TEXT: none
  /reset         start anew
  /save FILE     write the conversation as one JSON line that `python -m data_tools.prepare chat` reads
  /quit          leave (as does the end of input); Ctrl-C cuts an answer short

examples:
  python launch/chat.py runs/sft_7b/checkpoints/step_000500
  python launch/chat.py MODEL --prompt "What is a blazar?" --temperature 0 > answer.txt
  python launch/chat.py MODEL --web --compare OTHER_MODEL --port 8080
  python launch/chat.py MODEL --web --compare SECOND THIRD FOURTH --host 0.0.0.0     # many visitors, two models each, drawn by chance
  python launch/chat.py --results --ratings runs/ratings.jsonl                       # who won: a page and a JSON beside the file
"""


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    try:
        if args.results:
            from launch.talk.reading import write_results

            print("\n".join(write_results(args.ratings)))
            return 0
        from launch.talk.model import Sampling, Talker

        sampling = Sampling(args.max_new_tokens, args.temperature, args.seed)
        if args.web:
            from launch.talk.ratings import require_writable
            from launch.talk.web import serve

            require_writable(args.ratings)
            talkers = [Talker.load(folder, args.template, args.dtype) for folder in (args.model, *args.compare)]
            for talker in talkers:
                _say(f"{talker.name}: {talker.format}")
            return serve(talkers, sampling, args.ratings, args.host, args.port)
        talker = Talker.load(args.model, args.template, args.dtype)
        _say(talker.format)
        conversation = Conversation(talker, sampling, args.system)
        if args.prompt is not None:
            conversation.ask(sys.stdin.read() if args.prompt == "-" else args.prompt)
            return 0
        return talk(conversation)
    except (ValueError, OSError) as error:
        if (said := message(error, args.ratings)) is None:
            raise
        _say(f"chat: {said}")
        return 1
    except KeyboardInterrupt:
        return 130


class Conversation:
    """The turns so far; an answer goes to stdout while it is generated, everything else to stderr."""

    def __init__(self, talker: Any, sampling: Any, system: str | None):
        self._talker, self._sampling = talker, sampling
        self._saved: set[Path] = set()
        self._system = system
        self.turns = self._opening()

    def ask(self, text: str) -> None:
        """Stream the answer to `text`; a turn that fails or is empty leaves the conversation as it was. Raises ModelError, Refused."""
        asked = [*self.turns, Turn("user", text)]
        # each turn its own seed: the same question twice may be answered in two ways, a repeated session is the same
        seed = None if self._sampling.seed is None else self._sampling.seed + len(asked)
        fitted = self._talker.fit(asked, self._sampling)
        if len(fitted) < len(asked):
            _say(
                f"(longer than the model's {self._talker.context} tokens: it no longer sees the first {len(asked) - len(fitted)} messages)"
            )
        pieces: list[str] = []
        cut = None
        stop = threading.Event()
        try:
            answer = self._talker.answer(fitted, dataclasses.replace(self._sampling, seed=seed), stop)
            while True:
                pieces.append(next(answer))
                print(pieces[-1], end="", flush=True)
        except StopIteration as end:
            cut = end.value
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            _say("\n(cut short)")
        print(flush=True)
        if cut == "length":
            _say("(cut off: the answer is as long as it may be; --max-new-tokens N allows more)")
        if answer := "".join(pieces).strip():
            self.turns = [*asked, Turn("assistant", answer)]
        else:
            _say("(the model had nothing to say; the question is not kept)")

    def command(self, line: str) -> bool:
        """Obey a line that begins with a slash; False to leave."""
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        if word in ("/quit", "/exit"):
            return False
        if word == "/system":
            self._system = rest or None
            self.turns = self._opening()
            _say("(anew, with this system prompt)" if rest else "(anew, without a system prompt)")
        elif word == "/reset":
            self.turns = self._opening()
            _say("(anew)")
        elif word == "/save":
            _say(self._save(rest))
        else:
            _say(HELP if word == "/help" else f"{word}: no such command. {HELP}")
        return True

    def _opening(self) -> list[Turn]:
        return [Turn("system", self._system)] if self._system else []

    def _save(self, name: str) -> str:
        path = Path(name).expanduser()
        if not name or not any(turn.role == "assistant" for turn in self.turns):
            return "(nothing to save yet)" if name else "(save where? /save FILE)"
        if path.exists() and path not in self._saved:
            return f"({path} is there already and stays as it is; give another name)"
        messages = [{"role": turn.role, "content": turn.text} for turn in self.turns]
        line = json.dumps({"messages": messages, "meta": {"model": self._talker.name}}, ensure_ascii=False)
        try:
            write_atomically(path, f"{line}\n".encode())
        except OSError as error:
            return f"({path}: not saved: {error.strerror})"
        self._saved.add(path)
        return f"(saved {len(messages)} messages in {path})"


def talk(conversation: Conversation) -> int:
    """Read lines until /quit or the end of input; 1 if a question of a script got no answer."""
    from launch.talk.model import ModelError

    by_hand, failed = sys.stdin.isatty(), False
    if by_hand:
        import readline  # noqa: F401  # arrow keys and history in input()

        _say(HELP)
    while True:
        try:
            line = input(">>> " if by_hand else "").strip()
        except EOFError:
            break
        except KeyboardInterrupt:
            if not by_hand:
                raise
            _say("\n(/quit leaves)")
            continue
        if not line:
            continue
        if line.startswith("/"):
            if not conversation.command(line):
                break
            continue
        try:
            conversation.ask(line)
        except (ModelError, Refused) as error:
            _say(f"({error})")
            failed = not by_hand
    return int(failed)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    from data_tools.chat.template import NAMES

    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", type=Path, nargs="?", help="a checkpoint folder of this trainer, or any Hugging Face model folder")
    add("--prompt", metavar="TEXT", help="one answer on stdout, then exit; - reads the text from stdin")
    add("--system", metavar="TEXT", help="system prompt")
    add("--template", choices=NAMES, help="chat format (default: the tokenizer's own; plain completion where it has none)")
    add("--max-new-tokens", type=_between(int, 1, 1_000_000), metavar="N", help="longest answer (default 512, or half the context)")
    add("--temperature", type=_between(float, 0, 100), default=0.7, help="0: always the likeliest token (default 0.7)")
    add("--seed", type=_between(int, 0, 2**63 - 1), metavar="N", help="the same answers again")
    add("--dtype", choices=("auto", "bf16", "fp32"), default="auto", help="default: as saved on a GPU, fp32 on a CPU")
    add("--web", action="store_true", help="a page to talk on and to rate answers (needs the extra: pip install 'astrollama-trainer[web]')")
    add(
        "--compare",
        type=Path,
        nargs="+",
        default=[],
        metavar="OTHER",
        help="with --web: models beside the first, two at a time, names hidden until rated",
    )
    add("--results", action="store_true", help="sum up --ratings: win rates, Bradley-Terry, and a page to read every conversation")
    add("--host", default="127.0.0.1", help="with --web (default 127.0.0.1: this machine only)")
    add("--port", type=_between(int, 0, 65535), default=8080, help="with --web (default 8080; 0: any free one)")
    add("--ratings", type=Path, default=Path("runs/ratings.jsonl"), metavar="FILE", help="with --web (default runs/ratings.jsonl)")
    args = parser.parse_args(argv)
    if args.results == (args.model is not None):
        parser.error("--results takes --ratings and no model" if args.results else "which model? give its folder")
    folders = [args.model, *args.compare]
    if twice := [str(folder) for folder in args.compare if folders.count(folder) > 1]:
        parser.error(f"--compare {twice[0]}: named twice; a model cannot be compared with itself")
    if args.compare and not args.web:
        parser.error("--compare goes with --web")
    if args.web and (args.prompt is not None or args.system is not None):
        parser.error("--prompt and --system are for the terminal; on the page they are typed")
    return args


def _between(kind: type, low: float, high: float) -> Any:
    def cast(text: str) -> Any:
        value = kind(text)
        if not low <= value <= high:  # nan is not, either
            raise argparse.ArgumentTypeError(f"{text} is not from {low} to {high}")
        return value

    cast.__name__ = kind.__name__
    return cast


if __name__ == "__main__":
    sys.exit(main())
