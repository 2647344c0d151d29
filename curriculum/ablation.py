"""Is it the order, the length, or neither? The same text in other orders and lengths, at an equal cost."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from core import files, tokenizer
from core.config import home
from core.distributed import World, processes
from core.errors import UserError
from core.model import GPT
from core.plots import draw_panels
from core.replicas import Replica, carry_out
from core.report import table
from core.tokenizer import Tokenizer
from core.trainer import Definition, Phase
from curriculum import run
from curriculum.config import AblationConfig
from curriculum.data import open_files
from curriculum.evaluation import Validation
from curriculum.plan import Files, Part, parts_of, phases, shuffled, warmup_of

RESULT = "arm.json"  # what a run that has ended leaves in its folder
LONGEST = ("fixed_block", "mixture")  # arms whose windows all have the longest stage's length


def ablate(config: AblationConfig) -> list[dict[str, Any]]:
    """Trains every arm with every seed, at equal tokens and at equal operations; prints, writes and draws the means.

    curriculum: the stages in their order, each with its own length. reversed: in the opposite order. shuffled: the very
    same updates in random order. fixed_block: the stages' order, all windows of the longest length. mixture: that
    length, updates in random order. Arms that have ended are not trained again. Returns a row for each run and text.
    """
    chosen = tokenizer.load(config.tokenizer)
    data = open_files(config, chosen)
    check(config, data)
    for budget, arm in product(config.budgets, config.arms):  # before any is trained
        for one in runs_of(config, arm, budget).of_each_seed():
            if (one.run_dir / RESULT).exists():
                rows_of(one, arm, budget, data)
    rows: list[dict[str, Any]] = []
    for budget in config.budgets:
        for arm in config.arms:
            rows += [{"budget": budget, "arm": arm, **row} for row in of_arm(config, arm, budget, data, chosen)]
    return conclude(config, rows)


def check(config: AblationConfig, data: Files) -> None:
    """Raises UserError for stages whose updates cannot take each other's place."""
    if processes() > 1:  # ranks would not agree on which arms have ended
        raise UserError(
            "ablate: trains in one process, not under torchrun; start it on each GPU with seeds or arms of its own, "
            "and at the end once for all of them"
        )
    if own := [stage.name for stage in config.stages if stage.lr is not None]:
        raise UserError(f"stages: {own[0]} has an lr of its own, where all arms are to have one course; leave it out")
    for length in (None, config.longest_stage):
        sizes = {part.tokens_per_update for part in parts_of(config, data, 1, length)}
        if len(sizes) > 1:
            raise UserError(f"stages: updates would have {sorted(sizes)} tokens; use lengths that divide the longest")


def of_arm(config: AblationConfig, arm: str, budget: str, data: Files, chosen: Tokenizer) -> list[dict[str, Any]]:
    """A row for each seed and text."""
    whole = runs_of(config, arm, budget)
    each = whole.of_each_seed()
    left = [one for one in each if not (one.run_dir / RESULT).exists()]
    if left:
        print(f"\n{home(whole.save_dir).name}, seeds {', '.join(str(one.seed) for one in left)}")
        together = whole.model_copy(update={"seeds": [one.seed for one in left]})
        for some in [together] if len(left) > 1 and not config.only_one_at_a_time else left:
            carry_out(some, partial(prepare, arm=arm, budget=budget, data=data, chosen=chosen), run.LABELS)
    return [row for one in each for row in rows_of(one, arm, budget, data)]


def runs_of(config: AblationConfig, arm: str, budget: str) -> AblationConfig:
    """Those of an arm. One that costs the same in operations is the same run for both budgets."""
    own = f"{arm}_{budget}" if arm in LONGEST else arm
    save_dir = str(home(config.save_dir) / own)
    return config.model_copy(update={"save_dir": save_dir, "resume": True, "seeds": config.seeds or [config.seed]})


def rows_of(config: AblationConfig, arm: str, budget: str, data: Files) -> list[dict[str, Any]]:
    """What a run that has ended came to. Raises UserError if it is one of another comparison."""
    path = config.run_dir / RESULT
    result = json.loads(path.read_text())
    if result["identity"] != json.loads(json.dumps(identity(config, arm, budget, data, World()))):
        raise UserError(f"save_dir: {path} is of other keys or data; use another save_dir, or delete it")
    common = {"seed": config.seed, "tokens": result["tokens"], "flops": result["flops"]}
    return [{**common, **row} for row in result["evaluation"]]


def identity(config: AblationConfig, arm: str, budget: str, data: Files, world: World) -> dict[str, Any]:
    return {**run.identity(config, data, world), "arm": arm, "budget": budget if arm in LONGEST else "both"}


