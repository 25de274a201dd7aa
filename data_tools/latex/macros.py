r"""What a definition says: `\newcommand{\x}[2][a]{..}` and its kin → a name and a Macro, read at a place of a text.

Everything here is a function of a text and a place in it. Two bodies are judged as they are read: an author's remark
to a co-author shows nothing, and a sign drawn of other signs (`<` above `\sim`) becomes the sign it draws.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from data_tools.latex.limits import Deadline
from data_tools.latex.names import ASTRONOMY, REMARKS

TOKEN = re.compile(r"\\(?:([a-zA-Z@]+)|(.))", re.S)
SPACE = re.compile(r"[ \t]*\n?[ \t]*")
_LINE_END = re.compile(r"[ \t]*\n")
_BRACE = re.compile(r"\\.|[{}]", re.S)
_BRACKET = re.compile(r"\\.|[{}\]]|\n\n", re.S)
_PARAMETER = re.compile(r"#(#|[1-9])")
_WORD_END = re.compile(r"(?<!\\)(?:\\\\)*\\[a-zA-Z@]*$")
_NAME = re.compile(r"\*?\s*(?:\{\s*\\([a-zA-Z@]+|.)\s*\}|\\([a-zA-Z@]+|.))\s*")
_COMMENT_NAME = re.compile(r"(?i)todo|fixme|comment$|^note$|^remark$|^authornote$")
_LAYOUT = re.compile(
    r"\\(?:text)?color\*?\s*(?:\[[^\]]{0,80}\])?\s*\{[^{}]{0,80}\}|\\fbox(?:rule|sep)[^{}\s]{0,20}|\\[a-zA-Z@]+\*?|\$[^$]{0,40}\$|[{}\s~]"
)
# what is to be told from the author's words in a macro's text once its layout is gone: somebody's initials or name before or behind
# what he says, `[AB: #1]`, `[#1 --AB]`, `[AB] #1`, `AB: #1`, and not `[Fig: #1]`; or a task, `TODO: #1`
_OPENS, _CLOSES = r"[\[(<*|{]{1,3}", r"[\])>*|}]{1,3}"
_INITIALS = r"(?!(?i:fig|tab|sec|eq|ref|see|cf|cite|app|id:))[A-Z][A-Za-z]{0,11}(?:[.\-&/]?[A-Z][a-z]{0,11}){0,3}\.?"
_REMARK = re.compile(
    rf"{_OPENS}{_INITIALS}(?:--|[:>])#\d{_CLOSES}|{_OPENS}#\d[-:]{{1,3}}[A-Z]{{2,3}}{_CLOSES}|^\[[A-Z]{{2,3}}\]#\d$|^(?!ID)[A-Z]{{2,3}}:#\d$"
    r"|(?i:\b(?:todo|fixme|xxx)):?#\d"
)
# what an author puts around his own new words, for a referee
_CHANGED = re.compile(
    r"(?i)(?:chang|revis|updat|add|insert|clarif|modif|correct|edit|alter|replac|highlight|rewritten|rephras)(?:e|ed|es|s|ing|ied|y|ion)?(?:text)?$"
    r"|^(?:new|rev|mod)(?:text)?$|new$"
)
_TAGGED = re.compile(r"^[\[(]?[A-Z][^#]{0,20}[:>\])]#1[\])]?$")
_NAMED_REMARK = re.compile(r"(?i)(?:comment|note|remark)s?$")
_ENCLOSED = re.compile(rf"^{_OPENS}#\d{_CLOSES}$")
# what draws a sign out of others: its tools, and the signs by name or by number
_DRAWING = re.compile(
    r"\\(?:buildrel|lower|raise|[rl]lap|raisebox|stackrel|vcenter|halign|ialign|ooalign|mathpalette|mathchoice|m?kern|mskip|atop|spose|"
    r"underset|overset|hbox\s?to|hb@xt@|smash|shortstack|substack|lineskip|baselineskip|joinrel)(?![a-zA-Z])"
)
_ABOUT = re.compile(
    r"\\(?:thick)?(?:sim|approx)\b|\\mathchar\s?\"[37]?218|\\char\"?0?7E|\\@?v(?:er)?(?:sim|eq)|\\@versim|\\(?:tilde|~)\s?\{\s?\}"
)
_LESS = re.compile(r"<|\\lt\b|\\mathchar\s?\"3?13C|\\char\s?(?:'0?74|\"3C|60)")
_MORE = re.compile(r">|\\gt\b|\\mathchar\s?\"3?13E|\\char\s?(?:'0?76|\"3E|62)")
_PLACED = re.compile(r"\\(?:lower|raise)\s?-?[\d.]{1,9}\s?(?:true)?\s?[a-z]{2}|\\(?:hbox|mbox|mathrel|ensuremath|[,;!>: ])|[{}$\s]")
# boxes that are set and measured, tokens that are looked at: how a thing is placed, and not what it is
_MACHINE = re.compile(r"\\(?:setbox|futurelet|@tempbox[a-z]|afterassignment|aftergroup)(?![a-zA-Z@])")
_ACCENT = re.compile(r"(?:wide|long|over|my|extra)?(bar|hat|tilde|check|vec|line)")
_ACCENTED = {"bar": "overline", "line": "overline", "hat": "widehat", "tilde": "widetilde", "check": "check", "vec": "vec"}
_MAX_DRAWING = 1200
NO_VALUE = "-NoValue-"


@dataclass(frozen=True)
class Macro:
    """A replacement text with #1..#9 and how each argument is asked for.

    Kinds, as xparse names them: "m" a token or group, "b" a group only, "s" a star, "o" optional, "O…" optional with
    the default …, "u…" all up to the delimiter …, "d…" no argument but the delimiter …, "x" none that could be read.
    """

    body: str
    kinds: tuple[str, ...] = ()
    stop: bool = False  # put out as it stands and not looked at again


Definition = tuple[str, Macro, int]  # name, macro, the place after it


def apart(before: str, after: str) -> str:
    r"""What must stand between two texts that meet, so that their tokens stay what they are: `\alpha`, `x` → a space."""
    if not before or not after:
        return ""
    first = after[0]
    if (first.isalpha() or first == "@") and before[-1] != " " and _WORD_END.search(before[-80:]):
        return " "
    return "{}" if first == "$" and before[-1] == "$" and before[-2:] != r"\$" else ""


def join(pieces: Iterable[str]) -> str:
    """Pieces of TeX as one text in which no two tokens have become one."""
    out: list[str] = []
    last = ""
    for piece in pieces:
        piece = same_line(out, piece)
        if piece:
            out.append(apart(last, piece) + piece)
            last = piece
    return "".join(out)


def same_line(before: list[str], piece: str) -> str:
    """A piece without the end of a line of which nothing is left, for that is no blank line and ends no paragraph."""
    end = _LINE_END.match(piece)
    if end is None:
        return piece
    for text in reversed(before[-6:]):
        bare = text.rstrip(" \t")
        if bare:
            return piece[end.end() :] if bare[-1] == "\n" else piece
    return piece


def fill(body: str, values: list[str]) -> str:
    """A replacement text with its arguments in place."""
    if "#" not in body:
        return body
    pieces, at = [], 0
    for mark in _PARAMETER.finditer(body):
        pieces.append(body[at : mark.start()])
        pieces.append("#" if mark[1] == "#" else values[int(mark[1]) - 1] if int(mark[1]) <= len(values) else "")
        at = mark.end()
    return join((*pieces, body[at:]))


def group(text: str, at: int, deadline: Deadline) -> tuple[str, int] | None:
    """The inside of the brace group that opens at `at`, and the place after it; None when it does not close."""
    depth = 0
    deadline.check(every=64)
    for count, token in enumerate(_BRACE.finditer(text, at)):
        if token[0] == "{":
            depth += 1
        elif token[0] == "}":
            depth -= 1
            if depth == 0:
                return text[at + 1 : token.start()], token.end()
        if count % 1024 == 1023:
            deadline.check()
    return None


def bracket(text: str, at: int) -> tuple[str, int] | None:
    """The inside of the [optional argument] that opens at `at`, and the place after it; None when it does not close soon."""
    depth = 0
    for token in _BRACKET.finditer(text, at + 1, at + 3000):
        if token[0] == "{":
            depth += 1
        elif token[0] == "}":
            depth -= 1
        elif token[0] == "]" and depth <= 0:
            return text[at + 1 : token.start()], token.end()
        if depth < 0 or token[0] == "\n\n":
            return None
    return None


# -- judging


def judged(name: str, macro: Macro, known: Mapping[str, Macro]) -> Macro:
    """The macro as a reader needs it: a remark shows nothing, a drawing is the sign it draws and is not looked at again."""
    if _CHANGED.search(name) and len(macro.kinds) == 1 and not re.search("(?i)todo|fixme", macro.body):
        tagged = _TAGGED.search(_LAYOUT.sub("", macro.body))
        return Macro("#1", macro.kinds) if tagged else macro
    if _is_remark(name, macro):
        return Macro("", macro.kinds)
    if macro.kinds and "#1" in macro.body and (_MACHINE.search(macro.body) or _ACCENT.fullmatch(name) and "@" in macro.body):
        accent = _ACCENT.fullmatch(name)
        return Macro(rf"\{_ACCENTED[accent[1]]}{{#1}}" if accent else "#1", macro.kinds)
    placed = known.get(_PLACED.sub("", macro.body)[1:]) if not macro.kinds and len(macro.body) < 200 else None
    if placed is not None and placed.stop and placed.body.startswith(r"\ifmmode"):
        return placed  # a drawn sign moved up or down
    drawn = _drawn(name, macro)
    return Macro(drawn, stop=True) if drawn else macro


def _is_remark(name: str, macro: Macro) -> bool:
    r"""Whether a macro sets an author's remark to a co-author, as `\newcommand{\ann}[1]{\textcolor{red}{[Ann: #1]}}` does."""
    if not macro.kinds or f"#{len(macro.kinds)}" not in macro.body:
        return False
    if _COMMENT_NAME.search(name) and ("color" in macro.body or re.search("(?i)todo|fixme", name)):
        return True
    body = re.sub(r"\$?(?:\\langle\s*)+\$?|\\\{", "<", re.sub(r"\$?(?:\\rangle\s*)+\$?|\\\}", ">", macro.body))
    if len(macro.kinds) == 2 and re.fullmatch("O[A-Z]{1,3}", macro.kinds[0]):
        body = body.replace("#1", macro.kinds[0][1:])
    shown = _LAYOUT.sub("", body)
    return (
        _REMARK.search(shown) is not None
        or _NAMED_REMARK.search(name) is not None
        and _ENCLOSED.search(shown) is not None
        or ("color" in macro.body and re.search(r"[\[(*]+[^#]{0,40}#\d|[A-Za-z]{2,}:#\d", shown) is not None)
    )


