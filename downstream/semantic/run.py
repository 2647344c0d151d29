"""From a checked configuration to a language model trained on a corpus: transfer, the loop of `core`, test."""

from functools import partial
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from core import plots, rehearsal
from core.distributed import World
from core.evaluate import Slices
from core.files import write_json
from core.model import LanguageModel
from core.replicas import Replica, carry_out
from core.report import report
from core.run_config import check_device
from core.trainer import Definition, Phase, Settings
from downstream.adaptation import announce, build_model, identity, read_parts
from downstream.semantic.config import SemanticConfig
from downstream.semantic.corpus import Corpus, StopsAtPerplexity, check_passes

LABELS = ("split", "regime", "module", "problems")
T = TypeVar("T", bound=SemanticConfig)


def train(open_corpus: type[Corpus], config: T) -> list[dict[str, Any]]:
    """Transfers, trains, tests, saves and draws. Returns the summary in `run_dir/summary.json`, of each seed."""
    check_device(config.device)
    return carry_out(config, partial(prepare, open_corpus), LABELS)


def prepare(open_corpus: type[Corpus], config: T, world: World) -> Replica:
    parts = read_parts(config)  # before data, which may take hours to make ready
    corpus = open_corpus(config, world)
    check_passes(corpus, config)
    model, fates = build_model(config, parts, partial(config.shape, num_tokens=corpus.num_tokens))
    announce(fates, world)
    world.say(describe(corpus))
    plan, settings = build_plan(config, corpus, world)

    def evaluate(model: LanguageModel, step: int) -> Slices:
        return corpus.validate(model)

    def conclude(summary: dict[str, Any]) -> None:
        summary["evaluation"] += [{**where, **values} for where, values in corpus.test(model)]
        summary["data"] = {**corpus.facts, "passes": corpus.passes * summary["step"] / config.max_steps}
        summary["transfer"] = fates.rows()
        if world.is_main:
            write_json(config.run_dir / "summary.json", summary)
            report(config.run_dir, summary, [plots.draw_run(config.run_dir)], LABELS)

    own = {**identity(config, parts, world), "data_digest": corpus.digest}
    definition = Definition(config.model_dump(), own, config.may_grow)
    return Replica(model, plan, evaluate, settings, config.run_dir, definition, conclude)


def rehearse(open_corpus: type[Corpus], config: T) -> None:
    """Builds everything, tries a few updates, says what the run would take. Writes nothing that stays."""
    check_device(config.device)
    with config.join() as world, TemporaryDirectory() as folder:
        parts = read_parts(config)
        data = config if open_corpus.is_ready(config, world) else config.rehearsed(folder)
        corpus = open_corpus(data, world)
        check_passes(corpus, data)
        if data is not config:
            corpus.facts["prepared"] = "for this rehearsal alone"
        if data.max_steps < config.max_steps:
            world.say("of the hub no more is read here than one update takes")
        model, fates = build_model(config, parts, partial(config.shape, num_tokens=corpus.num_tokens))
        announce(fates, world)
        world.say(describe(corpus))
        world.say(rehearsal.rehearse(model, *build_plan(config, corpus, world), world, seeds=config.seeds))


def build_plan(config: SemanticConfig, corpus: Corpus, world: World) -> tuple[list[Phase], Settings]:
    source = StopsAtPerplexity(corpus.source, config.early_stopping_perplexity)
    plan = [Phase("train", source, config.updates, config.batch_size, config.lr_at)]
    return plan, config.settings(world.device, pad_token=corpus.pad_token, save_steps=config.further_saves)


def describe(corpus: Corpus) -> str:
    lines = {**corpus.facts, "passes": f"{corpus.passes:.3g}"}
    return "\n".join(f"{name.replace('_', ' ')}: {_plain(value)}" for name, value in lines.items())


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(part)}" for name, part in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)
