import os
import subprocess
import sys
from typing import Annotated, ClassVar, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from core import config
from core.errors import UserError


class Example(config.Config):
    lr: float = Field(1.0, gt=0)
    name: str | None = None
    steps: int = Field(3, ge=1, le=2_000_000)
    lengths: list[int] = Field([])
    paths: list[Annotated[str, Field(min_length=1)]] | None = None
    flag: bool = False


def test_a_file_is_utf8_whatever_the_locale(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("name: größe", encoding="utf-8")
    code = f"from core import config; print(ascii(config.read_file({str(path)!r})['name']))"
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}  # ASCII, as Python then takes it
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | locale, capture_output=True, text=True)
    assert done.stdout == "'gr\\xf6\\xdfe'\n"


def test_merge_keys_bring_in_values_and_the_keys_beside_them_win(tmp_path):
    text = "<<: {lr: 5e-4, steps: 7}\nsteps: 9"
    assert (resolve(tmp_path, text).lr, resolve(tmp_path, text).steps) == (5e-4, 9)


@pytest.mark.parametrize("name", ["08", "5e4", "12345e67", "1e5", "1e-3", "2_4", "true", "null", "0x10", "1.5", "a: b"])
def test_a_name_is_written_so_that_it_is_read_as_a_name(name):
    assert config.parse_yaml(config.as_yaml(Example(name=name)))["name"] == name


def resolve(tmp_path, text="", **flags):
    path = tmp_path / "file.yaml"
    path.write_text(text)
    return config.resolve(lambda values: Example, str(path), flags)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 5e-4),
        ("1E+3", 1000),
        ("1e6", 1_000_000),
        ("1e-7", 1e-7),
        ("2.", 2.0),
        (".5", 0.5),
        ("-3", -3),
        ("12_12_768", "12_12_768"),
        ("0x10", "0x10"),
        ("2026-11-20", "2026-11-20"),
        ("yes", True),
        ("off", False),
        ("null", None),
        ("'5'", "5"),
        ("[1, 2e-3, a]", [1, 2e-3, "a"]),
        ("2**18", 262144),
        ("[2**16,2**128]", [2**16, 2**128]),
        ("2 ** 18", "2 ** 18"),
        ("2**-1", "2**-1"),
        ("__import__('os')", "__import__('os')"),
    ],
)
def test_a_scalar_means_what_its_writer_meant(text, value):
    read = config.parse_yaml(text)
    assert read == value
    assert type(read) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_is_read_as_written(number):
    assert config.parse_yaml(repr(number)) == number


def test_the_command_line_wins_over_the_file_and_the_file_over_the_default(tmp_path):
    resolved = resolve(tmp_path, "lr: 5e-4\nsteps: 7", steps="9")
    assert (resolved.lr, resolved.steps, resolved.flag) == (5e-4, 9, False)
    assert resolve(tmp_path, "lr: 5e-4", lr="1.0").lr == 1.0, "also where it equals the default"
    assert resolve(tmp_path, "flag: true", flag="false").flag is False


def test_flags_are_read_in_every_form():
    assert config.read_flags(["--a", "1", "--b=x=y", "--c", "--d", "-3"]) == {
        "a": "1",
        "b": "x=y",
        "c": "true",
        "d": "-3",
    }


@pytest.mark.parametrize(("text", "value"), [("[8, 16]", [8, 16]), ("8,16", [8, 16]), ("8", [8]), ("[]", [])])
def test_a_list_may_be_given_without_brackets(tmp_path, text, value):
    assert resolve(tmp_path, lengths=text).lengths == value
    assert resolve(tmp_path, f"lengths: '{text}'").lengths == value, "nor do quotes in a file matter"


def test_a_json_file_may_be_indented_by_tabs(tmp_path):
    path = tmp_path / "file.json"
    path.write_text('{\n\t"lr": 5e-4,\n\t"name": "a\\tb",\t"lengths":[1,\t2]\n}\n')
    resolved = config.resolve(lambda values: Example, str(path), {})
    assert (resolved.lr, resolved.name, resolved.lengths) == (5e-4, "a\tb", [1, 2])


def test_a_list_in_a_file_may_be_given_without_brackets(tmp_path):
    assert resolve(tmp_path, "lengths: 8,16").lengths == [8, 16]
    with pytest.raises(UserError, match=r"file.yaml: lengths: \[8, 'x'\] is not allowed; it takes list of integer"):
        resolve(tmp_path, "lengths: 8,x")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("*.npz", ["*.npz"]),
        ("[ab]*.npz,007", ["[ab]*.npz", "007"]),
        ("a: b, c #d", ["a: b", "c #d"]),
        ('["a, b", c]', ["a, b", "c"]),
        ("1e3,true", ["1e3", "true"]),
        ("null", None),
    ],
)
def test_the_texts_of_a_list_stay_text(tmp_path, text, value):
    assert resolve(tmp_path, paths=text).paths == value


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_word_is_no_empty_list_of_texts(tmp_path, text):
    assert resolve(tmp_path, paths="[]").paths == []
    with pytest.raises(UserError, match=f"paths: '{text}' is not allowed; it takes list of text"):
        resolve(tmp_path, paths=text)


@pytest.mark.parametrize(("text", "value"), [("007", "007"), ("1e3", "1e3"), ("true", "true"), ("null", None)])
def test_a_name_stays_text(tmp_path, text, value):
    assert resolve(tmp_path, name=text).name == value


