import re
from collections import Counter
from functools import cache
from math import e, log

import numpy as np
import pytest
from corruption import agreement
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from core.batch import IGNORE
from synthetic_tasks import _biographies as bio
from synthetic_tasks.capo import FIELDS, CapoTask, bit_complexity, most_bits

SMALL = CapoTask(num_people=40, exposures=20)


# The lists


def test_lists_and_templates_have_the_sizes_of_the_paper():
    sizes = {name: len(set(values)) for name, values in bio.LISTS.items()}
    assert sizes == {
        "first": 400, "middle": 400, "last": 1000, "month": 12, "day": 28, "year": 200,
        "city": 200, "university": 300, "major": 100, "employer": 263,
    }  # fmt: skip
    assert {kind: len(set(templates)) for kind, templates in bio.TEMPLATES.items()} == {
        "birth_date": 46, "birth_city": 49, "university": 49, "major": 52, "employer_city": 47, "employer": 48,
    }  # fmt: skip
    assert len(set(bio.EMPLOYER_CITY)) > 100


def test_templates_kept_from_training_use_no_word_that_is_not_trained():
    for kind, templates in bio.TEMPLATES.items():
        kept = {word for t in templates[-7:] for word in bio.words(" " + t)}
        assert kept <= {word for t in templates[:-7] for word in bio.words(" " + t)}, kind


def test_every_text_has_one_tokenisation_and_comes_back():
    for row in SMALL.take(0, 50):
        assert SMALL.encode(row["text"]) == row["input_ids"]
        assert SMALL.decode(row["input_ids"]) == row["text"]
        assert row["text"].startswith(" ")
        assert "  " not in row["text"]


# The population


def test_a_person_is_fixed_by_number_and_seed_alone():
    small, large = CapoTask(num_people=100), CapoTask(num_people=3000, exposures=7, order=1)
    assert np.array_equal(small.people, large.people[:100])
    assert small.person(42) == large.person(42)
    other = CapoTask(num_people=100, population_seed=1)
    assert (small.people == other.people).mean() < 0.1


def test_no_two_people_share_a_name():
    people = CapoTask(num_people=300_000).people
    assert len(np.unique(people[:, :3], axis=0)) == 300_000  # 281 pairs would, if names were drawn independently


def test_values_are_uniform_and_independent():
    people = CapoTask(num_people=100_000).people
    for column, values in zip(people.T, bio.LISTS.values(), strict=True):
        counts = np.bincount(column, minlength=len(values))
        mean = 100_000 / len(values)
        assert abs(((counts - mean) ** 2 / mean).sum() - len(values)) < 5 * (2 * len(values)) ** 0.5
    correlations = np.corrcoef(people.T) - np.eye(10)
    assert abs(correlations).max() < 5 / 100_000**0.5


def test_what_is_known_of_a_person_is_what_the_table_says():
    known = SMALL.person(3)
    places = SMALL.people[3]
    assert list(known) == list(FIELDS)
    assert known["name"] == " ".join([bio.FIRST[places[0]], bio.MIDDLE[places[1]], bio.LAST[places[2]]])
    assert known["pronoun"] == "She"
    assert known["employer_city"] == bio.CITIES[bio.EMPLOYER_CITY[bio.EMPLOYERS.index(known["employer"])]]


# Another reading of a text: one regular expression for each sentence, whose groups are compared with the person.


@cache
def known_people(task: CapoTask) -> dict[str, dict[str, str]]:
    return {task.person(i)["name"]: task.person(i) for i in range(task.num_people)}


@cache
def pattern(task: CapoTask, kind: str) -> re.Pattern[str]:
    date = (
        r"(?P<day>\d+) of (?P<month>\w+), (?P<year>\d+)"
        if task.reverse_md
        else r"(?P<month>\w+) (?P<day>\d+), (?P<year>\d+)"
    )
    who = r"(?P<name>\w+ \w+ \w+)"
    he = who if task.repeat_name else "(?P<pronoun>He|She)"
    lower = who if task.repeat_name else "(?P<lower>he|she)"
    slots = {"NAME": who, "DATE": date, "VALUE": rf"(?P<{kind}>[\w ]+)", "He": he, "he": lower}
    count = len(bio.TEMPLATES[kind]) - task.held_out_templates
    allowed = bio.TEMPLATES[kind][:count] if task.templates == "train" else bio.TEMPLATES[kind][count:]
    choices = ["".join(slots.get(word, re.escape(word)) for word in re.split(r"\b", template)) for template in allowed]
    names = Counter()

    def numbered(match: re.Match[str]) -> str:
        names[match[1]] += 1
        return f"(?P<{match[1]}_{names[match[1]]}>"

    return re.compile("|".join(re.sub(r"\(\?P<(\w+)>", numbered, choice) for choice in choices))


