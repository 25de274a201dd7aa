r"""Which question-and-answer pairs of a model's reply may be kept: reply → pairs → kept, or dropped with a reason.

A pair is grounded in its paper when, in question and answer together,

1. every number occurs in the paper: digit for digit after `1,000` = `1{,}000` = 1000 and 0.70 = .7; a rounded number is another number.
   Number words from three to twelve count as numbers, in the paper all from zero to twelve do;
2. every name occurs in the paper: a word with a capital inside (JWST, HII, LambdaCDM) or at its head where no sentence starts; a capital
   at a sentence's head counts only before another one (Edwin Hubble). Letter case, possessives and plurals do not matter;
3. at least `MIN_OVERLAP` of the answer's content words occur in the paper: four letters or more, no stop words, compared by their first six
   letters.

The rules are strict on purpose: a good pair lost costs a fraction of a cent, a wrong number learned stays. All here are pure functions.
"""

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

MIN_OVERLAP = 0.6
MIN_QUESTION, MIN_ANSWER = 10, 20  # characters
LONGEST_REPLY = 200_000  # characters; nothing sane is longer, and a hostile one would take minutes to search
REASONS = (
    "no answer", "malformed", "too short", "not self-contained", "number not in the paper", "name not in the paper",
    "too few of the paper's words", "asked before", "more than asked for",
)  # fmt: skip

_NUMBER_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_STOP = frozenset(
    """
    above about after again against along also although among another because been before being below between both cannot could
    does doing down during each either else even ever every from further have having hence here into itself just like made make
    many more most much must nearly neither nevertheless only other over rather same several shall should since some such than
    that their them then there therefore these they this those through thus toward towards under until upon very were what when
    where whereas whether which while whose will with within without would your
    """.split()
)
_GREEK = {chr(c): unicodedata.name(chr(c)).split()[-1].lower() for c in range(0x3B1, 0x3CA) if c != 0x3C2}
_GREEK |= {k.upper(): v.capitalize() for k, v in _GREEK.items()}
_GREEK["λ"], _GREEK["Λ"] = "lambda", "Lambda"  # Unicode's own name is LAMDA
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_LEANS_ON_PAPER = re.compile(
    r"\b(?:(?:this|present|given|above) (?:paper|study|work|article|text|passage|abstract|excerpt|manuscript)"
    r"|the (?:paper|article|text|passage|abstract|excerpt|manuscript|authors?)\b|(?:figure|fig\.|table|section|equation|eq\.) \d)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Pair:
    question: str
    answer: str
    dropped: str | None = None  # one of REASONS
    detail: str = ""  # what exactly was not there


class Evidence:
    """A paper's text, as the rules look at it."""

    def __init__(self, text: str):
        plain = plain_text(text)
        words = [word.casefold() for word in _words(plain)]
        self.words = {form for word in words for form in _forms(word)}
        self.words |= {match.group(1) for word in words if (match := re.match(r"([^\W\d_]{2,})\d", word))}  # NGC of NGC1068
        self.stems = {word[:6] for word in self.words}
        self.numbers = set(_numbers(plain)) | {str(i) for i, word in enumerate(_NUMBER_WORDS) if word in self.words}
        self.squashed = _squash(plain)

    def has_name(self, name: str) -> bool:
        if any(form in self.words for form in _forms(name.casefold())):
            return True
        mixed = any(c.isupper() or c.isdigit() for c in name[1:])
        return mixed and len(name) >= 4 and _squash(name) in self.squashed  # KIC8462852 of "KIC 8462852"; never Orion of "superior ions"

    def has_word(self, word: str) -> bool:
        return any(form[:6] in self.stems for form in _forms(word.casefold())) or self.has_name(word)


def judge(reply: str, paper: str, wanted: int) -> list[Pair]:
    """All pairs of one reply, each kept (`dropped is None`) or dropped; one `malformed` pair when the reply holds none."""
    if len(reply) > LONGEST_REPLY:
        return [Pair("", "", "malformed", f"{len(reply)} characters")]
    evidence, seen, kept, pairs = Evidence(paper), set(), 0, []
    for found in parse(reply):
        reason, detail = _fault(found, evidence)
        key = _squash(found.question)
        if reason is None and key in seen:
            reason = "asked before"
        if reason is None and kept == wanted:
            reason = "more than asked for"
        seen.add(key)
        kept += reason is None
        pairs.append(Pair(found.question, found.answer, reason, detail))
    return pairs or [Pair("", "", "malformed", f"no question-and-answer object in: {reply[:200]}")]


def parse(reply: str) -> Iterator[Pair]:
    """Every JSON object with question and answer, wherever it stands: in a list, a code fence, a line, or a list that was cut short."""
    text, at, decoder = _repair_escapes(reply), 0, json.JSONDecoder(strict=False)
    while start := re.compile(r'\{\s*"').search(text, at):
        try:
            value, at = decoder.raw_decode(text, start.start())
        except (json.JSONDecodeError, RecursionError):
            at = start.end()
        else:
            yield from _pairs_in(value)


def _pairs_in(value: object) -> Iterator[Pair]:
    if isinstance(value, list):
        for item in value:
            yield from _pairs_in(item)
    elif isinstance(value, dict) and ("question" in value or "answer" in value):
        question, answer = value.get("question"), value.get("answer")
        if isinstance(question, str) and isinstance(answer, str):
            yield Pair(question.strip(), answer.strip())
        else:
            yield Pair(str(question), str(answer), "malformed", "question and answer must both be text")
    elif isinstance(value, dict):
        for item in value.values():
            yield from _pairs_in(item)


def _repair_escapes(reply: str) -> str:
    r"""Models write LaTeX into JSON: `\alpha` is not an escape at all, `\times` would become a tab and `imes`."""
    tex = r"\\(?=[bfrt][a-zA-Z]|n(?:u|abla|eq?|ot|i)\b|u(?![0-9a-fA-F]{4})|[^\"\\/bfnrtu])"
    return re.sub(r"\\\\|" + tex, lambda match: "\\\\", reply)  # `\\` first: it is one escape already


def _fault(pair: Pair, evidence: Evidence) -> tuple[str | None, str]:
    """(reason, detail) of the first rule the pair breaks; (None, "") for a sound pair."""
    if pair.dropped:
        return pair.dropped, pair.detail
    if any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in pair.question + pair.answer):
        return "malformed", "control characters"
    if len(pair.question) < MIN_QUESTION or len(pair.answer) < MIN_ANSWER:
        return "too short", f"{len(pair.question)} and {len(pair.answer)} characters"
    if leaning := _LEANS_ON_PAPER.search(pair.question) or _LEANS_ON_PAPER.search(pair.answer):
        return "not self-contained", leaning.group()
    question, answer = plain_text(pair.question), plain_text(pair.answer)
    for number in (*_numbers(question), *_numbers(answer), *_spelled_numbers(f"{question} {answer}")):
        if number not in evidence.numbers:
            return "number not in the paper", number
    for name in (*_names(question), *_names(answer)):
        if not evidence.has_name(name):
            return "name not in the paper", name
    content = [word for word in _words(answer) if len(word) >= 4 and word.casefold() not in _STOP]
    share = sum(evidence.has_word(word) for word in content) / max(1, len(content))
    if share < MIN_OVERLAP:
        return "too few of the paper's words", f"{share:.2f} of {len(content)}"
    return None, ""


