r"""TeX of a passage whose formulas are marks already → words a reader would read.

Citations (citations.py) are gone or names: a model trained on keys or on a mark behind every claim would learn to write
them; a sentence without its subject would be worse. Footnotes go, references become their numbers, lists keep a line an item.
A command that no table knows leaves what its braces hold.
"""

import functools
import re
import unicodedata
from dataclasses import dataclass, field

from data_tools.latex.citations import CITE, Work, cite_words, cites_by_name
from data_tools.latex.formulas import CLOSE
from data_tools.latex.layout import accent_of_number, skip_layout
from data_tools.latex.limits import Deadline
from data_tools.latex.macros import bracket, group, same_line
from data_tools.latex.names import ACCENTS, BOXES, CONTROL_SYMBOLS, DROP, ENVIRONMENT_ARGUMENTS, FIRST, MACHINERY, SYMBOLS
from data_tools.latex.references import ACRONYM, acronym_words
from data_tools.latex.tidy import BREAK, HEADING, tidy

MAX_ARGUMENT_DEPTH = 6
_TOKEN = re.compile(r"\\([a-zA-Z@]+)\*?|\\(.)|([{}])|([~&#])", re.S)
_SPACE = re.compile(r"[ \t]*\n?[ \t]*")
_ENVIRONMENT_NAME = re.compile(r"\s{0,9}\{([a-zA-Z@]{1,60}\*?)\}")
# what an accent stands on where no braces are: a letter, a letter by name, or another accent with its letter
_ACCENTED = re.compile(
    r"[^\W\d_]|\\(?:[ijoOlL]|ae|AE|oe|OE|aa|AA|ss|[dt]h|D[HJ]|dj|ng)(?![a-zA-Z])[ \t]?"
    r"|\\(?:[`'^\"~=.]|[uvHcdbkrt](?![a-zA-Z]))[ \t]{0,3}(?:\{[^{}]{0,20}\}|\\[ij](?![a-zA-Z])[ \t]?|[^\W\d_])"
)
_LETTERS = frozenset("o O l L ss ae AE oe OE aa AA i j dh DH th TH dj DJ ng NG SS".split())  # parts of words: `\\o re`
_ANGLED = re.compile(r"<([^<>\n]{0,200})>(?=[\[{])")
_FUNCTION_WORD = re.compile(
    r"\s(?:and|or|for|at|in|on|is|are|was|to|from|of|with|the|as|by|wide|per|we|while|range|long|but|than)\b|\s[^a-zåöé\\]"
)
# an author's or a package's own, `\figref{fig:a}`, `\crefrange{eq:a}{eq:b}`
_REFERS = re.compile(r"[a-zA-Z]{0,20}[rR]ef(?:range|s)?\*?")
_KEYS = re.compile(r"\*?\s?\{([^{}\n]{1,300})\}")
_TABS = frozenset("=><+-'`")
_MEASURE = re.compile(r"\[\s{0,3}-?\d{0,4}\.?\d{1,4}\s{0,3}(?:pt|em|ex|cm|mm|in|\\[a-z]{1,20}width)\s{0,3}\]")
_MACHINERY = re.compile(MACHINERY)
_HEADING = frozenset("part chapter section subsection subsubsection".split())
_REFERENCE = frozenset("ref eqref autoref cref Cref pageref nameref subref vref labelcref fullref".split())


@dataclass
class Context:
    """What the rest of the paper says about a passage's labels, citation keys and acronyms."""

    labels: dict[str, tuple[str, str]] = field(default_factory=dict)
    names: dict[str, Work] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    acronyms: dict[str, tuple[str, str]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)


def prose(text: str, context: Context, deadline: Deadline) -> str:
    """Paragraphs of plain words, a blank line between them; formulas stay marks, headings inside begin with HEADING."""
    return tidy(_Reader(text, context, deadline).run())


