r"""Commands of layout leave nothing of their arguments, dimensions and numbers; what they set in type stays."""

import pytest

from data_tools.latex.names import DROP
from data_tools.latex.paper import read_paper

FILL = "The star is observed during many nights with the telescope and its light varies slowly over the season. " * 3


def words(text: str) -> str:
    source = (
        f"\\documentclass{{aa}}\n\\begin{{document}}\n\\section{{Introduction}}\nStart. {text}\n\\section{{Data}}\n{FILL}\\end{{document}}"
    )
    return " ".join(read_paper({"ms.tex": source.encode()}).introduction.removeprefix("Start. ").split())


GONE = r"""
\vskip 12pt plus 2pt minus 1pt|\vskip-1.5 true cm|\vskip\baselineskip|\vskip 0.5\baselineskip plus 1fil|\vskip2cm plus1fill|\hskip 1em plus 1fil
\hskip-.5em|\kern.16667em|\kern -2pt|\kern-\parindent|\hglue 2cm|\vglue 3truecm|\vglue\baselineskip|\hrule height 2pt width 3cm depth 0pt|\hrule
\vrule width 0pt height 2ex depth 1ex|\vrule height1.2ex|\parindent=0pt|\parindent 0pt|\parindent=1.5 em|\parskip = 2pt plus 1pt
\baselineskip=12pt plus 1pt|\baselineskip 24 true pt|\hsize=5in|\hsize=0.5\textwidth|\textwidth 16.5cm|\textheight=\vsize|\oddsidemargin -1cm
\hangindent=1.5em \hangafter=1|\hangindent 2pc\hangafter-2|\looseness=-1|\clubpenalty=10000|\widowpenalty 10000|\penalty-200|\penalty10000
\tolerance=\hbadness|\magnification=\magstep1|\magnification 1200|\advance\hsize by -2cm|\advance\count3 by 1|\multiply\hsize 2|\divide\hsize by 2
\parshape=2 0pt 5cm 1cm 4cm|\parshape 1 0pt \hsize|\font\big=cmr10 scaled \magstep2|\font\sc=cmcsc10 at 12pt|\font\ninerm=cmr9
\catcode`\@=11|\catcode`\%=12|\lccode`\A=`\a|\sfcode`\.=1000|\newdimen\mine \mine=3pt|\newskip\my|\newcount\n|\newbox\bx|\setbox0=\hbox{Hidden \kern2pt}
\setbox\bx=\vbox to 3cm{Hidden}|\box0|\copy\bx|\unhbox0|\wd0=3pt|\dimen0=\hsize|\dimen0=3pt|\skip0=1pt plus 1pt|\count2=3|\everypar={Hidden}
\headline={\hfil Hidden}|\footline={\hss\tenrm\folio\hss}|\output={\plainoutput}|\pageno=3|\special{ps: hidden}|\leaders\hrule\hfil
\leaders\hbox to 1em{.}\hfill|\halign{#\hfil&#\cr a&b\cr}|\settabs 3 \columns|\write16{Hidden}|\immediate\write18{ls}|\openout3=hidden.aux
\closeout3|\message{Hidden}|\typeout{Hidden}|\the\year|\number\pageno|\discretionary{-}{}{}|\hyphenation{Abell galaxy-cluster}|\showthe\hsize
\setlength{\parindent}{0pt}|\setlength\parindent{0pt}|\setlength\parskip{1em plus 2pt}|\setlength\parindent 0pt|\addtolength\topmargin{-1cm}
\addtolength{\topmargin}{-\baselineskip}|\settowidth{\mine}{Hidden}|\settowidth\mine{Hidden}|\settoheight{\mine}{Hidden}|\setcounter{page}{3}
\addtocounter{figure}{-1}|\stepcounter{a}|\newlength{\mine}|\newlength\mine|\newsavebox{\bx}|\newsavebox\bx|\sbox{\bx}{Hidden}|\sbox\bx{Hidden}
\savebox{\bx}[3cm][c]{Hidden}|\usebox{\bx}|\usebox\bx|\vspace{1cm}|\vspace*{-1cm}|\hspace*{1em}|\hspace{\parindent}|\rule{1cm}{2pt}|\rule[-1pt]{1cm}{2pt}
\addcontentsline{toc}{chapter}{Hidden}|\addtocontents{toc}{\protect\setcounter{tocdepth}{1}}|\pagenumbering{arabic}|\markboth{Hidden}{Hidden}
\markright{Hidden}|\linebreak[3]|\pagebreak[4]|\nolinebreak[1]|\nopagebreak[2]|\enlargethispage{2cm}|\enlargethispage*{2cm}|\pagestyle{empty}
\thispagestyle{plain}|\fontsize{12}{14}\selectfont|\linespread{1.3}|\fontfamily{ptm}|\usefont{T1}{ptm}{m}{n}|\renewcommand{\baselinestretch}{1.5}
\renewcommand\baselinestretch{2}|\def\baselinestretch{1.2}|\newtheorem{a}{Hidden}[section]|\newtheorem{a}[b]{Hidden}|\numberwithin{equation}{section}
\nocite{*}|\bibliographystyle{aa}|\bibliography{hidden}|\printbibliography[heading=none,title={Hidden}]|\bibpunct{(}{)}{;}{a}{}{,}|\setcitestyle{round}
\hypersetup{colorlinks=true}|\pdfbookmark[1]{Hidden}{hidden}|\nomenclature{$c$}{hidden}|\index{hidden!deep}|\ssindex{Hidden}|\aindex{H., A.}|\sindex[x]{Hidden}
\idx{hidden}|\fancyhead[L]{Hidden}|\fancyhf{}|\lhead{Hidden}|\geometry{a4paper}|\captionsetup[figure]{font=small}|\definecolor{red}{rgb}{1,0,0}
\psfig{figure=a.eps,width=8cm}|\epsfig{file=a.ps,height=3cm}|\epsfxsize=8cm \epsfbox{a.ps}|\epsfysize 3in\epsfbox[0 0 30 50]{a.ps}|\epsffile{a.ps}
\centerline{\psfig{figure=a.eps}}|\includegraphics[width=8cm]{a}|\includegraphics*[1,2][3,4]{a}|\plotone{a.eps}|\plottwo{a}{b}|\epsscale{0.8}|\figurenum{3}
\plotfiddle{a.ps}{6cm}{0}{50}{50}{-100}{0}|\psfrag{a}{}|\psset{unit=1cm}|\tablenum{3}|\tablenotetext{a}{Hidden}|\SetRunningHead{Hidden}{Hidden}
\journalid{337}{15 January}|\ShortTitle{Hidden}|\defcitealias{a}{Hid}|\line(1,0){250}|\makebox(0,0)[lb]{}|\tableofcontents|\suppressfloats[t]
\setlist[itemize]{leftmargin=*}|\sisetup{per-mode=symbol}|\usetikzlibrary{arrows}|\titlespacing*{\section}{0pt}{1pt}{2pt}|\titleformat{\section}{a}{b}{c}{d}
\\[2pt]|\\*[1ex]|\newcolumntype{L}[1]{p{#1}}|\crefname{section}{Hidden}{Hidden}|\lstset{language=C}|\modulolinenumbers[5]|\everypar{}|\textwidth=\hsize
"""
GONE += r"""
\cleardoublepage|\dotfill|\hrulefill|\frenchspacing|\raggedbottom|\onecolumn|\linethickness{1pt}|\thicklines|\reversemarginpar|\AtBeginDocument{Hidden}|\AtEndDocument{Hidden}
\PassOptionsToPackage{a}{b}|\NeedsTeXFormat{LaTeX2e}[1995/12/01]|\ProvidesPackage{x}[1999/01/01 Hidden]|\ProvidesFile{x}[Hidden]|\DeclareOption{a}{b}|\ProcessOptions|\mathversion{bold}|\boldmath
\crefformat{section}{Hidden}|\Crefformat{section}{Hidden}|\crefrangeformat{a}{b}|\crefmultiformat{a}{b}{c}{d}{e}|\tcbset{a=b}|\setmainfont{Times}|\setmainfont[Ligatures=TeX]{Times}|\setmainlanguage{english}|\setotherlanguage{french}
\shorthandoff{"}|\DeclareFieldFormat{doi}{Hidden}|\renewbibmacro{in:}{}|\renewbibmacro*{in:}{Hidden}|\AtEveryBibitem{Hidden}|\defbibheading{a}{b}|\DeclareLanguageMapping{a}{b}|\ExecuteBibliographyOptions{a=b}
\KOMAoptions{a=b}|\setkomafont{section}{\normalfont}|\addtokomafont{a}{b}|\addto\captionsenglish{\renewcommand{\contentsname}{Hidden}}|\patchcmd{\a}{b}{c}{}{}|\apptocmd{\a}{b}{}{}|\pretocmd\a{b}{}{}|\AtBeginEnvironment{a}{b}
\makeatletter\@addtoreset{equation}{section}\makeatother|\captionof{figure}{Hidden}|\captionof{table}[x]{Hidden}|\subcaption{Hidden}|\caption*{Hidden}|\endnote{Hidden}|\sidenote{Hidden}|\linenumbers[1]|\nolinenumbers|\glsresetall|\acresetall|\acsetup{a=b}
\loadglsentries{x}|\setglossarystyle{list}|\glsunset{a}|\DeclareAcronym{X}{short=X,long=hidden}|\newacro{msa}[MSA]{Hidden}|\acrodefplural{a}{b}|\newacronym{a}{b}{hidden}|\newglossaryentry{a}{name=hidden}|\animategraphics{1}{2}{3}{4}|\includesvg{a}|\includesvg[width=1cm]{a}
\inputminted{python}{a.py}|\verbatiminput{a.txt}|\lstinputlisting[language=C]{a.c}|\includestandalone{a}|\phantomsection|\pdfstringdefDisableCommands{Hidden}|\newblock|\setboolean{a}{true}|\newboolean{a}|\newtoggle{a}|\toggletrue{a}|\togglefalse{a}|\AuthorCallLimit=10
\colorlet{a}{b}|\selectcolormodel{cmyk}|\DeclareMathOperator*{\argmin}{arg\,min}|\DeclarePairedDelimiter{\abs}{a}{b}|\newcommand{\x}{Hidden}|\def\x{Hidden}|\let\x=\y|\newif\ifx|\newcounter{a}|\newcounter{a}[section]|\setcounter{tocdepth}{2}|\newlength{\x}\setlength{\x}{3pt}
\bibliographyunit[\chapter]|\bibliographystyle{plainnat}\bibliography{a,b}|\printindex|\makeindex|\printglossary[title=Hidden]|\listoffigures|\listof{algorithm}{Hidden}|\minitoc|\dominitoc|\chaptermark{Hidden}|\sectionmark{Hidden}|\subsectionmark{Hidden}|\markleft{Hidden}
\titlerunning{Hidden}|\authorrunning{Hidden}|\keywords{Hidden}|\pacs{Hidden}|\PACS{Hidden}|\journal{Hidden}|\received{\today}|\accepted{1 May}|\submitted{to ApJ}|\revised{Hidden}|\published{Hidden}|\slugcomment{Hidden}|\lefthead{H}\righthead{H}|\date{\today}|\thanks{Hidden}
\altaffiltext{1}{Hidden}|\altaffilmark{1}|\affil{Hidden}|\email{h@x.y}|\authoremail{h@x}|\authoraddr{Hidden}|\offprints{H.}|\institute{Hidden}|\thesaurus{03(1.1)}|\mail{h@x}|\maketitle|\tableofcontents|\twocolumn|\newpage|\clearpage|\pagebreak|\noindent|\bigskip|\vfill|\vfil|\hfill|\null
\psfull|\psdraft|\psfig{file=a.ps,width=3in,angle=-90}|\epsfxsize=\hsize\epsfbox{a.ps}|\epsfxsize=3truein \centerline{\epsfbox{a.ps}}|\epsfverbosetrue|\includegraphics[bb=0 0 1 2,clip]{a}|\special{psfile=a.ps hoffset=1}|\begin{picture}(100,50)\put(0,0){Hidden}\end{picture}
\input epsf|\input{epsf.sty}|\input psfig.sty|\renewcommand{\thefootnote}{\fnsymbol{footnote}}|\renewcommand\thesection{\Roman{section}}|\setcounter{footnote}{0}|\footnotetext[1]{Hidden}|\footnotemark[1]|\renewcommand{\refname}{Hidden}|\def\refname{Hidden}|\bibliographystyle{mn2e}
\begin{figure}\psfig{a}\caption{Hidden}\end{figure}|\begin{table}\begin{tabular}{cc}a&b\\\end{tabular}\end{table}|\begin{tabular*}{5cm}{cc}a&b\end{tabular*}|\setlength{\tabcolsep}{3pt}|\renewcommand{\arraystretch}{1.2}|\def\arraystretch{1.2}|\arraycolsep=2pt|\extrarowheight=2pt|\doublerulesep 0.2cm
\leftskip=1cm|\rightskip 1cm plus 1fil|\everypar{\hangindent=1cm}|\nopagenumbers|\pageno=1|\footline={\hfil}|\hoffset=-0.5in|\voffset=-1cm|\vsize=9in|\raggedright|\openup 1pt|\openup2\jot|\narrower|\obeylines|\baselineskip=18pt\parskip=0pt|\lineskip=1pt|\lineskiplimit=0pt|\normalbaselines|\offinterlineskip|\smallskipamount=3pt
\vskip\medskipamount|\vskip.25in|\vskip 1.truecm|\vskip-\lastskip|\vglue1in|\hskip0pt|\hskip\parindent|\hskip 10pt minus 3pt|\kern0pt|\kern1.5em|\raise1ex\hbox{}|\lower 2pt\hbox{}|\vbox{}|\hbox{}|\vtop{}|\vbox to 0pt{\vss}|\hbox to 0pt{\hss}|\rlap{}|\vadjust{\vskip 2pt}|\mark{Hidden}|\insert\footins{Hidden}|\break|\eject|\supereject|\goodbreak|\filbreak|\allowbreak|\hfil\break|\vfil\eject
\AtBeginShipout{Hidden}|\afterpage{\clearpage}|\balance|\flushend|\needspace{3cm}|\FloatBarrier|\clearpairofpagestyles|\ihead{Hidden}|\ohead{Hidden}|\cfoot[]{Hidden}|\rhead[a]{b}|\chead{}|\setheadsepline{1pt}|\pagestyle{fancy}|\renewcommand{\headrulewidth}{0pt}|\fancyfoot[C]{\thepage}|\thepage|\arabic{page}|\sidecaption|\rotate|\movetableright=1cm|\setlength{\columnsep}{1cm}|\watermark{DRAFT}
"""
GONE = [tex for line in GONE.split("\n") for tex in line.split("|") if tex]