def plain_text(text: str) -> str:
    r"""Text in which `H$\alpha$`, `Hα` and `Halpha` are one word, `10⁵` is `10^5`, and `1{,}000` is `1000`."""
    text = re.sub(r"(?<=\d)(?:,|\{,\}|\\,|\u2009|\u202f)(?=\d{3}(?!\d))", "", text)
    text = re.sub("[⁻⁰¹²³⁴-⁹]+", lambda match: "^" + match.group().translate(_SUPERSCRIPTS), text)
    text = unicodedata.normalize("NFKC", text).replace("’", "'")
    text = "".join(_GREEK.get(c, c) for c in text)
    text = re.sub(r"\\(?:var)?(" + "|".join(_GREEK.values()) + r")(?![a-zA-Z])\s?", r"\1", text)
    return re.sub(r"[${}~]", "", re.sub(r"\\[a-zA-Z]+|\\.", " ", text))


def _numbers(plain: str) -> list[str]:
    return [f"{Decimal(number).normalize():f}" for number in re.findall(r"\d+(?:\.\d+)?|(?<!\d)\.\d+", plain, re.ASCII)]


def _spelled_numbers(plain: str) -> list[str]:
    words = {word.casefold() for word in _words(plain)}
    return [str(i) for i, word in enumerate(_NUMBER_WORDS) if i >= 3 and word in words]


def _words(plain: str) -> list[str]:
    return re.findall(r"[^\W\d_][\w'-]*", plain)


def _names(plain: str) -> Iterator[str]:
    words = list(re.finditer(r"[^\W\d_][\w']*", plain))
    for i, match in enumerate(words):
        word = match.group()
        inner = any(c.isupper() for c in word[1:]) or (word[0].isupper() and any(c.isdigit() for c in word))
        starts = re.search(r"(?:^|[.!?:;\"(\[*\n])\s*$", plain[max(0, match.start() - 4) : match.start()]) is not None
        before_capital = i + 1 < len(words) and words[i + 1].group()[0].isupper() and plain[match.end() : words[i + 1].start()] == " "
        opener = starts and (not before_capital or word.casefold() in _OPENERS or word.endswith(("ing", "ed", "ly")))
        if inner or (word[0].isupper() and word != "I" and not opener):
            yield word


_OPENERS = _STOP | frozenset(
    "a an are as at but by can do for he how if in is it no not of on or our so the to was we who why yes did has had".split()
)


def _forms(word: str) -> set[str]:
    """A word and its parts, with and without possessive and plural: `sloan-type's` → sloan-type, sloan, type …"""
    whole = re.sub(r"'s?$", "", word).strip("'-")
    parts = {whole, *whole.split("-")} - {""}
    return parts | {part[:-1] for part in parts if len(part) > 3 and part.endswith("s")}


def _squash(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum())
