"""A paper's files → texts of TeX as the expansion asks for them: found in the tree, decoded, freed of listings and comments.

Nothing outside the tree is ever opened: absolute names, names that climb out, and links that lead out are skipped
and noted. A file that is missing is noted, too, for papers arrive without their tables and figures.
"""

import os
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from data_tools.latex.expansion.source import Literals, cut_comments, cut_deleted, decode
from data_tools.latex.limits import MAX_FILE_BYTES, MAX_INPUT_DEPTH, MAX_INPUTS, MAX_PAPER_CHARS, Deadline, PaperError

_INPUT = re.compile(
    r"\\(?:(input|include|subfile|subfileinclude|InputIfFileExists|variable|@input)\s{0,9}(?:\{([^{}\n]{1,300})\}|(?<=t)\s([^\s\\{}%]{1,300}))"
    r"|(?:import|subimport|includefrom|inputfrom)\*?\s{0,9}\{([^{}\n]{0,300})\}\s{0,9}\{([^{}\n]{1,300})\})"
)
_BEGIN = re.compile(r"\\begin\s{0,9}\{document\}")
_MAX_PACKAGE_CHARS = 1 << 16
# packages that travel with papers and define layout, not words
_LAYOUT = re.compile(
    r"aas|natbib|emulateapj|apjfonts|deluxetable|epsf|psfig|graphic|revtex|mn2e|mnras|aa$|hyperref|lineno|color|float|caption|"
    r"subfig|rotat|longtable|multirow|ams|times|fancy|geometry|showyourwork|elsart|icml|neurips|colm|iclr|spie|jinst|jcap|lscape|pdf"
)


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

    def otherwise_spelt(self, name: str) -> str | None:
        """The tree's file that has this name in other capitals, as a paper written where capitals do not count may ask for."""
        if self._files is not None:
            return next((known for known in sorted(self._files) if known.lower() == name.lower()), None)
        found = PurePosixPath()
        for part in PurePosixPath(name).parts:
            folder = (self._root / found).resolve()
            if not folder.is_relative_to(self._root) or not folder.is_dir():
                return None
            same = next((known for known in sorted(os.listdir(folder)) if known.lower() == part.lower()), None)
            if same is None:
                return None
            found /= same
        return str(found) if self.has(str(found)) else None

    def _path(self, name: str) -> Path | None:
        path = (self._root / name).resolve()
        return path if path.is_relative_to(self._root) and path.is_file() else None

    def names(self) -> list[str]:
        """Relative names of the files in memory; a folder's are not listed."""
        return sorted(self._files or ())


class Files:
    """The files that one paper asks for, counted and bounded; `notes` gets a line for each that is not read."""

    def __init__(self, tree: Tree, main: str, notes: list[str], deadline: Deadline) -> None:
        self._tree, self._main, self._notes, self._deadline = tree, main, notes, deadline
        self._count = self._chars = 0
        self._literals = Literals(deadline)
        self._began = False  # whether a \begin{document} was read
        self.codec = ""  # as inputenc names it
        self.language = ""  # the one that babel or the class name last

    def main(self) -> str:
        """The main file."""
        data = self._tree.read(self._main)
        if data is None:
            raise PaperError("no main file", f"{self._main} is not a file of the paper")
        text = self._settled(decode(data, self._main))
        self._began = _BEGIN.search(text) is not None
        return text

    def package(self, name: str) -> str | None:
        """The author's own package of this name, where the paper brings it."""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(self._main), name + ".sty"))
        if _LAYOUT.match(posixpath.basename(name)) or path.startswith(("../", "/")) or not self._tree.has(path):
            return None
        text = self._text(path)
        return self._settled(text) if text is not None and len(text) <= _MAX_PACKAGE_CHARS else None

    def input(self, wanted: str, parents: tuple[str, ...], folder: str = "") -> tuple[str, str] | None:
        """Name and text of the file that `wanted` means to the last of the files that stand open."""
        self._deadline.check()
        self._count += 1
        asker = parents[-1]
        if self._count > MAX_INPUTS:
            raise PaperError("too many inputs", f"more than {MAX_INPUTS} files asked for, the last by {asker}")
        wanted = posixpath.join(folder, wanted.strip().strip('"'))
        written = self._literals.written.get(wanted) or self._literals.written.get(wanted + ".tex")
        found = wanted if written is not None else self.find(wanted, asker, note=True)
        if found is None:
            return None
        if found in parents:
            self._notes.append(f"{found} asks for itself by way of {asker}: skipped")
            return None
        if len(parents) >= MAX_INPUT_DEPTH:
            raise PaperError("nested too deeply", f"inputs {len(parents)} files deep at {found}")
        text = written if written is not None else self._text(found)
        if text is None:
            return None
        text = self._settled(text)
        begin = _BEGIN.search(text)
        if begin is None or not self._began:  # the main file may leave even the document's beginning to another
            self._began = self._began or begin is not None
            return found, text
        return found, text[begin.end() :]  # a sub-file that can be typeset alone brings a preamble of its own

    def find(self, wanted: str, asker: str, note: bool = False) -> str | None:
        """The tree's file that `wanted` means, looked for as TeX does (from the main file), then beside the asker."""
        outside = wanted.startswith(("/", "~", "|")) or re.match(r"[A-Za-z]:", wanted) is not None or "\0" in wanted
        tried = []
        if not outside:
            for folder in dict.fromkeys((posixpath.dirname(self._main), posixpath.dirname(asker), "")):
                path = posixpath.normpath(posixpath.join(folder, wanted))
                if path == ".." or path.startswith(("../", "/")):
                    outside = True
                elif len(path) < 290:
                    tried += (path + ".tex", path) if not PurePosixPath(path).suffix else (path, path + ".tex")
        found = next((c for c in tried if self._tree.has(c)), None) or next(filter(None, map(self._tree.otherwise_spelt, tried)), None)
        if found is None and note:
            self._notes.append(f"{wanted[:80]} lies outside the paper: not read" if outside else f"{wanted[:80]} is missing")
        return found

    def _settled(self, text: str) -> str:
        text = cut_deleted(cut_comments(self._literals.settle(text)))
        self._chars += len(text)
        if self._chars > MAX_PAPER_CHARS:
            raise PaperError("too large", f"more than {MAX_PAPER_CHARS} characters with its inputs")
        return text

    def _text(self, name: str) -> str | None:
        """A file beside the main one; None, and a note, for one that is too large or no text, as machine-made tables are."""
        try:
            data = self._tree.read(name)
            return None if data is None else decode(data, name, self.codec)
        except PaperError as error:
            self._notes.append(f"{error}: skipped")
            return None
