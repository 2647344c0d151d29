"""The keys of language modelling on C4, code and mathematics: those of all three, and their own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from core.config import home
from core.donor import Donor
from core.model import GPTConfig, parse_size
from core.run_config import LARGEST_SEED, free
from core.transfer import Component, Embedding
from downstream.adaptation import AdaptationConfig
from downstream.semantic.problem_file import DIFFICULTIES

DEFAULT_SIZE = "12_12_768"
REHEARSED_ON = 100  # documents of the hub for validation
PUBLISHED = {"gpt2": "12_12_768", "gpt2-medium": "24_16_1024", "gpt2-large": "36_20_1280", "gpt2-xl": "48_25_1600"}


class SemanticConfig(AdaptationConfig):
    """The keys of all three. Further names are those that the earlier scripts had for the same thing."""

    taken_by_default: ClassVar[Sequence[Component]] = ("attn", "ffn", "ln")
    other_names: ClassVar[dict[str, str]] = {
        "pretrained_path": "pretrained_model_path",
        "pretrained_model": "pretrained_model_path",
        "weights_to_transfer": "weights_to_be_transferred",
        "weights_to_train": "weights_to_be_trained",
        "initialization_strategy": "embedding_init_strategy",
        "bsz": "batch_size",
        "train_batch_size": "batch_size",
        "valid_batch_size": "eval_batch_size",
        "max_train_steps": "max_steps",
        "lr": "learning_rate",
        "lr_scheduler_type": "lr_schedule",
        "min_lr_rate": "min_lr_ratio",
        "num_warmup_steps": "warmup_steps",
        "logging_steps": "log_every_steps",
        "save_checkpoint_steps": "save_steps",
        "output_dir": "save_dir",
        "pretrained_tokenizer": "tokenizer",
        "dataset_name_train": "dataset",
        "dataset_name_valid": "validation_dataset",
    }
    retired: ClassVar[dict[str, str]] = {
        "reinit": "weights are new unless pretrained_path names some; GPT-2's own: pretrained_path FOLDER, "
        "weights_to_transfer everything, initialization_strategy retain",
        "report_to": "write wandb_enable: true or false",
        "note": "write wandb_name",
        "mixed_precision": "write precision: auto, fp32 or bf16",
        "use_callback": "write the updates to save beside save_steps, such as further_saves: [100, 200, 400]",
        "use_c4_1m": "as many documents are read as the run needs; max_documents: 1000000 bounds them",
        "max_eval_steps": "write eval_windows, or for mathematics eval_problems",
        "eval_dataset_local_path": "write validation_data",
        "download_eval_dataset": "what is read is kept in prepared_dir",
        "overwrite_eval_cache": "delete the folder in prepared_dir to have it read again",
    }

    gpt2_size: str | None = Field(
        None, description=f"layers_heads_width of the model; null: as in the checkpoint, or else {DEFAULT_SIZE}"
    )
    seq_length: int = Field(1024, ge=2, description="tokens of a row, and positions of the model")
    isolated: bool = Field(False, description="each document or problem of a row sees itself alone")
    tied: bool = Field(True, description="the output projection is the embedding matrix")
    dropout: float = Field(0.1, ge=0, lt=1, description="after the embedding, on attention, on residual branches")

    batch_size: int = Field(8, ge=1, description="rows per micro-batch, on each process")
    max_steps: int = Field(50_000, ge=1, description="updates")
    passes: int | None = free(1, ge=1, description="passes over the data that max_steps may need; null: any number")
    learning_rate: float = Field(5e-5, gt=0, description="peak learning rate of AdamW")
    warmup_steps: int = Field(0, ge=0, description="updates over which the learning rate rises")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decay of matrices")

    eval_steps: int | None = Field(None, ge=1, description="updates between validations; null: save_steps")
    eval_batch_size: int | None = free(None, ge=1, description="rows at a time in evaluation; null: batch_size")
    early_stopping_perplexity: float | None = Field(
        None, gt=1, description="the run ends once the validation perplexity is below this; null: never"
    )
    save_steps: int = free(5000, ge=1, description="updates between checkpoints; the last update is always saved")
    further_saves: list[Annotated[int, Field(ge=1)]] = free(
        [], description="further updates to save, which save_total_limit does not touch"
    )
    prepared_dir: str = free("data/prepared", min_length=1, description="folder of data made ready for training")
    wandb_project: str = free("semantic", description="its project")

    @field_validator("gpt2_size")
    @classmethod
    def _is_size(cls, size: str | None) -> str | None:
        if size is not None:
            parse_size(size)
        return size

    @property
    def may_grow(self) -> Sequence[str]:
        """Keys that may be larger on resume."""
        return ("max_steps",)

    @property
    def updates(self) -> int:
        return self.max_steps

    @property
    def warmup(self) -> int:
        return self.warmup_steps

    @property
    def eval_every(self) -> int:
        return self.eval_steps or self.save_steps

    @property
    def at_once(self) -> int:
        return self.eval_batch_size or self.batch_size

    @property
    def size(self) -> str | None:
        return self.gpt2_size

    def rows(self, world_size: int) -> int:
        """That the whole run trains on."""
        return self.max_steps * self.batch_size * self.gradient_accumulation_steps * world_size

    def rehearsed(self, folder: str) -> Self:
        """For a rehearsal: data made ready in a folder that goes, and no more of them than it takes where they are
        fetched."""
        return self.model_copy(update={"prepared_dir": folder})

    def shape(self, donor: Donor | None, num_tokens: int) -> GPTConfig:
        """The model: as told, else as in the first checkpoint. Raises ValueError."""
        if donor and not donor.knows_heads and self.size is None:
            raise ValueError(f"gpt2_size: {donor.path} does not say how many heads its attention has; set gpt2_size")
        size = parse_size(self.size or DEFAULT_SIZE)
        if donor and self.size is None:
            size = donor.config.n_layer, donor.config.n_head, donor.config.n_embd
        return self.shape_of(size, num_tokens, self.seq_length, donor)

    def identity(self, world_size: int) -> dict[str, object]:
        examples = self.batch_size * self.gradient_accumulation_steps * world_size
        return {**super().identity(world_size), "eval_steps": self.eval_every, "examples_per_update": examples}


class TextConfig(SemanticConfig):
    """C4 and CodeParrot: documents, one after the other, cut into rows."""

    name: ClassVar[str]  # of folders of prepared data

    data: list[str] | None = free(
        None,
        min_length=1,
        description="in place of the hub: folders or files of .txt, .md, .py, .jsonl, .parquet",
    )
    validation_data: list[str] | None = free(
        None, min_length=1, description="the same for validation; null: part of data, or that of the hub"
    )
    validation_share: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="share of data, about; whole paths if several, else folders or files of the first level",
    )
    text_column: str = Field("text", min_length=1, description="key of the text in .jsonl, .parquet and on the hub")
    dataset: str = Field(min_length=1, description="data set of the hub")
    dataset_config: str | None = Field(None, description="its configuration")
    revision: str | None = Field(
        None,
        description="commit; null: a fixed one of c4 and codeparrot, else the newest, which is noted",
    )
    validation_dataset: str | None = Field(
        None, description="data set of the hub; null: the validation split of dataset"
    )
    shuffle_buffer: int = Field(0, ge=0, description="documents of the hub among which the next one is drawn")
    max_documents: int | None = Field(None, ge=1, description="documents read at most; null: as many as the run needs")
    validation_documents: int | None = Field(
        None, ge=1, description="documents of the hub's validation set, the first ones; null: all"
    )
    separate_documents: bool = Field(True, description="the end-of-text token stands after each document")
    eval_windows: int | None = Field(
        None, ge=1, description="rows measured on, spread over the validation set; null: all"
    )
    tokenizer: str = Field(
        "gpt2", min_length=1, description="gpt2, bytes, train, the path of one, or the name of one on the hub"
    )
    vocab_size: int = Field(32_768, ge=300, description="tokens of a tokenizer that is trained on the training data")

    def rehearsed(self, folder: str) -> Self:
        least = min(self.validation_documents or REHEARSED_ON, REHEARSED_ON)
        of_hub = {"max_steps": 1, "validation_documents": least} if self.data is None else {}
        return super().rehearsed(folder).model_copy(update=of_hub)

    @property
    def may_grow(self) -> Sequence[str]:
        """Of the hub as much is read as the run needs: a longer one would draw its rows from other data."""
        return super().may_grow if self.data is not None else ()


class C4Config(TextConfig):
    name = "c4"

    model_name: Literal["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"] | None = Field(
        None, description="in place of gpt2_size, the size of a published model"
    )
    dataset: str = Field("allenai/c4", min_length=1, description="data set of the hub")
    dataset_config: str | None = Field("en", description="its configuration")
    validation_documents: int | None = Field(
        1000, ge=1, description="documents of the hub's validation set, the first ones; null: all"
    )
    embedding_init_strategy: Embedding = Field(
        "retain", description="how embeddings are made from those of another vocabulary"
    )
    seq_length: int = Field(2048, ge=2, description="tokens of a row, and positions of the model")
    batch_size: int = Field(4, ge=1, description="rows per micro-batch, on each process")
    gradient_accumulation_steps: int = Field(8, ge=1, description="micro-batches per update")
    max_steps: int = Field(10_000, ge=1, description="updates")
    learning_rate: float = Field(5e-4, gt=0, description="peak learning rate of AdamW")
    min_lr_ratio: float = Field(0.1, ge=0, le=1, description="share of learning_rate that cosine and linear end at")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decay of matrices")
    eval_steps: int | None = Field(500, ge=1, description="updates between validations; null: save_steps")
    save_steps: int = free(2000, ge=1, description="updates between checkpoints; the last update is always saved")
    log_every_steps: int = free(100, ge=1, description="updates between lines of training loss")
    seed: int = Field(
        3407, ge=0, le=LARGEST_SEED, description="of the initial weights, the data, and what a transfer draws"
    )
    save_dir: str = free("results/semantic/c4", min_length=1, description="folder of the run")

    @model_validator(mode="after")
    def _says_one_size(self) -> Self:
        if self.model_name and self.gpt2_size:
            raise ValueError(f"model_name is {self.model_name} and gpt2_size {self.gpt2_size}; write one of them")
        return self

    @property
    def size(self) -> str | None:
        return PUBLISHED[self.model_name] if self.model_name else self.gpt2_size


class CodeParrotConfig(TextConfig):
    name = "codeparrot"

    text_column: str = Field("content", min_length=1, description="key of the text in .jsonl, .parquet and on the hub")
    dataset: str = Field("codeparrot/codeparrot-clean-train", min_length=1, description="data set of the hub")
    validation_dataset: str | None = Field(
        "codeparrot/codeparrot-clean-valid", description="of the hub; null: the validation split of dataset"
    )
    shuffle_buffer: int = Field(1000, ge=0, description="documents of the hub among which the next one is drawn")
    eval_windows: int | None = Field(1600, ge=1, description="rows measured on, spread over the set; null: all")
    tokenizer: str = Field(
        "codeparrot/codeparrot",
        min_length=1,
        description="gpt2, bytes, train, the path of one, or the name of one on the hub",
    )
    save_dir: str = free("results/semantic/codeparrot", min_length=1, description="folder of the run")


class MathConfig(SemanticConfig):
    """DeepMind mathematics: questions and answers, character by character."""

    data: str = free(
        "data/mathematics", min_length=1, description="folder of train-easy, -medium, -hard, interpolate, extrapolate"
    )
    train_dir: str | None = free(None, description="folder of train-easy, train-medium, train-hard; null: data")
    validation_dir: str | None = free(None, description="folder of the modules to interpolate; null: data/interpolate")
    test_dir: str | None = free(None, description="folder of those to extrapolate; null: data/extrapolate, if there")
    end_token: bool = Field(True, description="answers end with a token of their own; the documented form has none")
    eval_problems: int = Field(20, ge=1, description="problems of each module, measured during training")
    test_problems: int = Field(200, ge=1, description="other problems of each module, measured at the end")
    seq_length: int = Field(512, ge=2, description="tokens of a row, and positions of the model")
    save_dir: str = free("results/semantic/deepmind_math", min_length=1, description="folder of the run")

    @property
    def folders(self) -> dict[str, Path]:
        """By regime, where its modules lie; training and interpolation have to be there, extrapolation may."""
        train, data = home(self.train_dir or self.data), home(self.data)
        found = {name: train / name for name in DIFFICULTIES if (train / name).is_dir()}
        found = found or {DIFFICULTIES[0]: train / DIFFICULTIES[0]}  # which will be said to be missing
        found["interpolate"] = home(self.validation_dir) if self.validation_dir else data / "interpolate"
        extrapolate = home(self.test_dir) if self.test_dir else data / "extrapolate"
        return found | ({"extrapolate": extrapolate} if self.test_dir or extrapolate.is_dir() else {})
