"""From a file and flags to a checked configuration: the command line wins over the file, the file over the default.

A schema is a pydantic model; the same fields give the checks, the error messages and the help.
"""

import difflib
import os
import re
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

import annotated_types
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from core.errors import UserError

M = TypeVar("M", bound=BaseModel)


class Config(BaseModel):
    """The base of every command's configuration: unknown keys, wrong types and infinities are errors."""

    # Headings under which a file may group keys, each with what it spares the keys below: `wandb: {project: x}` can
    # stand for `wandb_project: x`. Which key stands under which heading does not matter; each means one thing only.
    headings: ClassVar[dict[str, str]] = {}
    other_names: ClassVar[dict[str, str]] = {}  # by further name, the key that it stands for
    retired: ClassVar[dict[str, str]] = {}  # by key that is no more, what to write instead

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Schema = Callable[[dict[str, Any]], type[BaseModel]]  # from the values given, since they may decide on further keys


# --- Reading


class _Loader(yaml.SafeLoader):
    """YAML that means what its writer meant: 5e-4 and 2**18 are numbers, 12_12_768 is a name, a key stands once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        merge = "tag:yaml.org,2002:merge"  # `<<`, which has no value of its own
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != merge]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_INTEGER = re.compile(r"[-+]?[0-9]+(?:[eE]\+?[0-9]{1,2})?$")
_FLOAT = re.compile(r"[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF|nan|NaN|NAN))$")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag.rpartition(":")[2] in ("bool", "null", "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(Decimal(node.value)))
_POWER = re.compile(r"[0-9]+\*\*[0-9]+$")  # 2**18
_Loader.add_implicit_resolver("!power", _POWER, list("0123456789"))
LARGEST_POWER = 4096  # bits


def _power(loader: _Loader, node: yaml.ScalarNode) -> int:
    base, _, exponent = node.value.partition("**")
    if len(base) > 40 or len(exponent) > 5 or int(base).bit_length() * int(exponent) > LARGEST_POWER:
        raise yaml.constructor.ConstructorError(None, None, f"{node.value} is too large", node.start_mark)
    return int(base) ** int(exponent)


_Loader.add_constructor("!power", _power)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever `_Loader` would not read as text, such as the names 08 and 5e4."""


_Dumper.yaml_implicit_resolvers = {
    first: yaml.SafeDumper.yaml_implicit_resolvers.get(first, []) + _Loader.yaml_implicit_resolvers.get(first, [])
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
}


def home(path: str) -> Path:
    """The path, with ~ for the home folder: a shell leaves it in --key=~/folder, and YAML always."""
    return Path(os.path.expanduser(path))


def parse_yaml(text: str) -> Any:
    return yaml.load(text, _Loader)  # a SafeLoader


def write_yaml(values: dict[str, Any]) -> str:
    """Text that `parse_yaml` reads back as the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


def read_file(path: str) -> dict[str, Any]:
    """The keys of a YAML or JSON file. Raises UserError naming the file and the line."""
    try:
        text = home(path).read_text(encoding="utf-8")
        values = parse_yaml(text.replace("\t", " ") if path.endswith(".json") else text)  # YAML takes no tabs
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no text file: {error.reason} at byte {error.start}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UserError(f"{path}: {place}{_reason(error)}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"{path}: holds {type(values).__name__}, where lines of the form `key: value` are expected")
    return values


def _reason(error: yaml.YAMLError) -> str:
    """The problem in one line, whichever part of the parser met it."""
    return getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).splitlines()[0]


def read_flags(arguments: list[str]) -> dict[str, str]:
    """`--key value`, `--key=value`, and a bare `--key` for true. Raises UserError for anything else."""
    flags: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            raise UserError(f"{word!r}: expected --key value, --key=value or a bare --key for true")
        key, equals, value = word[2:].partition("=")
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        if key in flags:
            raise UserError(f"--{key}: given twice")
        flags[key] = value
    return flags


# --- Checking


def resolve(schema: Schema, file: str | None, flags: dict[str, str]) -> Any:
    """The checked configuration. Raises UserError with every problem at once, one line each."""
    return check(schema, read_file(file) if file else {}, flags, file or "")


def check(schema: Schema, grouped: dict[str, Any], flags: dict[str, str], file: str = "") -> Any:
    """As `resolve`, of keys that were read already, from `file` if it has a name."""
    model = schema({**grouped, **flags})
    fields = model.model_fields
    from_file, places = _named(_ungrouped(grouped, model, file), model, file)
    from_flags, words = _named([(key, f"--{key}", text) for key, text in flags.items()], model, "")
    values = {key: _unquoted(value, fields.get(key)) for key, value in from_file.items()}
    values |= {key: _typed(text, fields.get(key)) for key, text in from_flags.items()}

    def origin(key: str) -> str:
        place = places.get(key, key)
        return words.get(key, f"{file}: {place}" if file else place)

    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(*problems(error, model, values, origin, whole=file or "command line")) from error


def as_given(problems: Sequence[str], schema: Schema, file: str | None, flags: dict[str, str]) -> list[str]:
    """Problems that begin with a key, under the one of its names by which it was given."""
    values = {**(read_file(file) if file else {}), **flags}
    other_names: dict[str, str] = getattr(schema(values), "other_names", {})
    names = {other_names.get(name, name): name for name in values}
    parts = (problem.partition(": ") for problem in problems)
    return [names.get(key, key) + colon + rest for key, colon, rest in parts]


def _ungrouped(grouped: dict[str, Any], model: type[BaseModel], file: str) -> Iterator[tuple[str, str, Any]]:
    """The keys of a file without their headings, each with the place where it stood (`training.lr`) and its value."""
    headings: dict[str, str] = getattr(model, "headings", {})
    for heading, content in grouped.items():
        group = {heading: content} if heading not in headings else {} if content is None else content
        if not isinstance(group, dict):
            raise UserError(f"{file}: {heading}: {content!r} is not allowed; it takes lines of the form `key: value`")
        for key, value in group.items():
            prefix = headings.get(heading, "")
            name = prefix + str(key) if prefix and key not in model.model_fields else str(key)
            yield name, f"{heading}.{key}" if heading in headings else name, value


def _named(
    found: Iterable[tuple[str, str, Any]], model: type[BaseModel], file: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and places by key, whichever of its names each was given by."""
    other_names: dict[str, str] = getattr(model, "other_names", {})
    retired: dict[str, str] = getattr(model, "retired", {})
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for given, place, value in found:
        whole, name = f"{file}: {place}" if file else place, other_names.get(given, given)
        if given in retired:
            raise UserError(f"{whole}: is no key any more; {retired[given]}")
        if name in values:
            raise UserError(f"{whole}: stands twice, also as {places[name]}")
        values[name], places[name] = value, place
    return values, places


