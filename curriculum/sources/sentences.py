"""Simple stories made by rule: the easiest text of a curriculum on a machine without a network."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from core import rng
from core.documents import Document, Documents

COUNT = 50_000  # stories that there are
FINGERPRINT = "simple sentences 1"  # of what is below: change it with any word

GIRLS, BOYS = ("Anna", "Clara", "Emma", "Greta", "Ida", "Lily"), ("Ben", "David", "Finn", "Hugo", "Jonas", "Max")
ANIMALS = ("cat", "dog", "rabbit", "duck", "horse", "bird", "mouse", "frog", "goat", "hen")
THINGS = ("ball", "hat", "cake", "book", "boat", "drum", "kite", "key", "shoe", "apple", "flower", "box")
COLOURS = ("red", "blue", "green", "yellow", "white", "brown")
SIZES = ("big", "small", "tiny", "round", "old", "new")
PLACES = ("garden", "kitchen", "park", "forest", "barn", "street", "school", "river")
FEELINGS = ("happy", "sad", "tired", "hungry", "proud", "scared")

OPENINGS = (
    "{name} was a {size_of_child} {child}. {He} lived near the {place}.",
    "One day {name} went to the {place}.",
    "Once there was a {child} named {name}. {He} had a {animal}.",
)
MIDDLES = (
    "There {he} saw a {colour} {thing}. The {thing} was {size}.",
    "{name} lost {his} {colour} {thing}. {He} looked in the {place}, but it was not there.",
    'The {animal} ran to the {place}. "Come back!" said {name}.',
    "{He} wanted to give the {thing} to the {animal}. The {animal} did not want it.",
    '"Is this your {thing}?" asked {friend}. "Yes, it is," said {name}.',
    "{friend} and {name} played with the {thing} all day.",
)
ENDINGS = (
    "{name} was very {feeling}. Then {he} went home.",
    "In the end {name} found the {thing} and was happy.",
    '"Thank you," said {name}. They were friends from that day on.',
    "The {animal} was {feeling}, and so was {name}.",
)


class SimpleSentences(Documents):
    """Stories of a few sentences about a child, an animal and a thing; story n is a function of n and the seed."""

    def __init__(self, seed: int = 0):
        self.seed = seed

    def identity(self) -> dict[str, Any]:
        return {"kind": FINGERPRINT, "seed": self.seed}

    def documents(self, start: int = 0) -> Iterator[Document]:
        for number in range(start, COUNT):
            yield Document(story(rng.generator(FINGERPRINT, self.seed, "", number)), f"story {number}")


def story(generator: np.random.Generator) -> str:
    """An opening, two to four of MIDDLES and an ending, about the same child and things."""

    def one_of(words: tuple[str, ...]) -> str:
        return words[generator.integers(len(words))]

    name, friend = (str(name) for name in generator.choice(GIRLS + BOYS, 2, replace=False))
    is_girl = name in GIRLS
    words = {
        "name": name,
        "friend": friend,
        "child": "girl" if is_girl else "boy",
        "size_of_child": one_of(("little", "small", "kind", "clever")),
        "he": "she" if is_girl else "he",
        "He": "She" if is_girl else "He",
        "his": "her" if is_girl else "his",
        "animal": one_of(ANIMALS),
        "thing": one_of(THINGS),
        "colour": one_of(COLOURS),
        "size": one_of(SIZES),
        "place": one_of(PLACES),
        "feeling": one_of(FEELINGS),
    }
    middles = generator.permutation(len(MIDDLES))[: generator.integers(2, 5)]
    sentences = [one_of(OPENINGS), *(MIDDLES[i] for i in middles), one_of(ENDINGS)]
    return " ".join(sentences).format(**words)
