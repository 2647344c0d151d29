"""Nothing that a model computes with stays behind on the CPU. The device `meta`, without data, stands for a GPU."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from core import loss
from core.batch import IGNORE, Batch, SupervisedBatch
from core.evaluate import score_each, score_tokens
from core.loss import LARGE_VOCABULARY
from core.model import GPT, GPTConfig, LanguageModel, evaluating, loss_sum
from core.packing import packed
from core.stacked import StackedGPT, side_by_side
from core.windows import inside_documents
from synthetic_tasks.models.olmo3_config import Act, Olmo3Shape, Recurrence
from synthetic_tasks.models.recurrent_olmo3 import RecurrentOLMo3

PAD = 0


def gpt(**changes) -> GPT:
    shape = {"num_tokens": 13, "n_positions": 24, "n_layer": 2, "n_head": 2, "n_embd": 16}
    return GPT(GPTConfig(**{**shape, **changes}))


def olmo(**changes) -> RecurrentOLMo3:
    sizes = {"vocab_size": 13, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4}
    window = {"num_key_value_heads": 2, "max_position_embeddings": 64, "sliding_window": 5}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return RecurrentOLMo3(Olmo3Shape(**sizes, **window, **ends), Recurrence(**changes))


MODELS: dict[str, Callable[[], LanguageModel]] = {
    "learned positions": gpt,
    "dropout": lambda: gpt(dropout=0.1),
    "rope": lambda: gpt(positions="rope"),
    "digits": lambda: gpt(tokens_per_number=2),
    "large vocabulary": lambda: gpt(num_tokens=LARGE_VOCABULARY + 1),
    "one loop": olmo,
    "loops": lambda: olmo(num_loops=3, random_init_loop_state=True, inject_input_each_step=True, tbptt_steps=1),
    "cross-attention": lambda: olmo(num_loops=3, loop_attention_mode="cross", train_recursion_mode="poisson"),
    "halting": lambda: olmo(num_loops=3, act=Act(enabled=True)),
    "halting by token": lambda: olmo(num_loops=3, act=Act(enabled=True, halting="token")),
}
STACKS = ("learned positions", "rope", "digits", "large vocabulary")


def rows() -> Batch:
    ids = torch.arange(72).view(6, 12) % 12 + 1
    ids[3:, 7:] = PAD
    is_scored = (ids != PAD) & (torch.arange(12) >= 4)
    return Batch(ids, torch.where(is_scored, ids, IGNORE))


BATCHES: dict[str, Callable[[], SupervisedBatch]] = {
    "rows": lambda: rows().supervised(PAD),
    "rows side by side": lambda: packed(rows(), 24, PAD),
    "rows under a mask": lambda: packed(rows(), 13, PAD),
    "documents": lambda: inside_documents(rows(), [np.array([4])] * 6),
}


@pytest.fixture(autouse=True)
def _meta_is_like_a_gpu(monkeypatch):
    for by_device in (loss.ROWS_AT_A_TIME, loss.COMPILED, loss.ALIGNED):
        monkeypatch.setitem(by_device, "meta", by_device["cuda"])
    known = torch.is_autocast_enabled
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device != "meta" and known(device))


def compute(model: LanguageModel, batch: SupervisedBatch) -> None:
    model, batch = model.to("meta"), batch.mapped(lambda x: x.to("meta"))
    loss_sum(model, batch).sum().backward()
    with evaluating(model), torch.no_grad():
        assert loss_sum(model, batch).is_meta
        assert all(scores.is_meta for scores in score_tokens(model, batch))
        if model.number == 1:
            score_each(model, batch)


def test_a_tensor_that_stays_behind_is_noticed():
    model = gpt(positions="rope").to("meta")
    model.cos = torch.zeros(24, 4)
    with pytest.raises(RuntimeError, match="device"):
        loss_sum(model, BATCHES["rows"]().mapped(lambda x: x.to("meta")))


@pytest.mark.parametrize(
    ("model", "batch"),
    [*((model, "rows") for model in MODELS), *((m, b) for m in ("rope", "loops") for b in BATCHES if b != "rows")],
)
def test_a_model_computes_where_it_is(model, batch):
    compute(MODELS[model](), BATCHES[batch]())


@pytest.mark.parametrize("model", STACKS)
def test_models_side_by_side_compute_where_they_are(model):
    compute(StackedGPT([MODELS[model]() for _ in range(2)]), side_by_side([BATCHES["rows"]()] * 2))