def reads_as_valid(task: CapoTask, row: list[int]) -> bool:
    words = bio.language().vocabulary
    if row[0] != 0 or row[-1] != 1 or not all(1 < t < len(words) for t in row[1:-1]):
        return False
    text = "".join(words[t] for t in row[1:-1])
    sentences = re.findall(r" ([^.]*\.)", text)
    if "".join(f" {s}" for s in sentences) != text or len(sentences) != 6:
        return False
    person = known_people(task).get(" ".join(sentences[0].split()[:3]))
    kinds = list(bio.SENTENCES)
    if task.order and not task.permute_sentences:
        kinds[4:] = kinds[:3:-1]
    told = []
    for place, sentence in enumerate(sentences):
        matches = {kind: pattern(task, kind).fullmatch(sentence) for kind in kinds}
        here = [kind for kind, match in matches.items() if match and agrees(match, person)]
        if not here or (here[0] != kinds[place] and (place == 0 or not task.permute_sentences)):
            return False
        told += here
    return sorted(told) == sorted(kinds)


def agrees(match: re.Match[str], person: dict[str, str] | None) -> bool:
    groups = {name.rpartition("_")[0]: text for name, text in match.groupdict().items() if text is not None}
    known = {**(person or {}), "lower": (person or {}).get("pronoun", "").lower()}
    return all(known.get(name) == text for name, text in groups.items())


VARIANTS = [
    {},
    {"reverse_md": True, "order": 1, "held_out_templates": 5},
    {"permute_sentences": True, "held_out_templates": 9, "templates": "held_out"},
    {"repeat_name": True, "permute_sentences": True},
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_text_with_one_other_token_is_rejected_unless_it_says_something_true(variant):
    task = CapoTask(num_people=12, exposures=20, **variant)
    agreement(task, lambda row: reads_as_valid(task, row), count=2500 if variant else 10_000)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    st.integers(1, 50),
    st.booleans(),
    st.integers(0, 1),
    st.booleans(),
    st.booleans(),
    st.integers(0, 20),
    st.booleans(),
)
def test_every_text_says_something_true(people, reverse, order, permute, repeat, held_out, is_held_out):
    task = CapoTask(
        num_people=people, exposures=5, reverse_md=reverse, order=order, permute_sentences=permute, repeat_name=repeat,
        held_out_templates=held_out, templates="held_out" if held_out and is_held_out else "train",
    )  # fmt: skip
    batch = task.sample(np.random.default_rng(people), 8)
    assert all(reads_as_valid(task, row["input_ids"]) for row in task.examples(batch))
    assert batch.input_ids.shape[1] <= task.block_size


def test_a_text_alone_can_be_validated():
    row = SMALL.take(0, 1)[0]
    text = row["text"]
    assert SMALL.validate_example({"text": text})
    assert not SMALL.validate_example({"text": text.replace(".", "!")})
    assert not SMALL.validate_example({"text": text[1:]})
    assert not SMALL.validate_example({"text": text.replace("he ", "they ")})
    assert not SMALL.validate_example({**row, "text": SMALL.take(0, 9)[8]["text"]})
    assert not SMALL.validate_example({"text": None})


# Exposures


def test_each_person_is_told_about_in_as_many_texts_as_exposures():
    task = CapoTask(num_people=3, exposures=40)
    texts = {row["text"] for row in task.examples(task.sample(np.random.default_rng(0), 5000))}
    assert Counter(" ".join(text.split()[:3]) for text in texts) == {task.person(i)["name"]: 40 for i in range(3)}


