r"""Commands of layout whose values stand in no braces: `\vskip 12pt plus 2pt`, `\hbox to \hsize`, `\parindent=0pt`, `\char'134`.

For each its grammar, as TeX reads it (The TeXbook, chapters 24 to 26): what follows the name is matched and says nothing to
a reader, except for characters by number and Roman numerals.
"""

import re
from collections.abc import Callable

_S = r"[ \t]{0,20}\n?[ \t]{0,20}"
_CONTROL = r"\\[a-zA-Z@]{1,40}"
_FACTOR = r"(?:\d{1,9}(?:[.,]\d{0,9})?|[.,]\d{1,9})"
_UNIT = r"(?i:(?:true[ \t]?)?(?:pt|em|ex|cm|mm|in|bp|sp|pc|dd|cc|mu|px|fil{1,3}))"
_SIGNS = r"[-+ \t]{0,9}"
_MEASURE = rf"{_SIGNS}{_FACTOR}[ \t]{{0,9}}{_UNIT}"
_REGISTER = r"(?:wd|ht|dp|dimen|skip|count)[ \t]?(?:\d{1,3}|\\[a-zA-Z@]{1,40})"
_DIMEN = rf"(?:{_MEASURE}|{_SIGNS}(?:{_FACTOR}[ \t]{{0,9}})?(?:\\{_REGISTER}|{_CONTROL}))"
_GLUE = rf"{_DIMEN}(?:{_S}plus{_S}{_DIMEN})?(?:{_S}minus{_S}{_DIMEN})?"
_NUMBER = rf"{_SIGNS}(?:\d{{1,9}}|'[0-7]{{1,9}}|\"[0-9A-F]{{1,8}}|`\\?[^\s]|\\magstep[ ]?\d|{_CONTROL})"
_IS = rf"{_S}={_S}|{_S}"
_TARGET = rf"{_S}(?:\\{_REGISTER}|{_CONTROL}|\d{{1,3}})"
_GROUP = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]{0,300}\}){0,300}\}){0,2000}\}"
_ARGUMENT = rf"{_S}(?:{_GROUP}|{_CONTROL})"

_GLUE_REGISTERS = """
parindent parskip baselineskip lineskip lineskiplimit hsize vsize leftskip rightskip parfillskip topskip splittopskip tabskip spaceskip
xspaceskip hoffset voffset hangindent hfuzz vfuzz overfullrule emergencystretch maxdepth splitmaxdepth boxmaxdepth mathsurround
nulldelimiterspace delimitershortfall scriptspace predisplaysize displaywidth displayindent abovedisplayskip belowdisplayskip
abovedisplayshortskip belowdisplayshortskip thinmuskip medmuskip thickmuskip normalbaselineskip normallineskip normallineskiplimit
smallskipamount medskipamount bigskipamount jot textwidth textheight linewidth columnwidth columnsep columnseprule oddsidemargin evensidemargin
topmargin headheight headsep footskip footheight footnotesep marginparwidth marginparsep marginparpush paperwidth paperheight
pdfpagewidth pdfpageheight pdfhorigin pdfvorigin tabcolsep arraycolsep arrayrulewidth doublerulesep tabbingsep fboxsep fboxrule itemsep parsep topsep
partopsep leftmargin rightmargin leftmargini leftmarginii leftmarginiii listparindent itemindent labelwidth labelsep bibhang bibsep bibindent
unitlength floatsep textfloatsep intextsep dblfloatsep dbltextfloatsep abovecaptionskip belowcaptionskip epsfxsize epsfysize
linenumbersep parskipamount mathindent prevdepth pagewidth trimheight stockwidth stockheight extrarowheight cmidrulewidth LTleft LTright
""".split()
_NUMBER_REGISTERS = """
pretolerance tolerance hbadness vbadness linepenalty hyphenpenalty exhyphenpenalty binoppenalty relpenalty clubpenalty widowpenalty
displaywidowpenalty brokenpenalty predisplaypenalty postdisplaypenalty interlinepenalty floatingpenalty outputpenalty doublehyphendemerits
finalhyphendemerits adjdemerits looseness pausing holdinginserts hangafter uchyph lefthyphenmin righthyphenmin globaldefs
defaulthyphenchar defaultskewchar escapechar endlinechar newlinechar maxdeadcycles delimiterfactor showboxbreadth showboxdepth
errorcontextlines magnification pageno pdfoutput pdfcompresslevel pdfobjcompresslevel pdfminorversion pdfdecimaldigits pdfpkresolution
pdfsuppressptexinfo pdfadjustspacing pdfprotrudechars interfootnotelinepenalty tracingall tracingonline tracingmacros tracingparagraphs tracingpages
tracingoutput tracinglostchars tracingcommands tracingrestores tracingstats tracingfonts interdisplaylinepenalty predisplaypenalty
""".split()


