"""Lines of arXiv's metadata: ids, dates, licences, and which papers were asked for."""

import pytest

from data_tools.arxiv.metadata import RecordError, Selection, is_withdrawn, paper_id, parse, repaired_id, short_license
from data_tools.documents.clean import clean_tex
from tests.made.papers import record, sentences


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("hep-ph9901001", ("hep-ph/9901001", 0)),
        ("hep-ph/9901001v2", ("hep-ph/9901001", 2)),
        ("astro-ph_0105001", ("astro-ph/0105001", 0)),
        ("math.GT/0309136", ("math/0309136", 0)),
        ("arXiv:2301.00001v3", ("2301.00001", 3)),
        ("0704.0001", ("0704.0001", 0)),
        ("2301.0001", None),
        ("0704.00001", None),
        ("2313.00001", None),
        ("ms", None),
        ("ngc1275", None),
    ],
)
def test_ids_of_both_styles_are_read_from_file_names(name: str, found: tuple[str, int] | None) -> None:
    assert paper_id(name) == found


def test_ids_that_a_table_held_as_numbers_are_repaired() -> None:
    wrong = ["1501.0171599999999", "1501.0380300000002", "1501.038", "704.001", "704.0001"]
    assert [repaired_id(name) for name in wrong] == ["1501.01716", "1501.03803", "1501.03800", "0704.0010", "0704.0001"]
    assert repaired_id("1501.01715432") is None and repaired_id("9913.01") is None


def test_the_first_version_dates_a_paper() -> None:
    assert parse(record(2)).date == "2007-04-02"
    assert parse(record(2, versions=None, date="1993-01")).date == "1993-01"
    assert parse(record(2, id="astro-ph/9301002", versions=None)).date == "1993-01"
    assert parse(record(2, versions=[{"version": "v3", "created": "nonsense"}])).version == 3


def test_licences_get_short_names() -> None:
    urls = ["http://creativecommons.org/licenses/by-nc-nd/4.0/", "http://creativecommons.org/publicdomain/zero/1.0/",
            "http://arxiv.org/licenses/nonexclusive-distrib/1.0/", None]  # fmt: skip
    assert [short_license(url) for url in urls] == ["cc-by-nc-nd-4.0", "cc0-1.0", "arxiv-nonexclusive-1.0", "unknown"]


@pytest.mark.parametrize(
    ("selection", "why"),
    [
        ({}, None),
        ({"primary_only": True}, "category"),
        ({"categories": ("gr-qc", "hep-*"), "primary_only": True}, None),
        ({"categories": ("cs.*",)}, "category"),
        ({"since": "2007-04-02", "until": "2007-04-02"}, None),
        ({"since": "2007", "until": "2007"}, None),
        ({"since": "2007-05"}, "date"),
        ({"until": "2007-03"}, "date"),
        ({"licenses": ("cc-*",)}, "license"),
        ({"licenses": ("cc-*", "unknown")}, None),
    ],
)
def test_papers_are_chosen_by_category_date_and_licence(selection: dict, why: str | None) -> None:
    assert Selection(**selection).why_not(parse(record(1))) == why


@pytest.mark.parametrize(
    "comments", ["This paper has been withdrawn by the authors", "Withdrawn due to an error in eq. 3", "submission withdrawn"]
)
def test_comments_tell_a_withdrawn_paper(comments: str) -> None:
    assert is_withdrawn(parse(record(1, comments=comments)))


def test_abstracts_tell_a_withdrawn_paper_and_gas_may_be_withdrawn() -> None:
    assert is_withdrawn(parse(record(1, abstract="This paper has been\nwithdrawn due to a crucial error.")))
    assert not is_withdrawn(parse(record(1, abstract="We show that gas is withdrawn from the disk. " + sentences(1, 3))))
    assert not is_withdrawn(parse(record(1, comments="12 pages, replaces the earlier proceedings")))


