"""What a curriculum is: stages, each a source of text, the length of its windows, and how long it is trained on."""

from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from core.config import Config

LOCAL, SCRAPE, SENTENCES = "local-files", "custom-scrape", "simple-sentences"
TINY_STORIES = "roneneldan/TinyStories"
SAFE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"  # becomes part of a file's name
LARGEST_BLOCK = 2**20


class Text(Config):
    """Where text comes from, and under which name it is kept."""

    name: str = Field(pattern=SAFE_NAME, max_length=64, description="letters, digits, - and _")
    dataset_key: str = Field(
        min_length=1, description=f"a data set of the hub (or a folder like one), {LOCAL}, {SCRAPE} or {SENTENCES}"
    )
    block_size: int = Field(ge=2, le=LARGEST_BLOCK, description="tokens of a window")
    dataset_suffix: str = Field("pretrain", pattern=SAFE_NAME, max_length=64, description="end of the files' names")
    n_items: int | None = Field(None, ge=1, description="documents taken from the source; null: all")
    subset: str | None = Field(None, description="configuration of a data set of the hub")
    split: str = Field("train", min_length=1, description="split of a data set of the hub")
    text_column: str = Field("text", min_length=1, description="column of the text, where there are columns")
    revision: str | None = Field(
        None, description="commit, branch or tag; null: a fixed commit of TinyStories and C4, else today's main"
    )
    shuffle_buffer: int = Field(10_000, ge=0, description="of a data set's shuffled stream; 0: in its own order")
    source_path: list[str] | None = Field(
        None,
        min_length=1,
        description=f"files, folders of {LOCAL}; the file of addresses of {SCRAPE}; null: local_files, web_sources",
    )
    document_separator: str | None = Field(
        None, description="of text files: a line that holds only this divides documents; null: a file is one"
    )

    @field_validator("document_separator")
    @classmethod
    def _is_a_line(cls, line: str | None) -> str | None:
        if line is not None and (line != line.strip() or len(line.splitlines()) > 1):
            raise ValueError(f"{line!r} is no line without white space around it; '' stands for empty lines")
        return line

    @model_validator(mode="after")
    def _source_path_is_read(self) -> Self:
        paths = len(self.source_path or ())
        if self.dataset_key == SCRAPE and paths > 1:
            raise ValueError(f"source_path: {SCRAPE} takes one file of addresses, not {paths}")
        if self.dataset_key not in (LOCAL, SCRAPE) and paths:
            raise ValueError(f"source_path: is read for {LOCAL} and {SCRAPE} alone, not for {self.dataset_key}")
        return self

    @property
    def stem(self) -> str:
        """What its files' names have in common."""
        return f"{self.name}_{self.dataset_suffix}"

    @property
    def origin(self) -> tuple[Any, ...]:
        """Equal for stages that read the same text."""
        return (self.dataset_key, self.subset, self.split, tuple(self.source_path or ()))


class CurriculumStage(Text):
    n_epochs: int = Field(1, ge=1, description="passes over the text")
    n_tokens: int | None = Field(None, ge=1, description="tokens to train on, in place of n_epochs")
    lr: float | None = Field(None, gt=0, description="peak learning rate of the stage; null: that of the run")
    replay: float = Field(0.0, ge=0, lt=1, description="share of windows that come from earlier stages' text")

    @property
    def own_share(self) -> Fraction:
        """Of windows that come from the stage's own text; exact, or counts would be one too low for some shares."""
        return 1 - Fraction(str(self.replay))


