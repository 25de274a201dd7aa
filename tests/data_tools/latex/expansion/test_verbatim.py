r"""Verbatim text shows what was typed and harms nothing around it; listings go."""

import pytest

from tests.made.passages import words

REST = "holds. More $y$ words."
# (passage up to REST, what a reader sees up to REST, preamble)
CASES = [
    (r"The \verb|df$col| and $x=1$ ", "The df$col and $x=1$ ", ""),
    (r"The \verb+a%b+ ", "The a%b ", ""),
    (r"The \verb*|a_b| ", "The a_b ", ""),
    (r"The \verb|\alpha{| ", r"The \alpha{ ", ""),
    (r"The \verb!}! ", "The } ", ""),
    (r"The \verb|\msun \iffalse| ", r"The \msun \iffalse ", ""),
    (r"The \verb=a&b#c~d^e= ", "The a&b#c~d^e ", ""),
    (r"\verb|a| and \verb|$| ", "a and $ ", ""),
    (r"\noindent\verb|a| ", "a ", ""),
    (r"Use \lstinline|$x| ", "Use $x ", ""),
    (r"Use \lstinline{$x} ", "Use $x ", ""),
    (r"Use \lstinline[language=C]|a{b| ", "Use a{b ", ""),
    (r"Use \lstinline[language=C]{a%b} ", "Use a%b ", ""),
    (r"Use \lstinline!a_b! ", "Use a_b ", ""),
    (r"Use \mintinline{python}{print(x)} ", "Use print(x) ", ""),
    (r"Use \mintinline{python}|a$b%c| ", "Use a$b%c ", ""),
    (r"Use \mintinline[fontsize=\small]{c}{a$b} ", "Use a$b ", ""),
    (r"Use \Verb|a$b| ", "Use a$b ", ""),
    (r"Use \Verb[formatcom=\it]|a$b| ", "Use a$b ", ""),
    ("Use |a$b| ", "Use a$b ", r"\usepackage{shortvrb}\MakeShortVerb{\|}"),
    ("Use |a$b| ", "Use a$b ", r"\MakeShortVerb*{\|}"),
    ("Use |a$b| ", "Use a$b ", r"\DefineShortVerb{\|}"),
    ('Use "a$b" ', "Use a$b ", r"\MakeShortVerb{\"}"),
    ("Use !a$b! ", "Use a$b ", r"\lstMakeShortInline[language=C]!"),
    (r"Use \code|a$b| ", "Use a$b ", r"\newcommand{\code}{\lstinline}"),
    (r"Use \code{a\_b} ", "Use a_b ", r"\newcommand{\code}[1]{\texttt{#1}}"),
    (r"Use \py{a$b} ", "Use a$b ", r"\newmintinline[py]{python}{}"),
    (r"Use \pythoninline{a$b} ", "Use a$b ", r"\newmintinline{python}{}"),
    (r"See \url{http://a.b/$x_y%20z~q#s} ", "See http://a.b/$x_y%20z~q#s ", ""),
    (r"See \path{a$b_c} ", "See a$b_c ", ""),
    (r"See \path|a$b_c| ", "See a$b_c ", ""),
    (r"See \href{http://a.b/$x}{here} ", "See here ", ""),
    (r"See \nolinkurl{a$b} ", "See a$b ", ""),
    (r"See \url|a$b| ", "See a$b ", ""),
    (r"\footnote{x \verb|a$| y}Use ", "Use ", ""),
    (r"\textbf{\verb|a$|} ", "a$ ", ""),
]
LISTINGS = "verbatim verbatim* Verbatim Verbatim* lstlisting minted BVerbatim LVerbatim spverbatim comment".split()
DECLARED = [
    (r"\lstnewenvironment{python}{}{}", "python"),
    (r"\lstnewenvironment{python}[1][]{\lstset{#1}}{}", "python"),
    (r"\DefineVerbatimEnvironment{python}{Verbatim}{fontsize=\small}", "python"),
    (r"\newminted[python]{python}{}", "python"),
    (r"\newenvironment{python}{\verbatim}{\endverbatim}", "python"),
    (r"\newenvironment{python}{\VerbatimEnvironment\begin{minted}{python}}{\end{minted}}", "python"),
    (r"\newtcblisting{python}{}", "python"),
    (r"\newtcblisting[auto counter]{python}[1]{#1}", "python"),
    (r"\newminted{python}{}", "pythoncode"),
]
SETTINGS = [  # set something up and show nothing
    r"\verbatiminput{f.txt}",
    r"\VerbatimInput{f.txt}",
    r"\VerbatimInput[fontsize=\small]{f.txt}",
    r"\lstinputlisting[language=C]{f.c}",
    r"\inputminted{python}{f.py}",
    r"\inputminted[linenos]{python}{f.py}",
    r"\includestandalone{f}",
    r"\includesvg[width=2cm]{f}",
    r"\externaldocument{f}",
    r"\BVerbatimInput{f}",
    r"\nobibliography*",
    r"\nobibliography{f}",
    r"\includepdf[pages=-]{f.pdf}",
    r"\attachfile{f}",
    r"\lstset{language=C}",
    r"\setminted{fontsize=\small}",
    r"\usemintedstyle{vs}",
    r"\lstdefinestyle{x}{a=b}",
    r"\lstMakeShortInline|",
    r"\DefineShortVerb{\|}",
    r"\MakeShortVerb{\|}",
    r"\DeleteShortVerb{\|}",
    r"\UndefineShortVerb{\|}",
    r"\fvset{fontsize=\small}",
    r"\newtoggle{a}",
    r"\newboolean{a}",
    r"\setbool{a}{true}",
    r"\provideboolean{a}",
    r"\newif\ifabc",
    r"\excludecomment{x}",
    r"\includeversion{x}",
    r"\specialcomment{x}{a}{b}",
    r"\makeatletter\makeatother",
    r"\newcounter{x}",
    r"\newcommandx{\x}[1][1=]{a}",
    r"\NewDocumentCommand{\x}{m}{a}",
    r"\DeclareMathOperator{\x}{a}",
    r"\lstnewenvironment{x}{}{}",
    r"\newminted{python}{}",
    r"\newmint{python}{}",
    r"\newmintinline{python}{}",
    r"\newenvironment{x}{a}{b}",
    r"\NewEnviron{x}{a}",
    r"\newtcblisting{x}{a}",
    r"\DefineVerbatimEnvironment{x}{Verbatim}{a}",
    r"\let\x\y",
    r"\undef\x",
    r"\csundef{x}",
    r"\includeonly{a}",
    r"\markversion{x}",
    r"\newenvironment*{x}{a}{b}",
    r"\CustomVerbatimEnvironment{x}{y}{z}",
    r"\lstnewenvironment{x}[1][]{a}{b}",
]


