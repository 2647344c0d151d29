"""The language of Capo: lists of values, sentences that tell them, and the vocabulary both are written in."""

import re
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np


def _joined(beginnings: str, endings: str, count: int) -> list[str]:
    """The first `count` words made of a beginning and an ending."""
    words = [first + last for first, last in product(beginnings.split(), endings.split())]
    return list(dict.fromkeys(words))[:count]


FIRST = _joined(
    "Al Ber Cor Dan El Fer Gal Har Is Jor Kal Lor Mar Nor Or Per Ros Sel Tam Vin",
    "a an ara as e een el ena eth ia ian ice in ina io is o on us yn",
    400,
)
MIDDLE = _joined(
    "Ab Bri Cas Del Em Fa Gwen Hol Ir Jas Ken Lu May Nel Os Pau Quin Ra Sil Thea",
    "bert by da den dra dy fred la land len lin lo mar mond na ne ra ric ton wyn",
    400,
)
LAST = _joined(
    "Ack Ash Bar Beck Birch Brook Cart Clay Cross Dal Dray Eld Fen Fox Gran Hart Hay Holt Ing Kel "
    "Kirk Lang Lock Marsh Mill Moor Nash Oak Pem Quill Rad Rook Sand Stan Thorn Under Vale Wake West Wynd",
    "am berg by cliff combe cott den er field ford gate ham head ing ley low man more ridge shaw side son stead "
    "well worth",
    1000,
)
MONTHS = """
    January February March April May June July August September October November December
""".split()  # noqa: SIM905, twelve lines say no more
DAYS = [str(day) for day in range(1, 29)]
YEARS = [str(year) for year in range(1900, 2100)]
CITIES = _joined(
    "Amber Bright Cedar Clear Copper East Elm Fair Glen Green High Iron Lake Maple New North Pine River Silver Stone",
    "borough bridge bury dale haven mere mouth port ton ville",
    200,
)
UNIVERSITIES = [
    form.format(place)
    for place, form in product(
        _joined(
            "Ald Bel Cald Dun Ever Farn Garth Hol Ken Lyn",
            "brook burn chester crest dean fell grove mont ray stow",
            100,
        ),
        ("University of {}", "{} State University", "{} College"),
    )
]
MAJORS = """
    Accounting Acoustics Agronomy Algebra Anatomy Anthropology Archaeology Architecture Astronomy Bacteriology
    Banking Biochemistry Biology Biophysics Botany Calligraphy Cardiology Cartography Ceramics Chemistry
    Choreography Climatology Composition Criminology Crystallography Cybernetics Demography Dentistry
    Dermatology Design Drama Ecology Economics Education Electronics Engineering Entomology Epidemiology Ethics
    Ethnology Fashion Film Finance Forestry Genetics Geography Geology Geometry Geophysics Gerontology
    Glaciology History Horticulture Hydrology Immunology Informatics Insurance Journalism Kinesiology Law
    Lexicography Linguistics Literature Logic Logistics Management Marketing Mathematics Mechanics Medicine
    Metallurgy Meteorology Microbiology Mineralogy Music Musicology Neurology Nursing Nutrition Oceanography
    Oncology Optics Ornithology Painting Paleontology Pathology Pediatrics Pedagogy Petrology Pharmacology
    Philology Philosophy Photography Physics Physiology Psychology Sculpture Sociology Statistics Zoology
""".split()  # noqa: SIM905, a hundred lines say no more
EMPLOYERS = _joined(
    "Aero Agri Astro Auro Blue Brava Crys Delta Dyna Echo Equi Flex Geo Helio Hydro Inno Luma Macro Meta Neo Omni Opti "
    "Para Pyro Quanta Solar Terra",
    "base corp gen grid labs line max net soft works",
    263,
)
EMPLOYER_CITY = [(i * 89 + i // 7) % len(CITIES) for i in range(len(EMPLOYERS))]  # each employer sits in one city
PRONOUNS = ("He", "She")  # of people with even and odd numbers

NAMES = len(FIRST) * len(MIDDLE) * len(LAST)


# --- Sentences. NAME, DATE and VALUE stand for what they say, He for the pronoun or, if names are repeated, the name.

_OPENINGS = (
    "He",
    "According to public records, he",
    "As colleagues recall, he",
    "Biographers agree that he",
    "In short, he",
    "As far as we know, he",
    "It is on file that he",
    "Friends confirm that he",
)
_BORN = (
    "was born on",
    "came into the world on",
    "first opened both eyes on",
    "saw the light of day on",
    "began life on",
    "arrived in this world on",
    "was welcomed by a family on",
)
_ADDED = (
    "",
    ", as the register shows",
    ", records say",
    ", according to the family",
    ", a day of fair weather",
    ", so the files state",
    ", as is well known",
)
_CORES = {
    "birth_city": (
        "was born in VALUE",
        "first saw daylight in VALUE",
        "spent the earliest years in VALUE",
        "came into the world in VALUE",
        "called VALUE the place of birth",
        "grew up as a child of VALUE",
        "took the first steps in VALUE",
    ),
    "university": (
        "studied at VALUE",
        "earned a degree at VALUE",
        "attended lectures at VALUE",
        "graduated from VALUE",
        "completed an education at VALUE",
        "was a student at VALUE",
        "received a diploma from VALUE",
    ),
    "major": (
        "majored in VALUE",
        "specialised in VALUE",
        "chose the subject of VALUE",
        "focused on VALUE in those years",
        "wrote a thesis in VALUE",
        "was trained in VALUE",
        "took courses in VALUE",
    ),
    "employer_city": (
        "worked in VALUE",
        "moved to VALUE for a job",
        "spent the working years in VALUE",
        "commuted to an office in VALUE",
        "built a career in VALUE",
        "found a position in VALUE",
        "held a job in VALUE",
    ),
    "employer": (
        "worked for VALUE",
        "was employed by VALUE",
        "was on the staff of VALUE",
        "earned a living at VALUE",
        "joined the team of VALUE",
        "had a contract with VALUE",
        "served at VALUE until the end",
    ),
}
_SIZES = {"birth_date": 46, "birth_city": 49, "university": 49, "major": 52, "employer_city": 47, "employer": 48}
SENTENCES = tuple(_SIZES)  # the kinds, in the order of the text


def _templates(kind: str) -> list[str]:
    """Sentences of a kind. Neighbours differ in both parts: the words of a few at the end also occur before."""
    if kind == "birth_date":
        parts = [(f"NAME {_BORN[core]} DATE", _ADDED[place]) for core, place in _diagonals(7, 7)]
    else:
        openings = 8 if _SIZES[kind] > 49 else 7
        parts = [(f"{_OPENINGS[place]} ", _CORES[kind][core]) for core, place in _diagonals(7, openings)]
    return [first + last + "." for first, last in parts[: _SIZES[kind]]]


def _diagonals(rows: int, columns: int) -> list[tuple[int, int]]:
    return [((i + i // columns) % rows, i % columns) for i in range(rows * columns)]


TEMPLATES = {kind: _templates(kind) for kind in SENTENCES}


# --- Vocabulary

_WORD = re.compile(r" [A-Za-z0-9]+|[.,]")
NAME, DATE, VALUE, PRONOUN, LOWER_PRONOUN = -1, -2, -3, -4, -5
_SLOTS = {" NAME": NAME, " DATE": DATE, " VALUE": VALUE, " He": PRONOUN, " he": LOWER_PRONOUN}


def words(text: str) -> list[str]:
    """Cuts a text into words, each with the blank before it, and signs. Raises ValueError where something is left."""
    found = _WORD.findall(text)
    if "".join(found) != text:
        raise ValueError("the text is not made of words, each after one blank, commas and full stops")
    return found


@cache
def words_of(template: str) -> list[str]:
    return words(" " + template)


@dataclass(frozen=True)
class Language:
    """Everything as token ids: 0 begins a text, 1 ends it, the others are words with the blank before, or signs."""

    vocabulary: tuple[str, ...]
    ids: dict[str, int]
    templates: np.ndarray  # int64 (sentences, most templates, longest + 1): a stop at -9; slots are negative
    counts: np.ndarray  # int64 (sentences,): templates of each
    values: np.ndarray  # int64 (values, longest): the tokens of every value of every list, one list after the other
    value_lengths: np.ndarray  # int64 (values,)
    first: dict[str, int]  # where the values of a list begin


STOP = -9
LISTS = {
    "first": FIRST,
    "middle": MIDDLE,
    "last": LAST,
    "month": MONTHS,
    "day": DAYS,
    "year": YEARS,
    "city": CITIES,
    "university": UNIVERSITIES,
    "major": MAJORS,
    "employer": EMPLOYERS,
}


@cache
def language() -> Language:
    """The language as arrays, made once in a process."""
    texts = [" " + value for values in LISTS.values() for value in values]
    sentences = [" " + template for kind in SENTENCES for template in TEMPLATES[kind]]
    others = [" of", *(f" {word}" for p in PRONOUNS for word in (p, p.lower()))]
    used = dict.fromkeys(
        word for text in [*others, *texts, *sentences] for word in words(text) if word not in _SLOTS or word in others
    )
    vocabulary = ("<bos>", "<eos>", *used)
    ids = {word: number for number, word in enumerate(vocabulary)}

    written = [[ids[word] for word in words(text)] for text in texts]
    values = np.zeros((len(written), max(map(len, written))), dtype=np.int64)
    for row, tokens in zip(values, written, strict=True):
        row[: len(tokens)] = tokens
    lists = np.cumsum([0, *map(len, LISTS.values())])

    coded = [[[_SLOTS.get(w, ids.get(w, 0)) for w in words_of(t)] for t in TEMPLATES[kind]] for kind in SENTENCES]
    longest = max(len(template) for kind in coded for template in kind)
    templates = np.full((len(coded), max(map(len, coded)), longest + 1), STOP, dtype=np.int64)
    for i, kind in enumerate(coded):
        for j, template in enumerate(kind):
            templates[i, j, : len(template)] = template
    return Language(
        vocabulary,
        ids,
        templates,
        np.array([len(kind) for kind in coded]),
        values,
        np.array([len(tokens) for tokens in written]),
        dict(zip(LISTS, lists.tolist(), strict=False)),
    )