class Curriculum(Config):
    """Stages in the order of training. Raises ValidationError, a ValueError, for stages that cannot be together."""

    stages: list[CurriculumStage] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check(self.stages)
        return self

    @classmethod
    def simple(cls) -> Self:
        """Two stages: simple stories, then pages of the web."""
        warmup = CurriculumStage(name="warmup", dataset_key=TINY_STORIES, block_size=128, n_items=10_000)
        pretrain = CurriculumStage(name="pretrain", dataset_key=SCRAPE, block_size=256, n_epochs=2)
        return cls(stages=[warmup, pretrain])

    @classmethod
    def default(cls) -> Self:
        """Three stages: simple stories, files of one's own, pages of the web."""
        warmup = CurriculumStage(name="warmup", dataset_key=TINY_STORIES, block_size=128, n_items=50_000)
        foundation = CurriculumStage(name="foundation", dataset_key=LOCAL, block_size=256, n_epochs=2)
        pretrain = CurriculumStage(name="pretrain", dataset_key=SCRAPE, block_size=512, n_epochs=3)
        return cls(stages=[warmup, foundation, pretrain])


TYPES: dict[str, Callable[[], Curriculum]] = {"simple": Curriculum.simple, "default": Curriculum.default}


def check(stages: list[CurriculumStage], held_out: Text | None = None) -> None:
    """Raises ValueError for stages that cannot be together."""
    texts: list[Text] = [*stages, *([held_out] if held_out else [])]
    if doubles := [name for name, count in Counter(text.name for text in texts).items() if count > 1]:
        raise ValueError(f"stages: two are named {doubles[0]!r}; each needs a name of its own")
    for number, text in enumerate(texts):
        if alike := [other.name for other in texts[:number] if other.stem == text.stem]:
            raise ValueError(
                f"stages: {alike[0]} and {text.name} would both have files named {text.stem}; "
                "give one of them another dataset_suffix"
            )
        same = [other for other in texts[:number] if other.origin == text.origin]
        if same and text.dataset_key in (LOCAL, SCRAPE):
            raise ValueError(
                f"stages: {same[0].name} and {text.name} read the same text; give one of them another source_path"
            )
    if stages[0].replay:
        raise ValueError(f"stages: {stages[0].name} is the first, so it has nothing to replay; leave replay out")


class DataConfig(Config):
    """The keys that say which text is read and where its tokens are."""

    type: str = Field("simple", min_length=1, description="simple, default, or a YAML file with stages of its own")
    stages: list[CurriculumStage] = Field([], description="in the file that type names: the stages, in order")
    held_out: Text | None = Field(None, description="text that no stage trains on, to measure on")
    tokenizer: str = Field("gpt2", min_length=1, description="gpt2, bytes, or the path of a tokenizer's file or folder")
    val_share: float = Field(
        0.001, gt=0, lt=0.5, description="share of each text kept for validation; at least 8 windows"
    )
    data_seed: int = Field(42, ge=0, description="of the choice of validation documents and of shuffled streams")
    data_dir: str = Field("data", min_length=1, description="folder of the token files")
    local_files: str = Field("data/files", min_length=1, description=f"folder of {LOCAL} without a source_path")
    web_sources: str = Field("configs/web_sources.yaml", min_length=1, description=f"file of addresses of {SCRAPE}")

    @model_validator(mode="before")
    @classmethod
    def _stages_of_type(cls, values: Any) -> Any:
        kind = values.get("type", "simple") if isinstance(values, dict) else None
        if kind in TYPES and not values.get("stages"):
            return {**values, "stages": TYPES[kind]().stages}
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.stages:
            raise ValueError(f"type {self.type!r} is none of {', '.join(TYPES)} and no file with stages of its own")
        if self.type in TYPES and self.stages != TYPES[self.type]().stages:
            raise ValueError(f"type {self.type} has stages of its own; name yours by the file: --type FILE.yaml")
        check(self.stages, self.held_out)
        return self

    @property
    def texts(self) -> list[Text]:
        """All that has to be made into token files: the stages, and what is held out."""
        return [*self.stages, *([self.held_out] if self.held_out else [])]


class InitializeConfig(DataConfig):
    training: dict[str, Any] = Field({}, description="keys of `start`, which this verb does not look at")
