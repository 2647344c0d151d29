"""The keys of a run: on one modulus (`TrainConfig`), or on a curriculum of several (`CurriculumConfig`)."""

from abc import abstractmethod
from collections.abc import Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from core.config import Config, home
from core.errors import UserError
from core.export import ExportConfig
from core.model import GPTConfig
from core.run_config import LARGEST_SEED, RunConfig, free
from core.show import ShowConfig
from prng.curriculum import Phase
from prng.generators import COMPOSITES, KINDS, TRUNCATED, Generator, parse_kinds
from prng.source import Format

LARGEST_VOCABULARY = 2**24  # an embedding of it has 17 million rows
OWN_WIDTH = ("LCG", "XSLRR")  # types whose bits_to_keep is not a choice


class PrngConfig(RunConfig):
    """What both commands share; defaults are those of the curriculum."""

    folder_key: ClassVar[str] = "results_dir"
    wandb_key: ClassVar[str] = "use_wandb"
    cut: ClassVar[frozenset[str]] = frozenset({"batch_size", "grad_acc_steps"})
    headings: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("model", "data", "curriculum", "training", "seeds", "output", "pretrained"), ""),
        "wandb": "wandb_",
    }

    type: str = Field("LCG", description=f"generator: {', '.join(KINDS)}; several joined by +; {', '.join(COMPOSITES)}")
    control_bits: list[Annotated[int, Field(ge=0)]] = Field(
        [],
        description="highest bits of the state that steer the output; LCG, TLCG have none; several: generators of each",
    )
    base: int | None = Field(None, ge=2, description="of the digits; null: the smallest that holds every output")
    digits: int = Field(1, ge=1, description="tokens per number, the least significant digit first")
    vocab_size: int | None = Field(None, ge=2, description="size of the model's vocabulary; null: base")
    seq_len: int = Field(513, ge=2, description="numbers per sequence")
    n_a: int = Field(32, ge=1, description="multipliers trained on, of each modulus")
    n_c: int = Field(32, ge=1, description="increments trained on, of each modulus")
    n_test_a: int = Field(16, ge=1, description="further multipliers, for tests only")
    n_test_c: int = Field(16, ge=1, description="further increments, for tests only")
    n_example: int = Field(1, ge=1, le=2**62, description="start values of each pair trained on")
    exclude_ac_paths: list[Annotated[str, Field(min_length=1)]] = Field(
        [], description=".npz files of earlier runs, globs too, whose a and c are neither trained on nor tested"
    )

    n_layer: int = Field(2, ge=1, description="blocks of the model")
    n_head: int = Field(2, ge=1, description="attention heads of a block")
    n_embd: int = Field(128, ge=1, description="width of the model")
    no_rope: bool = Field(
        False, description="learned positions instead of RoPE; with several digits, those of number and digit, added"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="after the embedding, on attention, on residual branches")
    pretrained_path: str | None = Field(
        None, description="checkpoint folder to start from; its vocabulary may be smaller"
    )
    pretrain_m: int | None = Field(None, ge=2, description="largest modulus in that run; null: not checked")

    batch_size: int = Field(64, ge=1, description="sequences per micro-batch, on each process")
    grad_acc_steps: int = Field(1, ge=1, description="micro-batches per update")
    lr_trgt: float = Field(1e-4, gt=0, description="peak learning rate of AdamW")
    lr_min: float = Field(1e-7, ge=0, description="learning rate that cosine ends at")
    weight_decay: float = Field(0.1, ge=0, description="AdamW's decay of matrices")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's decay rate of the mean of gradients")
    beta2: float = Field(0.999, ge=0, lt=1, description="AdamW's decay rate of the mean of squared gradients")
    main_seed: int = Field(
        1, ge=0, le=LARGEST_SEED, description="of the initial weights, dropout and the order of sequences"
    )
    data_seed: int = Field(1, ge=0, description="of the choice of a and c and of the start values")

    eval_interval: int = Field(
        100, ge=1, description="updates between evaluations; there is one before the first update, too"
    )
    eval_examples: int | None = Field(
        None, ge=1, description="sequences of each cell and generator; null: all n_test_a x n_test_c"
    )

    results_dir: str = free("results/multi_curriculum", min_length=1, description="folder of the runs")
    experiment_name: str | None = free(None, min_length=1, description="the run's folder in it; null: a short name")
    description: str | None = free(None, description="a note in your own words, kept in config.yaml")
    save_checkpoints: bool = free(False, description="save now and then, not only at the end; needed to resume")
    checkpoint_interval: int = free(1000, ge=1, description="updates between checkpoints")
    save_total_limit: int | None = free(None, ge=1, description="checkpoints kept: the newest, and always the best")
    save_params: bool = free(False, description="write the final weights alone to params/ as well")
    save_correctness: bool = free(False, description="keep accuracy by position and by pair in correctness.npz")
    use_wandb: bool = free(False, description="log to Weights & Biases as well")
    wandb_project: str = free("prng", description="its project")
    wandb_entity: str | None = free(None, description="its user or team")
    wandb_name: str | None = free(None, description="its name for the run; null: that of the folder")
    wandb_tags: list[Annotated[str, Field(min_length=1)]] | None = free(None, description="its tags")
    wandb_notes: str | None = free(None, description="its notes; null: description")
    wandb_offline: bool = free(False, description="write to files that wandb sync uploads")
    wandb_api_key: str | None = free(
        None, exclude=True, description="its key; never written; WANDB_API_KEY does as well"
    )

    @field_validator("type")
    @classmethod
    def _is_known(cls, text: str) -> str:
        return "+".join(parse_kinds(text))

    @field_validator("control_bits", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("exclude_ac_paths", "wandb_tags", mode="before")
    @classmethod
    def _as_texts(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.lr_min > self.lr_trgt:
            raise ValueError(f"lr_min is {self.lr_min}, above lr_trgt {self.lr_trgt}")
        if len(set(self.control_bits)) < len(self.control_bits):
            raise ValueError(f"control_bits {self.control_bits} name a number twice")
        self._check_outputs()
        _ = self.model_shape
        if self.pretrain_m is not None and self.pretrained_path is None:
            raise ValueError("pretrain_m says what pretrained_path was trained on, but there is no pretrained_path")
        return self

    def _check_outputs(self) -> None:
        base, largest = self.form.base, self.largest_output
        if base**self.digits <= largest:
            shape = f"{self.digits} digit{'s' * (self.digits > 1)} to base {base}"
            raise ValueError(f"{shape} hold numbers below {base**self.digits}, but the outputs reach {largest}")
        if self.vocab_size is not None and self.vocab_size < base:
            raise ValueError(f"vocab_size is {self.vocab_size}, too small for the digits to base {base}")
        if (self.vocab_size or base) > LARGEST_VOCABULARY:
            raise ValueError(f"{self.vocab_size or base} tokens are too many for a model; write numbers in more digits")

    # --- What the two commands differ in

    @property
    @abstractmethod
    def widths(self) -> list[tuple[int, int | None]]:
        """Each modulus with its bits_to_keep."""

    @property
    @abstractmethod
    def plan(self) -> list[Phase]:
        """The phases to train in, one after another."""

    @property
    def weights_interval(self) -> int:
        """Updates for which the shares of the moduli stay as they are."""
        return self.eval_interval

    # --- What follows

    @property
    def phase_names(self) -> list[str]:
        return [phase.name or f"phase {number}" for number, phase in enumerate(self.plan, start=1)]

    @cached_property
    def generators(self) -> list[list[Generator]]:
        """Those of each modulus: its types, each with its control bits. Raises ValueError in words."""
        kinds = self.type.split("+")
        permuted = [kind for kind in kinds if kind not in TRUNCATED]
        if permuted and not self.control_bits:
            raise ValueError(f"control_bits is missing; {permuted[0]} needs it (3 in arXiv 2510.26792)")
        if not permuted and set(self.control_bits) - {0}:
            raise ValueError(f"control_bits is {self.control_bits}, but {self.type} has none")
        several = len(kinds) > 1  # then those of a width of their own leave bits_to_keep to the others
        rows = []
        for m, kept in self.widths:
            if several and kept is not None and set(kinds) <= set(OWN_WIDTH):
                raise ValueError(f"bits_to_keep is {kept}, but neither type of {self.type} has a choice; leave it out")
            pairs = [(kind, cb) for kind in kinds for cb in ([0] if kind in TRUNCATED else self.control_bits)]
            own = OWN_WIDTH if several else ()
            rows.append([Generator(kind, m, cb, None if kind in own else kept) for kind, cb in pairs])
        return rows

    @property
    def largest_output(self) -> int:
        return max(generator.largest for row in self.generators for generator in row)

    @property
    def form(self) -> Format:
        base = self.base if self.base is not None else max(2, _root(self.largest_output + 1, self.digits))
        return Format(self.seq_len, base, self.digits)

    @property
    def model_shape(self) -> GPTConfig:
        """Raises ValueError for one that cannot be built."""
        return GPTConfig(
            num_tokens=self.vocab_size or self.form.base,
            n_positions=self.seq_len * self.digits - 1,
            n_layer=self.n_layer,
            n_head=self.n_head,
            n_embd=self.n_embd,
            positions="learned" if self.no_rope else "rope",
            dropout=self.dropout,
            tokens_per_number=self.digits if self.no_rope else 1,
        )

    def identity(self, world_size: int) -> dict[str, Any]:
        examples = self.batch_size * self.grad_acc_steps * world_size
        return {**super().identity(world_size), "examples_per_update": examples}

    @property
    def run_dir(self) -> Path:
        return home(self.results_dir) / (self.experiment_name or self.short_name)

    @property
    def short_name(self) -> str:
        """Type, moduli, and a hash of all keys that define the run: `XSLRR_m262144_3fa4b21c`."""
        moduli = [f"2pow{m.bit_length() - 1}" if m > 2**32 and m & (m - 1) == 0 else str(m) for m, _ in self.widths]
        span = moduli[0] if len(moduli) == 1 else f"{moduli[0]}-{moduli[-1]}"
        return f"{self.type}_m{span[:80]}_{self.digest()}"

    @property
    def wandb(self) -> dict[str, Any] | None:
        if not self.use_wandb:
            return None
        return {
            "project": self.wandb_project,
            "entity": self.wandb_entity,
            "name": self.wandb_name or self.run_dir.name,
            "tags": self.wandb_tags,
            "notes": self.wandb_notes or self.description,
            "mode": "offline" if self.wandb_offline else "online",
            "dir": str(self.run_dir),
            "config": self.model_dump(),
        }


def _root(number: int, degree: int) -> int:
    """The smallest integer whose power is at least `number`."""
    low, high = 1, number
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if middle**degree >= number else (middle + 1, high)
    return low


def _again(name: str, default: Any) -> Any:
    """The shared key with another default."""
    field = copy(PrngConfig.model_fields[name])
    field.default = default
    return field


class TrainConfig(PrngConfig):
    m: int = Field(65536, ge=2, description="modulus")
    bits_to_keep: int | None = Field(None, ge=1, description="bits per number; null: all of LCG, half of other types")
    num_steps: int = Field(100, ge=1, description="updates")
    warm_steps: int = Field(10, ge=0, description="updates over which the learning rate rises; then it falls to lr_min")

    n_layer: int = _again("n_layer", 1)
    n_head: int = _again("n_head", 1)
    n_embd: int = _again("n_embd", 64)
    batch_size: int = _again("batch_size", 32)
    lr_trgt: float = _again("lr_trgt", 1e-3)
    weight_decay: float = _again("weight_decay", 0.5)
    eval_interval: int = _again("eval_interval", 20)
    checkpoint_interval: int = _again("checkpoint_interval", 2000)
    results_dir: str = _again("results_dir", "results/train")

    @model_validator(mode="after")
    def _rises_in_time(self) -> Self:
        if self.warm_steps >= self.num_steps:
            raise ValueError(f"warm_steps is {self.warm_steps}, but the whole run has {self.num_steps} updates")
        return self

    @property
    def widths(self) -> list[tuple[int, int | None]]:
        return [(self.m, self.bits_to_keep)]

    @property
    def plan(self) -> list[Phase]:
        return [Phase(name="train", phase_steps=self.num_steps, warmup_steps=self.warm_steps, lr_decay="cosine")]


class LookConfig(TrainConfig, ShowConfig):
    """The keys of `inspect`: those of `train`, and what to show."""

    split: Literal["train"] = Field(
        "train", description="sequences that training sees; tests are on grids of other a and c"
    )


class WriteConfig(TrainConfig, ExportConfig):
    """The keys of `export`: those of `train`, and what to write."""

    validation: int = Field(0, ge=0, le=0, description="there is no such split; tests are on other a and c")
    test: int = Field(0, ge=0, le=0, description="there is no such split; tests are on other a and c")


class CurriculumConfig(PrngConfig):
    moduli: list[Annotated[int, Field(ge=2)]] = Field(min_length=1, description="moduli, in the order of the weights")
    bits_to_keep: list[Annotated[int, Field(ge=1)]] | None = Field(
        None, description="bits per number for each modulus; null: all of LCG, half of other types"
    )
    phases: list[Phase] = Field(min_length=1, description="stretches of training, one after another")
    sampler_update_interval: int | None = Field(
        None, ge=1, description="updates between changes of the weights in a transition; null: eval_interval"
    )

    @model_validator(mode="after")
    def _phases_fit(self) -> Self:
        if len(set(self.moduli)) < len(self.moduli):
            raise ValueError(f"moduli {self.moduli} name one twice")
        for number, phase in enumerate(self.phases):
            for key in ("start_weights", "end_weights"):
                weights = getattr(phase, key)
                if weights is not None and len(weights) != len(self.moduli):
                    have = f"{len(weights)} numbers for {len(self.moduli)} moduli"
                    raise ValueError(f"phases[{number}].{key} has {have}")
        if len(set(self.phase_names)) < len(self.phases):
            raise ValueError(f"phases {self.phase_names}: two have the same name")
        return self

    @property
    def widths(self) -> list[tuple[int, int | None]]:
        kept: Sequence[int | None] = self.bits_to_keep or [None] * len(self.moduli)
        if len(kept) != len(self.moduli):
            raise ValueError(f"bits_to_keep has {len(kept)} numbers for {len(self.moduli)} moduli")
        return list(zip(self.moduli, kept, strict=True))

    @property
    def plan(self) -> list[Phase]:
        return self.phases

    @property
    def weights_interval(self) -> int:
        return self.sampler_update_interval or self.eval_interval


def of_run(values: dict[str, Any]) -> type[PrngConfig]:
    """The schema of a run's config.yaml. Raises UserError if its keys are those of another command's runs."""
    if "main_seed" not in values:
        raise UserError("config.yaml beside the checkpoint has no main_seed: it is of no PRNG run")
    return CurriculumConfig if "phases" in values else TrainConfig


# --- Verbs beside training


class EvaluateConfig(Config):
    checkpoint: str = Field(description="folder of a checkpoint, such as RUN/checkpoint-2000 or RUN/best")
    examples: int | None = Field(None, ge=1, description="sequences of each cell and generator; null: all")
    batch_size: int = Field(64, ge=1, description="sequences at a time")
    device: str | int = Field("auto", description="auto, cpu, cuda, cuda:1 or the number of a GPU")


class PlotConfig(EvaluateConfig):
    runs: list[str] = Field(min_length=1, description="folders of runs; several share the plot against the modulus")
    checkpoint: str = Field("last", description="which checkpoint of each run to measure: last, best, or its step")
    threshold: float = Field(0.9, gt=0, lt=1, description="accuracy that counts as predicted, for the needed context")


class GenerateConfig(Config):
    type: str = Field("LCG", description=f"generator: {', '.join(KINDS)}")
    m: int = Field(ge=2, description="modulus")
    control_bits: int = Field(0, ge=0, description="highest bits of the state that steer the output")
    bits_to_keep: int | None = Field(None, ge=1, description="bits per number; null: all of LCG, half of other types")
    a: int = Field(ge=0, description="multiplier")
    c: int = Field(ge=0, description="increment")
    x0: int = Field(0, ge=0, description="start value; the first number comes from the state after it")
    seq_len: int = Field(16, ge=1, description="numbers")
    show: Literal["numbers", "hex"] = Field("numbers", description="how they are written")

    @model_validator(mode="after")
    def _lies_in_the_domain(self) -> Self:
        for key in ("a", "c", "x0"):
            if getattr(self, key) >= self.m:
                raise ValueError(f"{key} is {getattr(self, key)}, not below the modulus {self.m}")
        _ = self.generator
        return self

    @property
    def generator(self) -> Generator:
        """Raises ValueError in words for a type that names several, or outside its domain."""
        kinds = parse_kinds(self.type)
        if len(kinds) > 1:
            raise ValueError(f"type {self.type} names several generators; name one")
        if kinds[0] not in TRUNCATED and "control_bits" not in self.model_fields_set:
            raise ValueError(f"control_bits is missing; {kinds[0]} needs it (3 in arXiv 2510.26792)")
        return Generator(kinds[0], self.m, self.control_bits, self.bits_to_keep)
