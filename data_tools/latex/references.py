r"""Labels and acronyms of a paper → what \ref and \ac show: the numbers that LaTeX would print, counted as its classes count.

A book's sections, figures and equations count within its chapters, RevTeX's sections in Roman numerals, appendices in letters,
the rows of a display one by one unless \nonumber or a \tag says otherwise.
"""

import re
from collections import Counter

from data_tools.latex.layout import roman
from data_tools.latex.limits import Deadline
from data_tools.latex.names import MATH_ENVIRONMENTS

_COUNTED = re.compile(
    r"\\(?:begin\s{0,9}\{(?P<begin>[a-zA-Z]{1,40})(?P<starred>\*?)\}|end\s{0,9}\{(?P<end>[a-zA-Z]{1,40})\*?\}"
    r"|(?P<level>part|chapter|(?:sub){0,2}section)(?![a-zA-Z@])\s{0,9}(?P<bare>\*?)|label\s{0,9}\{(?P<label>[^{}\n]{1,200})\}"
    r"|(?P<matter>appendix|frontmatter|mainmatter|backmatter)(?![a-zA-Z])|item(?![a-zA-Z])\s{0,9}(?P<item>\[?)"
    r"|(?P<caption>(?:fig)?caption(?:of)?|sub(?:float|figure|captionbox|caption|table)|ContinuedFloat)(?![a-zA-Z*])(?:\s{0,9}\{(?P<of>figure|table)\})?"
    r"|(?P<count>(?:set|addto)counter)\s{0,9}\{(?P<counter>[a-zA-Z]{1,40})\}\s{0,9}\{\s{0,9}(?P<value>-?\d{1,6})\s{0,9}\}"
    r"|renewcommand\s{0,9}\{\\the(?P<shown>[a-z]{4,14})\}\s{0,9}\{(?P<form>(?:[^{}]|\{(?:[^{}]|\{[^{}]{0,80}\}){0,80}\}){0,200})\}"
    r"|(?:numberwithin|counterwithin\*?)\s{0,9}\{(?P<inner>[a-zA-Z]{1,40})\}\s{0,9}\{(?P<outer>[a-zA-Z]{1,40})\})"
)
_ROW = re.compile(
    r"\\(?:(?P<edge>begin|end)\s{0,9}\{|label\s{0,9}\{(?P<label>[^{}\n]{1,200})\}|(?P<none>nonumber|notag)(?![a-zA-Z])"
    r"|tag\*?\s{0,9}\{(?P<tag>[^{}\n]{1,60})\}|[a-zA-Z]+|(?P<symbol>.))|(?P<brace>[{}])",
    re.S,
)
_THEOREM = re.compile(
    r"\\(?:sp)?newtheorem\s{0,9}\{([a-zA-Z]{1,40})\}\s{0,9}(?:\[([a-zA-Z]{1,40})\]\s{0,9})?\{([^{}\n]{1,60})\}\s{0,9}(?:\[([a-zA-Z]{1,40})\])?"
)
_CLASS = re.compile(r"\\document(?:class|style)\s{0,9}(?:\[[^\]]{0,300}\])?\s{0,9}\{([^{}\n]{1,60})\}")
_CHAPTER = re.compile(r"\\chapter(?![a-zA-Z@*])\s{0,9}[\[{]")
_FIGURES = frozenset("figure wrapfigure SCfigure sidewaysfigure floatingfigure teaserfigure marginfigure".split())
_TABLES = frozenset("table sidewaystable wraptable SCtable margintable".split())
# numbered where they begin, captions or not
_LONG_TABLES = frozenset("longtable deluxetable splitdeluxetable longdeluxetable rotatetable floattable longrotatetable".split())
_MANY_ROWS = frozenset("align eqnarray gather flalign alignat IEEEeqnarray darray".split())
_LEVELS = ("part", "chapter", "section", "subsection", "subsubsection")
_WORDS = {
    "figure": "Figure",
    "table": "Table",
    "equation": "Equation",
    "part": "Part",
    "chapter": "Chapter",
    "section": "Section",
    "subsection": "Section",
    "subsubsection": "Section",
    "appendix": "Appendix",
    "item": "item",
    "algorithm": "Algorithm",
}
_FORMS = {
    "arabic": str,
    "number": str,
    "the": str,
    "value": str,
    "Roman": lambda n: roman(n).upper(),
    "roman": roman,
    "Alph": lambda n: chr(ord("A") + (n - 1) % 26) if n else "",
    "alph": lambda n: chr(ord("a") + (n - 1) % 26) if n else "",
}
_FORM = re.compile(
    r"\\(?:(?:number|the)\s{0,3}\\)?@?(arabic|Roman|roman|Alph|alph|value)\s{0,3}(?:\{\s{0,3}([a-zA-Z]{1,40})\s{0,3}\}|\{?\\c@([a-zA-Z]{1,40})\}?)|\\the(part|chapter|(?:sub){0,2}section|figure|table|equation|algorithm)(?![a-zA-Z])"
)
# how the floats and equations of an appendix are numbered by the classes that number them anew: what stands behind its letter
_ANEW = {"aas": ("equation",), "emulateapj": ("equation",), "revtex": ("equation",), "mn": ("equation", "figure", "table")} | {
    "aa": ("equation", "figure", "table"),
    "elsart": ("equation",),
}
_POINTED = ("aa", "elsart")
_NUMBERED = frozenset("enumerate compactenum inparaenum asparaenum".split())
_LISTS = _NUMBERED | frozenset("itemize description compactitem compactdesc list trivlist".split())
_ALIAS = re.compile(r"\\defcitealias\s{0,9}\{([^{}\n]{1,200})\}\s{0,9}\{([^{}\n]{1,200})\}")
_ACRONYM = re.compile(
    r"\\(acro|acrodef|newacronym|DeclareAcronym|newacro)\*?\s{0,9}(?:\[[^\]\n]{0,80}\])?\{([^{}\n]{1,60})\}\s{0,9}"
    r"(?:\[([^\]\n]{0,80})\]|\{([^{}\n]{0,80})\}(?=\s{0,9}\{))?\s{0,9}\{([^{}]{1,300})\}"
)