class _Reader:
    def __init__(self, text: str, context: Context, deadline: Deadline) -> None:
        self._text, self._context, self._deadline = text, context, deadline
        self._at = 0
        self._out: list[str] = []
        self._depth = 0  # of arguments read as words inside arguments
        self._lists: list[int | None] = []
        self._row: int | None = None  # in a tabbing, where in `_out` its row began
        self._closings: dict[int, tuple[str, int]] = {}  # at this brace: put this, go on there

    def run(self) -> str:
        display = False  # an environment's edge or a line's end by itself keeps its line
        while token := _TOKEN.search(self._text, self._at):
            self._deadline.check(every=2048)
            passage = self._text[self._at : token.start()]
            self._out.append(passage if display else same_line(self._out, passage))
            self._at = token.end()
            word, symbol, brace, other = token.groups()
            display = word in ("begin", "end") or symbol == "\\"
            if word:
                self._word(word)
            elif symbol:
                self._symbol(symbol)
            elif brace == "}" and token.start() in self._closings:
                shown, self._at = self._closings.pop(token.start())
                self._out.append(shown)
            elif other:
                self._out.append("" if other == "#" else " ")
        self._out.append(self._text[self._at :] if display else same_line(self._out, self._text[self._at :]))
        return "".join(self._out)

    # -- arguments

    def _options(self) -> list[str]:
        """The [optional arguments] that come next."""
        found = []
        while len(found) < 4:
            at = _SPACE.match(self._text, self._at).end()
            option = bracket(self._text, at) if self._text.startswith("[", at) else None
            if option is None:
                return found
            found.append(option[0])
            self._at = option[1]
        return found

    def _argument(self) -> str | None:
        at = _SPACE.match(self._text, self._at).end()
        found = group(self._text, at, self._deadline) if self._text.startswith("{", at) else None
        if found is None:
            return None
        self._at = found[1]
        return found[0]

    def _plain(self, text: str) -> str:
        """A short argument as words on one line."""
        if self._depth == MAX_ARGUMENT_DEPTH:
            return re.sub(r"\\[a-zA-Z@]+\s?|[\\{}]", "", text).replace("~", " ").strip()
        if not re.search(r"[\\{}~&#]", text):
            return " ".join(text.split())
        reader = _Reader(text, self._context, self._deadline)
        reader._depth = self._depth + 1
        return " ".join(reader.run().replace(BREAK, " ").replace(HEADING, "").split())

    # -- commands

    def _word(self, word: str) -> None:
        if word in ("begin", "end"):
            self._environment(word)
        elif word == "item":
            self._item()
        elif self._row is not None and word in ("a", "kill"):
            self._tab(word)
        elif CITE.fullmatch(word):
            self._cite(word)
        elif word in _REFERENCE or _REFERS.fullmatch(word) and self._label_follows():
            self._reference(word)
        elif word in _HEADING:
            self._heading(f"\n\n{HEADING}", "\n\n")
        elif word in ("paragraph", "subparagraph"):
            self._heading("\n\n", " ")
        elif layout := skip_layout(word, self._text, self._at):
            self._out.append(layout[0])
            self._at = layout[1]
        elif word in DROP:
            self._options()
            for _ in range(DROP[word]):
                self._options()
                self._argument()
            if word in BOXES:
                self._options()
        elif word in ACCENTS:
            self._accent(ACCENTS[word])
        elif word == "accent":
            self._numbered_accent()
        elif word in ("url", "nolinkurl", "path", "lstinline", "verb"):
            self._literal(word)
        elif word in ("ion", "element"):
            self._ion()
        elif word in ACRONYM:
            self._acronym(word)
        elif word in FIRST:
            self._first()
        elif word in ("enquote", "textquote"):
            self._heading('"', '"')
        elif word in SYMBOLS:
            self._out.append(SYMBOLS[word])
            if word in _LETTERS and self._text[self._at : self._at + 1] in (" ", "\n") and not (word == "AA" and self._is_unit()):
                self._at += 1
        else:
            self._unknown(word)

    def _is_unit(self) -> bool:
        r"""Whether an \\AA is the ångström that its author meant to stand alone, as in `5000 \\AA wide`, though TeX joins the two."""
        before = "".join(self._out[-4:-1])[-40:].rstrip(" ~\n\u00a0({")
        return (
            before[-1:].isdecimal() or before.endswith((CLOSE, "/", "in", "per")) or _FUNCTION_WORD.match(self._text, self._at) is not None
        )

    def _unknown(self, word: str) -> None:
        if _MACHINERY.fullmatch(word):
            while self._text.startswith(("{", "["), self._at):
                before = self._at
                self._options()
                if self._text.startswith("{", self._at):
                    self._argument()
                if self._at == before:
                    break
            return
        shown = symbols().get(word, "")
        self._out.append(shown)
        if not shown and (measure := _MEASURE.match(self._text, self._at)):
            self._at = measure.end()
        if not shown and self._text.startswith("[", self._at):
            option = bracket(self._text, self._at)
            if option and self._text.startswith("{", option[1]):
                self._at = option[1]

    def _symbol(self, symbol: str) -> None:
        if self._row is not None and symbol in _TABS:
            self._out.append(" ")
            return
        if symbol in ACCENTS:
            self._accent(ACCENTS[symbol])
            return
        self._out.append(CONTROL_SYMBOLS.get(symbol, ""))
        if symbol == "\\" and self._text.startswith("*", self._at):
            self._at += 1
        if symbol == "\\" and self._row is not None:
            self._row = len(self._out)
        if symbol == "\\" and self._text.startswith("[", self._at):
            option = bracket(self._text, self._at)
            if option and len(option[0]) < 20:
                self._at = option[1]

    def _tab(self, word: str) -> None:
        r"""`\a'e`, an accent in a tabbing, and `\kill`, whose row only sets the tabs."""
        accent = self._text[self._at : self._at + 1]
        if word == "kill":
            del self._out[self._row :]
        elif accent in ("'", "`", "="):
            self._at += 1
            self._accent(ACCENTS[accent])

    def _accent(self, mark: str) -> None:
        at = _SPACE.match(self._text, self._at).end()
        found = group(self._text, at, self._deadline) if self._text.startswith("{", at) else None
        bare = None if found else _ACCENTED.match(self._text, at)
        if not found and not bare:
            return
        self._at = found[1] if found else bare.end()
        letters = self._plain(found[0] if found else bare[0])
        # an accented i loses its dot by itself, so the undotted one is not needed
        first = {"ı": "i", "ȷ": "j"}.get(letters[:1], letters[:1])
        self._out.append(unicodedata.normalize("NFC", first + mark) + letters[1:] if first.isalpha() else letters)

    def _numbered_accent(self) -> None:
        found = accent_of_number(self._text, self._at)
        if found:
            self._at = found[1]
            self._accent(ACCENTS[found[0]])

    def _environment(self, edge: str) -> None:
        found = _ENVIRONMENT_NAME.match(self._text, self._at)
        if found is None:
            return
        self._at = found.end()
        name = found[1]
        if name == "tabbing":
            self._row = len(self._out) if edge == "begin" else None
        if name in ("itemize", "enumerate", "description", "compactitem", "compactenum"):
            if edge == "begin":
                self._lists.append(0 if "enum" in name else None)
            elif self._lists:
                self._lists.pop()
            self._out.append("\n\n" if edge == "end" and not self._lists else "")
        if name.startswith("linenumbers"):
            self._at = skip_layout("linenumbers", self._text, self._at)[1] if edge == "begin" else self._at
        elif edge == "begin":
            self._options()
            for _ in range(ENVIRONMENT_ARGUMENTS.get(name, 0)):
                self._argument()
        elif name in ("quote", "quotation", "center"):
            self._out.append("\n\n")

    def _item(self) -> None:
        options = self._options()
        if options:
            label = self._plain(options[0])
            mark = f"{label} " if label else "- "
        elif self._lists and self._lists[-1] is not None:
            self._lists[-1] += 1
            mark = f"({self._lists[-1]}) "
        else:
            mark = "- "
        self._out.append(BREAK + mark)

    def _heading(self, before: str, after: str) -> None:
        self._options()
        at = _SPACE.match(self._text, self._at).end()
        found = group(self._text, at, self._deadline) if self._text.startswith("{", at) else None
        if found is None:
            return
        if found[0].strip(" ~\n"):
            self._out.append(before)
            self._closings[found[1] - 1] = (after, found[1])
        self._at = at + 1

    def _first(self) -> None:
        at = _SPACE.match(self._text, self._at).end()
        found = group(self._text, at, self._deadline) if self._text.startswith("{", at) else None
        second = group(self._text, found[1], self._deadline) if found and self._text.startswith("{", found[1]) else None
        if second:
            self._closings[found[1] - 1] = ("", second[1])

    def _literal(self, word: str) -> None:
        argument = self._argument()
        if argument is None and word in ("verb", "lstinline"):
            found = re.compile(r"\*?([^a-zA-Z\s*\\])([^\n]{0,300}?)\1").match(self._text, self._at)
            if found:
                self._at, argument = found.end(), found[2]
        if argument:
            self._out.append(re.sub(r"\\(?:[a-zA-Z]+|(?=[^a-zA-Z]))|[{}]", "", re.sub(r"\s+", "", argument) if word == "url" else argument))

    def _ion(self) -> None:
        element, stage = self._argument() or "", self._argument() or ""
        stage = self._plain(stage)
        if stage.isdecimal() and 0 < int(stage) < 30:
            stage = "X" * (int(stage) // 10) + ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX")[int(stage) % 10]
        elif re.fullmatch(r"[ivx]{1,6}", stage):
            stage = stage.upper()
        self._out.append(f"{self._plain(element)} {stage}".rstrip())

    def _acronym(self, word: str) -> None:
        self._options()
        key = self._argument()
        if key is None:
            return
        short, long = self._context.acronyms.get(key.strip(), (key.strip(), ""))
        self._out.append(acronym_words(word, self._plain(short), self._plain(long), new=key not in self._context.seen))
        self._context.seen.add(key)

    # -- marks

    def _label_follows(self) -> bool:
        """Whether what comes next in braces is a label's key, of the paper or by its look."""
        found = _KEYS.match(self._text, self._at)
        return found is not None and all(key.strip() in self._context.labels or ":" in key for key in found[1].split(","))

    def _reference(self, word: str) -> None:
        if self._text.startswith("*", self._at):
            self._at += 1
        keys = self._argument()
        if word.endswith("range"):
            keys = f"{keys},{self._argument() or ''}"
        known = [self._context.labels[key.strip()] for key in (keys or "").split(",") if key.strip() in self._context.labels]
        numbers = [number for _, number in known if number]
        if word in ("pageref", "nameref") or not numbers:
            return
        last = " to " if word.endswith("range") else " and "
        shown = numbers[0] if len(numbers) == 1 else ", ".join(numbers[:-1]) + last + numbers[-1]
        if word.lower().endswith("namecref"):
            shown = known[0][0] if word == "nameCref" else known[0][0].lower()
        elif word == "eqref":
            shown = f"({shown})"
        elif word in ("autoref", "cref", "Cref", "vref", "fullref", "crefrange", "Crefrange", "vrefrange"):
            shown = f"{known[0][0]}{'s' if len(numbers) > 1 else ''} {shown}".lstrip()
        self._out.append(shown)

    def _cite(self, word: str) -> None:
        if word == "citetext":
            self._heading("(", ")")
            return
        angled = _ANGLED.match(self._text, self._at)  # apacite's note before
        self._at = angled.end() if angled else self._at
        self._deadline.check(every=64)
        notes = ([angled[1]] if angled else []) + self._options()
        keys = self._argument()
        if keys is None:
            return
        if word == "defcitealias":
            self._argument()
            return
        while word.endswith("cites"):  # biblatex's [see][3]{a}[also][]{b}
            notes = notes or self._options()
            self._options()
            if (more := self._argument()) is None:
                break
            keys += f",{more}"
        keys = [key.strip() for key in keys.split(",")]
        before = "".join(self._out[-40:])[-300:].replace("~", " ")
        if "alias" in word and all(key in self._context.aliases for key in keys):
            shown = " and ".join(self._plain(self._context.aliases[key]) for key in keys)
            self._out.append(f"({shown})" if word == "citepalias" else shown)
            return
        works = [self._context.names.get(key) for key in keys]
        said = [work and (self._plain(work[0]), self._plain(work[1])) for work in works]
        pre, post = (self._plain(note) for note in ([*notes, ""] if len(notes) > 1 or angled else ["", *notes, ""])[:2])
        self._out.append(cite_words(word, said, (pre, post), cites_by_name(word, before, self._text[self._at : self._at + 60])))


@functools.cache
def symbols() -> dict[str, str]:
    """Text of the argument-less symbols that pylatexenc knows (30 ms once; its parser, at 0.25 MB/s, is not used)."""
    from pylatexenc.latex2text import get_default_latex_context_db

    return {
        spec.macroname: spec.simplify_repl
        for spec in get_default_latex_context_db().iter_macro_specs()
        if isinstance(spec.simplify_repl, str) and 0 < len(spec.simplify_repl) <= 2 and "%" not in spec.simplify_repl
    }