@pytest.mark.parametrize(("passage", "seen", "preamble"), CASES)
def test_inline_verbatim_is_shown_as_typed(passage: str, seen: str, preamble: str) -> None:
    assert len(CASES) > 30
    assert words(passage + REST, preamble) == seen + REST


@pytest.mark.parametrize("code", ["x = {$ % \\alpha \\fi", "\\section{No}", "\\input{nothing}", "\\end{document}", "\\def\\y{z"])
@pytest.mark.parametrize("name", LISTINGS)
def test_listings_go(name: str, code: str) -> None:
    assert words(f"One.\n\\begin{{{name}}}\n{code}\n\\end{{{name}}}\n{REST}") == f"One. {REST}"


@pytest.mark.parametrize("name", LISTINGS)
def test_a_listing_in_a_comment_opens_nothing(name: str) -> None:
    assert words(f"One. % \\begin{{{name}}}\n{REST}") == f"One. {REST}"


@pytest.mark.parametrize(("preamble", "name"), DECLARED)
def test_listings_by_a_name_of_the_authors_go(preamble: str, name: str) -> None:
    assert words(f"One.\n\\begin{{{name}}}\nx = {{$ %\n\\end{{{name}}}\n{REST}", preamble) == f"One. {REST}"


def test_a_backslash_before_the_word_verb_is_no_verbatim() -> None:
    assert words(r"x\\verb|a| $y$") == "x verb|a| $y$"


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_sets_something_up_shows_nothing(setting: str) -> None:
    assert words(f"One. {setting} Two.") == "One. Two."


def test_a_short_verb_ends_where_it_is_undone() -> None:
    assert words(r"Use |a$b| and \DeleteShortVerb{\|}|c| $x$.", r"\MakeShortVerb{\|}") == "Use a$b and |c| $x$."