ACRONYM = frozenset(
    "ac acp acl aclp acs acsp acf acfp Ac Acp Acl Aclp Acf gls glspl Gls Glspl glsentrylong acrshort acrlong acrfull".split()
)


def number_labels(text: str, deadline: Deadline) -> dict[str, tuple[str, str]]:
    """For each \\label its kind of thing ("Figure") and its number ("3", "2.1", "A")."""
    return _Counters(text).run(text, deadline)


class _Counters:
    """LaTeX's counters as the source goes by; `_places` is what a \\label would number, innermost last."""

    def __init__(self, text: str) -> None:
        kind = _CLASS.search(text)
        self._class = kind[1].strip() if kind else ""
        self._anew = next((name for name in _ANEW if self._class == name or name != "aa" and self._class.startswith(name)), "")
        self._chapters = _CHAPTER.search(text) is not None
        self._depth = 4 - self._chapters  # the last of _LEVELS that has numbers
        self._counts: Counter[str] = Counter()
        self._within = dict.fromkeys(("figure", "table", "equation", "algorithm"), "chapter") if self._chapters else {}
        self._theorems: dict[str, tuple[str, str]] = {}
        for name, shared, title, within in _THEOREM.findall(text):
            self._theorems[name] = (shared or name, title)
            if within:
                self._within[shared or name] = within
        self._forms: dict[str, str] = {}  # how the author shows a counter
        self._appendix = self._unnumbered = False
        self._places: list[tuple[str, str]] = [("section", "")]
        self._lists: list[int | None] = []
        self._group = ""  # the number that the equations of a subequations share
        self._letters = 0
        self._long = False  # inside a table that was counted where it began
        self._captioned: tuple[str, str] | None = None  # by a command outside a float, for the next label
        self._labels: dict[str, tuple[str, str]] = {}

    def run(self, text: str, deadline: Deadline) -> dict[str, tuple[str, str]]:
        at = 0
        while token := _COUNTED.search(text, at):
            deadline.check(every=1024)
            at = token.end()
            if token["level"]:
                if not token["bare"]:
                    self._heading(token["level"])
            elif token["label"]:
                self._label(token["label"], self._captioned or self._places[-1])
                self._captioned = None
            elif token["begin"]:
                at = self._begin(token["begin"], bool(token["starred"]), text, at)
            elif token["end"]:
                self._end(token["end"])
            elif token["matter"]:
                self._matter(token["matter"])
            elif token["caption"]:
                self._caption(token["caption"], token["of"])
            elif token["count"]:
                self._set(token["counter"], int(token["value"]), token["count"] == "addtocounter")
            elif token["shown"]:
                self._forms[token["shown"]] = token["form"]
            elif token["inner"]:
                self._within[token["inner"]] = token["outer"]
            elif token["item"] == "" and self._lists and self._lists[-1] is not None:
                self._item()
        return self._labels

    def _label(self, label: str, place: tuple[str, str]) -> None:
        kind, number = place
        self._labels.setdefault(label.strip(), (_WORDS.get(kind, kind), number))

    def _set(self, counter: str, value: int, add: bool) -> None:
        if counter == "secnumdepth":
            self._depth = max(0, min(4, value + 1))
        else:
            self._counts[counter] = value + (self._counts[counter] if add else 0)

    def _step(self, counter: str) -> str:
        """Count one more, set back what counts within it, and say its number."""
        self._counts[counter] += 1
        for inner in [name for name, outer in self._within.items() if outer == counter]:
            self._counts[inner] = 0
        return self._number(counter)

    def _number(self, counter: str, ahead: int = 0) -> str:
        if counter in self._forms:
            return self._formed(counter, ahead)
        count = str(self._counts[counter] + ahead)
        if self._appendix and self._anew and not self._chapters and counter in _ANEW[self._anew]:
            return self._level("section") + ("." if self._anew in _POINTED else "") + count
        outer = self._within.get(counter)
        if outer in _LEVELS:
            return f"{self._level(outer)}.{count}"
        return f"{self._number(outer)}.{count}" if outer and outer != counter and outer not in self._within else count

    # -- headings

    def _heading(self, level: str) -> None:
        self._captioned, self._lists = None, []
        del self._places[1:]
        if _LEVELS.index(level) > self._depth or self._unnumbered and level == "chapter":
            return
        self._step(level)
        for lower in _LEVELS[_LEVELS.index(level) + 1 :] if level != "part" else ():
            self._step(lower)
            self._counts[lower] = 0
        top = level == ("chapter" if self._chapters else "section")
        if self._appendix and self._anew and top:
            for counter in _ANEW[self._anew]:
                self._counts[counter] = 0
        self._places = [("appendix" if self._appendix and level != "part" else level, self._level(level))]

    def _formed(self, counter: str, ahead: int = 0) -> str:
        r"""A number by the author's own \theX, `S\arabic{section}`, `\Roman{section}.\arabic{equation}`."""
        form = self._forms.pop(counter)  # not asked for again while it is read

        def number(found: re.Match[str]) -> str:
            if found[4]:
                return self._level(found[4]) if found[4] in _LEVELS else self._number(found[4])
            name = found[2] or found[3]
            count = self._counts[name] + (ahead if name == counter else 0)
            return _FORMS[found[1]](max(0, count))

        shown = re.sub(r"\\(?:[a-zA-Z@]+\*?\s?|.)|[{}$]", "", _FORM.sub(number, form)).replace("~", " ")
        shown = " ".join(shown.split()).rstrip(".") or (self._level(counter) if counter in _LEVELS else self._number(counter, ahead))
        self._forms[counter] = form
        return shown

    def _level(self, level: str) -> str:
        """The number of a heading with those above: `2.1`, `B.3`, RevTeX's `II A 1`."""
        if level in self._forms:
            return self._formed(level)
        if level == "part":
            return roman(self._counts["part"]).upper()
        top = "chapter" if self._chapters else "section"
        above = _LEVELS[_LEVELS.index(level) - 1]
        if level != top and any(each in self._forms for each in _LEVELS[_LEVELS.index(top) : _LEVELS.index(level)]):
            return f"{self._level(above)}.{self._counts[level]}"
        count = self._counts[top]
        first = (chr(ord("A") + (count - 1) % 26) if count else "") if self._appendix else str(count)
        below = [self._counts[name] for name in _LEVELS[_LEVELS.index(top) + 1 : _LEVELS.index(level) + 1]]
        if self._class.startswith("revtex"):
            first = first if self._appendix else roman(self._counts[top]).upper()
            return " ".join((first, *(chr(ord("A") + (n - 1) % 26) if i == self._appendix else str(n) for i, n in enumerate(below))))
        return ".".join((first, *map(str, below)))

    def _matter(self, matter: str) -> None:
        self._unnumbered = matter in ("frontmatter", "backmatter")
        if matter == "appendix" and not self._appendix:
            self._appendix = True
            self._forms.pop("chapter" if self._chapters else "section", None)
            for level in _LEVELS[1:]:
                self._counts[level] = 0

    # -- environments

    def _begin(self, name: str, starred: bool, text: str, at: int) -> int:
        if name in ("appendix", "appendices", "subappendices"):
            self._matter("appendix")
        elif name in ("subequations", "mathletters"):
            self._group, self._letters = self._step("equation"), 0
            self._places.append(("equation", self._group))
        elif name in MATH_ENVIRONMENTS:
            end = text.find(f"\\end{{{name}{'*' * starred}}}", at, at + 20_000)
            self._rows(name, starred or name in ("displaymath", "math"), text[at:end] if end > 0 else "")
            return max(at, end)
        elif name in _FIGURES or name in _TABLES or name == "algorithm":
            kind = "figure" if name in _FIGURES else "table" if name in _TABLES else name
            self._places.append((kind, self._number(kind, ahead=1)))
            self._letters = 0
        elif name in ("subfigure", "subtable"):
            self._letters += 1
            self._places.append((name[3:], self._places[-1][1] + chr(96 + self._letters % 27)))
        elif name in _LONG_TABLES:
            self._places.append(("table", self._step("table")))
            self._long = True
        elif name in self._theorems and not starred:
            counter, title = self._theorems[name]
            self._places.append((title, self._step(counter)))
        elif name in _LISTS:
            self._lists.append(0 if name in _NUMBERED else None)
        return at

    def _end(self, name: str) -> None:
        if name in _LISTS:
            if self._lists and self._lists.pop() and self._places[-1][0] == "item":
                self._places.pop()
        elif name in ("subequations", "mathletters"):
            self._group = ""
            self._pop("equation")
        elif name in _LONG_TABLES:
            self._long = False
            self._pop("table")
        elif name in self._theorems:
            self._pop(self._theorems[name][1])
        else:
            self._pop("figure" if name in _FIGURES or name == "subfigure" else "table" if name in _TABLES or name == "subtable" else name)

    def _pop(self, kind: str) -> None:
        if len(self._places) > 1 and self._places[-1][0] == kind:
            self._places.pop()

    def _item(self) -> None:
        self._lists[-1] += 1
        numbers = [n for n in self._lists if n is not None]
        shown = "".join((str, lambda n: chr(96 + n % 27), lambda n: f"({roman(n)})", str)[min(i, 3)](n) for i, n in enumerate(numbers))
        depth = sum(kind == "item" for kind, _ in self._places)
        if depth >= len(numbers):
            self._places.pop()
        self._places.append(("item", shown))

    def _caption(self, command: str, of: str | None) -> None:
        kind, number = self._places[-1]
        inside = kind in ("figure", "table", "algorithm")
        if command == "figcaption" or command == "captionof" and of:
            kind = of or "figure"
            self._captioned = (kind, self._step(kind))
        elif command == "ContinuedFloat" and inside:
            self._counts[kind] -= 1
            self._places[-1] = (kind, self._number(kind, ahead=1))
        elif command.startswith("sub") and inside:
            self._letters += 1
            self._places[-1] = (kind, self._number(kind, ahead=1) + chr(96 + self._letters % 27))
        elif command == "caption" and inside and not self._long and self._places[-2][0] != kind:  # not one of a part of a figure
            self._places[-1] = (kind, self._step(kind))

    def _rows(self, name: str, unnumbered: bool, body: str) -> None:
        """Number the rows of one display and label them."""
        labels: list[str] = []
        depth, tag, numbered = 0, "", not unnumbered
        for token in _ROW.finditer(body + r"\\"):
            last = token.end() > len(body)
            depth += (token["edge"] == "begin" or token["brace"] == "{") - (token["edge"] == "end" or token["brace"] == "}")
            if token["edge"]:
                depth += 1  # the brace of its name was taken with it
            if token["label"]:
                labels.append(token["label"])
            elif token["none"]:
                numbered = False
            elif token["tag"]:
                tag = token["tag"]
            elif token["symbol"] == "\\" and (last or depth == 0 and name in _MANY_ROWS):
                number = tag
                if numbered and not tag:
                    if self._group:
                        self._letters += 1
                        number = self._group + chr(96 + self._letters % 27)
                    else:
                        number = self._step("equation")
                for label in labels:
                    self._label(label, ("equation", number) if number else self._places[-1])
                labels, tag, numbered = [], "", not unnumbered


