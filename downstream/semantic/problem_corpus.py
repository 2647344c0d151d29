"""DeepMind mathematics as a corpus."""

from core.config import home
from core.distributed import World
from core.errors import UserError
from core.evaluate import Slices
from core.model import LanguageModel
from downstream.semantic.config import MathConfig
from downstream.semantic.corpus import Corpus
from downstream.semantic.exam import ProblemExam, choose
from downstream.semantic.problem_file import DIFFICULTIES, DOCUMENTED_SIZE, PAD, TESTS, Problems, is_ready, prepare
from downstream.semantic.problem_rows import ProblemRows

SAMPLED_ROWS = 256  # that tell how many problems a row holds


class ProblemCorpus(Corpus):
    pad_token = PAD

    def __init__(self, config: MathConfig, world: World):
        """Raises UserError for data that are missing or do not fit."""
        self.num_tokens = DOCUMENTED_SIZE + config.end_token
        problems = prepare(config.folders, home(config.prepared_dir))
        if not problems.of(*DIFFICULTIES):
            folder = home(config.train_dir or config.data)
            raise UserError(f"{folder}: its training problems are all test questions; none is left to train on")
        longest = problems.longest() + 2 + config.end_token
        if longest > config.seq_length:
            raise UserError(f"seq_length: {config.seq_length} is too short; the longest problem has {longest} tokens")
        self.source = ProblemRows(problems, config.seed, config.seq_length, config.end_token, config.isolated)
        self._exams(problems, config, world)
        per_row = self.source.bounds(0, SAMPLED_ROWS)[-1] / SAMPLED_ROWS
        self.passes = self.source.stream.passes(config.rows(world.size) * per_row)
        self.digest = f"{problems.digest[:16]}-{self.validation.digest}-{self.testing.digest}"
        sizes = {regime: sum(g.size for g in problems.of(regime)) for regime in (*DIFFICULTIES, *TESTS)}
        self.facts = {
            "problems": {regime: size for regime, size in sizes.items() if size},
            "modules": {regime: len(problems.of(regime)) for regime, size in sizes.items() if size},
            "training_problems_left_out_as_test_questions": problems.removed,
            "problems_per_row": round(float(per_row), 2),
            "validation": {"problems": self.validation.size, "digest": self.validation.digest},
            "test": {"problems": self.testing.size, "digest": self.testing.digest},
            "prepared": str(problems.folder),
        }

    @classmethod
    def is_ready(cls, config: MathConfig, world: World) -> bool:
        return is_ready(config.folders, home(config.prepared_dir))

    def _exams(self, problems: Problems, config: MathConfig, world: World) -> None:
        groups = problems.of(*TESTS)
        chosen = [choose(problems, group, config.eval_problems, config.test_problems) for group in groups]
        sets = [list(zip(groups, numbers, strict=True)) for numbers in zip(*chosen, strict=True)]
        for name, numbers in zip(("interpolated validation", "test"), sets, strict=True):
            if not sum(len(some) for group, some in numbers if group.regime == TESTS[0]):
                raise UserError(f"{config.folders[TESTS[0]]}: there are too few distinct questions for a {name} set")
        make = (problems, config.end_token, config.at_once, world)
        self.validation = ProblemExam(make[0], sets[0], *make[1:])
        self.testing = ProblemExam(make[0], sets[1], *make[1:], by_module=True)

    def validate(self, model: LanguageModel) -> Slices:
        first, *others = self.validation(model, {"split": "validation"})
        return [first, *((where | {"slice": "regime"}, metrics) for where, metrics in others)]

    def test(self, model: LanguageModel) -> Slices:
        return self.testing(model, {"split": "test"})
