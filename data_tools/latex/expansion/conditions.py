r"""What a condition says: `\ifnum1>2`, `\ifthenelse{\boolean{x}}`, `\iftoggle{x}` → True or False, as pdflatex would find.

The expansion hands over its reader of tokens. A switch that nothing set is false, as `\newif` makes it; a length or
number that nobody set is what LaTeX begins with.
"""

import re
from collections.abc import Callable

from data_tools.latex.expansion.values import Reader, Values, compared
from data_tools.latex.limits import PaperError
from data_tools.latex.macros import NO_VALUE, Macro
from data_tools.latex.names import ACCENTS, CONTROL_SYMBOLS, DROP, PROTECTED, SYMBOLS

MAX_LOGIC = 50
# \if… that end in \fi; what else begins with "if" takes its branches as arguments
PRIMITIVES = frozenset(
    "if ifcat ifx ifnum ifdim ifodd ifcase iftrue iffalse ifdefined ifcsname ifvmode ifhmode ifmmode ifinner ifvoid ifhbox ifvbox ifeof "
    "iffontchar ifincsname ifpdf ifxetex ifluatex ifPDFTeX ifpdftex ifXeTeX ifLuaTeX iftutex ifTUTeX ifLuaHBTeX ifdraftmode".split()
)
_FIXED = {
    "true": True, "hmode": True, "pdf": True, "PDFTeX": True, "pdftex": True, "void": True, "eof": True, "@filesw": True,
    "@compatibility": False, "@twocolumn": False, "@twoside": False, "false": False,
}  # fmt: skip
# name -> how many arguments come before the two branches
BRANCHED = {
    **dict.fromkeys("ifthenelse ifbool notbool iftoggle nottoggle ifdef ifundef ifcsdef ifcsundef ifdefmacro ifdefempty ifdefvoid ifcsempty "
                    "ifcsvoid ifblank notblank ifstrempty notstrempty ifnumodd ifboolexpr ifboolexpe IfFileExists InputIfFileExists @ifundefined "
                    "@ifpackageloaded @ifclassloaded ifpackageloaded ifclassloaded IfPackageLoadedTF IfClassLoadedTF IfBooleanTF IfNoValueTF "
                    "IfValueTF IfBlankTF iflanguage ifcomment".split(), 1),
    **dict.fromkeys("ifstrequal ifdefstring ifcsstring ifdefequal ifnumequal ifnumgreater ifnumless ifdimequal ifdimgreater ifdimless "
                    "ifstrings @ifpackagewith @ifclasswith ifpackagewith ifclasswith".split(), 2),
    **dict.fromkeys("ifnumcomp ifdimcomp".split(), 3),
    **dict.fromkeys("ifdraft ifoptiondraft ifoptionfinal ifpdforps".split(), 0),
}  # fmt: skip
ONE_BRANCH = {"IfBooleanT": True, "IfBooleanF": False, "IfNoValueT": True, "IfNoValueF": False, "IfValueT": True, "IfValueF": False,
              "IfBlankT": True, "IfBlankF": False}  # fmt: skip
_SETTERS = {
    "newboolean": "new", "provideboolean": "new", "newbool": "new", "providebool": "new", "newtoggle": "new", "providetoggle": "new",
    "setboolean": "set", "setbool": "set", "settoggle": "set", "booltrue": "true", "toggletrue": "true", "boolfalse": "false",
    "togglefalse": "false", "newrobustcmd": "",
}  # fmt: skip
# names that LaTeX or its kernel defines beside those that the tables of this room know
_KERNEL = frozenset(
    "relax par empty @empty hbox vbox def let edef newcommand documentclass usepackage RequirePackage makeatletter makeatother pdfoutput pdftexversion "
    "pdfpagewidth pdfpageheight pdfcompresslevel eTeXversion protect hskip vskip string the number write input endinput ensuremath textbf emph "
    "documentstyle selectfont fontsize ProvidesPackage @ifundefined newif fi else mathrm undefinedpagestyle bgroup egroup z@ p@ space @ne hsize "
    "vspace hspace footnotesize normalsize small large bfseries itshape numexpr dimexpr unless detokenize unexpanded".split()
)
_TEST = re.compile(r"\\([a-zA-Z]+|[()])|([<>=])|(\{)|([^\s\\<>={}()]+)|([()])")