@pytest.mark.parametrize("tex", GONE)
def test_layout_leaves_nothing(tex: str) -> None:
    assert len(GONE) > 400
    assert words(f"Some words.\n\n{tex}\n\nShown after.") == "Some words. Shown after."
    assert words(f"Some words. {tex} Shown after.") == "Some words. Shown after."


@pytest.mark.parametrize(
    ("tex", "shown"),
    [
        (r"\hbox to \hsize{\hfill Boxed words}", "Boxed words"),
        (r"\hbox to5cm{Boxed words\hss}", "Boxed words"),
        (r"\vbox to 5cm{Boxed words\vfil}", "Boxed words"),
        (r"\vtop spread 2pt{Boxed words}", "Boxed words"),
        (r"\line{Boxed \hfil words}", "Boxed words"),
        (r"\raise 2pt\hbox{up} \lower.5ex\hbox{down} \moveleft 3pt\hbox{left}", "up down left"),
        (r"\raisebox{2pt}[0pt][0pt]{up} \scalebox{.5}[1]{small} \rotatebox[origin=c]{90}{turned}", "up small turned"),
        (
            r"\resizebox{5cm}{!}{kept} \parbox[t][2cm][c]{5cm}{kept} \makebox[3cm][l]{kept} \framebox[2cm]{kept} \fbox{kept} \mbox{kept}",
            "kept " * 5 + "kept",
        ),
        (r"\begin{minipage}[t][3cm]{5cm}kept\end{minipage}", "kept"),
        (r"\begin{boxedminipage}{5cm}kept\end{boxedminipage}", "kept"),
        (r"\centerline{kept} \leftline{kept} \rlap{kept} \llap{kept}", "kept kept kept kept"),
        (r"A\kern-.3em B", "AB"),
        (r"10\kern.2em km", "10 km"),
        (r"\hskip1emwords \vskip2cmWords", "words Words"),
        ("\\char'101\\char66\\char`\\C \\char\"44 \\char`\\% \\symbol{69}", "ABCD%E"),
        ('Str\\accent"7F om, ' r"\accent127 Ostra, caf\accent19e", "Ström, Östra, café"),
        (r"Sect.\ \romannumeral 14\ and H\,{\uppercase\expandafter{\romannumeral 2}}", "Sect. xiv and H II"),
        (r"\edit1{kept} \edit{2}{kept}", "kept kept"),
        (r"\object{M 31} and \objectname[M 31]{NGC 224}", "M 31 and NGC 224"),
        (r"in \line{one} in the box of 3 pt width \vrule here", "in one in the box of 3 pt width here"),
    ],
)
def test_what_layout_commands_set_in_type_stays(tex: str, shown: str) -> None:
    assert words(tex) == shown