def _drawn(name: str, macro: Macro) -> str:
    """The TeX of the sign that a home-made drawing shows; empty where it is none, or one of a kind not known."""
    if macro.kinds or len(macro.body) > _MAX_DRAWING or not _DRAWING.search(macro.body):
        return ""
    less, more = _LESS.search(macro.body), _MORE.search(macro.body)
    if bool(less) != bool(more) and (_ABOUT.search(macro.body) or r"\mathpalette" in macro.body):
        about = "approx" if r"\approx" in macro.body else "sim"
        sign = rf"\{'less' if less else 'gtr'}{about}"
        return rf"\ifmmode {sign}\else${sign}$\fi"
    known = ASTRONOMY.get(name, "")
    return known if known.startswith(r"\ensuremath{") else ""


# -- reading


def name_at(text: str, at: int) -> tuple[str, int] | None:
    r"""The name in `{\name}` or `\name`, a star before it or not, and the place after it."""
    found = _NAME.match(text, at)
    return (found[1] or found[2], found.end()) if found else None


def body_at(text: str, at: int, deadline: Deadline) -> tuple[str, int] | None:
    """A group's inside or a single command, and the place after it."""
    at = re.compile(r"\s*").match(text, at).end()
    if text[at : at + 1] == "{":
        return group(text, at, deadline)
    token = TOKEN.match(text, at)
    return (token[0], token.end()) if token else None