def test_templates_and_orders_are_drawn_with_equal_chances_and_independently():
    task = CapoTask(num_people=400, exposures=100, permute_sentences=True)
    person, exposure = np.divmod(np.arange(40_000), 100)
    picks, order = task._wording(person, exposure)
    for column, kind in zip(picks.T, bio.SENTENCES, strict=True):
        counts = np.bincount(column, minlength=len(bio.TEMPLATES[kind]))
        mean = 40_000 / len(bio.TEMPLATES[kind])
        assert abs(((counts - mean) ** 2 / mean).sum() - len(counts)) < 5 * (2 * len(counts)) ** 0.5
    assert abs(np.corrcoef(picks.T) - np.eye(6)).max() < 5 / 40_000**0.5
    assert (order[:, 0] == 0).all()
    orders = Counter(map(tuple, order.tolist()))
    assert len(orders) == 120
    assert max(abs(count - 40_000 / 120) for count in orders.values()) < 5 * (40_000 / 120) ** 0.5


def test_training_and_held_out_texts_share_people_but_no_sentence():
    task = CapoTask(num_people=20, exposures=50, held_out_templates=6)
    held_out = task.replace(templates="held_out")
    assert np.array_equal(task.people, held_out.people)
    sentences = [
        {
            sentence
            for row in t.examples(t.sample(np.random.default_rng(0), 2000))
            for sentence in row["text"].split(".")[:-1]
        }
        for t in (task, held_out)
    ]
    assert sentences[0]
    assert not sentences[0] & sentences[1]


# Spans and bits


@pytest.mark.parametrize("variant", VARIANTS)
def test_spans_hold_the_name_and_every_value_once(variant):
    task = CapoTask(num_people=30, exposures=9, **variant)
    batch = task.sample(np.random.default_rng(1), 60)
    by_row: dict[int, dict[str, str]] = {}
    for row, start, stop, kind in zip(*task.spans(batch), strict=True):
        assert batch.targets[row, start - 1 : stop - 1].tolist() == batch.input_ids[row, start:stop].tolist()
        text = "".join(bio.language().vocabulary[t] for t in batch.input_ids[row, start:stop].tolist())
        by_row.setdefault(row, {})[FIELDS[kind]] = text.strip()
    fields = [field for field in FIELDS if not (task.repeat_name and field == "pronoun")]
    for values in by_row.values():
        person = task.person(task.numbers[values["name"]])
        assert {f: v.capitalize() if f == "pronoun" else v for f, v in values.items()} == {f: person[f] for f in fields}
    assert len(by_row) == 60


def test_every_token_is_scored_and_the_end_as_well():
    row = SMALL.take(0, 1)[0]
    assert row["loss_mask"] == [0] + [1] * (len(row["input_ids"]) - 1)
    assert row["labels"] == [IGNORE, *row["input_ids"][1:]]
    assert (row["input_ids"][0], row["input_ids"][-1]) == (0, 1)


def test_bits_follow_the_formula_and_are_never_negative():
    everything = bit_complexity(1000, 0.0, 0.0)
    assert everything.names / 1000 == pytest.approx(27.2535, abs=1e-4)
    assert everything.values / 1000 == pytest.approx(47.5916, abs=1e-4)
    assert everything.total == everything.names + everything.values
    names, values = 400 * 400 * 1000, 2 * (12 * 28 * 200) * 200 * 300 * 100 * 263
    nothing = bit_complexity(1000, log(names), log(values))
    assert nothing == pytest.approx((0, 0), abs=1e-6)
    assert bit_complexity(1000, 99.0, 99.0) == (0, 0)
    assert bit_complexity(7, log(names) - log(8), log(values) - 5 * log(2)) == pytest.approx((21, 35))
    assert bit_complexity(1, log(names / e), 0).names == pytest.approx(1 / log(2))
    assert most_bits(1000).names == pytest.approx(1000 * (27.2535 - 9.9658), abs=0.2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_people": 0}, "num_people"),
        ({"exposures": 0}, "exposures"),
        ({"order": 2}, "order"),
        ({"held_out_templates": 21}, "held_out_templates"),
        ({"templates": "held_out"}, "templates is held_out, but held_out_templates is 0"),
        ({"templates": "test"}, "templates"),
    ],
)
def test_impossible_parameters_are_refused(wrong, message):
    with pytest.raises(ValidationError, match=message):
        CapoTask(wrong)