class Conditions:
    """Switches, counters and loaded packages of one paper, and the tests that ask for them."""

    def __init__(self, reader: Reader, has_file: Callable[[str], bool], is_known: Callable[[str], bool]) -> None:
        self._reader, self.has_file, self._is_known = reader, has_file, is_known
        self.switches = dict(_FIXED)
        self.values = Values(reader)
        self.loaded: dict[str, str] = {}  # packages and, with ".cls", classes → their options

    # -- what sets them

    def set_by(self, name: str) -> bool:
        r"""Whether a command sets a switch: `\xtrue`, `\setboolean{x}{true}`; if so, it is done."""
        for value in ("true", "false"):
            if name.endswith(value) and name[: -len(value)] in self.switches and name != value:
                self.switches[name[: -len(value)]] = value == "true"
                return True
        how = _SETTERS.get(name)
        if not how:
            return False
        switch = (self._reader.argument() or "").strip()
        value = self._reader.flat(self._reader.argument() or "").strip().lower() if how == "set" else how
        if how != "new" or switch not in self.switches:
            self.switches[switch] = value == "true" or (value.startswith("\\") and self.switches.get(value[3:], value == r"\boolean"))
        return True

    # -- \if… \fi

    def primitive(self, name: str) -> bool | int | None:
        r"""What `\if…` finds, its test read; an int is \ifcase's; None where the name is no known condition."""
        test = _PRIMITIVE_TESTS.get(name)
        if test is not None:
            return test(self)
        if name[2:] in self.switches:
            return self.switches[name[2:]]
        return False if name in PRIMITIVES else None

    def _same(self) -> bool:
        first, second = self._reader.expanded(), self._reader.expanded()
        return first is not None and second is not None and (first == second or len(first) > 1 and len(second) > 1)

    def _same_category(self) -> bool:
        return _category(self._reader.expanded()) == _category(self._reader.expanded())

    def _same_meaning(self) -> bool:
        first, second = self._reader.token(), self._reader.token()
        return first is not None and second is not None and self._meaning(first) == self._meaning(second)

    def _meaning(self, token: str) -> object:
        if token[0] != "\\" or len(token) == 1:
            return token
        name = token[1:]
        if name in self._reader.macros:
            macro = self._reader.macros[name]
            return self._meaning(macro.body) if macro.stop and re.fullmatch(r"\\(?:[a-zA-Z@]+|.)|.", macro.body) else macro
        if name in ("empty", "@empty"):
            return Macro("")
        if name in ("iftrue", "iffalse") or name[:2] == "if" and name[2:] in self.switches:
            return ("condition", self.switches[name[2:]])
        return token if self.is_defined(name) else None

    def is_defined(self, name: str) -> bool:
        """Whether pdflatex would know a command at this place."""
        return (
            name in self._reader.macros
            or self._is_known(name)
            or name in PRIMITIVES
            or name[:2] == "if"
            and name[2:] in self.switches
            or any(name in table for table in (_KERNEL, PROTECTED, SYMBOLS, ACCENTS, CONTROL_SYMBOLS, DROP))
        )

    def _defined(self) -> bool:
        token = self._reader.token() or ""
        return token[:1] != "\\" or self.is_defined(token[1:])

    def _named(self) -> bool:
        name = []
        while (token := self._reader.expanded()) not in (None, r"\endcsname") and len(name) < 200:
            name.append(token)
        return self.is_defined("".join(name))

    # -- \if…{a}{b}

    def branched(self, name: str, arguments: list[str]) -> bool:
        """What a condition finds that takes its branches as arguments."""
        flat = self._reader.flat
        word = arguments[0].strip() if arguments else ""
        bare = word.lstrip("\\")
        second = arguments[1].strip() if len(arguments) > 1 else ""
        macro = self._reader.macros.get(bare)
        if name.startswith(("ifnum", "ifdim")):
            signs = {"equal": "=", "greater": ">", "less": "<"}
            values = [flat(argument) for argument in arguments]
            if name == "ifnumodd":
                return self._read(values[0], self.values.number) % 2 == 1
            relation = values.pop(1).strip() if name.endswith("comp") else signs[name[5:]]
            read = self.values.number if name[2] == "n" else self.values.dimension
            return compared(self._read(values[0], read), relation, self._read(values[1], read))
        if name in ("ifthenelse", "ifboolexpr", "ifboolexpe"):
            return self._logic(arguments[0])
        tests: dict[str, Callable[[], bool]] = {
            "ifbool": lambda: self.switches.get(word, False),
            "ifdef": lambda: self.is_defined(bare),
            "ifdefempty": lambda: macro is not None and not macro.body.strip(),
            "ifblank": lambda: not flat(word).strip(),
            "ifstrequal": lambda: word == second,
            "ifdefstring": lambda: macro is not None and macro.body.strip() == second,
            "ifdefequal": lambda: self._meaning(word) == self._meaning(second),
            "IfFileExists": lambda: self.has_file(flat(word)),
            "ifpackageloaded": lambda: word in self.loaded,
            "ifclassloaded": lambda: word + ".cls" in self.loaded,
            "ifpackagewith": lambda: set(second.split(",")) <= set(self.loaded.get(word, ",").split(",")),
            "ifclasswith": lambda: set(second.split(",")) <= set(self.loaded.get(word + ".cls", ",").split(",")),
            "IfBoolean": lambda: word == r"\BooleanTrue",
            "IfNoValue": lambda: word == NO_VALUE,
            "iflanguage": lambda: word in ("english", "american", "USenglish"),
            "ifdraft": lambda: any("draft" in options.split(",") for key, options in self.loaded.items() if key.endswith(".cls")),
            "ifoptionfinal": lambda: any("final" in options.split(",") for key, options in self.loaded.items() if key.endswith(".cls")),
        }
        plain, positive = _PLAIN_NAMES.get(name, (name, True))
        return tests[plain]() is positive if plain in tests else False

    def _read(self, text: str, read: Callable[[], float]) -> float:
        self._reader.unread(text + r"\relax ")
        value = read()
        while self._reader.token() not in (r"\relax", None):
            pass
        return value

    def _logic(self, text: str, depth: int = 0) -> bool:
        """The value of ifthen's and etoolbox's expressions; `and` and `or` have one rank and bind from the left."""
        if depth > MAX_LOGIC:
            raise PaperError("nested too deeply", f"a condition of more than {MAX_LOGIC} parentheses in each other: {text[:40]}")
        tokens = text
        value, join, turned = None, "and", False
        at = 0
        while found := _TEST.search(tokens, at):
            at = found.end()
            word = (found[1] or found[4] or found[5] or "").lower()
            if word in ("and", "or"):
                join = word
                continue
            if word == "not":
                turned = not turned
                continue
            if word == "(":
                end = _closing(tokens, at)
                this, at = self._logic(tokens[at:end], depth + 1), end + 2
            elif found[3]:
                end = _closing_brace(tokens, found.start())
                this, at = self._logic(tokens[found.start() + 1 : end], depth + 1), end + 1
            else:
                this, at = self._atom(tokens, found.start())
            this, turned = this is not turned, False
            value = this if value is None else value and this if join == "and" else value or this
        return bool(value)

    def _atom(self, text: str, at: int) -> tuple[bool, int]:
        call = re.compile(r"\\?(boolean|bool|togl|toggle|equal|isodd|isundefined|lengthtest|test|isempty|@?xp@ifstrequal)\s*(?=\{)").match(
            text, at
        )
        if call is None:
            # a comparison of numbers, up to the next word of logic
            end = re.compile(r"\\(?:and|or|not|AND|OR|NOT)(?![a-zA-Z])|\\\)|\s(?:and|or)\s|$").search(text, at)
            self._reader.unread(text[at : end.start()] + r"\relax ")
            value = self.values.numbers()
            while self._reader.token() not in (r"\relax", None):
                pass
            return value, max(end.start(), at + 1)
        arguments, at = [], call.end()
        while text.startswith("{", at) and len(arguments) < (2 if call[1] == "equal" else 1):
            end = _closing_brace(text, at)
            arguments.append(text[at + 1 : end])
            at = re.compile(r"\s*").match(text, end + 1).end()
        name, first = call[1], arguments[0]
        if name == "equal":
            return len(arguments) == 2 and self._reader.flat(first).strip() == self._reader.flat(arguments[1]).strip(), at
        if name == "isodd":
            return self._read(first, self.values.number) % 2 == 1, at
        if name == "isundefined":
            return not self.is_defined(first.strip().lstrip("\\")), at
        if name == "lengthtest":
            return bool(self._read(first, self.values.dimensions)), at
        if name == "test":
            inner = re.match(r"\s*\\([a-zA-Z@]+)\s*", first)
            found, place = [], inner.end() if inner else 0
            while inner and first.startswith("{", place):
                end = _closing_brace(first, place)
                found.append(first[place + 1 : end])
                place = end + 1
            return inner is not None and len(found) == BRANCHED.get(inner[1], -1) and self.branched(inner[1], found), at
        return self.switches.get(first.strip(), False), at