def prepare(config: AblationConfig, world: World, arm: str, budget: str, data: Files, chosen: Tokenizer) -> Replica:
    model = GPT(config.shape(chosen.num_tokens), seed=config.seed)
    parts = arm_parts(config, arm, budget, data, model, world)
    plan = arm_plan(config, arm, parts, world)
    evaluate = Validation(config, data, chosen, world)
    settings = config.settings(world.device)
    defined = identity(config, arm, budget, data, world)
    definition = Definition(config.model_dump(), defined)

    def leave(summary: dict[str, Any]) -> None:
        if world.is_main:
            result = {"identity": defined, "flops": flops_of(model, parts), **summary}
            files.write_json(config.run_dir / RESULT, result)

    return Replica(model, plan, evaluate, settings, config.run_dir, definition, leave)


def arm_parts(config: AblationConfig, arm: str, budget: str, data: Files, model: GPT, world: World) -> list[Part]:
    """The stages' updates, of the arm's length; so many that they cost what those of the curriculum do."""
    own = parts_of(config, data, world.size)
    if arm not in LONGEST:
        return own
    longer = [
        replace(long, steps=part.steps)
        for part, long in zip(own, parts_of(config, data, world.size, config.longest_stage), strict=True)
    ]
    if budget == "flops":
        share = flops_of(model, own) / flops_of(model, longer)
        longer = [replace(part, steps=max(1, round(part.steps * share))) for part in longer]
    return longer


def arm_plan(config: AblationConfig, arm: str, parts: Sequence[Part], world: World) -> list[Phase]:
    if arm in ("shuffled", "mixture"):
        return shuffled(config, parts, world.size)
    return phases(config, list(reversed(parts)) if arm == "reversed" else parts, warmup_of(config, parts[0]))


def flops_of(model: GPT, parts: Sequence[Part]) -> int:
    """Floating-point operations of training: 6 for each weight that multiplies and token, and attention's.

    Attention adds 12 * layers * width * length a token (PaLM, Chowdhery et al., 2022, appendix B), half of it causal.
    """
    c = model.config
    weights = sum(p.numel() for p in model.parameters() if p.dim() == 2)  # the tied embedding multiplies as the head
    if not c.tied:
        weights -= c.num_tokens * c.n_embd
    return sum(part.tokens * (6 * weights + 6 * c.n_layer * c.n_embd * part.length) for part in parts)


# --- What came out


def conclude(config: AblationConfig, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    folder = home(config.save_dir)
    means = summarised(rows)
    for budget in config.budgets:
        what = "of one seed" if means[0]["deviation"] is None else "mean and standard deviation over seeds"
        print(f"\nequal {budget}: validation loss in nats per token, {what}")
        print(as_table([row for row in means if row["budget"] == budget]))
    files.write_json(folder / "ablation.json", {"runs": rows, "means": means})
    print(f"\ntable   {folder / 'ablation.json'}\nplot    {draw(means, folder, config)}")
    return rows


def summarised(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation of the losses over seeds, by budget, arm and text."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["budget"], row["arm"], row["stage"]].append(row)
    means = []
    for (budget, arm, stage), group in groups.items():
        losses = [row["loss"] for row in group]
        deviation = stdev(losses) if len(losses) > 1 else None  # one seed says nothing of it
        where = {"budget": budget, "arm": arm, "stage": stage}
        means.append({**where, "loss": fmean(losses), "deviation": deviation, "tokens": group[0]["tokens"]})
    return means


def as_table(means: Sequence[dict[str, Any]]) -> str:
    lines: dict[str, dict[str, Any]] = {}
    for row in means:
        line = lines.setdefault(row["arm"], {"arm": row["arm"], "tokens": f"{row['tokens']:,}"})
        spread = "" if row["deviation"] is None else f" ± {row['deviation']:.3f}"
        line[row["stage"]] = f"{row['loss']:.3f}{spread}"
    rows = list(lines.values())
    return table(rows, list(rows[0]))


def draw(means: Sequence[dict[str, Any]], folder: Path, config: AblationConfig) -> Path:
    """A panel for each text: the arms' losses, with their spread over seeds."""
    names = [text.name for text in config.texts]
    panels = [partial(_draw_text, means=[row for row in means if row["stage"] == name], name=name) for name in names]
    return draw_panels(panels, folder / "plots" / "ablation.png", title=folder.as_posix())


def _draw_text(axis: Any, means: list[dict[str, Any]], name: str) -> None:
    arms = list(dict.fromkeys(row["arm"] for row in means))
    for budget, marker in (("tokens", "o"), ("flops", "s")):
        if not (own := [row for row in means if row["budget"] == budget]):
            continue  # or the legend would name what was not run
        places = [arms.index(row["arm"]) + (0.15 if budget == "flops" else 0) for row in own]
        losses, spread = [row["loss"] for row in own], [row["deviation"] or 0.0 for row in own]
        axis.errorbar(places, losses, yerr=spread, fmt=marker, capsize=3, label=f"equal {budget}")
    axis.set_xticks(range(len(arms)), arms, rotation=30, ha="right", fontsize="small")
    axis.set_ylabel(f"validation loss on {name}")
