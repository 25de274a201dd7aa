r"""Who is cited, and how: every accent of TeX in every bracing, the labels of the bibliography styles, the notes of \citep."""

import unicodedata

import pytest

from data_tools.latex.citations import citation_names
from data_tools.latex.limits import Deadline
from data_tools.latex.paper import read_paper

FILL = "The star is observed during many nights with the telescope and its light varies slowly over the season. " * 3


def introduction(text: str, bbl: str = "", preamble: str = "") -> str:
    source = f"\\documentclass{{aa}}\n{preamble}\n\\begin{{document}}\n\\section{{Introduction}}\nStart. {text}\n\\section{{Data}}\n{FILL}\\end{{document}}"
    return read_paper({"ms.tex": source.encode(), "ms.bbl": bbl.encode()}).introduction.removeprefix("Start. ")


def cited(label: str) -> str:
    items = f"\\begin{{thebibliography}}{{}}\n\\bibitem{label}%\n{{k}} Text (2001) [x]\n\\end{{thebibliography}}"
    return introduction(r"As \citet{k} found", items).removeprefix("As ").removesuffix(" found")


MARKS = {
    **{"`": "\u0300", "'": "\u0301", "^": "\u0302", "~": "\u0303", "=": "\u0304", ".": "\u0307", '"': "\u0308"},
    **{"u": "\u0306", "r": "\u030a", "H": "\u030b", "v": "\u030c", "d": "\u0323", "c": "\u0327", "k": "\u0328", "b": "\u0331"},
}
LETTERS = {"o": "ø", "O": "Ø", "l": "ł", "L": "Ł", "ss": "ß", "ae": "æ", "AE": "Æ", "oe": "œ", "OE": "Œ", "aa": "å", "AA": "Å"} | {
    **{"i": "ı", "j": "ȷ", "dh": "ð", "DH": "Ð", "th": "þ", "TH": "Þ", "dj": "đ", "DJ": "Đ", "ng": "ŋ"}
}
BRACINGS = ["{\\%s%s}", "\\%s{%s}", "{\\%s{%s}}", "\\%s %s", "{\\%s %s}", "{{\\%s%s}}"]


@pytest.mark.parametrize("mark", MARKS)
def test_an_accent_in_any_bracing_is_its_letter_in_names_and_in_text(mark: str) -> None:
    words = []
    for bracing in BRACINGS:
        if mark.isalpha():
            bracing = bracing.replace("\\%s%s", "\\%s %s")
        for letter, plain in (("a", "a"), ("S", "S"), (r"\i", "i"), (r"\o", "ø"), (r"\AA", "Å")):
            if letter[0] != "\\" or bracing[-1] == "}":  # `\' \one` would be another command
                words.append((f"Mo{bracing % (mark, letter)}ne", "Mo" + unicodedata.normalize("NFC", plain + MARKS[mark]) + "ne"))
    assert len(words) > 25
    wanted = ", ".join(right for _, right in words)
    assert cited(f"[{', '.join(word for word, _ in words)}(2011)]") == f"{wanted} (2011)"
    assert introduction(", ".join(word for word, _ in words)) == wanted


@pytest.mark.parametrize("name", LETTERS)
def test_a_letter_with_a_name_joins_its_word(name: str) -> None:
    for bracing in ("{\\%s}", "\\%s{}", "{\\%s{}}", "\\%s "):
        word = f"X{bracing % name}rsted"
        assert cited(f"[{word}(2011)]") == f"X{LETTERS[name]}rsted (2011)", word
        assert introduction(f"Of {word[1:]} it is") == f"Of {LETTERS[name]}rsted it is", word