def test_every_dropped_command_takes_its_arguments_with_it() -> None:
    for name, count in DROP.items():
        if name not in (
            "include",
            "input",
            "includepdf",
            "bibitem",
            "newif",
            "renewcommand",
            "newcommand",
            "providecommand",
            "acro",
            "footnotemark",
        ):
            if not name.startswith(("Declare", "new", "begin")) and name not in (
                "and",
                "bibliography",
                "tag",
                "lstinputlisting",
                "cprotect",
            ):
                assert words(f"One \\{name}{'{hidden}' * count}[two] three.").replace(" [two]", "").replace("[two]", "") == "One three.", (
                    name
                )


@pytest.mark.parametrize(
    "command",
    ["\\linenumbers[5]", "\\linenumbers [5]", "\\linenumbers*[1]", "\\linenumbers*", "\\linenumbers\n", "\\linenumbers\\relax ", "\\modulolinenumbers[5]", "\\modulolinenumbers*[2]",
     "\\begin{linenumbers}[5]", "\\end{linenumbers}", "\\runninglinenumbers*", "\\pagewiselinenumbers", "\\nolinenumbers", "\\resetlinenumber[1]",
     "\\resetlinenumber", "\\linelabel{x}", "\\setrunninglinenumbers", "\\switchlinenumbers*", "\\internallinenumbers", "\\linenumbersep3pt", "\\linenumbersep=3pt "],
)  # fmt: skip
def test_numbers_of_lines_are_no_words(command: str) -> None:
    assert words(f"{command} [Fe/H] is low.") == "[Fe/H] is low."


def test_tabs_keep_words_apart_and_set_no_accents() -> None:
    table = r"\begin{tabbing} wide wide \= wide \= \kill Name \= Mass \= Age \\ Sun \> one \> old \\ \+ Caf\a'e \> \' two \` \- three \< end \end{tabbing}"
    assert words(table + r" Caf\'e \=o.") == "Name Mass Age Sun one old Café two three end Café ō."