def _pattern(grammar: str) -> re.Pattern[str]:
    return re.compile(f"(?:{grammar})[ \\t]?")


# name → what may follow it
GRAMMAR = {
    name: _pattern(grammar)
    for names, grammar in (
        (
            "linenumbers runninglinenumbers pagewiselinenumbers modulolinenumbers setmodulolinenumbers resetlinenumber setrunninglinenumbers "
            "setpagewiselinenumbers switchlinenumbers internallinenumbers nolinenumbers",
            rf"\*?(?:{_S}\[[-+=*]?\d{{0,4}}\])?",
        ),
        ("insert", rf"{_S}{_CONTROL}{_S}{_GROUP}"),
        ("addto pretocmd apptocmd patchcmd", rf"{_S}\{{?{_CONTROL}\}}?(?:{_S}{_GROUP}){{1,5}}"),
        ("openup", _S + _DIMEN),
        ("vskip hskip mskip vglue hglue topglue", _S + _GLUE),
        ("kern mkern raise lower moveleft moveright", _S + _DIMEN),
        ("penalty", _IS.split("|")[1] + _NUMBER),
        ("hbox vbox vtop vcenter line hboxto", rf"{_S}(?:to|spread){_S}{_DIMEN}"),
        ("hrule vrule", rf"(?:{_S}(?:width|height|depth){_S}{_DIMEN}){{1,6}}"),
        (" ".join(_GLUE_REGISTERS), rf"(?:{_IS})(?:{_MEASURE}(?:{_S}plus{_S}{_DIMEN})?(?:{_S}minus{_S}{_DIMEN})?)|{_S}={_S}{_GLUE}"),
        (" ".join(_NUMBER_REGISTERS), rf"(?:{_IS}){_NUMBER}"),
        ("day month year time mag fam language", rf"{_S}={_S}{_NUMBER}"),
        ("everypar everydisplay everymath everyhbox everyvbox everyjob everycr output headline footline errhelp", rf"(?:{_IS}){_GROUP}"),
        ("advance multiply divide", rf"{_TARGET}{_S}(?:by)?{_S}(?:{_GLUE}|{_NUMBER})"),
        ("setlength addtolength settowidth settoheight settodepth", rf"{_ARGUMENT}(?:{_ARGUMENT}|{_S}{_GLUE})"),
        ("parshape", rf"(?:{_IS})\d{{1,2}}(?:{_S}{_DIMEN}){{0,40}}"),
        (
            "font",
            rf"{_S}{_CONTROL}{_S}=?{_S}[^\s\\{{}}]{{1,60}}(?:{_S}(?:scaled{_S}(?:\d{{1,5}}|\\magstep(?:half|[ ]?\d))|at{_S}{_DIMEN}))?",
        ),
        ("magstep", r"[ \t]?\d"),
        ("catcode lccode uccode sfcode mathcode delcode mathchardef chardef", rf"(?:{_NUMBER})(?:{_IS})(?:{_NUMBER})"),
        ("hyphenchar skewchar", rf"{_TARGET}(?:{_IS})(?:{_NUMBER})"),
        ("fontdimen", rf"{_S}\d{{1,2}}{_S}{_CONTROL}(?:{_IS})(?:{_DIMEN})"),
        ("setbox", rf"{_TARGET}(?:{_IS})\\[hv](?:box|top)(?:{_S}(?:to|spread){_S}{_DIMEN})?{_S}{_GROUP}"),
        ("box copy unhbox unvbox unhcopy unvcopy", _TARGET),
        ("wd ht dp dimen skip count toks", rf"{_TARGET}(?:{_S}={_S}(?:{_GLUE}|{_NUMBER}|{_GROUP}))?"),
        ("newdimen newskip newcount newbox newtoks newmuskip newread newwrite newinsert newfam newlanguage", _S + _CONTROL),
        ("newlength newsavebox usebox", _ARGUMENT),
        ("sbox savebox", rf"{_ARGUMENT}(?:{_S}\[[^\]\n]{{0,40}}\]){{0,2}}{_ARGUMENT}"),
        ("write", rf"{_S}-?(?:\d{{1,2}}|{_CONTROL}){_S}{_GROUP}"),
        ("openout openin", rf"{_TARGET}(?:{_IS})[^\s\\{{}}]{{1,100}}"),
        ("closeout closein", _TARGET),
        ("the number showthe show string", rf"{_S}(?:{_CONTROL}|\d{{1,9}})"),
        ("halign valign", rf"(?:{_S}to{_S}{_DIMEN})?{_S}{_GROUP}"),
        ("leaders cleaders xleaders", rf"{_S}\\(?:hrule|vrule|[hv]box(?:{_S}to{_S}{_DIMEN})?{_S}{_GROUP})"),
        ("settabs", rf"{_S}\d{{1,2}}{_S}\\columns"),
        ("linebreak pagebreak nolinebreak nopagebreak displaybreak suppressfloats samepage", _S + r"\[[\w!]{1,3}\]"),
        ("put", rf"{_S}\([^()\n]{{1,60}}\)"),
        ("makebox framebox dashbox oval", rf"(?:{_FACTOR})?\([^()\n]{{1,60}}\)(?:\[[a-z]{{1,2}}\])?"),
        ("multiput", rf"{_S}\([^()\n]{{1,60}}\){_S}\([^()\n]{{1,60}}\){_S}{_GROUP}"),
        ("vector circle qbezier", rf"\*?(?:{_S}\([^()\n]{{1,60}}\)){{0,3}}(?:{_S}{_GROUP})?"),
        ("edit", rf"{_S}(?:[1-9]|\{{[1-9]\}})(?={_S}\{{)"),
        ("fontsize", rf"{_ARGUMENT}{_ARGUMENT}"),
    )
    for name in names.split()
}
# \line has two lives, plain TeX's box and LaTeX's drawn line
_LINE = _pattern(rf"\(-?\d,-?\d\){_S}\{{[^{{}}]{{1,30}}\}}")
_CAMEL = re.compile(r"[A-Za-z]*[a-z][A-Z]|[a-z@]+(?:penalty|limit|depth|count)$")
_COUNT = _pattern(rf"{_S}={_S}-?\d{{1,9}}")
_ASSIGNMENT = _pattern(rf"{_S}={_MEASURE.replace(_SIGNS, _S + _SIGNS, 1)}(?:{_S}plus{_S}{_DIMEN})?(?:{_S}minus{_S}{_DIMEN})?")
_SHOWN = {
    "hskip": " ",
    "hglue": " ",
    "raise": "",
    "lower": "",
    "vrule": " ",
    "hrule": "\n\n",
    "mskip": " ",
    "kern": " ",
    "linebreak": " ",
} | dict.fromkeys(("halign", "valign", "leaders", "cleaders", "xleaders"), " ")
_BREAKS = frozenset(("vskip", "vglue", "topglue"))
_CODE = re.compile(r"[ \t]{0,9}\{?(?:'([0-7]{1,3})|\"([0-9A-F]{1,2})|(\d{1,3})|`\\?(.))(?:\}|[ \t])?")
_ROMAN = re.compile(r"[ \t]{0,9}\{?[ \t]{0,9}(\d{1,4})[ \t]?\}?(?:@|[ \t])?")
# Computer Modern's letters at places where ASCII has none or others
_FONT = {
    11: "ff",
    12: "fi",
    13: "fl",
    14: "ffi",
    15: "ffl",
    16: "ı",
    17: "ȷ",
    25: "ß",
    26: "æ",
    27: "œ",
    28: "ø",
    29: "Æ",
    30: "Œ",
    31: "Ø",
}
_FONT |= {60: "¡", 62: "¿", 123: "–", 124: "—", 34: "”", 92: "“"}
_ACCENT_CODES = {18: "`", 19: "'", 20: "v", 21: "u", 22: "=", 23: "r", 24: "c", 94: "^", 95: ".", 125: "H", 126: "~", 127: '"'}