@pytest.mark.parametrize(
    ("tex", "words"),
    [
        (
            r"\AA ngstr\"om and 50 \AA wide, in \AA, $5$ \AA{} or \AA\ and in \AA and",
            "Ångström and 50 Å wide, in Å, $5$ Å or Å and in Å and",
        ),
        (r"Nguy\~{\^e}n \t{oo} \'\ae x \u{\i}x", "Nguyễn o\u0361o ǽx ĭx"),
        (r"a\~{}b and \^{}c", "ab and c"),
    ],
)
def test_words_with_accents(tex: str, words: str) -> None:
    assert introduction(tex) == unicodedata.normalize("NFC", words)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (r"[{{Garc{\'\i}a} et~al.(2004)}]", "García et al. (2004)"),
        (r"[{{Lee} {et~al.}(2014{\natexlab{a}}){Lee}, {Kim}}]", "Lee et al. (2014a)"),
        (r"[\protect\citeauthoryear{Lee}{2014}]", "Lee (2014)"),
        (r"[\protect\citeauthoryear{{Lee}, {Kim} \& {Doe}}{{Lee} et~al.}{2014b}]", "Lee et al. (2014b)"),
        (r"[\protect\citeauthoryear{Lee \protect\BBA{} Kim}{Lee \protect\BBA{} Kim}{{\protect\APACyear{2014}}}]", "Lee and Kim (2014)"),
        (r"[\protect\citename{Lee and Kim, }1999]", "Lee and Kim (1999)"),
        (r"[\protect\astroncite{Lee}{1999}]", "Lee (1999)"),
        (r"[\protect\BCAY{Lee}{Lee}{1999}]", "Lee (1999)"),
        (r" [{\citenamefont {Lee}\ \emph {et~al.}(2014)\citenamefont {Lee},\ and\ \citenamefont {Choi}}]", "Lee et al. (2014)"),
        (r"[\citenamefont{Lee and Kim}(1999)]", "Lee and Kim (1999)"),
        (r"[Lee et~al., 2014]", "Lee et al. (2014)"),
        (r"[Lee {\it et~al}(in press)]", "Lee et al. (in press)"),
        (r"[van der~Klis(2000)]", "van der Klis (2000)"),
        (r"[{O'Dea} \& {de la Cruz}(2000)]", "O'Dea and de la Cruz (2000)"),
        (r"[Planck Collaboration XIII(2016)" + "Ade, Aghanim, " * 600 + "]", "Planck Collaboration XIII (2016)"),
        (r"[Lee14]", "[citation]"),
        (r"[12]", "[citation]"),
    ],
)
def test_labels_of_the_bibliography_styles(label: str, words: str) -> None:
    assert cited(label) == words


def test_harvard_items_and_a_biblatex_bibliography() -> None:
    assert introduction(r"\citet{k}", r"\harvarditem[Lee et al.]{Lee, Kim \harvardand\ Choi}{2014}{k} x") == "Lee et al. (2014)"
    assert introduction(r"\citet{k}", r"\harvarditem{Lee \harvardand\ Choi}{2014}{k} x") == "Lee and Choi (2014)"
    new = r"""\entry{a}{article}{}{}
  \name{author}{2}{}{%
    {{hash=1}{%
       family={G{\"u}nther}, familyi={G\bibinitperiod}, given={Max}}}%
    {{hash=2}{family={Berg}, prefix={van\bibnamedelima den}}}%
  }
  \field{extradate}{2}\field{year}{2014}
\endentry
"""
    old = r"\entry{b}{article}{}\name{author}{1}{}{{{}{Garc{\'\i}a}{G.}{Ana}{A.}{}{}{}{}}}\true{moreauthor}\field{year}{2011}\endentry "
    four = r"\entry{c}{article}{}{}\name{author}{4}{}{{{}{family={Lee}}}{{}{family={Kim}}}{{}{family={Roe}}}{{}{family={Doe}}}}\field{year}{2011}\endentry"
    assert introduction(r"\textcite{a}, \textcite{b}, \textcite{c}", new + old + four) == (
        "Günther and van den Berg (2014b), García et al. (2011), Lee et al. (2011)"
    )


TWO = r"\bibitem[G{\"u}nther et al.(2014a)]{a} x \bibitem[G{\"u}nther et al.(2014b)]{b} y \bibitem[van der Berg \& Roe(1999)]{c} z"


