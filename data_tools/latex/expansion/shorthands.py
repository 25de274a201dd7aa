r"""Letters and signs as babel's languages let their authors write them: German `"a`, Spanish `'a`, Slovene `"c` → ä, á, č.

They hold in running text only; a paper's language is the one that babel or the class names last.
"""

import re

_UMLAUTS = {f'"{letter}': shown for letter, shown in zip("aouAOUeEiI", "äöüÄÖÜëËïÏ")}
_SIGNS = {
    '"`': "„", "\"'": "“", '"<': "«", '">': "»", '"-': "", '"=': "-", '"~': "-", '"|': "", '""': "", '"/': "/",
}  # fmt: skip
_GERMAN = (
    _UMLAUTS
    | {'"s': "ß", '"z': "ß", '"S': "SS", '"Z': "SZ", '"c': "c", '"f': "f", '"l': "l", '"m': "m", '"n': "n", '"p': "p", '"t': "t"}
    | _SIGNS
)
_POLISH = {f'"{letter}': shown for letter, shown in zip("acelnosrzACELNOSRZ", "ąćęłńóśźżĄĆĘŁŃÓŚŹŻ")} | _SIGNS
_SLOVENE = {f'"{letter}': shown for letter, shown in zip("cszCSZ", "čšžČŠŽ")} | _SIGNS
_SPANISH = {'"u': "ü", '"U': "Ü", '"i': "ï", '"a': "ª", '"o': "º", '"-': "", '"=': "-", '"~': "-", '"<': "«", '">': "»"}
_ACUTE = {f"'{letter}": shown for letter, shown in zip("aeiounAEIOUN", "áéíóúñÁÉÍÓÚÑ")}
_TABLES = (
    dict.fromkeys("german ngerman austrian naustrian germanb swissgerman nswissgerman".split(), _GERMAN)
    | dict.fromkeys("dutch afrikaans".split(), _UMLAUTS | _SIGNS)
    | dict.fromkeys("swedish norsk nynorsk danish finnish".split(), _SIGNS)
    | {"polish": _POLISH}
    | dict.fromkeys("slovene slovenian croatian".split(), _SLOVENE)
    | dict.fromkeys("spanish galician catalan".split(), _SPANISH)
)
_OTHERS = frozenset(
    "english american british usenglish ukenglish french francais frenchb italian portuguese brazil brazilian russian ukrainian czech".split()
)
_ACUTES = re.compile(r"(?<=[a-zA-Z])'[aeioun](?=[a-z]|\b)|(?<![a-zA-Z'])'[aeiouAEIOU](?=[a-z]{2,12}\b(?!'))")
_ENDINGS = re.compile(r"(?<=[a-z]{2})'[aeio](?=[ns]?\b)")  # no foreign name ends like this
MANY = 10  # of a kind that stands in no other text of the language


def named_language(options: str) -> str:
    """The last of the options, with commas between, that is a language; "" where none is."""
    names = [option.rpartition("=")[2].strip().lower() for option in options.split(",")]
    return next((name for name in reversed(names) if name in _TABLES or name in _OTHERS), "")


def spelled_out(text: str, language: str) -> str:
    """Running text of a paper in this language with its shorthands as the letters that they print."""
    table = _TABLES.get(language)
    if table is None:
        return text
    if table is _SPANISH:
        many = len(re.findall(r"(?<=[a-zA-Z])'[aeioun](?=[a-z])", text)) >= MANY
        text = (_ACUTES if many else _ENDINGS).sub(lambda found: _ACUTE[found[0]], text)
    if '"' not in text:
        return text
    letters = "|".join(sorted((re.escape(written) for written in table), key=len, reverse=True))
    return re.sub(rf"(?<!\\)(?:{letters})", lambda found: table[found[0]], text)