@pytest.mark.timeout(30)
def test_long_hostile_abstracts_are_cleaned_or_refused() -> None:
    for piece in ("a", "{", r"\it{", "~", "$", r"\'", "{{}", "(~"):
        assert len(clean_tex(piece * (19_000 // len(piece)))) <= 19_000
    with pytest.raises(RecordError, match="abstract of 30000 characters"):
        parse(record(1, abstract="a" * 30_000))


TAKEN_BACK = """This paper has been withdrawn | This paper has been withdrawn by the author | This paper has been withdrawn by the authors due to an error in Eq. 3
Withdrawn | withdrawn. | WITHDRAWN | Paper withdrawn | paper withdrawn due to a crucial error | 12 pages, withdrawn | 12 pages; withdrawn by author | (withdrawn)
This submission has been withdrawn by arXiv administrators because of plagiarism | This submission has been removed by arXiv administrators
removed by arXiv administrators | This article has been removed by arXiv administrators because the submitter did not have the right to agree to our license
This version removed by arXiv administrators | arXiv admin note: this submission has been withdrawn by arXiv admin | Removed by arXiv admin due to copyright
The paper is withdrawn | The article was retracted | This paper, submitted to PRD, has been withdrawn | This paper (astro-ph/9301003) has been withdrawn
The author has withdrawn this paper | Authors withdraw this paper | We withdraw this paper because of an error | I have withdrawn this submission
Retracted due to an error | The manuscript has been temporarily withdrawn for revision | This letter is being withdrawn | withdrawn pending revision
This paper has been retracted | submission withdrawn | This paper is withdrawn as the data were wrong | Withdrawn at the request of the authors
Paper has been removed by the author | this preprint was removed due to a dispute among authors | Withdrawn from arXiv | This paper has been withdrawn from publication
The authors have decided to withdraw this article | 4 pages. Withdrawn because of an error | This e-print has been withdrawn | withdrawn by the submitter""".replace(
    "\n", "|"
).split("|")
KEPT = """12 pages | the star was withdrawn | The star was withdrawn from the sample | gas is withdrawn from the disk | one object withdrawn from the catalogue
12 pages, figure 3 removed | Figure 3 of this paper has been removed due to its size | typos removed | references removed by the editor of the journal
replaces the withdrawn paper astro-ph/0001001 | supersedes arXiv:0704.0001, which was withdrawn | An earlier version of this paper was withdrawn; this is the corrected one
a claim of this paper has been withdrawn | Section 4 was withdrawn | the first version was withdrawn by the authors and is replaced by this one | one section retracted
The spacecraft's paper sample was withdrawn | two sources were removed by the pipeline | contamination removed | v2: the appendix was removed
previous version withdrawn by the authors | comments on the retracted paper by Smith et al. | withdrawn galaxies | Reply to a withdrawn comment""".replace(
    "\n", "|"
).split("|")


@pytest.mark.parametrize("comments", [text.strip() for text in TAKEN_BACK])
def test_comments_say_that_a_paper_was_taken_back(comments: str) -> None:
    assert is_withdrawn(parse(record(1, comments=comments)))


@pytest.mark.parametrize("comments", [text.strip() for text in KEPT])
def test_comments_may_speak_of_other_things_that_were_withdrawn(comments: str) -> None:
    assert not is_withdrawn(parse(record(1, comments=comments)))


@pytest.mark.parametrize(
    ("abstract", "withdrawn"),
    [
        ("This paper has been withdrawn by the author due to a crucial sign error in equation 1.", True),
        ("Withdrawn.", True),
        ("Withdrawn due to a mistake in the analysis.", True),
        ("The authors have withdrawn this paper because of an error in the data.", True),
        ("This submission has been removed by arXiv administrators as it is a duplicate.", True),
        ("This article was retracted.", True),
        ("In this paper we study gas withdrawn from the disk. ", False),
        ("In this work the star was withdrawn from the sample of giants. ", False),
        ("Foregrounds are removed by the authors' pipeline in this paper. ", False),
        ("The telescope was withdrawn from service in 1990; this paper describes its legacy. ", False),
        ("We study how papers are retracted after an error was found. ", False),
    ],
)
def test_abstracts_say_that_a_paper_was_taken_back(abstract: str, withdrawn: bool) -> None:
    assert is_withdrawn(parse(record(1, abstract=abstract + ("" if withdrawn else sentences(1, 3))))) == withdrawn