@pytest.mark.parametrize(
    ("tex", "words"),
    [
        (r"As \citet{a,b,c} find", "As Günther et al. (2014a,b) and van der Berg and Roe (1999) find"),
        (r"As \citet*[fig.~3]{a} find", "As Günther et al. (2014a) find"),
        (r"As \citet[hereafter G14]{a} find", "As Günther et al. (2014a, hereafter G14) find"),
        (r"As \citealt{a} and \citealp{c} find", "As Günther et al. 2014a and van der Berg and Roe 1999 find"),
        (r"\Citet{c} say. \citeauthor{a} (\citeyear{a}) say.", "Van der Berg and Roe (1999) say. Günther et al. (2014a) say."),
        (r"Of \citeauthor{a}'s \citeyearpar{a} and \citeauthor{zz} (\citeyear{zz})", "Of Günther et al.'s (2014a) and [citation]"),
        (r"\textcites{a}{c} say and \parencites[see][3]{a}[][]{c} so", "Günther et al. (2014a) and van der Berg and Roe (1999) say and so"),
        (r"so \cite<e.g.,>[p.~3]{a} it", "so it"),
        # notes that say where to look go, those that say something stay
        (r"so \citep[see e.g.,][for a review]{a}, and \citep[\S3.1]{a} or \citep[their Eq.~12]{a}", "so, and or"),
        (r"so \citep[see][and references therein]{a} it \citep[cf. Table~3 in][]{c}", "so it"),
        (r"the survey \citep[SDSS;][]{a} is", "the survey (SDSS) is"),
        (r"the survey \citep[SDSS; see][]{zz} is", "the survey (SDSS) is"),
        (r"so \citep[which is the {\em best} $x$ known;][]{a} it", "so (which is the best $x$ known) it"),
        (r"so \citep[][who found another slope]{a} it", "so (Günther et al. 2014a, who found another slope) it"),
        (r"so \citep[but see][who disagree]{zz} it", "so (but see [citation], who disagree) it"),
        (r"so \citep[in contrast to][]{a} it", "so (in contrast to Günther et al. 2014a) it"),
        (r"so (see \citealt{a}; also \citealp{b}) it", "so it"),
        (r"so \citetext{priv.\ comm.} it", "so (priv. comm.) it"),
    ],
)
def test_citing_commands_and_their_notes(tex: str, words: str) -> None:
    assert introduction(tex, TWO) == words


def test_short_names_and_acronyms_keep_their_accents() -> None:
    preamble = r"\defcitealias{g}{G\"un20}\newacro{msa}[MSA]{Mu\~noz Survey Array}"
    assert introduction(r"By \citetalias{g} \citepalias{g} the \ac{msa}.", "", preamble) == "By Gün20 (Gün20) the Muñoz Survey Array (MSA)."


@pytest.mark.parametrize(
    ("item", "wanted"),
    [
        (r"\bibitem[1990]{k} Baraffe I., El Eid M., 1990, A\&A 245, 548", ("Baraffe and El Eid", "1990")),
        (r"\bibitem[1990a]{k} Baraffe, I., El Eid, M.F., 1990a, A\&A", ("Baraffe and El Eid", "1990a")),
        (r"\bibitem[(1990)]{k} Baraffe I.: 1990, A\&A", ("Baraffe", "1990")),
        (r"\bibitem[2001]{k} Lee A., Kim B., Park C., 2001, ApJ", ("Lee et al.", "2001")),
        (r"\bibitem[2001]{k} A.~Lee, B. Kim \& C. van den Berg 2001, ApJ", ("Lee et al.", "2001")),
        (r"\bibitem[1995]{k} M\"uller H.-J., et al. 1995, ApJ", (r"M\"uller et al.", "1995")),
        (r"\bibitem[1995]{k} van den Bergh S. 1995, ApJ", ("van den Bergh", "1995")),
        (r"\bibitem[{1995}]{k} Smith J., Jones A.B. (1995) ApJ", ("Smith and Jones", "1995")),
        (r"\bibitem[1995]{k} \bibitem[1996]{l} Smith J. 1996", None),
        (r"\bibitem[12]{k} Smith J. 1996", None),
    ],
)
def test_a_label_that_is_a_year_has_its_names_in_the_item(item: str, wanted: tuple[str, str] | None) -> None:
    assert citation_names(item, Deadline()).get("k") == wanted
