"""arXiv ids in every spelling that people use, and what is no id."""

import pytest

from data_tools.arxiv.ids import ARCHIVES, paper_id, repaired_id

NEW = """0704.0001 | 0704.0001v2 | 0704.0001V2 |  0704.0001  | 0704.0001 v1 | arXiv:0704.0001 | arxiv:0704.0001v1 | ARXIV:0704.0001 | arXiv: 0704.0001
arXiv 0704.0001 | arXiv-0704.0001 | arXiv_0704.0001v1 | arXiv.0704.0001 | arXiv0704.0001 | arXiv:arXiv:0704.0001 | abs/0704.0001 | pdf/0704.0001v3.pdf
0704.0001.pdf | 0704.0001v1.pdf | 0704.0001.PDF | https://arxiv.org/abs/0704.0001 | http://arxiv.org/abs/0704.0001v1 | https://www.arxiv.org/abs/0704.0001/
https://arxiv.org/pdf/0704.0001 | https://arxiv.org/pdf/0704.0001v1.pdf | https://arxiv.org/html/0704.0001v2 | https://arxiv.org/e-print/0704.0001
https://export.arxiv.org/abs/0704.0001 | https://xxx.lanl.gov/abs/0704.0001 | arxiv.org/abs/0704.0001 | https://ar5iv.labs.arxiv.org/html/0704.0001
https://ar5iv.org/abs/0704.0001 | https://www.alphaxiv.org/abs/0704.0001 | https://alphaxiv.org/overview/0704.0001v1 | https://arxiv.org/src/0704.0001
https://arxiv.org/format/0704.0001 | https://arxiv.org/abs/0704.0001?context=astro-ph | https://arxiv.org/abs/0704.0001#comments | <https://arxiv.org/abs/0704.0001>
"0704.0001" | 0704.0001. | 0704.0001, | oai:arXiv.org:0704.0001 | OAI:arxiv.org:0704.0001v1 | 10.48550/arXiv.0704.0001 | doi:10.48550/arXiv.0704.0001
https://doi.org/10.48550/arXiv.0704.0001 | https://dx.doi.org/10.48550/ARXIV.0704.0001 | DOI 10.48550/arxiv.0704.0001 | 0704.0001 [astro-ph]
0704.0001 [astro-ph.GA] | arXiv:0704.0001v1 [astro-ph.CO] | 0704.0001 (astro-ph.GA) | 0704.0001[hep-ph] | arXiv:0704.0001v1  [astro-ph]  2 Apr 2007
https%3A%2F%2Farxiv.org%2Fabs%2F0704.0001 | 0704_0001 | 2007arXiv0704.0001B | info:arxiv/0704.0001 | eprint: 0704.0001 | 0704.0001.tar.gz | 0704. 0001"""
OLD = """astro-ph/9301003 | astro-ph/9301003v1 | Astro-Ph/9301003 | ASTRO-PH/9301003 | astro-ph/ 9301003 | astro-ph / 9301003 | astro-ph_9301003 | astro-ph9301003
astro-ph-9301003 | astro-ph 9301003 | astro-ph.CO/9301003 | astro-ph.CO/9301003v2 | arXiv:astro-ph/9301003 | arXiv:astro-ph.GA/9301003 | abs/astro-ph/9301003
https://arxiv.org/abs/astro-ph/9301003 | https://arxiv.org/pdf/astro-ph/9301003v1.pdf | http://xxx.lanl.gov/abs/astro-ph/9301003 | oai:arXiv.org:astro-ph/9301003
10.48550/arXiv.astro-ph/9301003 | https://doi.org/10.48550/arXiv.astro-ph/9301003 | astro-ph/9301003 [astro-ph] | astro-ph%2F9301003 | arXiv-astro-ph9301003v1
arXiv_astro-ph_9301003 | astro-ph//9301003 | astro-ph:9301003 | 1993astro.ph..9301003S | astro-ph/9301003.pdf | astro-ph/9301003.tar.gz | src/astro-ph/9301003"""


@pytest.mark.parametrize("written", [form for line in NEW.splitlines() for form in line.split("|")])
def test_ids_of_the_new_style(written: str) -> None:
    assert (paper_id(written) or [None])[0] == "0704.0001"


@pytest.mark.parametrize("written", [form for line in OLD.splitlines() for form in line.split("|")])
def test_ids_of_the_old_style(written: str) -> None:
    assert (paper_id(written) or [None])[0] == "astro-ph/9301003"


def test_versions_are_read() -> None:
    forms = ["0704.0001", "0704.0001v12", "pdf/0704.0001V3.pdf", "0704.0001 v4 [astro-ph]", "hep-th9901001v2", "arXiv:math.GT/0309136v7"]
    assert [paper_id(form)[1] for form in forms] == [0, 12, 3, 4, 2, 7]


@pytest.mark.parametrize(
    "written",
    """9301003 | ms | ngc1275 | section9901001 | 0703.0001 | 0704.00001 | 1501.0001 | 1412.00001 | 0713.0001 | 9901.00001 | astro-ph/0704001
astro-ph/9013001 | astro-ph/930100 | https://example.org/paper | 10.1086/345794 | 2004PhRvD..70f3501B | 704.0002 | 1234.5678.9 | v1 | astro-ph | 12:30:00
arXiv_src_0704_001 | 0704.0001 and 0704.0002 | NGC 0704.0001 | a0704.0001 | star_9301003 |  | https://arxiv.org/list/astro-ph/0704""".replace(
        "\n", "|"
    ).split("|"),
)
def test_what_is_no_id(written: str) -> None:
    assert paper_id(written) is None


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("704.0002", "0704.0002"),
        ("704.001", "0704.0010"),
        ("704.1", "0704.1000"),
        ("812.4", "0812.4000"),
        ("1203.001", "1203.0010"),
        ("1412.01", "1412.0100"),
        ("1501.0001", "1501.00010"),
        ("1501.1", "1501.10000"),
        ("1501.0171599999999", "1501.01716"),
        ("2301.00001", "2301.00001"),
        ("7.040002e2", "0704.0002"),
        ("1.5010001E+03", "1501.00010"),
        ("704.0", None),  # the zeros behind the month name no paper
        ("1501", None),
        ("9301003", None),
        ("713.0001", None),
        ("704.00025", None),
        ("703.0001", None),
        ("12.5", None),
    ],
)
def test_a_number_gets_back_the_zeros_it_lost(written: str, meant: str | None) -> None:
    assert repaired_id(written) == meant


def test_every_number_of_a_month_comes_back() -> None:
    for month, digits in (("0704", 4), ("1412", 4), ("1501", 5), ("2301", 5)):
        for number in range(1, 10**digits, 37):
            name = f"{month}.{number:0{digits}d}"
            assert (repaired_id(str(float(name))) or name) == name


def test_every_archive_of_the_old_style_is_known() -> None:
    assert len(ARCHIVES) == 34 and all(paper_id(f"{archive}/9901001") for archive in ARCHIVES)
