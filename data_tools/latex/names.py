"""What LaTeX names mean to a reader of prose: tables only.

A command that no table knows loses its name and keeps what its braces hold, since most unknown commands are the
author's way of setting words in type.
"""

# fmt: off
# Never an author's macro, even where a preamble redefines it to change the layout.
PROTECTED = frozenset("""
begin end part chapter section subsection subsubsection paragraph subparagraph title abstract author maketitle caption item
label ref eqref autoref cref Cref pageref hyperref cite citep citet citealt citealp citeauthor citeyear citeyearpar
textbf textit texttt textsc textsf textrm emph bf it tt sc rm sf em footnote input include bibliography bibitem par
url href appendix acknowledgments acknowledgements acknowledgment acknowledgement software facility facilities keywords
DIFadd DIFdel DIFaddFL DIFdelFL DIFaddbegin DIFaddend DIFdelbegin DIFdelend
ensuremath xspace ifmmode
""".split())

# Counters whose numbers references show.
COUNTERS = frozenset("part chapter section subsection subsubsection figure table equation algorithm enumi enumii".split())

# Commands whose arguments say nothing to a reader: how many of them go with the name (optional ones always do).
DROP = {name: count for count, names in {
    0: """footnotemark and bsp listofchanges dataset hyperref makebox framebox allowdisplaybreaks textlatin tableofcontents listoffigures listoftables
    printbibliography printindex printglossary printglossaries printnomenclature printacronyms 
    listoftodos listoffixmes samepage nopagebreak nolinebreak suppressfloats addlinespace toprule midrule bottomrule startlongtable shortstack object objectname nofiles
    listfiles onehalfspacing doublespacing singlespacing""",
    1: """label linelabel vspace hspace includegraphics color pagecolor bibliographystyle bibliography pagestyle thispagestyle stepcounter refstepcounter usecounter
    footnote footnotetext thanks index altaffilmark altaffiliation affil affiliation institute institution author email address date keywords
    keyword facility facilities software plotone epsscale marginpar marginnote todo caption tablecaption tablecomments tablerefs tabletypesize
    tablecolumns tablewidth usepackage usetikzlibrary graphicspath hypersetup correspondingauthor shorttitle shortauthors slugcomment received revised accepted
    submitjournal published journalinfo titlerunning authorrunning offprints pagerange volume pubyear papertype title subtitle subjectheadings
    uat orcid orcidlink collaboration inst nocollab authorcontributions funding ead corref fnref cortext hypertarget Date tnotetext phantom vphantom
    hphantom nocite explain deleted DIFdel DIFdelFL lstinputlisting bibitem notetoeditor pacs preprint figurenum script linkable codeicon cellcolor
    rowcolor columncolor includepdf input include linespread selectlanguage CJKfamily doi eprint tag tikz tikzset authorcomment citation cprotect
    icmltitlerunning icmlkeywords printAffiliationsAndNotice DeclareUnicodeCharacter newcounter newlength newif authornote cftpagenumbersoff ccsdesc
    shortcites subfloat gridline textcolor colorbox href parbox raisebox scalebox rotatebox hyperlink replaced foreignlanguage adjustbox
    pagenumbering markright hyphenation enlargethispage addvspace includeonly typein typeout message errmessage wlog mark special vadjust
    pdfliteral pdfinfo pdfcatalog fontencoding fontfamily fontseries fontshape fancyhead fancyfoot fancyhf lhead chead rhead lfoot cfoot rfoot
    geometry newgeometry setstretch setlist sisetup lstset captionsetup floatstyle restylefloat theoremstyle swapnumbers urlstyle hyperbaseurl
    addbibresource setcitestyle printtables glossary glsadd glsaddall makeglossary extracolsep DeclareGraphicsExtensions
    DeclareCaptionFont pgfplotsset usepgfplotslibrary psset psfrag psfig epsfig epsfbox epsffile epsfile psdraft 
    cancel bcancel xcancel setstcolor setulcolor setuldepth fxsetup fxuselayout fxuseenvlayout fxusetargetlayout definechangesauthor
    setremarkmarkup setaddedmarkup setdeletedmarkup sethighlightmarkup setcommentmarkup sethlcolor arrayrulecolor watermark setwatermarkfontsize savesymbol reportnum lefthead righthead paperid msid journal ccc
    authoraddr eqnum tablenum tablehead colhead tablenotemark tablefootmark tablefoot tablebib thesaurus mail headnote homepage
    KeyWords Received Accepted Published jyear contact ShortTitle FullConference speaker emailAdd arxivnumber dedicated submitto jl pacno
    authorinfo fntext tnoteref corauth corauthref thanksref PACS subclass journalname tocauthor toctitle motto dedication equalcont
    runningtitle runningauthor runninghead correspondence significancestatement keypoints lefttitle righttitle jnlDoiYr doival aopheadtitle
    altaffilmarks figsetgrpnum figsetgrptitle figsetplot figsetgrpnote figsetnum figsettitle savenotes arabic Roman roman
    alph Alph fnsymbol value phantomsubcaption bibliographyunit putbib leftheader rightheader hangcaption
    linethickness mathversion tcbset endnote sidenote tablenote subcaption verbatiminput VerbatimInput selectcolormodel markleft submitted submittedto
    externaldocument BVerbatimInput LVerbatimInput nobibliography attachfile fvset csundef csuse markversion processversion
    authoremail needspace ihead ohead ifoot ofoot KOMAoptions rofoot lofoot rehead lehead lohead rohead pdfstringdefDisableCommands""",
    2: """setul newminted newmint newmintinline newtcblisting setlength addtolength setcounter addtocounter plottwo altaffiltext icmlaffiliation icmlcorrespondingauthor icmlauthor defcitealias
    renewcommand newcommand providecommand acrodef acro DeclareMathOperator newenvironment resizebox multicolumn multirow fontsize newtheorem
    rule newglossaryentry fcolorbox addtocontents markboth settowidth settoheight settodepth newfont sbox savebox counterwithin counterwithout
    numberwithin DeclareTextFontCommand fancypagestyle lstdefinestyle floatname listof newcolumntype nomenclature pdfbookmark bookmark colorlet
    restoresymbol articleid journalid cpright tablenotetext tablefoottext SetRunningHead jnlPage idline nomgroup 
    NewSymbolFont tikzstyle captionof """,
    3: "lstnewenvironment DefineVerbatimEnvironment CustomVerbatimEnvironment specialcomment definecolor newacronym addcontentsline crefname Crefname newfloat discretionary rowcolors NewTextAlphabet NewMathAlphabet specialrule newpsobject",
    4: "titlespacing plotfour DeclareGraphicsRule usefont DeclareMathSymbol NewMathSymbol",
    5: "titleformat DeclareMathAlphabet DeclareSymbolFont",
    6: "bibpunct DeclareFontShape SetMathAlphabet",
    7: "plotfiddle",
    9: "newtheoremstyle",
}.items() for name in names.split()} | {"figcaption": 1, "twocolumn": 0}
# Commands of classes and packages that set things up, by how such are named: all that follows them in braces goes with them.
MACHINERY = (
    r"(?:Declare|Provides|Require|PassOptions|Execute|NeedsTeX|At(?:Begin|End|Every|First|Next)|BeforeBegin|AfterEnd|New[A-Z]|Renew[A-Z]|Set[A-Z]"
    r"|set[a-z]|renew[a-z]|load[a-z]|use[a-z]|include[a-z]|input[a-z]|addto|@addto|@set|defbib|deffoot|gls(?:un|re)?set|acro(?:def|plural)|newacro"
    r"|animate|colorlet|(?:patch|app?to|preto|xpatch|gappto|gpreto)cmd|appto|preto|shorthando)[a-zA-Z@]*"
    r"|[a-zA-Z]*(?:setup|format|options|Options|index|idx|headsep|headsepline|toks)"
    r"|(?:chapter|(?:sub){0,2}section|paragraph|footnote|endnote|tnote)mark"
)
# Of these, boxes with more options after their measure.
BOXES = frozenset("raisebox scalebox parbox newtheorem newcounter".split())