def skip_layout(word: str, text: str, at: int) -> tuple[str, int] | None:
    """What a command of layout shows, and the place after its values; None for any other command or where none follow."""
    read = _READERS.get(word)
    if read:
        return read(text, at)
    grammar = GRAMMAR.get(word)
    if grammar is None:
        # any register that the author declared
        found = (
            (_ASSIGNMENT.match(text, at) or _CAMEL.match(word) and _COUNT.match(text, at)) if text[at : at + 2].strip()[:1] == "=" else None
        )
        return ("", found.end()) if found else None
    found = grammar.match(text, at) or (_LINE.match(text, at) if word == "line" else None)
    if found is None:
        return None
    if word in _BREAKS:
        # ends a paragraph, where its author gave it a line
        before = text[max(0, at - 80) : at].rpartition("\\")[0].rstrip(" \t")
        alone = not before or before[-1] in "\n}" or text[found.end() : found.end() + 1] in ("\n", "")
        return ("\n\n" if alone or text[found.end() - 1] == "\n" else " "), found.end()
    if word == "kern" and "-" in found[0]:
        return "", found.end()
    return _SHOWN.get(word, ""), found.end()


def character(text: str, at: int) -> tuple[str, int] | None:
    r"""The letter of \char with its number in octal, hexadecimal, decimal or by example."""
    found = _CODE.match(text, at)
    if found is None:
        return None
    if found[4]:
        return found[4], found.end()
    code = _code(found)
    return _FONT.get(code, chr(code) if 32 < code < 127 else ""), found.end()