def problems(
    error: ValidationError,
    model: type[BaseModel],
    values: dict[str, Any],
    origin: Callable[[str], str] = str,
    whole: str = "",
) -> list[str]:
    """A line for each key that is wrong. `origin` says where a key came from, `whole` where all of them did."""
    lines: dict[str, str] = {}  # by key, since a union reports each of its members
    for detail in error.errors():
        message = str(detail["ctx"]["error"]) if detail["type"] == "value_error" else ""
        if detail["type"] == "union_tag_invalid":
            context = {name: str(value).replace("'", "") for name, value in detail["ctx"].items()}
            message = "{discriminator} {tag} is not allowed; it takes one of {expected_tags}".format(**context)
        if detail["loc"]:
            place, owner, key, given = _locate(detail["loc"], model, values)
            if message and len(detail["loc"]) == 2 and isinstance(detail["loc"][1], int):
                place = list(detail["loc"])  # what an item of a list says of itself as a whole
            key_origin = origin(place[0]) + "".join(f"[{x}]" if isinstance(x, int) else f".{x}" for x in place[1:])
            lines.setdefault(key_origin, f"{key_origin}: {message or _explain(detail['type'], key, given, owner)}")
        else:
            lines[message] = f"{whole}: {message}" if whole else message
    return list(lines.values())


def construct(kind: type[M], values: dict[str, Any], origin: Callable[[str], str] = str) -> M:
    """`kind(**values)`. Raises ValueError that names every wrong key in one line, in place of a ValidationError."""
    try:
        return kind(**values)
    except ValidationError as error:
        raise ValueError("; ".join(problems(error, kind, values, origin))) from error


def _locate(
    loc: tuple[int | str, ...], model: type[BaseModel], values: dict[str, Any]
) -> tuple[list[Any], type[BaseModel], str, Any]:
    """The innermost key of a schema on the way to a problem: its path, its schema, its name, and what was given."""
    path, owner, key, rest = [loc[0]], model, str(loc[0]), list(loc[1:])
    given: Any = values.get(key)
    while inner := _schemas_in(owner, key):
        if len(rest) > 1 and isinstance(rest[0], int) and isinstance(given, list):  # a list of schemas
            index = rest.pop(0)
            path.append(index)
            given = given[int(index)]
        elif rest and isinstance(rest[0], str) and len(inner) > 1:  # one of several, told apart by the value of a key
            tag = rest.pop(0)
            inner = [kind for kind in inner if any(tag in get_args(f.annotation) for f in kind.model_fields.values())]
        if not rest or not inner or isinstance(rest[0], int):
            break
        owner, key = inner[0], str(rest.pop(0))
        path.append(key)
        given = given.get(key) if isinstance(given, dict) else given
    return path, owner, key, given


def _schemas_in(model: type[BaseModel], key: str) -> list[type[BaseModel]]:
    """The schemas that the value of a key, or the items of a list there, may have."""
    field = model.model_fields.get(key)
    members = _members(field.annotation) if field else ()
    kinds = [get_args(kind)[0] if get_origin(kind) is list else kind for kind in members]
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _explain(kind: str, key: str, given: Any, model: type[BaseModel]) -> str:
    fields = model.model_fields
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(key, fields, n=1)
        return "no such key. " + (f"Did you mean {close[0]}?" if close else "--help lists them all.")
    if kind == "missing":
        return f"is missing; it takes {domain(fields[key])}"
    return f"{given!r} is not allowed; it takes {domain(fields[key])}"