# Tracked changes and remarks to co-authors, where the author does not define them himself: package -> {(kinds of arguments, what is
# shown): commands}; "" holds in every paper. Kinds are macros.Macro's; struck text and remarks go, new and marked text stays.
REMARKS = {
    "": {
        ("ob", "#2"): "added add highlight alert refneeded chadded chhighlight",
        ("ob", ""): "deleted remove note chdeleted chcomment explain comment missingfigure LEt pdfcomment pdfmargincomment pdffreetextcomment "
                    "pdfsquarecomment pdfcirclecomment pdflinecomment pdfsidelinecomment todo",
        ("obb", "#2"): "replaced chreplaced annote",
        ("obb", "#3"): "change replace",
        ("sob", ""): "fxnote fxwarning fxerror fxfatal fixme FIXME TODO",
        ("obo", ""): "marginnote",
        ("b", ""): "sout xout st addeditor",
        ("obb", "#2 "): "pdfmarkupcomment pdftooltip",
        ("mb", "#2"): "edit",
    },
    "aastex": {("obb", "#3"): "replaced"},
    "changes": {("obb", "#2"): "replaced"},
    "easyReview": {("bb", "#1"): "comment"},
    "easyreview": {("bb", "#1"): "comment"},
}

# Commands that show their first argument and no later one: how many go.
FIRST = {"texorpdfstring": 1}

