r"""Bytes of a source file → text of TeX: decoded, without listings, deletions of latexdiff and comments.

What an inline `\verb|..|` shows is no TeX: its characters move to private ones, which no later stage reads as markup,
and `shown` brings them back at the end.
"""

import codecs
import re

from data_tools.latex.limits import Deadline, PaperError
from data_tools.latex.macros import apart

_CODECS = {
    **{f"latin{n}": f"iso8859-{c}" for n, c in ((1, 1), (2, 2), (3, 3), (4, 4), (5, 9), (9, 15), (10, 16))},
    **{name: name for name in "cp437 cp850 cp852 cp855 cp858 cp865 cp866 cp1250 cp1251 cp1252 cp1257 koi8-r koi8-u".split()},
    "ansinew": "cp1252",
    "applemac": "mac-roman",
    "macce": "mac-latin2",
    "maccyr": "mac-cyrillic",
    "koi8-ru": "koi8-u",
    "iso88595": "iso8859-5",
    "iso-8859-7": "iso8859-7",
}
_INPUTENC = re.compile(
    rb"\\(?:usepackage|RequirePackage)\s*\[([a-zA-Z0-9,\s-]{2,40})\]\s*\{inputenc\}|\\inputencoding\s*\{([a-z0-9-]{2,12})\}"
)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x19\x1b-\x1f\x7f]")
_HIGH = re.compile(rb"[\x80-\xff]+")
# what a comment mark can hide in: an address, an escaped character
_COMMENT = re.compile(r"\\(?:url|href|path|nolinkurl)\s{0,9}\{[^{}\n]{0,2000}\}|\\.|(%)", re.S)
_DIFF_MARK = re.compile(r"\\DIF(?:add|del)(?:begin|end)(?:FL)?(?![a-zA-Z])|(?<= )FL(?![a-zA-Z])")
_PRIVATE = 0xE100
_HIDE = {code: _PRIVATE + code for code in range(33, 127)}
_SHOW = {private: code for code, private in _HIDE.items()}
_HIDDEN = re.compile("[\ue100-\ue17f]+")
_OPTION = r"(?:\s{0,9}\[[^\]]{0,500}\])?"
_LISTINGS = (
    "verbatim Verbatim BVerbatim LVerbatim SaveVerbatim spverbatim verbatimtab boxedverbatim verbatimcmd lstlisting minted filecontents "
    "tcblisting pycode pyverbatim sagesilent sageblock luacode luacode* comment"
).split()
_DECLARED = (
    r"\\(?:lstnewenvironment|(?:Define|Custom)VerbatimEnvironment|(?:re|provide)?newtcblisting|DeclareTCBListing|newverbatimenvironment)"
    + _OPTION
    + r"\s{0,9}\{([a-zA-Z]{1,40}\*?)\}"
    r"|\\(?:re)?newenvironment\*?\s{0,9}\{([a-zA-Z]{1,40}\*?)\}" + _OPTION + _OPTION + r"\s{0,9}\{(?:[^{}]|\{[^{}]{0,200}\}){0,300}?"
    r"\\(?:begin\s{0,9}\{)?(?:verbatim|Verbatim|VerbatimEnvironment|lstlisting|minted|comment)(?![a-zA-Z])"
    r"|\\newminted\s{0,9}(?:\[([a-zA-Z]{1,40})\])?\s{0,9}\{([a-zA-Z]{1,40})\}"
)
_NEW_INLINE = re.compile(
    r"\\newmint(inline)?\s{0,9}(?:\[([a-zA-Z]{1,40})\])?\s{0,9}\{([a-zA-Z]{1,40})\}"
    r"|\\(?:newcommand|renewcommand|providecommand|let|def)\*?\s{0,3}\{?\\([a-zA-Z]{1,40})\}?\s{0,3}[={]?\s{0,3}\\(?:lstinline|verb|Verb)\b(?=[\s}])"
)
_SHORT = re.compile(
    r"\\(?:(?:Delete|Undefine)ShortVerb|lstDeleteShortInline|MakeShortVerb|DefineShortVerb|lstMakeShortInline|SaveShortVerb)\*?"
    + _OPTION
    + r"\s{0,9}\{?\\?([^\sa-zA-Z\\{}])\}?"
)
_DELIMITED = re.compile(r"([^a-zA-Z\s*\\{}])([^\n]{0,300}?)\1|\{((?:[^{}]|\{(?:[^{}]|\{[^{}]{0,200}\}){0,200}\}){0,600})\}")
_DEFINING = re.compile(r"[^{}\n]{0,200}(?:\{[^{}]{0,200}\}[^{}\n]{0,200}){0,9}\}\s{0,9}(?:%[^\n]{0,99}\n)?\s{0,9}\{[^{}]{0,200}")