def _typed(text: str, field: FieldInfo | None) -> Any:
    """What a flag's text means for its field: names stay text, so that `--run_name 007` is not seven."""
    kinds = _members(field.annotation) if field else ()
    if str in kinds and not (text in ("null", "~") and type(None) in kinds):
        return text
    items = _items(field)
    if str in items and text != "null":
        return _texts(text) if text.strip() else text  # an empty word, as an unset variable gives, is no empty list
    try:
        return parse_yaml(f"[{text}]" if items and not text.startswith("[") and text != "null" else text)
    except yaml.YAMLError:
        return text


def _unquoted(value: Any, field: FieldInfo | None) -> Any:
    """A file's value; `save_steps: 1,2`, text to YAML where no text is meant, is what it would be as a flag."""
    items = _items(field)
    return _typed(value, field) if isinstance(value, str) and items and str not in items else value


def _texts(text: str) -> list[str]:
    """The texts of a list, with brackets and quotes or without: `*.npz,007` are two, neither of them YAML nor seven."""
    try:
        items = yaml.load(text if text.startswith("[") else f"[{text}]", yaml.BaseLoader)
    except yaml.YAMLError:
        items = None
    if isinstance(items, list) and all(isinstance(item, str) for item in items):
        return items
    return [item.strip() for item in text.split(",")]


# --- Explaining


def domain(field: FieldInfo) -> str:
    """What a field accepts, in words: `integer >= 1`, `one of constant, cosine, linear`, `number in [0, 1) or null`."""
    return _describe(field.annotation, field.metadata)


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _items(field: FieldInfo | None) -> tuple[Any, ...]:
    """What the items may be where a field takes a list; else nothing."""
    kinds = _members(field.annotation) if field else ()
    items = (get_args(kind)[0] for kind in kinds if get_origin(kind) is list)
    return tuple(get_args(item)[0] if get_origin(item) is Annotated else item for item in items)


def _describe(annotation: Any, metadata: list[Any]) -> str:
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        extra = [m for item in more for m in (item.metadata if isinstance(item, FieldInfo) else [item])]
        return _describe(inner, [*metadata, *extra])
    members = _members(annotation)
    if len(members) > 1:
        named = [_describe(member, metadata) for member in members if member is not type(None)]
        return " or ".join(named + ["null"] * (type(None) in members))
    if get_origin(annotation) is Literal:
        choices = [str(choice) for choice in get_args(annotation)]
        return choices[0] if len(choices) == 1 else "one of " + ", ".join(choices)
    if get_origin(annotation) is list:
        return f"list of {_describe(get_args(annotation)[0], [])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "{" + ", ".join(annotation.model_fields) + "}"
    if get_origin(annotation) is dict:
        value = get_args(annotation)[1]
        return f"lines of the form `key: {_describe(value, []) if get_origin(value) is list else 'value'}`"
    name = {int: "integer", float: "number", bool: "true or false", str: "text"}.get(annotation, str(annotation))
    return name + _bounds(metadata) if annotation in (int, float) else name


def _bounds(metadata: list[Any]) -> str:
    low = next((f"{m.ge}" for m in metadata if isinstance(m, annotated_types.Ge)), None)
    above = next((f"{m.gt}" for m in metadata if isinstance(m, annotated_types.Gt)), None)
    high = next((f"{m.le}" for m in metadata if isinstance(m, annotated_types.Le)), None)
    below = next((f"{m.lt}" for m in metadata if isinstance(m, annotated_types.Lt)), None)
    step = next((f", a multiple of {m.multiple_of}" for m in metadata if isinstance(m, annotated_types.MultipleOf)), "")
    if (low or above) and (high or below):
        return f" in {'[' + low if low else '(' + str(above)}, {high + ']' if high else str(below) + ')'}{step}"
    words = [(">=", low), (">", above), ("<=", high), ("<", below)]
    return "".join(f" {sign} {bound}" for sign, bound in words if bound is not None) + step


def help_of(model: type[BaseModel], leave_out: Sequence[str] = ()) -> str:
    """Every key with its meaning, what it accepts, and its default; those that only this command has come first."""
    lines = []
    for name in dict.fromkeys(name for kind in model.__mro__ for name in getattr(kind, "__annotations__", {})):
        if (field := model.model_fields.get(name)) is None or name in leave_out:
            continue
        required = field.default is PydanticUndefined and field.default_factory is None
        default = field.get_default(call_default_factory=True)
        shown = "required" if required else f"default {_plain(default)}"
        also = [other for other, key in getattr(model, "other_names", {}).items() if key == name]
        names = " or ".join(f"--{each}" for each in [name, *also])
        lines.append(f"  {names}  ({domain(field)}; {shown})")
        if field.description:
            lines.append(f"      {field.description}")
    return "\n".join(lines)


def _plain(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...").strip()


def as_yaml(config: BaseModel) -> str:
    return write_yaml(config.model_dump())
