import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curriculum.sources.clean import clean, dehyphenate, normalise, remove_page_headers, unwanted

PIECES = [
    "exam",
    "ple",
    "-",
    "-\n",
    "\n",
    "\f",
    " ",
    "\t",
    "\r\n",
    "Über",
    "e\u0301",
    "\u00ad",
    "\u200b",
    "7",
    ".",
    "\x1b[31m",
]
texts = st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join))


@given(texts)
def test_cleaning_twice_changes_nothing(text):
    once = clean(text, page_headers=False).text
    assert clean(once, page_headers=False).text == once


@given(texts)
def test_what_is_left_is_text_that_any_file_and_terminal_can_hold(text):
    cleaned = clean(text).text
    cleaned.encode()
    assert unicodedata.is_normalized("NFC", cleaned)
    assert not {unicodedata.category(character) for character in cleaned if character not in "\n\t"} & {"Cc", "Cs"}
    assert not any(line != line.rstrip() for line in cleaned.split("\n"))


@given(st.text(st.sampled_from("aBc .,;:!?()<>=*/'\"#\n")))
def test_case_punctuation_and_line_breaks_stay(text):
    lines = [line.rstrip() for line in text.split("\n")]
    assert clean(text).text == "\n".join(lines).strip("\n")


def test_arithmetic_and_code_survive():
    text = "1-2=-1\n20*19=380\nif a < b and c > d then\n\tprint('<b>')\n\n\nend"
    assert clean(text).text == text


def test_accents_are_composed_and_invisible_marks_go():
    assert normalise("cafe\u0301 co\u00adop\u200b \u202eabc\ufeff \x00\x07\x1b\x9b") == "café coop abc"


def test_joiners_of_scripts_that_are_spelled_with_them_stay():
    assert normalise("می\u200cخواهم") == "می\u200cخواهم"


def test_every_kind_of_line_break_becomes_one():
    assert normalise("a\r\nb\rc\x85d\u2028e\u2029f\x0bg") == "a\nb\nc\nd\ne\nf\ng"


def test_words_divided_at_line_ends_are_joined_and_the_line_breaks_after_them():
    assert (
        dehyphenate("an exam-\nple, of a di-\nvi-\nded word-\ning\nnext") == "an example,\nof a divided\nwording\nnext"
    )


def test_no_blank_line_comes_from_joining():
    assert dehyphenate("an exam-\nple\nof it") == "an example\nof it"


def test_a_hyphen_that_the_word_has_elsewhere_stays():
    assert dehyphenate("a well-known man, well-\nknown here") == "a well-known man, well-known\nhere"
    assert dehyphenate("a co-op, a coop, a co-\nop") == "a co-op, a coop, a coop"


def test_names_numbers_lists_and_dashes_are_not_joined():
    for text in ["Anglo-\nSaxon", "1914-\n1918", "-\nitem", "he said -\nthen", "x-\n\ny"]:
        assert dehyphenate(text) == text


def book(pages: int) -> list[str]:
    """Headers of left and right pages, and page numbers, around two lines of text that stand on this page only."""
    head = ["The Long Title", "AN AUTHOR"]
    return [f"{head[i % 2]}\n\n{line(i)}\n{line(i + 100)}\n\n— {i + 7} —" for i in range(pages)]


def line(number: int) -> str:
    return "line " + "".join(chr(ord("a") + int(digit)) for digit in str(number))


def test_headers_and_footers_are_removed_by_their_repetition():
    pages = book(8)
    assert remove_page_headers(pages) == 16
    assert pages == [f"{line(i)}\n{line(i + 100)}" for i in range(8)]


def test_nothing_is_removed_from_two_pages():
    pages = book(2)
    assert remove_page_headers(pages) == 0
    assert pages == book(2)


def test_numbers_that_do_not_count_the_pages_stay():
    pages = [
        f"{value}\nsome words {'abcdef'[i]}\nand {'uvwxyz'[i]}\nagain {'opqrst'[i]}"
        for i, value in enumerate([12, 99, 3, 45, 7, 61])
    ]
    expected = list(pages)
    assert remove_page_headers(pages) == 0
    assert pages == expected


def test_a_word_divided_by_the_end_of_a_page_is_joined():
    pages = [f"HEADER\n{before}\n{number}" for number, before in enumerate(["one exam-", "ple two", "three"], 1)]
    assert clean("\f".join(pages)).text == "one example\ntwo\nthree"
    assert clean("\f".join(pages)).header_lines == 6


@pytest.mark.parametrize("text", ["a" * 1_000_000, " " * 1_000_000 + "a", "a-\n" * 100_000, "1" * 1_000_000])
def test_texts_that_are_one_long_run_take_no_longer_than_others(text):
    clean(text)  # took hours when each part of the run was tried


def test_filters_name_themselves_and_pass_everything_by_default():
    assert unwanted(" \n\t ") == "empty"
    assert unwanted("1") is None
    assert unwanted("short", min_characters=6) == "min_characters: has 5"
    assert unwanted("12 ab", min_letters=0.6) == "min_letters: has 0.50"
    assert unwanted("12 ab", min_letters=0.5) is None
    assert unwanted("a\nb\na\n\na", max_repeated_lines=0.4) == "max_repeated_lines: has 0.50"
    assert unwanted("a\nb\na\n\na", max_repeated_lines=0.5) is None
