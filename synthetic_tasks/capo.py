"""Capo: biographies of a fixed population, told again and again in other words."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from math import log, log2
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numba import njit
from pydantic import Field, model_validator

from core import rng as streams
from core.batch import Batch
from synthetic_tasks import _biographies as bio
from synthetic_tasks._example_task import Example, ExampleTask, Spans

FIELDS = ("name", "month", "day", "year", "pronoun", "birth_city", "university", "major", "employer_city", "employer")
MOST_HELD_OUT = 20  # templates of each kind
ROUNDS = 6  # of the permutation that gives people their names


class CapoTask(ExampleTask):
    """Texts of six sentences about one person: birth date, birth city, university, major, employer's city, employer.

    Person i is a function of i and `population_seed` alone: a full name that nobody else has, and independent uniform
    values; the employer decides on its city, an even number on He, an odd one on She. Each person is told about in
    `exposures` texts, which differ in the templates of their sentences, 46 to 52 of each kind. With `order` 1 the
    employer comes before its city, with `permute_sentences` all sentences after the first come in any order.
    Every word, with the blank before it, is a token, as is every comma and full stop, and all tokens are predicted.

        CapoTask(num_people=1, exposures=1)
        text   " Norus Pauby Valestead first opened both eyes on September 21, 1977, as is well known. In short, he came
                into the world in Copperdale. As far as we know, he graduated from Garthcrest State University. Friends
                confirm that he took courses in Banking. He built a career in Eastport. He earned a living at Paraline."

    After bioS(N) of "Physics of Language Models: Part 3.1" (Allen-Zhu and Li, 2023, arXiv 2309.14316) and 3.3 (2024,
    arXiv 2404.05405), with the same sizes of lists; names, values and templates are our own. `replace(templates=
    "held_out")` tells of the same people in sentences that were kept from training by `held_out_templates`.
    """

    examples_per_block: ClassVar[int] = 512
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        f"bios_{people // 1000}k": {"num_people": people}
        for people in (10_000, 20_000, 50_000, 100_000, 200_000, 500_000)
    }

    num_people: int = Field(50_000, ge=1, le=10**7, description="N, people in the population")
    exposures: int = Field(100, ge=1, le=2**20, description="different texts about each person")
    reverse_md: bool = Field(False, description="`12 of October, 1971` in place of `October 12, 1971`")
    order: int = Field(0, ge=0, le=1, description="1 puts the employer before its city")
    permute_sentences: bool = Field(False, description="sentences after the first come in any order")
    repeat_name: bool = Field(False, description="the full name in place of He and She")
    population_seed: int = Field(0, ge=0, le=2**31, description="of the people; another seed is another population")
    held_out_templates: int = Field(0, ge=0, le=MOST_HELD_OUT, description="templates of each kind kept from training")
    templates: Literal["train", "held_out"] = Field(
        "train", description="the templates used: all but those kept, or those"
    )

    @model_validator(mode="after")
    def _has_templates(self) -> Self:
        if self.templates == "held_out" and self.held_out_templates == 0:
            raise ValueError("templates is held_out, but held_out_templates is 0, so there are none; use at least 1")
        return self

    @property
    def pad_token(self) -> int:
        return len(bio.language().vocabulary)

    @property
    def num_tokens(self) -> int:
        return self.pad_token + 1

    @cached_property
    def block_size(self) -> int:
        language = bio.language()
        pronoun = 3 if self.repeat_name else 1
        value = int(language.value_lengths.max())
        widths = {
            bio.NAME: 3,
            bio.DATE: 5,
            bio.VALUE: value,
            bio.PRONOUN: pronoun,
            bio.LOWER_PRONOUN: pronoun,
            bio.STOP: 0,
        }
        longest = [
            max(sum(widths.get(int(token), 1) for token in template) for template in kind)
            for kind in language.templates
        ]
        return 2 + sum(longest)

    # --- The population

    @cached_property
    def people(self) -> np.ndarray:
        """Each person's values, as places in the lists, int64 (N, 10): first, middle and last name, month, day, year,
        birth city, university, major, employer."""
        person = np.arange(self.num_people, dtype=np.uint64)
        sizes = {name: len(values) for name, values in bio.LISTS.items() if name not in ("first", "middle", "last")}
        values = [
            streams.mix(streams.mix(person + self._key(name)) ^ self._key(name)) % np.uint64(n)
            for name, n in sizes.items()
        ]
        return np.stack([*self._names_of(person), *values], axis=1).astype(np.int64)

    def _names_of(self, person: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First, middle and last names, as places in the lists: a permutation of all full names, so that none repeats.

        A Feistel network whose halves are first and middle name, and last name (Luby and Rackoff, 1988).
        """
        left, right = np.divmod(person, np.uint64(len(bio.LAST)))
        for number in range(ROUNDS):
            if number % 2:
                right = (right + self._round(number, left)) % np.uint64(len(bio.LAST))
            else:
                left = (left + self._round(number, right)) % np.uint64(len(bio.FIRST) * len(bio.MIDDLE))
        return *np.divmod(left, np.uint64(len(bio.MIDDLE))), right

    def _round(self, number: int, half: np.ndarray) -> np.ndarray:
        return streams.mix(streams.mix(half + self._key(f"name {number}"))) >> np.uint64(32)

    def _key(self, purpose: str) -> np.uint64:
        return streams.generator("capo", self.population_seed, purpose, 0).integers(2**64, dtype=np.uint64)

    def person(self, number: int) -> dict[str, str]:
        """What there is to know of a person: the text of each of FIELDS."""
        lists = [bio.FIRST, bio.MIDDLE, bio.LAST, bio.MONTHS, bio.DAYS, bio.YEARS, bio.CITIES, bio.UNIVERSITIES]
        lists += [bio.MAJORS, bio.EMPLOYERS]
        places = self.people[number].tolist()
        first, middle, last, *values = [values[place] for values, place in zip(lists, places, strict=True)]
        month, day, year, city, university, major, employer = values
        employer_city = bio.CITIES[bio.EMPLOYER_CITY[places[-1]]]
        pronoun = bio.PRONOUNS[number % 2]
        known = f"{first} {middle} {last}", month, day, year, pronoun, city, university, major, employer_city, employer
        return dict(zip(FIELDS, known, strict=True))

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The person of each full name."""
        names = self.people[:, :3].tolist()
        return {f"{bio.FIRST[a]} {bio.MIDDLE[b]} {bio.LAST[c]}": number for number, (a, b, c) in enumerate(names)}

    # --- Texts

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        person = rng.integers(self.num_people, size=size)
        exposure = rng.integers(self.exposures, size=size)
        return self.tell(person, exposure)

    def tell(self, person: np.ndarray, exposure: np.ndarray) -> Batch:
        """The texts number `exposure` about `person`, both int64 (B,)."""
        language = bio.language()
        picks, order = self._wording(person, exposure)
        values = self.people[person]
        city = np.array(bio.EMPLOYER_CITY)[values[:, -1:]]
        values = np.concatenate([values[:, :9], city, values[:, 9:]], axis=1)
        lists = ("first", "middle", "last", "month", "day", "year", "city", "university", "major", "city", "employer")
        values += np.array([language.first[name] for name in lists])
        pronouns = np.array([[language.ids[" " + p], language.ids[" " + p.lower()]] for p in bio.PRONOUNS])[person % 2]
        comma, of = language.ids[","], language.ids[" of"] if self.reverse_md else -1

        tokens = np.empty((len(person), self.block_size), dtype=np.int64)
        lengths = np.empty(len(person), dtype=np.int64)
        _write(
            picks, order, values, pronouns, comma, of, self.repeat_name,
            language.templates, language.values, language.value_lengths, tokens, lengths,
        )  # fmt: skip
        return self.batch(tokens, np.ones(tokens.shape, dtype=np.bool_), lengths)

    def _wording(self, person: np.ndarray, exposure: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each text, the template of each kind of sentence and the order of the kinds, both int64 (B, 6)."""
        number = (person * self.exposures + exposure).astype(np.uint64)
        draws = []
        for kind in bio.SENTENCES:
            draws.append(streams.mix(streams.mix(number + self._key(kind)) ^ self._key(kind)))
        chance = np.stack(draws, axis=1) / 2.0**64
        kept = np.array([len(self._allowed(kind)) for kind in bio.SENTENCES])
        start = bio.language().counts - kept if self.templates == "held_out" else 0
        picks = np.minimum((chance * kept).astype(np.int64), kept - 1) + start

        order = np.tile(np.arange(6), (len(person), 1))
        if self.permute_sentences:
            again = np.stack([streams.mix(draw) for draw in draws], axis=1)
            again[:, 0] = 0
            order = np.argsort(again, axis=1, kind="stable")
        elif self.order:
            order[:, -2:] = order[:, :-3:-1]
        return picks, order

    def _allowed(self, kind: str) -> list[str]:
        templates = bio.TEMPLATES[kind]
        kept = len(templates) - self.held_out_templates
        return templates[:kept] if self.templates == "train" else templates[kept:]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of a row. Raises ValueError unless it is <bos>, words, <eos>."""
        if len(tokens) < 2 or tokens[0] != 0 or tokens[-1] != 1:
            raise ValueError(f"the row of {len(tokens)} tokens does not stand between <bos> and <eos>")
        if min(tokens[1:-1], default=2) < 2 or max(tokens[1:-1], default=2) >= self.pad_token:
            raise ValueError(f"the row of {len(tokens)} tokens holds one that is no word")
        return "".join(map(bio.language().vocabulary.__getitem__, tokens[1:-1]))

    def encode(self, text: str) -> list[int]:
        """The row of a text. Raises ValueError where a word is none of the vocabulary."""
        ids = bio.language().ids
        unknown = [word for word in bio.words(text) if word not in ids]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is none of the words of these texts")
        return [0, *(ids[word] for word in bio.words(text)), 1]

    def texts(self, batch: Batch) -> list[str]:
        """The text of each row of ours, which is not checked as `decode` checks those of others."""
        vocabulary = bio.language().vocabulary
        rows = zip(batch.input_ids.tolist(), self._lengths(batch).tolist(), strict=True)
        return ["".join([vocabulary[token] for token in row[1 : length - 1]]) for row, length in rows]

    def examples(self, batch: Batch) -> list[Example]:
        rows = zip(self.texts(batch), super().examples(batch), strict=True)
        return [{"text": text, **row} for text, row in rows]

    def validate_example(self, example: Mapping[str, Any]) -> bool:
        """As for the other tasks; the text is enough, and must be that of the tokens if both are there."""
        if "text" not in example:
            return super().validate_example(example)
        try:
            tokens = self.encode(example["text"])
        except (TypeError, ValueError):
            return False
        return (
            super().validate_example({"input_ids": tokens, **example})
            and list(example.get("input_ids", tokens)) == tokens
        )

    # --- Checking, by filling in templates as text

    def answer_mask(self, tokens: list[int]) -> list[bool]:
        self._facts(tokens)
        return [True] * len(tokens)

    def _facts(self, tokens: list[int]) -> dict[str, tuple[int, int]]:
        """The first token, and the last + 1, of each of FIELDS where it first stands in a row. Raises ValueError."""
        words = bio.words(self.decode(tokens))
        name = "".join(words[:3]).strip()
        if name not in self.numbers:
            raise ValueError(f"{name!r} is nobody of this population")
        person = self.person(self.numbers[name])
        stops = [i + 1 for i, word in enumerate(words) if word == "."]
        if len(stops) != len(bio.SENTENCES) or stops[-1] != len(words):
            raise ValueError(f"the text of {len(tokens)} tokens has no {len(bio.SENTENCES)} sentences")
        found: dict[str, tuple[int, int]] = {}
        kinds = list(bio.SENTENCES)
        if self.order and not self.permute_sentences:
            kinds[-2:] = kinds[:-3:-1]
        for start, stop in zip([0, *stops], stops, strict=False):
            candidates = kinds if self.permute_sentences and start else kinds[:1]
            kind, places = self._sentence(words[start:stop], candidates, person)
            kinds.remove(kind)
            for field, (first, last) in places.items():
                found.setdefault(field, (start + first + 1, start + last + 1))  # behind <bos>
        return found

    def _sentence(
        self, words: list[str], kinds: list[str], person: dict[str, str]
    ) -> tuple[str, dict[str, tuple[int, int]]]:
        """The kind of a sentence, and from which to which word each field stands. Raises ValueError if it is wrong."""
        for kind in kinds:
            for template in self._allowed(kind):
                places: dict[str, tuple[int, int]] = {}
                done = 0  # words that agree
                for field, part in self._pieces(template, kind, person):
                    if words[done : done + len(part)] != part:
                        break
                    if field:
                        places[field] = done, done + len(part)
                    done += len(part)
                else:
                    if done == len(words):
                        return kind, places
        raise ValueError(f"no template tells {''.join(words)!r} of {person['name']}")

    def _pieces(self, template: str, kind: str, person: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
        """The words of a filled template in pieces that tell one field each, or none, which has no name."""
        pronoun = "name" if self.repeat_name else "pronoun"
        fields = {" NAME": "name", " VALUE": kind, " He": pronoun, " he": pronoun}
        for word in bio.words_of(template):
            if word == " DATE":
                day, month = ("day", [" " + person["day"]]), ("month", [" " + person["month"]])
                yield from [day, ("", [" of"]), month] if self.reverse_md else [month, day]
                yield from [("", [","]), ("year", [" " + person["year"]])]
            elif word == " he" and not self.repeat_name:
                yield "pronoun", [" " + person["pronoun"].lower()]
            elif word in fields:
                yield fields[word], bio.words(" " + person[fields[word]])
            else:
                yield "", [word]

    def spans(self, batch: Batch) -> Spans:
        """Where the name and each value first stand; the kind is the place in FIELDS. Half a millisecond a row.

        Where a pronoun stands, a sentence may begin in other ways too: weigh it against the other pronoun alone.
        """
        found = []
        for row, (ids, length) in enumerate(zip(batch.input_ids.tolist(), self._lengths(batch).tolist(), strict=True)):
            facts = self._facts(ids[:length])
            found += [(row, start, stop, FIELDS.index(field)) for field, (start, stop) in facts.items()]
        return Spans(*np.array(found, dtype=np.int64).reshape(-1, 4).T)

    @property
    def pronouns(self) -> list[list[int]]:
        """Tokens between which number alone decides: He and She, he and she."""
        ids = bio.language().ids
        return [[ids[" " + form(pronoun)] for pronoun in bio.PRONOUNS] for form in (str, str.lower)]

    def token_name(self, token: int) -> str:
        self.check_token(token)
        return "<pad>" if token == self.pad_token else bio.language().vocabulary[token].replace(" ", "\u2581")


class Bits(NamedTuple):
    """Knowledge in bits; divide by the number of parameters for bits per parameter."""

    names: float
    values: float

    @property
    def total(self) -> float:
        return self.names + self.values


VALUES = (
    len(bio.PRONOUNS)
    * len(bio.MONTHS)
    * len(bio.DAYS)
    * len(bio.YEARS)
    * len(bio.CITIES)
    * len(bio.UNIVERSITIES)
    * (len(bio.MAJORS) * len(bio.EMPLOYERS))
)  # what could be said of a person; the employer's city follows from the employer


def chance(field: str) -> float:
    """Share of people with the most frequent value of one of FIELDS."""
    if field == "employer_city":
        return max(map(bio.EMPLOYER_CITY.count, bio.EMPLOYER_CITY)) / len(bio.EMPLOYERS)
    sizes = {"name": bio.NAMES, "pronoun": len(bio.PRONOUNS), "birth_city": len(bio.CITIES)}
    return 1 / (sizes.get(field) or len(bio.LISTS[field]))


def bit_complexity(num_people: int, name_nats: float, value_nats: float) -> Bits:
    """What a model is seen to know of a population of N people: N log2(N0 / e^p1) and N log2(S0 / e^p2), never below 0.

    p1 is the mean over people of the summed cross-entropy, in nats, of a name, p2 that of all values of a person given
    the text before them; N0 = 160,000,000 names and S0 = 2 (12 28 200) 200 300 100 263 values are possible.
    As in "Physics of Language Models: Part 3.3" (Allen-Zhu and Li, 2024, arXiv 2404.05405), section 2.
    """
    return Bits(
        num_people * max(0.0, log2(bio.NAMES) - name_nats / log(2)),
        num_people * max(0.0, log2(VALUES) - value_nats / log(2)),
    )


def most_bits(num_people: int, untold_nats: float = 0.0) -> Bits:
    """What there is to know: which N of N0 names occur, N log2(N0 / N), and N log2(S0), less what is told nowhere."""
    return bit_complexity(num_people, log(num_people), untold_nats)


@njit(cache=True, nogil=True)
def _write(
    picks, order, values, pronouns, comma, of, repeat_name, templates, words, word_counts, tokens, lengths
) -> None:
    """Fills `tokens` (B, W) and `lengths` (B,). An `of` of -1 writes the month before the day."""
    for row in range(len(tokens)):
        out, own = tokens[row], values[row]
        out[0] = 0
        t = 1
        for kind in order[row]:
            for token in templates[kind, picks[row, kind]]:
                if token == -9:
                    break
                if token >= 0:
                    out[t] = token
                    t += 1
                elif token == -1 or (token <= -4 and repeat_name):
                    for i in range(3):
                        out[t] = words[own[i], 0]
                        t += 1
                elif token <= -4:
                    out[t] = pronouns[row, -4 - token]
                    t += 1
                elif token == -2:
                    month, day = words[own[3], 0], words[own[4], 0]
                    if of < 0:
                        out[t], out[t + 1] = month, day
                        t += 2
                    else:
                        out[t], out[t + 1], out[t + 2] = day, of, month
                        t += 3
                    out[t], out[t + 1] = comma, words[own[5], 0]
                    t += 2
                else:
                    value = own[5 + kind]
                    for i in range(word_counts[value]):
                        out[t] = words[value, i]
                        t += 1
        out[t] = 1
        lengths[row] = t + 1
