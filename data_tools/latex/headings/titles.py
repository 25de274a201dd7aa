r"""What a section's title says it is: introduction, conclusion, what stands behind a paper, or its matter."""

import re

_NUMBER = re.compile(r"^(?:\W*(?i:section|chapter)?\s*(?:[0-9]{1,2}(?:\.[0-9]{0,2})*|[IVX]{1,5}\.?|[A-Z]\.)[.:)\s]\s*)")
# beside English the words of the languages that theses are written in
INTRODUCTION = re.compile(
    r"\bintro(?:duction|ductory)?\b|^(?:introducci[oó]n|introduzione|introdução|introducció|introducere|einleitung|einführung|inleiding|inledning|indledning"
    r"|innledning|johdanto|bevezetés|wst[eę]p|wprowadzenie|úvod|uvod|giriş|введение|вступ)(?:$| (?:general|generale|geral|und|i|og|och|en)\b)"
)
OPENING = re.compile(r"^(?:(?:scientific|science|general|physical|astrophysical) )?(?:background|motivation|context|prologue|rationale)\b")
CONCLUSION = re.compile(
    r"\bconclu(?:sions?|ding|de)\b|^(?:conclusi[oó]n|conclusiones|conclusioni|conclusione|conclusões|conclusão|conclusie|conclusies|concluzii|conclusió"
    r"|schlu(?:ss|ß)folgerung(?:en)?|schlu(?:ss|ß)(?:betrachtung|bemerkung|wort)?(?:en)?|abschlu(?:ss|ß)(?:bemerkung)?(?:en)?|fazit|slutsats(?:er)?|konklusjon|konklusion|johtopäätökset|wnioski|podsumowanie"
    r"|závěr|zaključak|zaključek|sonuç(?:lar)?|заключение|выводы|висновки)(?:$| (?:y|e|et|und|i|og|och|en|и|та) )"
)
SUMMARY = re.compile(
    r"^(?:(?:executive|brief|short|final|general|paper) )?summar(?:y|ies)(?:$| and\b| of (?:the )?(?:main |key |our |this )*(?:results?|findings|work|paper|conclusions?)\b)"
    r"|\band (?:brief |final )?summary$|\bsummary$|^zusammenfassung(?:$| und )|^resumen y |\b(?:closing|final) (?:remarks?|thoughts|comments?|considerations?)\b|^summing up\b|^epilogue\b"
)
BACK = re.compile(
    r"^(?:the )?acknowled|^(?:thanks|remerciements?|agradecimientos|agradecimentos|ringraziamenti|danksagung|dankwoord)$|^references?$|^bibliography|^literature cited|affiliations?$|author contributions?"
    r"|conflicts? of interest|competing interests|^disclosures?|^fundings?(?: |$)|^(?:data|codes?|software|materials?|resources?)\b.{0,40}\bavailability"
    r"|^availability of (?:data|code)|^related resources|^supporting information|^orcid|author information|^credit author"
    r"|^dedication|^keywords?$|ethics statement|reproducibility statement"
)
# apparatus where they are short, matter of the paper where they are long
BRIEF_BACK = re.compile(
    r"^(?:software|facilities|facility)(?:,? and .{0,20})?$|^supplementary (?:materials?|data)$|^contributions?$|^authors?$|^declarations?$"
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
