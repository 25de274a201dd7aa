"""A paper's files → one string of TeX: decode, cut verbatim and comments, follow inputs inside the tree.

Nothing outside the tree is ever opened: absolute names, names that climb out, and links that lead out are skipped
and noted. A file that is missing is noted, too, for papers arrive without their tables and figures.
"""

import codecs
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from data_tools.latex.limits import (
    MAX_FILE_BYTES,
    MAX_INPUT_DEPTH,
    MAX_INPUTS,
    MAX_PAPER_CHARS,
    Deadline,
    PaperError,
)

_CODECS = {
    "latin1": "latin-1",
    "latin2": "iso8859-2",
    "latin5": "iso8859-9",
    "latin9": "iso8859-15",
    "ansinew": "cp1252",
    "cp1252": "cp1252",
    "cp1250": "cp1250",
    "cp1251": "cp1251",
    "applemac": "mac-roman",
    "koi8-r": "koi8-r",
}
_INPUTENC = re.compile(rb"\\usepackage\s*\[([a-z0-9-]{2,12})\]\s*\{inputenc\}")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x19\x1b-\x1f\x7f]")
_CODE = r"(?:verbatim|Verbatim|lstlisting|minted|comment|filecontents)"
_VERBATIM_BEGIN = re.compile(r"\\begin\s{0,9}\{(" + _CODE + r"\*?)\}")
# what a comment mark can hide in: an inline verbatim, an address, an escaped character
_COMMENT = re.compile(r"\\verb\*?([^a-zA-Z\s*\\])[^\n]{0,300}?\1|\\(?:url|href|path|nolinkurl)\s{0,9}\{[^{}\n]{0,2000}\}|\\.|(%)", re.S)
_INPUT = re.compile(
    r"\\(?:(input|include|subfile|subfileinclude|InputIfFileExists|variable|@input)\s{0,9}(?:\{([^{}\n]{1,300})\}|(?<=t)\s([^\s\\{}%]{1,300}))"
    r"|(?:import|subimport|includefrom|inputfrom)\*?\s{0,9}\{([^{}\n]{0,300})\}\s{0,9}\{([^{}\n]{1,300})\})"
)
_HEAD_BYTES = 1 << 20
_MAIN_MARKS = [
    (re.compile(r"(?m)^[^%\n]{0,500}?(?:" + mark + ")"), points)
    for mark, points in (
        (r"\\document(?:class|style)", 4),
        (r"\\begin\s{0,9}\{document\}", 4),
        (r"\\begin\s{0,9}\{abstract\}|\\abstract\b", 4),
        (r"\\title\b", 2),
        (r"\\section\b", 2),
        (r"\\(?:bibliography|begin\s{0,9}\{thebibliography\})", 1),
    )
]
_PACKAGE = re.compile(r"\\(?:usepackage|RequirePackage)\s{0,9}(?:\[[^\]\n]{0,200}\])?\{([\w\s,./-]{1,300})\}")
_MAX_PACKAGE_CHARS = 1 << 16
# packages that travel with papers and define layout, not words
_LAYOUT = re.compile(
    r"aas|natbib|emulateapj|apjfonts|deluxetable|epsf|psfig|graphic|revtex|mn2e|mnras|aa$|hyperref|lineno|color|float|caption|"
    r"subfig|rotat|longtable|multirow|ams|times|fancy|geometry|showyourwork|elsart|icml|neurips|colm|iclr|spie|jinst|jcap|lscape|pdf"
)


MISSING = "[...]"  # for a value in a sentence whose file is not there