# Environments that are no running prose.
DROP_ENVIRONMENTS = frozenset("""
figure wrapfigure SCfigure sidewaysfigure subfigure floatingfigure teaserfigure marginfigure figwindow table wraptable sidewaystable
deluxetable splitdeluxetable longdeluxetable longtable longtabu supertabular xtabular mpsupertabular tabular tabularx tabulary tabu
rotatetable floattable longrotatetable planotable rotate thebibliography references algorithm algorithmic algorithm2e lstlisting verbatim
Verbatim minted tikzpicture pgfpicture picture keywords keyword IEEEkeywords comment filecontents textbox armarginnote marginnote
titlepage icmlauthorlist contribution interactive tabnote highlights graphicalabstract code program listing acknowledgments
acknowledgements acknowledgment acknowledgement ack theacknowledgments listofchanges CCSXML issues summarypoints abstract
onecolabstract singlecolumnabstract abstracts landscapetable threeparttable tablenotes measuredfigure Code pseudocode dedication
plates scope thenomenclature
""".split())
# Arguments that a kept environment's \begin carries.
ENVIRONMENT_ARGUMENTS = {"CJK": 2, "CJK*": 2, "minipage": 1, "boxedminipage": 1, "varwidth": 1, "changemargin": 2, "Spacing": 1, "lrbox": 1, "column": 1,
                         "turn": 1, "labeling": 1, "hangparas": 2, "restatable": 2, "letter": 1, "multicols*": 1, "textblock": 1, "textblock*": 1, "multicols": 1, "adjustwidth": 2, "list": 2, "spacing": 1, "tcolorbox": 0,
                         "addmargin": 1, "otherlanguage": 1, "mdframed": 0, "thefoottable": 1}
MATH_ENVIRONMENTS = frozenset("""equation align eqnarray gather multline flalign alignat displaymath math dmath dgroup
IEEEeqnarray mathletters darray""".split())

# Text symbols beside the many that pylatexenc knows.
SYMBOLS = {
    "S": "§", "P": "¶", "ldots": "...", "dots": "...", "textellipsis": "...", "LaTeX": "LaTeX", "TeX": "TeX", "BibTeX": "BibTeX",
    "textdegree": "°", "textasciitilde": "~", "textbackslash": "\\", "textbar": "|", "textless": "<", "textgreater": ">",
    "textasciicircum": "^", "textunderscore": "_", "textquotesingle": "'", "textquotedbl": '"', "quad": " ", "qquad": " ", "space": " ",
    "enspace": " ", "enskip": " ", "thinspace": " ", "hfill": " ", "hfil": " ", "newline": " ", "linebreak": " ", "break": " ",
    "textquoteleft": "'", "textquoteright": "'", "textquotedblleft": '"', "textquotedblright": '"', "lq": "'", "rq": "'",
    "textnumero": "No. ", "textsection": "§", "i": "ı", "j": "ȷ", "slash": "/", "nobreakspace": " ", "textvisiblespace": " ",
    "textregistered": "®", "texttrademark": "™", "copyright": "©", "pounds": "£", "dag": "†", "ddag": "‡", "par": "\n\n", "and": " ",
    "today": "", "bigskip": "\n\n", "medskip": "\n\n", "smallskip": "\n\n", "newpage": "\n\n", "clearpage": "\n\n", "pagebreak": "\n\n",
    "textmu": "µ", "textohm": "Ω", "textperthousand": "‰", "texttimes": "×", "textpm": "±", "textbullet": "•", "textcdot": "·",
    "backslash": "\\", "textendash": "–", "textemdash": "—", "textminus": "−", "hyphen": "-", "nonbreakinghyphen": "-", "cdots": "...",
    "ae": "æ", "AE": "Æ", "oe": "œ", "OE": "Œ", "aa": "å", "AA": "Å", "o": "ø", "O": "Ø", "l": "ł", "L": "Ł", "ss": "ß", "dh": "ð",
    "th": "þ", "TH": "Þ", "DH": "Ð", "DJ": "Đ", "dj": "đ", "ng": "ŋ", "NG": "Ŋ", "SS": "SS",
}
CONTROL_SYMBOLS = {" ": " ", "\n": " ", "\t": " ", ",": " ", ";": " ", ":": " ", ">": " ", "\\": " \n", "%": "%", "&": "&", "#": "#", "_": "_",
                   "$": "$", "{": "{", "}": "}", "|": "|"}