_PRIMITIVE_TESTS: dict[str, Callable[[Conditions], bool | int]] = {
    "if": Conditions._same,
    "ifcat": Conditions._same_category,
    "ifx": Conditions._same_meaning,
    "ifnum": lambda c: c.values.numbers(),
    "ifdim": lambda c: c.values.dimensions(),
    "ifodd": lambda c: c.values.number() % 2 == 1,
    "ifcase": lambda c: int(c.values.number()),
    "ifdefined": Conditions._defined,
    "ifcsname": Conditions._named,
}
# a test under another name: name -> (the name it is known by, what it must find)
_PLAIN_NAMES = {
    "iftoggle": ("ifbool", True), "notbool": ("ifbool", False), "nottoggle": ("ifbool", False), "ifundef": ("ifdef", False),
    "ifcsdef": ("ifdef", True), "ifcsundef": ("ifdef", False), "ifdefmacro": ("ifdef", True), "@ifundefined": ("ifdef", False),
    "ifdefvoid": ("ifdefempty", True), "ifcsempty": ("ifdefempty", True), "ifcsvoid": ("ifdefempty", True), "notblank": ("ifblank", False),
    "ifstrempty": ("ifblank", True), "notstrempty": ("ifblank", False), "ifcsstring": ("ifdefstring", True), "ifstrings": ("ifstrequal", True),
    "InputIfFileExists": ("IfFileExists", True), "@ifpackageloaded": ("ifpackageloaded", True), "@ifclassloaded": ("ifclassloaded", True),
    "IfPackageLoadedTF": ("ifpackageloaded", True), "IfClassLoadedTF": ("ifclassloaded", True), "@ifpackagewith": ("ifpackagewith", True),
    "@ifclasswith": ("ifclasswith", True), "IfBooleanTF": ("IfBoolean", True), "IfBooleanT": ("IfBoolean", True),
    "IfBooleanF": ("IfBoolean", True), "IfNoValueTF": ("IfNoValue", True), "IfValueTF": ("IfNoValue", False), "IfNoValueT": ("IfNoValue", True),
    "IfNoValueF": ("IfNoValue", True), "IfValueT": ("IfNoValue", False), "IfValueF": ("IfNoValue", False), "IfBlankTF": ("ifblank", True),
    "IfBlankT": ("ifblank", True), "IfBlankF": ("ifblank", True), "ifoptiondraft": ("ifdraft", True),
}  # fmt: skip


def _category(token: str | None) -> str:
    if token is None:
        return ""
    if len(token) > 1:
        return "command"
    if token in "{}$&#^_~ \n":
        return token
    return "letter" if token.isalpha() else "other"


def _closing(text: str, at: int) -> int:
    r"""Where the `\)` or `)` stands that closes what opened before `at`."""
    depth = 0
    for found in re.compile(r"\\?[()]").finditer(text, at):
        if found[0][-1] == "(":
            depth += 1
        elif depth == 0:
            return found.start()
        else:
            depth -= 1
    return len(text)


def _closing_brace(text: str, at: int) -> int:
    depth = 0
    for found in re.compile(r"\\.|[{}]", re.S).finditer(text, at):
        depth += (found[0] == "{") - (found[0] == "}")
        if depth == 0:
            return found.start()
    return len(text)
