import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from core import config
from core.errors import UserError


class Example(config.Config):
    lr: float = Field(1.0, gt=0)
    name: str | None = None
    steps: int = Field(3, ge=1, le=2_000_000)
    lengths: list[int] = Field([])
    flag: bool = False


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
        "flag": "true or false",
    }


def test_an_empty_file_is_no_mistake(tmp_path):
    assert resolve(tmp_path, "# nothing yet\n") == Example()


def test_all_problems_come_at_once(tmp_path):
    with pytest.raises(UserError) as error:
        resolve(tmp_path, "lr: -1\nstep: 3", lengths="a")
    assert len(error.value.problems) == 3