ACCENTS = {"`": "\u0300", "'": "\u0301", "^": "\u0302", "~": "\u0303", "=": "\u0304", "u": "\u0306", ".": "\u0307", '"': "\u0308",
           "r": "\u030a", "H": "\u030b", "v": "\u030c", "d": "\u0323", "c": "\u0327", "k": "\u0328", "b": "\u0331", "t": "\u0361",
           "textcommabelow": "\u0326", "textogonekcentered": "\u0328"}

# Names that astronomers' classes and macro files define; as mathematics, or as words where no mathematics is meant.
ASTRONOMY = {
    **{name: r"\ensuremath{" + tex + "}" for name, tex in {
        "msun": r"M_\odot", "Msun": r"M_\odot", "lsun": r"L_\odot", "Lsun": r"L_\odot", "rsun": r"R_\odot", "Rsun": r"R_\odot",
        "Zsun": r"Z_\odot", "zsun": r"Z_\odot", "solmass": r"M_\odot", "mearth": r"M_\oplus", "rearth": r"R_\oplus",
        "mjup": r"M_{\rm Jup}", "rjup": r"R_{\rm Jup}", "Teff": r"T_{\rm eff}", "teff": r"T_{\rm eff}", "logg": r"\log g",
        "feh": r"[{\rm Fe/H}]", "degr": r"^\circ", "degree": r"^\circ", "degrees": r"^\circ", "arcdeg": r"^\circ", "arcsec": "''",
        "arcmin": "'", "fdg": r".\!\!^\circ", "farcs": r".\!\!''", "farcm": r".\!\!'", "fs": r".\!\!^{\rm s}", "fh": r".\!\!^{\rm h}", "fm": r".\!\!^{\rm m}", "fp": r".\!\!^{\rm p}",
        "fd": r".\!\!^{\rm d}", "fday": r".\!\!^{\rm d}", "fhr": r".\!\!^{\rm h}", "fmin": r".\!\!^{\rm m}", "fsec": r".\!\!^{\rm s}", "fdeg": r".\!\!^\circ",
        "fmag": r".\!\!^{\rm m}", "fyr": r".\!\!^{\rm yr}", "onehalf": "1/2", "onethird": "1/3", "twothirds": "2/3", "onequarter": "1/4",
        "threequarters": "3/4", "ubv": "UBV", "bv": "B-V", "ub": "U-B", "vr": "V-R", "ur": "U-R", "diameter": r"\oslash", "sun": r"\odot",
        "earth": r"\oplus", "la": r"\lesssim", "ga": r"\gtrsim", "lesssim": r"\lesssim", "gtrsim": r"\gtrsim", "micron": r"\mu{\rm m}",
        "kms": r"{\rm km\,s^{-1}}", "nodata": r"\ldots", "sq": r"\Box", "ubvr": "UBVR", "hbox": "", "sol": r"\odot", "deg": r"^\circ",
    }.items() if name not in ("hbox", "deg", "sq", "lesssim", "gtrsim")},
    **{name.lower(): name for name in
       "ApJ AJ MNRAS PASP PASJ Nature Icarus".split()},
    "apjl": "ApJL", "apjs": "ApJS", "apjlett": "ApJL", "apjsupp": "ApJS", "araa": "ARA&A", "aap": "A&A", "aapr": "A&A Rev.", "aaps": "A&AS",
    "aj": "AJ", "apj": "ApJ", "nat": "Nature", "prd": "Phys. Rev. D", "prl": "Phys. Rev. Lett.", "jcap": "JCAP", "ssr": "Space Sci. Rev.",
    "physrep": "Phys. Rep.", "procspie": "Proc. SPIE", "planss": "Planet. Space Sci.", "solphys": "Sol. Phys.", "jgr": "J. Geophys. Res.",
    "grl": "Geophys. Res. Lett.", "pasa": "PASA", "na": "New Astron.", "qjras": "QJRAS", "apss": "Ap&SS", "memsai": "MmSAI", "iaucirc": "IAU Circ.",
    "gca": "Geochim. Cosmochim. Acta", "baas": "BAAS", "icarus": "Icarus", "rmxaa": "RMxAA", "ao": "Appl. Opt.", "aplett": "Astrophys. Lett.",
    "sovast": "Soviet Ast.", "zap": "ZAp", "bain": "BAN", "actaa": "Acta Astron.", "skytel": "S&T",
}