def citation_aliases(text: str) -> dict[str, str]:
    r"""The short names that \defcitealias gives to keys."""
    return {key.strip(): name for key, name in _ALIAS.findall(text)}


def acronyms(text: str, deadline: Deadline) -> dict[str, tuple[str, str]]:
    """For each acronym declared with the acronym or glossaries package its short and its long form."""
    found = {}
    for kind, key, short, shorter, long in _ACRONYM.findall(text):
        deadline.check(every=64)
        if kind == "DeclareAcronym":
            fields = dict(re.findall(r"(short|long)\s*=\s*\{?([^,{}]{1,200})", long))
            found[key] = (fields.get("short", key).strip(), fields.get("long", key).strip())
        else:
            found[key] = ((short or shorter or key).strip(), long.strip())
    return found


def acronym_words(word: str, short: str, long: str, new: bool) -> str:
    """What one command of the acronym or glossaries package shows; `new` where the acronym was not spelled out before."""
    plural = "s" if word.endswith(("p", "pl")) else ""
    new = new and "s" not in word[2:3]
    if not long or "short" in word or word[2:3] == "s" and word[:2] != "gl":
        shown = short + plural
    elif word[2:3] == "l" and word[:2].lower() == "ac" or "long" in word:
        shown = long + plural
    elif new or "full" in word or word[2:3] == "f":
        shown = f"{long}{plural} ({short}{plural})"
    else:
        shown = short + plural
    return shown[:1].upper() + shown[1:] if word[0] in "AG" else shown