def _code(found: re.Match[str]) -> int:
    return int(found[1], 8) if found[1] else int(found[2], 16) if found[2] else int(found[3])


def accent_of_number(text: str, at: int) -> tuple[str, int] | None:
    r"""The accent command that plain \accent means by its number, and the place of its letter."""
    found = _CODE.match(text, at)
    name = _ACCENT_CODES.get(_code(found)) if found and not found[4] else None
    return (name, found.end()) if name else None


def roman(number: int) -> str:
    """A number below 4000 in small Roman letters."""
    shown = ""
    for value, letters in zip((1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1), "m cm d cd c xc l xl x ix v iv i".split()):
        shown += letters * (number // value)
        number %= value
    return shown


def _roman_numeral(text: str, at: int) -> tuple[str, int] | None:
    found = _ROMAN.match(text, at)
    if found is None or int(found[1]) >= 4000:
        return None
    # capitals where the author asked for them around it
    before = text[max(0, at - 60) : at]
    upper = re.search(r"\\(?:uppercase|MakeUppercase|@?slowromancap@?)\s*(?:\\expandafter\s*)?\{?\s*\\romannumeral$", before)
    return (roman(int(found[1])).upper() if upper else roman(int(found[1]))), found.end()


_READERS: dict[str, Callable[[str, int], tuple[str, int] | None]] = {"char": character, "symbol": character, "romannumeral": _roman_numeral}