def test_what_is_allowed_is_said_in_words():
    fields = Example.model_fields
    words = {name: config.domain(field) for name, field in fields.items()}
    assert words == {
        "lr": "number > 0",
        "name": "text or null",
        "steps": "integer in [1, 2000000]",
        "lengths": "list of integer",
        "paths": "list of text or null",
        "flag": "true or false",
    }


@pytest.mark.parametrize("text", ["2**99999999999", "9**9**9", "10**4000", "1" + "0" * 41 + "**1"])
def test_a_power_without_bounds_is_not_computed(tmp_path, text):
    with pytest.raises(UserError):
        resolve(tmp_path, f"steps: {text}")


class Item(config.Config):
    size: int = Field(ge=1)
    colour: str | None = None

    @model_validator(mode="after")
    def _is_pretty(self) -> Self:
        if self.colour == "grey":
            raise ValueError("grey is no colour")
        return self


class Grouped(config.Config):
    headings: ClassVar = {"model": "", "wandb": "wandb_"}
    width: int = Field(4, ge=1)
    use_wandb: bool = False
    wandb_project: str | None = None
    items: list[Item] = Field([])


def resolve_grouped(tmp_path, text, **flags):
    path = tmp_path / "file.yaml"
    path.write_text(text)
    return config.resolve(lambda values: Grouped, str(path), flags)


def test_keys_may_stand_under_headings_and_flags_name_them_without(tmp_path):
    text = "model:\n  width: 7\nwandb:\n  project: p\n  use_wandb: true\nitems:\n- {size: 3}\n"
    read = resolve_grouped(tmp_path, text)
    assert (read.width, read.wandb_project, read.use_wandb, read.items[0].size) == (7, "p", True, 3)
    assert resolve_grouped(tmp_path, text, width="9").width == 9
    assert resolve_grouped(tmp_path, "model:\nwidth: 2").width == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model:\n  widht: 1", "model.widht: no such key. Did you mean width?"),
        ("model:\n  width: 0", "model.width: 0 is not allowed; it takes integer >= 1"),
        ("modle:\n  width: 1", "modle: no such key"),
        ("model: 0", "model: 0 is not allowed"),
        ("model: [width]", "model: ['width'] is not allowed"),
        ("model:\n  width: 1\nwidth: 2", "width: stands twice, also as model.width"),
        ("items:\n- {size: 1}\n- {size: 0}", "items[1].size: 0 is not allowed; it takes integer >= 1"),
        ("items:\n- {size: 1, color: red}", "items[0].color: no such key. Did you mean colour?"),
        ("items:\n- {colour: red}", "items[0].size: is missing; it takes integer >= 1"),
        ("items:\n- {size: 1}\n- {size: 2, colour: grey}", "items[1]: grey is no colour"),
        ("items:\n- 5", "items: [5] is not allowed; it takes list of {size, colour}"),
        ("items: 5", "items: 5 is not allowed; it takes list of {size, colour}"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path, text, words):
    with pytest.raises(UserError) as error:
        resolve_grouped(tmp_path, text)
    (line,) = error.value.problems
    assert line.startswith(f"{tmp_path / 'file.yaml'}: ")
    assert words in line


def test_an_empty_file_is_no_mistake(tmp_path):
    assert resolve(tmp_path, "# nothing yet\n") == Example()


def test_all_problems_come_at_once(tmp_path):
    with pytest.raises(UserError) as error:
        resolve(tmp_path, "lr: -1\nstep: 3", lengths="a")
    assert len(error.value.problems) == 3


class Renamed(config.Config):
    """A configuration some of whose keys have had other names, or are no more."""

    headings: ClassVar[dict[str, str]] = {"training": ""}
    other_names: ClassVar[dict[str, str]] = {"bsz": "batch_size"}
    retired: ClassVar[dict[str, str]] = {"fp16": "write precision"}

    batch_size: int = Field(1, ge=1)


def renamed(tmp_path, text="", **flags):
    path = tmp_path / "file.yaml"
    path.write_text(text)
    return config.resolve(lambda values: Renamed, str(path), flags)


def test_a_key_may_be_given_by_its_other_name_and_a_flag_wins_under_either(tmp_path):
    assert renamed(tmp_path, "bsz: 3").batch_size == 3
    assert renamed(tmp_path, "training: {bsz: 3}").batch_size == 3
    assert renamed(tmp_path, "bsz: 3", batch_size="4").batch_size == 4
    assert renamed(tmp_path, "batch_size: 3", bsz="4").batch_size == 4


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("bsz: 0", {}, "file.yaml: bsz: 0 is not allowed; it takes integer >= 1"),
        ("", {"bsz": "x"}, "--bsz: 'x' is not allowed; it takes integer >= 1"),
        ("bsz: 1\nbatch_size: 2", {}, "file.yaml: batch_size: stands twice, also as bsz"),
        ("", {"bsz": "1", "batch_size": "2"}, "--batch_size: stands twice, also as --bsz"),
        ("fp16: true", {}, "file.yaml: fp16: is no key any more; write precision"),
        ("training: {fp16: true}", {}, "file.yaml: training.fp16: is no key any more; write precision"),
        ("", {"fp16": "true"}, "--fp16: is no key any more; write precision"),
    ],
)
def test_messages_name_a_key_as_it_was_written(tmp_path, text, flags, message):
    with pytest.raises(UserError) as error:
        renamed(tmp_path, text, **flags)
    assert error.value.problems[0].endswith(message)


def test_help_tells_of_other_names():
    assert "--batch_size or --bsz  (integer >= 1; default 1)" in config.help_of(Renamed)
