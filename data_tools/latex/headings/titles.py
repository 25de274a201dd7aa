r"""What a section's title says it is: introduction, conclusion, what stands behind a paper, or its matter."""

import re

_NUMBER = re.compile(r"^(?:\W*(?i:section|chapter)?\s*(?:[0-9]{1,2}(?:\.[0-9]{0,2})*|[IVX]{1,5}\.?|[A-Z]\.)[.:)\s]\s*)")
INTRODUCTION = re.compile(r"\bintro(?:duction|ductory)?\b|^introducci[oó]n$")
OPENING = re.compile(r"^(?:(?:scientific|science|general|physical|astrophysical) )?(?:background|motivation|context|prologue|rationale)\b")
CONCLUSION = re.compile(r"\bconclu(?:sions?|ding|de)\b")
SUMMARY = re.compile(
    r"^(?:(?:executive|brief|short|final|general|paper) )?summar(?:y|ies)(?:$| and\b| of (?:the )?(?:main |key |our |this )*(?:results?|findings|work|paper|conclusions?)\b)"
    r"|\band (?:brief |final )?summary$|\bsummary$|\b(?:closing|final) (?:remarks?|thoughts|comments?|considerations?)\b|^summing up\b|^epilogue\b"
)
BACK = re.compile(
    r"acknowled?ge?ment|^acknowledge|^thanks$|^references?$|^bibliography|^literature cited|affiliations?$|author contributions?|^contributions?$"
    r"|conflicts? of interest|competing interests|^disclosures?|^fundings?(?: |$)|data (?:and .{0,30})?availability|code availability|software availability"
    r"|availability of (?:data|code)|^(?:software|facilities|facility)(?:,? and .{0,20})?$|^related resources|^supporting information|^orcid|author information|^credit author"
    r"|^dedication|^keywords?$|^authors?$|^declarations?$|^supplementary (?:materials?|data)$|ethics statement|reproducibility statement"
)
APPENDIX = re.compile(r"^(?:appendix|appendices|supplement)")
KNOWN = re.compile(
    r"^(?:(?:the |our )?(?:introduct\w+|observations?|data|samples?|methods?|methodology|results?|analysis|discussions?|models?|theory|simulations?"
    r"|conclu\w+|summary|abstract|background|motivation|acknowled\w+|references|appendix|theoretical \w+|numerical \w+|basic equations|experiments?)"
    r"(?:$| and | of | with | reduction| analysis))"
)


def plain_title(title: str) -> str:
    """A section's title for comparing: lower case, no number, `and` for &."""
    title = title.replace("\n", " ").strip()
    if re.fullmatch(r"(?:\w[ .]{1,3}){4,60}\w\W?", title):  # I N T R O D U C T I O N
        title = re.sub(r"[ .]", "", title).replace("AND", " AND ")
    title = _NUMBER.sub("", title)
    return " ".join(re.sub(r"[^\w\s]", " ", title.lower().replace("&", " and ")).split())
