r"""What files bring into a paper: inputs in their places, the author's packages, the packages that are loaded."""

import re

from data_tools.latex.expansion.conditions import Conditions
from data_tools.latex.expansion.shorthands import named_language
from data_tools.latex.expansion.stream import Stream
from data_tools.latex.macros import SPACE, Macro, remarks
from data_tools.latex.tree import Files

MISSING = "[...]"  # for a value in a sentence whose file is not there


def _kind(command: str, options: str, name: str) -> str:
    """The class, or what LaTeX 2.09 makes one of by an option: `\\documentstyle[12pt,aasms4]{article}`."""
    styles = [option.strip() for option in options.split(",")] if command == "documentstyle" else []
    return next((style for style in styles if style.startswith(("aas", "mn", "revtex"))), name.strip())


class Inputs:
    """The files that a stream asks for; `remarks` are the commands for remarks that its packages bring."""

    def __init__(self, stream: Stream, files: Files, main: str, conditions: Conditions) -> None:
        self._stream, self._files, self._main, self._conditions = stream, files, main, conditions
        self._only: set[str] | None = None
        self._options: dict[str, str] = {}  # what a package's options do
        self.remarks: dict[str, Macro] = remarks(frozenset())

    def has(self, name: str) -> bool:
        """Whether the paper brings a file."""
        return self._files.find(name.strip(), self._asker()) is not None

    def _asker(self) -> str:
        return next((p.file for p in reversed(self._stream.stack) if p.file), self._main)

    def package(self, command: str) -> bool:
        """Note what is loaded; the definitions of the author's own packages come in."""
        options, names = self._stream.optional(""), self._stream.argument() or ""
        suffix = ".cls" if command.startswith("document") else ""
        for name in map(str.strip, names.split(",")):
            self._conditions.loaded[name + suffix] = options.replace(" ", "")
            if name == "inputenc":
                self._files.codec = options.split(",")[-1].strip().lower()
        for name in reversed(names.split(",")):  # what is put first is read last
            text = self._files.package(name.strip()) if not suffix else None
            if text is not None:
                self._stream.push(text, file=name.strip() + ".sty")
            if name.strip() in ("babel", "german", "ngerman") or suffix:
                self._files.language = named_language(f"{options},{name}") or self._files.language
        known = {"aastex" if name.startswith("aastex") and name.endswith(".cls") else name for name in self._conditions.loaded}
        self.remarks = remarks(frozenset(known))
        if suffix:  # how it numbers is asked later
            self._stream.put(f"\\documentclass{{{_kind(command, options, names)}}}")
        return True

    def declare_option(self, _: str) -> bool:
        r"""`\DeclareOption{draft}{..}`: done where the package or the class is loaded with it."""
        top = self._stream.here()
        top.at += top.text.startswith("*", top.at)
        name, code = self._stream.argument(), self._stream.argument() or ""
        if name is not None:
            self._options[name.strip()] = code
        given = {option for options in self._conditions.loaded.values() for option in options.split(",")}
        self._stream.push(code if name in given else "")
        return True

    def execute_options(self, _: str) -> bool:
        r"""`\ExecuteOptions{draft}`"""
        for name in reversed((self._stream.argument() or "").split(",")):
            self._stream.push(self._options.get(name.strip(), ""))
        return True

    def optional_text(self, _: str) -> bool:
        r"""`\opt{draft}{..}` of the optional package: shown where the package is loaded with one of the names."""
        if "optional" not in self._conditions.loaded:
            return False
        names, text = self._stream.argument() or "", self._stream.argument() or ""
        if set(names.replace(" ", "").split(",")) & set(self._conditions.loaded["optional"].split(",")):
            self._stream.push(text)
        return True

    def inputencoding(self, _: str) -> bool:
        r"""`\inputencoding{latin1}`"""
        self._files.codec = (self._stream.argument() or "").strip().lower()
        return True

    def include_only(self, _: str) -> bool:
        r"""`\includeonly{a,b}`: other files that are included are not typeset."""
        self._only = {name.strip() for name in self._stream.flat(self._stream.argument() or "").split(",")}
        return True

    def end_input(self, _: str) -> bool:
        """The file ends with the line that says so."""
        for pending in reversed(self._stream.stack):
            if pending.file:
                end = pending.text.find("\n", pending.at)
                pending.text = pending.text[: end if end >= 0 else len(pending.text)]
                break
        return True

    def input(self, command: str) -> bool:
        r"""`\input{a}` and its kin."""
        wanted = self._file_name(bare=command in ("input", "@input", "@@input", "expandableinput"))
        if wanted is None:
            return False
        included = command == "include"
        if included and self._only is not None and wanted not in self._only:
            return True
        return self._open_file(wanted, "", included, MISSING if command == "variable" else "")

    def import_from(self, command: str) -> bool:
        r"""`\import{folder/}{a}` and its kin."""
        top = self._stream.here()
        top.at += top.text.startswith("*", top.at)
        folder, wanted = self._stream.argument(braced=True), self._stream.argument(braced=True)
        if folder is None or wanted is None:
            return False
        return self._open_file(self._stream.flat(wanted), self._stream.flat(folder).strip(), False, "")

    def _file_name(self, bare: bool) -> str | None:
        r"""The name in `\input{a}`, `\input a `, `\input\macro`, `\input "a b"`."""
        top = self._stream.here()
        at = SPACE.match(top.text, top.at).end()
        if top.text.startswith("{", at):
            name = self._stream.argument(braced=True)
            return None if name is None or len(name) > 300 else self._stream.flat(name).strip()
        found = re.compile(r"\"([^\"\n]{1,300})\"|((?:[^\s{}%\\]|\\[a-zA-Z@]+){1,300})").match(top.text, at) if bare else None
        if found is None:
            return None
        top.at = found.end()
        top.at += top.text.startswith(" ", top.at)
        return found[1] or self._stream.flat(found[2]).strip()

    def _open_file(self, wanted: str, folder: str, own_page: bool, missing: str) -> bool:
        parents = tuple(pending.file for pending in self._stream.stack if pending.file) or (self._main,)
        if "\\" in wanted or "#" in wanted or not wanted:
            return True
        found = self._files.input(wanted, parents, folder)
        if found is None:
            self._stream.push(missing)
            return True
        name, text = found
        top = self._stream.here()
        follows = top.text[top.at : top.at + 1]
        # the end of the last line is a space; before a mark of punctuation nobody wants to see it
        if own_page or re.search(r"\n[ \t]*\n\s*$", text):
            end = "\n\n"
        else:
            end = " " if text.endswith("\n") and (follows.isalnum() or follows in ("\\", "$", "(")) else ""
        self._stream.push(("\n\n" if own_page else "") + text.rstrip("\n") + end, file=name)
        return True