class Tree:
    """A paper's files, from a folder (`Path`) or from memory (`{relative path: bytes}`)."""

    def __init__(self, files: Path | Mapping[str, bytes]) -> None:
        self._root = files.resolve() if isinstance(files, Path) else None
        self._files = None if isinstance(files, Path) else {posixpath.normpath(k): v for k, v in files.items()}

    def read(self, name: str) -> bytes | None:
        """Bytes of a file of the tree, None where there is none; PaperError where it is too large."""
        if self._files is not None:
            data = self._files.get(name)
        else:
            path = self._path(name)
            if path is None:
                return None
            if path.stat().st_size > MAX_FILE_BYTES:
                raise PaperError("too large", f"{name} has {path.stat().st_size} bytes; at most {MAX_FILE_BYTES} are read")
            data = path.read_bytes()
        if data is not None and len(data) > MAX_FILE_BYTES:
            raise PaperError("too large", f"{name} has {len(data)} bytes; at most {MAX_FILE_BYTES} are read")
        return data

    def has(self, name: str) -> bool:
        """Whether the tree has a regular file of this name, inside it by every link."""
        return name in self._files if self._files is not None else self._path(name) is not None

    def _path(self, name: str) -> Path | None:
        path = (self._root / name).resolve()
        return path if path.is_relative_to(self._root) and path.is_file() else None

    def names(self) -> list[str]:
        """Relative names of the files in memory; a folder's are not listed."""
        return sorted(self._files or ())


def choose_main(files: Mapping[str, bytes], deadline: Deadline) -> str:
    """The main file of a paper's files, by what the files say; PaperError where none is LaTeX."""
    ranks: dict[str, tuple[int, int, int, str]] = {}
    included: set[str] = set()
    for name, data in files.items():
        deadline.check()
        if not (name.lower().endswith((".tex", ".ltx", ".latex")) or b"\\document" in data[:65536]):
            continue
        text = data[:_HEAD_BYTES].decode("latin-1")
        included |= {posixpath.basename(m[1] or m[2] or m[4]).removesuffix(".tex").lower() for m in _INPUT.findall(text)}
        score = sum(points for mark, points in _MAIN_MARKS if mark.search(text))
        stem = PurePosixPath(name).stem.lower()
        score += (stem in ("ms", "main", "paper", "article", "manuscript")) - 3 * ("diff" in stem) - 6 * (r"{subfiles}" in text[:4000])
        if score >= 5:
            ranks[name] = (score, -name.count("/"), len(data), name)
    if not ranks:
        raise PaperError("not LaTeX", f"none of {len(files)} files has a \\documentclass and a \\begin{{document}}")
    return max(ranks.values(), key=lambda rank: (rank[0] - 6 * (PurePosixPath(rank[3]).stem.lower() in included), *rank[1:]))[3]


def decode(data: bytes, name: str) -> str:
    """Text of a source file: UTF-8 or by its mark, else by its inputenc, else Windows-1252; PaperError for binary."""
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
        codec = _CODECS.get(declared[1].decode() if declared else "", "cp1252")
        return _lines(data.decode(codec, errors="replace"))


def _lines(text: str) -> str:
    # U+E000..E003 mark protected mathematics later on, so no file may bring its own
    return re.sub("[\ufeff\ufffd\ue000-\ue003\x00-\x08\x0b-\x1f]", "", text.replace("\r\n", "\n").replace("\r", "\n"))


def cut_verbatim(text: str) -> str:
    """Without program listings and comment environments, in which % and braces mean nothing."""
    out, at = [], 0
    for begin in _VERBATIM_BEGIN.finditer(text):
        if begin.start() < at or _commented(text, begin.start()):
            continue
        end = text.find(f"\\end{{{begin[1]}}}", begin.end())
        if end < 0:
            break
        out.append(text[at : begin.start()])
        at = end + len(begin[1]) + 6
    return "".join(out) + text[at:]


def _commented(text: str, at: int) -> bool:
    line = text[max(text.rfind("\n", 0, at), at - 500) + 1 : at]
    return "%" in line.replace("\\%", "")


def cut_comments(text: str) -> str:
    """Without comments, as TeX reads them: the line's end goes too, a blank line still ends a paragraph."""
    out: list[str] = []
    glued = False
    for line in text.split("\n"):
        if glued:
            line = line.lstrip()
            if not line:
                out.append("\n")
        cut = next((m.start() for m in _COMMENT.finditer(line) if m[2]), None) if "%" in line else None
        if cut is None:
            out.append(line + "\n")
            glued = False
        elif line[:cut].strip():
            out.append(line[:cut])
            glued = True
    return "".join(out)