def counts_at(text: str, at: int) -> tuple[tuple[str, ...], int]:
    """The kinds of arguments that `[2][default]` asks for, and the place after it."""
    found = re.compile(r"\s*\[\s*([0-9])\s*\]\s*").match(text, at)
    count, at = (int(found[1]), found.end()) if found else (0, SPACE.match(text, at).end())
    if count and text[at : at + 1] == "[":
        default = bracket(text, at)
        if default:
            return ("O" + default[0], *("m",) * (count - 1)), SPACE.match(text, default[1]).end()
    return ("m",) * count, at


def new_command(text: str, at: int, deadline: Deadline) -> Definition | None:
    r"""`{\x}[2][a]{..}`"""
    name = name_at(text, at)
    if name is None:
        return None
    kinds, at = counts_at(text, name[1])
    body = body_at(text, at, deadline)
    return (name[0], Macro(body[0], kinds), body[1]) if body else None


def new_command_x(text: str, at: int, deadline: Deadline) -> Definition | None:
    r"""`{\x}[3][1=a, 3=b]{..}` of the xargs package."""
    found = new_command(text, at, deadline)
    if found is None or not found[1].kinds or found[1].kinds[0] == "m":
        return found
    name, macro, end = found
    defaults = dict(re.findall(r"([1-9])\s*=\s*(\{[^{}]*\}|[^,{}]*)", macro.kinds[0][1:]))
    kinds = tuple(f"O{defaults[str(i)].strip('{} ')}" if str(i) in defaults else "m" for i in range(1, len(macro.kinds) + 1))
    return name, Macro(macro.body, kinds), end