def decode(data: bytes, name: str, inputenc: str = "") -> str:
    """Text of a source file: UTF-8 or by its mark, else by its inputenc or the paper's, else guessed; PaperError for binary."""
    for mark, codec in ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if data.startswith(mark):
            return _lines(data.decode(codec, errors="replace"))
    head = data[:65536]
    if len(_CONTROL.findall(head)) > max(8, len(head) // 100):
        raise PaperError("binary", f"{name} holds control characters, not text")
    data = data.replace(b"\0", b"")
    try:
        return _lines(data.decode("utf-8"))
    except UnicodeDecodeError:
        declared = _INPUTENC.search(head)
        options = (declared[1] or declared[2]).decode().lower().replace(",", " ").split() if declared else [inputenc]
        codec = next((_CODECS[option] for option in reversed(options) if option in _CODECS), None)
        return _lines(data.decode(codec or _guess(data), errors="replace"))


def _guess(data: bytes) -> str:
    """The encoding of bytes that are no UTF-8 and declare nothing: by what its letters would spell."""
    runs = _HIGH.findall(data[: 1 << 18])
    high = b"".join(runs)
    if sum(len(run) for run in runs if len(run) > 2) * 2 > len(high):  # words of high bytes only: another alphabet
        # in running text most letters are small: à..ÿ of cp1251 are KOI8's capitals, and the other way round
        best = max(
            ("cp1251", "koi8-r", "cp866"), key=lambda codec: _small(high.decode(codec, errors="replace"), "абвгдежзийклмнопрстуфхцчшщыьэюя")
        )
        return best if _small(high.decode(best, errors="replace"), "абвгдежзийклмнопрстуфхцчшщыьэюя") * 2 > len(high) else "cp1252"
    return max(("cp1252", "mac-roman"), key=lambda codec: _spelling(data[: 1 << 18].decode(codec, errors="replace")))


def _small(text: str, letters: str) -> int:
    return sum(map(text.count, letters))


def _spelling(text: str) -> int:
    """How well accents and marks sit: small letters in words, quotes and dashes at their edges."""
    good = len(
        re.findall(
            r"(?<=[a-zA-Z])[áàâäãåçéèêëíìîïñóòôöõøúùûüæœß]|(?<![a-zA-Z])[áàâäåçéèêëíîöóøúüÁÀÂÄÅÇÉÈÊËÍÎÖÓØÚÜ](?=[a-z])|[ ([][“‘«]|[”’»–—…](?=[\s.,;:)])|[a-z]’s",
            text,
        )
    )
    return 2 * good - len(re.findall(r"[^\x00-\x7f]", text))


def _lines(text: str) -> str:
    # U+E000..E1FF mark protected mathematics and verbatim text later on, so no file may bring its own
    return re.sub("[\ufeff\ufffd\ue000-\ue1ff\x00-\x08\x0b-\x1f]", "", text.replace("\r\n", "\n").replace("\r", "\n"))


def shown(text: str) -> str:
    r"""The text with what `\verb` and its kin show as it was written."""
    return _HIDDEN.sub(lambda run: run[0].translate(_SHOW), text)


class Literals:
    """What a paper's files hold that TeX reads letter by letter; environments and commands for it are learned file by file."""

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self.written: dict[str, str] = {}  # what `filecontents` writes, by its name
        self._listings = set(_LISTINGS)
        self._inline = {"verb": 0, "Verb": 0, "spverb": 0, "lstinline": 0, "mintinline": 1}  # name -> groups before what is shown
        self._marks = ""
        self._endless: set[str] = set()  # environments that the rest of this file does not end
        self._pattern = self._compile()

    def _compile(self) -> re.Pattern[str]:
        words = "|".join(sorted(self._inline, key=len, reverse=True))
        marks = "".join(f"|(?P<short{i}>{re.escape(mark)})" for i, mark in enumerate(self._marks))
        return re.compile(
            r"\\\\|\\%|%[^\n]*|\\begin\s{0,9}\{(?P<environment>[a-zA-Z]{1,40}\*?)\}"
            rf"|\\(?P<inline>{words})(?![a-zA-Z@])\*?|(?P<address>\\(?:url|nolinkurl|path|href)(?![a-zA-Z@])\s{{0,9}}(?=[{{|!+\"]))"
            rf"|(?P<new>{_NEW_INLINE.pattern})|(?P<make>{_SHORT.pattern})|(?P<declared>{_DECLARED}){marks}"
        )

    def settle(self, text: str) -> str:
        """The text without listings, and with inline verbatim in private characters."""
        out: list[str] = []
        done = at = 0
        self._endless.clear()
        while token := self._pattern.search(text, at):
            self._deadline.check(every=64)
            kind = token.lastgroup
            at = token.end()
            found = None
            if kind == "environment":
                found = self._listing(text, token)
            elif kind in ("inline", "address") or kind and kind.startswith("short"):
                found = self._literal(text, token, kind)
            elif kind in ("new", "make", "declared"):
                self._learn(text, token.start(), kind)
                found = ("", at) if kind == "make" else None
            if found is not None:
                shown, at = found
                before = text[done : token.start()]
                out += (before, apart(before, shown or text[at : at + 1]), shown)
                done = at
        return "".join((*out, text[done:]))

    def _listing(self, text: str, token: re.Match[str]) -> tuple[str, int] | None:
        name = token["environment"]
        if name.rstrip("*") not in self._listings and name not in self._listings or name in self._endless:
            return None
        end = re.compile(rf"\\end\s{{0,9}}\{{{re.escape(name)}\}}").search(text, token.end())
        if end is None:
            self._endless.add(name)
            return None
        # in a definition, `{\begin{minted}{c}}{\end{minted}}`, it encloses nothing
        if _DEFINING.fullmatch(text, token.end(), end.start()):
            return None
        if name.startswith("filecontents"):
            wanted = re.compile(r"(?:\s{0,9}\[[^\]]{0,80}\])?\s{0,9}\{([^{}\n]{1,200})\}\s?").match(text, token.end(), end.start())
            if wanted:
                self.written[wanted[1].strip()] = text[wanted.end() : end.start()]
        # what stands on lines of its own takes its line along: the words around it are one paragraph
        own_line = text[max(0, token.start() - 99) : token.start()].rstrip(" \t")[-1:] in ("\n", "") and text.startswith("\n", end.end())
        return "" if own_line else " ", end.end() + own_line

    def _literal(self, text: str, token: re.Match[str], kind: str) -> tuple[str, int] | None:
        at = token.end()
        if kind.startswith("short"):
            end = text.find(token[0], at, at + 300)
            return None if end < 0 or "\n" in text[at:end] else (text[at:end].translate(_HIDE), end + 1)
        if kind == "inline" and token["inline"] != "verb":
            at = re.compile(_OPTION + r"\s{0,3}(?:\{[^{}\n]{0,40}\})" + f"{{{self._inline[token['inline']]}}}").match(text, at)
            at = at.end() if at else token.end()
        found = _DELIMITED.match(text, at)
        if found is None or token["inline"] == "verb" and found[3] is not None and "{" in found[3]:
            return None
        inside = found[2] if found[3] is None else found[3]
        if re.search("#[1-9]", inside) and token["inline"] != "verb":  # in a macro's body: what it stands for is not known yet
            return None if kind != "inline" else (f"{{{inside}}}", found.end())
        if kind == "inline":
            return " ".join(inside.split("\n")).translate(_HIDE), found.end()
        hidden = re.sub(r"(?<!\\)[$%#&~_^]", lambda m: m[0].translate(_HIDE), inside)
        return f"{token[0].rstrip()}{{{hidden}}}", found.end()

    def _learn(self, text: str, at: int, kind: str) -> None:
        if kind == "declared":
            names = re.compile(_DECLARED).match(text, at)
            self._listings.add(names[1] or names[2] or names[3] or names[4] + "code")
            return
        if kind == "new":
            inline, name, language, alias = _NEW_INLINE.match(text, at).groups()
            self._inline[alias or name or language + (inline or "")] = 0
        else:
            made = _SHORT.match(text, at)
            self._marks = self._marks.replace(made[1], "") + ("" if "Delete" in made[0] or "Undefine" in made[0] else made[1])
        self._pattern = self._compile()


def cut_deleted(text: str) -> str:
    r"""A latexdiff file as its new version: what stands between \DIFdelbegin and \DIFdelend goes."""
    out, at = [], 0
    while (begin := text.find(r"\DIFdelbegin", at)) >= 0 and (end := text.find(r"\DIFdelend", begin)) >= 0:
        out.append(text[at:begin])
        at = end + len(r"\DIFdelend")
    out.append(text[at:])
    return _DIFF_MARK.sub("", " ".join(out))


def cut_comments(text: str) -> str:
    """Without comments, as TeX reads them: the line's end goes too, a blank line still ends a paragraph."""
    out: list[str] = []
    glued = False
    for line in text.removesuffix("\n").split("\n"):
        if glued:
            line = line.lstrip()
            if not line:
                out.append("\n")
            elif line[0] != "%":
                out.append(apart(out[-1], line))
        cut = next((m.start() for m in _COMMENT.finditer(line) if m[1]), None) if "%" in line else None
        if cut is None:
            out.append(line + "\n")
            glued = False
        elif line[:cut].strip():
            out.append(line[:cut])
            glued = True
    return "".join(out)