def flatten(tree: Tree, main: str, notes: list[str], deadline: Deadline) -> str:
    """The paper as one string without comments, its inputs in place; `notes` gets one line a file not found or refused."""
    return _Flattener(tree, main, notes, deadline).run()


class _Flattener:
    def __init__(self, tree: Tree, main: str, notes: list[str], deadline: Deadline) -> None:
        self._tree, self._main, self._notes, self._deadline = tree, main, notes, deadline
        self._count = self._chars = 0

    def run(self) -> str:
        data = self._tree.read(self._main)
        if data is None:
            raise PaperError("no main file", f"{self._main} is not a file of the paper")
        return self._expand(decode(data, self._main), self._main, (self._main,))

    def _expand(self, text: str, name: str, parents: tuple[str, ...]) -> str:
        self._deadline.check()
        text = cut_comments(cut_verbatim(text))
        text = re.split(r"\\endinput\b|\\end\s{0,9}\{document\}", text, maxsplit=1)[0]
        if len(parents) > 1:
            text = re.split(r"\\begin\s{0,9}\{document\}", text, maxsplit=1)[-1]
        self._chars += len(text)
        if self._chars > MAX_PAPER_CHARS:
            raise PaperError("too large", f"more than {MAX_PAPER_CHARS} characters with its inputs")
        if len(parents) == 1:
            text = _PACKAGE.sub(self._packages, text)
        return _INPUT.sub(lambda m: self._input(m, name, parents), text)

    def _packages(self, match: re.Match[str]) -> str:
        """The definitions of the author's own packages, where the paper brings them."""
        found = []
        for package in match[1].split(","):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(self._main), package.strip() + ".sty"))
            if _LAYOUT.match(posixpath.basename(package.strip())) or path.startswith(("../", "/")):
                continue
            text = self._text(path)
            if text is not None and len(text) <= _MAX_PACKAGE_CHARS:
                found.append(cut_comments(text))
        return "\n".join(found)

    def _input(self, match: re.Match[str], name: str, parents: tuple[str, ...]) -> str:
        self._count += 1
        if self._count > MAX_INPUTS:
            raise PaperError("too many inputs", f"more than {MAX_INPUTS} files asked for, the last by {name}")
        wanted = (match[2] or match[3] or posixpath.join(match[4] or "", match[5] or "")).strip().strip('"')
        if "\\" in wanted or "#" in wanted:
            return ""
        found = self._find(wanted, name)
        if found is None:
            return MISSING if match[1] == "variable" else ""
        if found in parents:
            self._notes.append(f"{found} asks for itself by way of {name}: skipped")
            return ""
        if len(parents) >= MAX_INPUT_DEPTH:
            raise PaperError("nested too deeply", f"inputs {len(parents)} files deep at {found}")
        text = self._text(found)
        if text is None:
            return ""
        return self._expand(text, found, (*parents, found)).rstrip("\n")

    def _text(self, name: str) -> str | None:
        """A file beside the main one; None, and a note, for one that is too large or no text, as machine-made tables are."""
        try:
            data = self._tree.read(name)
            return None if data is None else decode(data, name)
        except PaperError as error:
            self._notes.append(f"{error}: skipped")
            return None

    def _find(self, wanted: str, name: str) -> str | None:
        """The tree's file that `wanted` means, looked for as TeX does (from the main file), then beside the asker."""
        outside = wanted.startswith(("/", "~", "|")) or re.match(r"[A-Za-z]:", wanted) is not None or "\0" in wanted
        if not outside:
            for folder in dict.fromkeys((posixpath.dirname(self._main), posixpath.dirname(name), "")):
                path = posixpath.normpath(posixpath.join(folder, wanted))
                if path == ".." or path.startswith(("../", "/")):
                    outside = True
                    continue
                for candidate in (path + ".tex", path) if not PurePosixPath(path).suffix else (path, path + ".tex"):
                    if len(candidate) < 300 and self._tree.has(candidate):
                        return candidate
        self._notes.append(f"{wanted[:80]} lies outside the paper: not read" if outside else f"{wanted[:80]} is missing")
        return None
