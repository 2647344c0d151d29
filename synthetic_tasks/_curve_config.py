"""The keys of `curve`, as the files in `conf/depo_curve/` group them."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from core import hf
from core.config import Config, home
from core.errors import UserError
from core.model import GPT, GPTConfig
from core.run_config import LARGEST_SEED, RunConfig, free
from core.schedule import Shape, factor
from synthetic_tasks.depo import DepoTask
from synthetic_tasks.models.olmo3_config import Olmo3Shape, Recurrence
from synthetic_tasks.models.recurrent_olmo3 import RecurrentOLMo3

MAY_GROW = ("max_steps",)


class TinyGPT2(Config):
    kind: Literal["tiny_gpt2"] = Field(description="a GPT of our own")
    vocab_size: int = Field(10_064, ge=1, description="token ids")
    n_positions: int = Field(2048, ge=1, description="longest row")
    n_embd: int = Field(128, ge=1, description="width")
    n_layer: int = Field(2, ge=1, description="blocks")
    n_head: int = Field(4, ge=1, description="attention heads of a block")
    positions: Literal["learned", "rope"] = Field("learned", description="GPT-2's learned positions, or rotary ones")

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        _ = self._shape
        return self

    @property
    def _shape(self) -> GPTConfig:
        sizes = self.n_layer, self.n_head, self.n_embd
        return GPTConfig(self.vocab_size, self.n_positions, *sizes, positions=self.positions)

    def build(self, seed: int) -> GPT:
        return GPT(self._shape, seed=seed)


class FromPretrained(Config):
    kind: Literal["from_pretrained"] = Field(description="weights of a GPT-2 or GPT-NeoX")
    name_or_path: str = Field("gpt2", min_length=1, description="a folder, or a model of the Hugging Face hub")

    def build(self, seed: int) -> GPT:
        """Raises UserError if there is no such model, or it is none of ours."""
        folder = home(self.name_or_path)
        try:
            return hf.load(folder if folder.is_dir() else hf.download(self.name_or_path))
        except hf.UnreadableModel as error:
            raise UserError(f"model.name_or_path: {error}") from error


class RecurrentModel(Config):
    kind: Literal["recurrent_olmo3"] = Field(description="OLMo 3 with a loop")
    name_or_path: str | None = Field(None, description="go on with the recurrent model in this folder, as it is")
    init_from_pretrained: str | None = Field(
        None, description="begin with the plain OLMo 3 in this folder or of the hub, in place of `hf`"
    )
    hf: Olmo3Shape = Field(Olmo3Shape(), description="its layers, in the words of transformers")
    recurrent: Recurrence = Field(Recurrence(), description="how they loop")

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.name_or_path and self.init_from_pretrained:
            raise ValueError("name_or_path and init_from_pretrained both say what to begin with; give one of them")
        if not (self.name_or_path or self.init_from_pretrained):
            self.recurrent.check_layers(self.hf.num_hidden_layers)
        return self

    def build(self, seed: int) -> RecurrentOLMo3:
        """Raises UserError if the model named cannot be had or does not fit."""
        key = "name_or_path" if self.name_or_path else "init_from_pretrained"
        name = self.name_or_path or self.init_from_pretrained
        if name is None:
            return RecurrentOLMo3(self.hf, self.recurrent, seed)
        try:
            folder = home(name) if home(name).is_dir() else hf.download(name)
            return RecurrentOLMo3.from_pretrained(folder, None if self.name_or_path else self.recurrent, seed)
        except hf.UnreadableModel as error:
            raise UserError(f"model.{key}: {error}") from error


class HopEvaluation(Config):
    hops: list[Annotated[int, Field(ge=1)]] = Field([1, 2, 3, 4, 8], min_length=1, description="steps asked for")
    num_examples_per_hop: int = Field(256, ge=1, description="rows for each, with M questions a row")
    batch_size: int = Field(16, ge=1, description="rows at a time")
    qa: bool = Field(True, description="all cycles have N nodes")
    seed_offset: int = Field(10_000, ge=0, description="added to the run's seed, for that of the rows")
    resample_each_eval: bool = Field(True, description="new rows at each evaluation")
    seed_stride: int = Field(1000, ge=1, description="added for each update, if rows are resampled")


class WandbConfig(Config):
    enabled: bool = Field(False, description="log to Weights & Biases as well")
    project: str = Field("depo-hop-curves", description="its project")
    entity: str | None = Field(None, description="whose project")
    name: str | None = Field(None, description="its name for the run")
    mode: Literal["online", "offline"] = Field("online", description="offline: to files that wandb sync uploads")


class LoggingConfig(Config):
    wandb: WandbConfig = Field(WandbConfig(), description="Weights & Biases")


class CurveConfig(RunConfig):
    folder_key: ClassVar[str] = "output_dir"
    wandb_key: ClassVar[str] = "logging.wandb.enabled"
    resumed_by: ClassVar[str] = "train.resume=true"
    headings: ClassVar[dict[str, str]] = {"train": ""}
    cut: ClassVar[frozenset[str]] = frozenset({"batch_size", "gradient_accumulation_steps"})

    dataset: DepoTask = Field(description="the task")
    model: Annotated[TinyGPT2 | FromPretrained | RecurrentModel, Field(discriminator="kind")] = Field(
        description="what is trained"
    )
    eval: HopEvaluation = Field(description="what is measured on the way")
    logging: LoggingConfig = free(LoggingConfig(), description="where else numbers go")

    seed: int = Field(42, ge=0, le=LARGEST_SEED, description="of the initial weights and the data")
    output_dir: str | None = free(None, min_length=1, description="folder of the run; null: outputs/depo_curve/HASH")
    plot_file: str = free("depo_hop_curve.png", description="the plot, in that folder: .png, .pdf or .svg")
    metrics_file: str = free("depo_hop_metrics.csv", description="the numbers, in that folder: .csv")

    num_examples: int = Field(20_000, description="examples that are seen again and again; 0 or less: always new ones")
    grow_hops: float | None = Field(
        None,
        gt=0,
        le=1,
        description="begin with the smallest of eval.hops as K; once K steps have this accuracy, take the next of them",
    )
    batch_size: int = Field(8, ge=1, description="examples per micro-batch, on each process")
    gradient_accumulation_steps: int = Field(1, ge=1, description="micro-batches per update")
    learning_rate: float = Field(5e-4, gt=0, description="peak learning rate of AdamW")
    lr_schedule: Shape = Field("constant", description="course of the learning rate after the warm-up, to a tenth")
    warmup_steps: int = Field(0, ge=0, description="updates over which the learning rate rises")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decay of matrices")
    max_steps: int = Field(200, ge=1, description="updates")
    eval_every_steps: int = Field(20, ge=1, description="updates between evaluations")
    save_every_steps: int = free(100, ge=1, description="updates between checkpoints; the last update is always saved")

    @model_validator(mode="after")
    def _files_have_names(self) -> Self:
        for key, name, kinds in (
            ("plot_file", self.plot_file, (".png", ".pdf", ".svg")),
            ("metrics_file", self.metrics_file, (".csv",)),
        ):
            if Path(name).name != name or Path(name).suffix not in kinds:
                raise ValueError(f"{key}: {name!r} is no name of a file that ends in {' or '.join(kinds)}")
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        beyond = [k for k in self.eval.hops if k > self.dataset.K]
        if beyond:
            raise ValueError(
                f"eval.hops: {beyond[0]} steps are never asked for in training, dataset.K is {self.dataset.K}; "
                "use smaller hops or a larger K"
            )
        if len(set(self.eval.hops)) < len(self.eval.hops):
            raise ValueError(f"eval.hops: {self.eval.hops} names a number of steps twice")
        if self.grow_hops is not None and self.dataset.fixed_k is not None:
            raise ValueError(f"train.grow_hops: dataset.fixed_k is {self.dataset.fixed_k}; there is nothing to grow")
        if self.warmup_steps >= self.max_steps:
            raise ValueError(f"train.warmup_steps is {self.warmup_steps}, the run has {self.max_steps} updates")
        return self

    @property
    def example_task(self) -> DepoTask:
        return self.dataset

    @property
    def measured_task(self) -> DepoTask:
        return self.dataset.replace(qa=self.eval.qa)

    @property
    def run_dir(self) -> Path:
        return Path("outputs/depo_curve") / self.digest() if self.output_dir is None else home(self.output_dir)

    @property
    def wandb(self) -> dict[str, Any] | None:
        if not self.logging.wandb.enabled:
            return None
        named = self.logging.wandb.model_dump(exclude={"enabled"})
        return {**named, "dir": str(self.run_dir), "config": self.model_dump()}

    def lr_at(self, step: int) -> float:
        """The learning rate of an update."""
        shape, warmup = self.lr_schedule, self.warmup_steps
        return self.learning_rate * factor(step, shape=shape, steps=self.max_steps, warmup=warmup, floor=0.1)

    def identity(self, world_size: int) -> dict[str, Any]:
        examples = self.batch_size * self.gradient_accumulation_steps * world_size
        return {**super().identity(world_size), "examples_per_update": examples}