UNIT_PREFIXES = {
    **{"kilo": "k", "mega": "M", "giga": "G", "tera": "T", "peta": "P", "exa": "E", "zetta": "Z", "yotta": "Y", "ronna": "R", "quetta": "Q"},
    **{"deci": "d", "centi": "c", "milli": "m", "micro": "µ", "nano": "n", "pico": "p", "femto": "f", "atto": "a", "zepto": "z", "yocto": "y"},
    **{"hecto": "h", "deca": "da", "deka": "da", "kibi": "Ki", "mebi": "Mi", "gibi": "Gi", "tebi": "Ti", "pebi": "Pi"},
}
# siunitx's units by name and by abbreviation, and those that astronomers declare again and again
UNITS = {
    **{"metre": "m", "meter": "m", "gram": "g", "kilogram": "kg", "second": "s", "kelvin": "K", "ampere": "A", "candela": "cd", "mole": "mol"},
    **{"hertz": "Hz", "newton": "N", "pascal": "Pa", "joule": "J", "watt": "W", "volt": "V", "ohm": "Ω", "tesla": "T", "weber": "Wb"},
    **{"henry": "H", "coulomb": "C", "farad": "F", "siemens": "S", "becquerel": "Bq", "gray": "Gy", "sievert": "Sv", "lumen": "lm", "lux": "lx"},
    **{"katal": "kat", "electronvolt": "eV", "atomicmassunit": "u", "dalton": "Da", "bar": "bar", "barn": "b", "litre": "l", "liter": "L"},
    **{"hectare": "ha", "tonne": "t", "decibel": "dB", "bel": "B", "neper": "Np", "knot": "kn", "nauticalmile": "M", "mmHg": "mmHg"},
    **{"parsec": "pc", "pc": "pc", "kpc": "kpc", "Mpc": "Mpc", "Gpc": "Gpc", "au": "au", "AU": "AU", "astronomicalunit": "au", "lightyear": "ly"},
    **{"angstrom": "Å", "AA": "Å", "year": "yr", "yr": "yr", "kyr": "kyr", "Myr": "Myr", "Gyr": "Gyr", "annum": "a", "day": "d", "hour": "h"},
    **{"minute": "min", "min": "min", "degree": "°", "degr": "°", "arcdeg": "°", "arcminute": "'", "arcmin": "'", "arcsecond": '"', "arcsec": '"'},
    **{"mas": "mas", "percent": r"%", "permille": "‰", "radian": "rad", "steradian": "sr", "jansky": "Jy", "Jy": "Jy", "mJy": "mJy", "erg": "erg"},
    **{"gauss": "G", "Gauss": "G", "dyne": "dyn", "magnitude": "mag", "mag": "mag", "dex": "dex", "rayleigh": "R", "ABmag": "mag", "pixel": "pixel"},
    **dict.fromkeys(("solarmass", "Msun", "msun", "Msol", "solmass", "sunmass"), r"M_\odot"),
    **dict.fromkeys(("solarluminosity", "Lsun", "lsun", "Lsol"), r"L_\odot"),
    **dict.fromkeys(("solarradius", "Rsun", "rsun", "Rsol"), r"R_\odot"),
    **{"earthmass": r"M_\oplus", "mearth": r"M_\oplus", "earthradius": r"R_\oplus", "rearth": r"R_\oplus"},
    **{"jupitermass": r"M_{\rm Jup}", "mjup": r"M_{\rm Jup}", "rjup": r"R_{\rm Jup}"},
    **{"celsius": "°C", "degreeCelsius": "°C", "degreecelsius": "°C", "byte": "B", "bit": "bit", "dB": "dB", "micron": "µm", "photon": "photon"},
    **{"elementarycharge": "e", "clight": "c", "planckbar": "ħ", "bohr": "a_0", "hartree": "E_h", "electronmass": "m_e", "amu": "u", "kWh": "kWh"},
    **{name: name.replace("u", "µ", 1) if name[0] == "u" else name.replace("ohm", "Ω") for name in """
       fg pg ng ug mg g kg pm nm um mm cm dm m km as fs ps ns us ms s h d fmol pmol nmol umol mmol mol kmol pA nA uA mA A kA ul ml l hl uL mL L hL
       mHz Hz kHz MHz GHz THz mN N kN MN Pa kPa MPa GPa hPa mohm kohm Mohm pV nV uV mV V kV nW uW mW W kW MW GW J uJ mJ kJ eV meV keV MeV GeV TeV PeV
       F fF pF nF uF K mK uK nT uT mT T C rad sr cd dyn uJy nJy kJy mas uas uG mG""".split()},
}