def tex_definition(text: str, at: int, deadline: Deadline) -> Definition | None:
    r"""`\x#1#2{..}`, `\x#1 and #2.{..}`"""
    found = re.compile(r"\s*\\([a-zA-Z@]+|.)([^{}\n\\]{0,60})(?=\{)").match(text, at)
    body = group(text, found.end(), deadline) if found else None
    if body is None:
        return None
    before, *delimiters = re.split(r"#[1-9]", found[2])
    kinds = tuple("u" + delimiter if delimiter.strip() else "m" for delimiter in delimiters)
    if "#" in found[2].replace("#", "", len(delimiters)):
        kinds = ("x",)  # no call is understood, the name is defined nevertheless
    elif before.strip():
        kinds = ("d" + before.strip(), *kinds)
    return found[1], Macro(body[0], kinds), body[1]


def document_command(text: str, at: int, deadline: Deadline) -> Definition | None:
    r"""`{\x}{s O{a} m}{..}`"""
    name = name_at(text, at)
    spec = body_at(text, name[1], deadline) if name else None
    body = body_at(text, spec[1], deadline) if spec else None
    if body is None:
        return None
    kinds, left = [], spec[0]
    while left := left.lstrip(" \t\n+!"):
        found = re.match(r"[mso]|O\s*\{((?:[^{}]|\{[^{}]*\})*)\}", left)
        if found is None:
            kinds = ["x"]
            break
        kinds.append("O" + found[1] if found[0][0] == "O" else found[0])
        left = left[found.end() :]
    return name[0], Macro(body[0], tuple(kinds)), body[1]


@functools.cache
def remarks(packages: frozenset[str]) -> dict[str, Macro]:
    """What commands for tracked changes and remarks show, by the packages that a paper loads."""
    found: dict[str, Macro] = {}
    for package in ("", *sorted(packages & REMARKS.keys())):
        for (kinds, body), names in REMARKS[package].items():
            found |= dict.fromkeys(names.split(), Macro(body, tuple(kinds)))
    return found
