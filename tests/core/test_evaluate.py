import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from core import hf, optim
from core.batch import IGNORE
from core.distributed import World
from core.evaluate import Evaluation, by_group, oracle_metrics, score_each
from core.model import GPT, GPTConfig, loss_sum
from core.source import TaskSource
from procedural_data.dyck import Dyck
from procedural_data.reverse import Reverse

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def half_taught():
    """A model that reverses some lists of four and not others."""
    task = Reverse(seq_length=4, vocab_size=8)
    model = GPT(GPTConfig(task.num_tokens, task.block_size, 2, 2, 32))
    optimizer, source = optim.adamw(model, lr=5e-3, weight_decay=0.0), TaskSource(task, seed=0)
    for step in range(25):
        batch = source.batch("train", step * 32, step * 32 + 32).supervised()
        (loss_sum(model, batch) / len(batch.labels)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return task, model.eval()


def test_teacher_forced_exact_match_equals_greedy_decoding_of_the_answer(half_taught, tmp_path):
    task, model = half_taught
    hf.save(model, tmp_path, pad_token=task.pad_token)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = TaskSource(task, seed=0).batch("validation", 0, 200).input_ids
    prompts = ids[:, :5]
    out = theirs.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=4, do_sample=False)
    decoded = (out == ids).all(dim=1).double().mean().item()
    assert 0.05 < decoded < 0.95, "the test has no power at the ends"
    assert by_group(task, 0, "validation", 200, 64, World())[""](model)["exact_match"] == decoded


def test_metrics_are_what_the_definitions_say_whatever_the_batch_size(half_taught):
    task, model = half_taught
    batch = TaskSource(task, seed=0).batch("test", 0, 50)
    log_prob = model(batch.input_ids).detach().log_softmax(-1)
    losses, hits, exact = [], [], 0
    for row in range(50):
        right = []
        for place, target in enumerate(batch.targets[row].tolist()):
            if target != IGNORE:
                losses.append(-log_prob[row, place, target].item())
                right.append(log_prob[row, place].argmax().item() == target)
        hits += right
        exact += all(right)
    for batch_size in (1, 7, 50, 64):
        metrics = by_group(task, 0, "test", 50, batch_size, World())[""](model)
        assert metrics["loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)
        assert metrics["accuracy"] == pytest.approx(sum(hits) / len(hits))
        assert metrics["exact_match"] == pytest.approx(exact / 50)


def test_ranks_divide_the_examples_among_themselves(half_taught):
    task, _ = half_taught
    shares = [by_group(task, 0, "test", 50, 8, World(rank=rank, size=2))[""] for rank in (0, 1)]
    rows = [row for share in shares for batch in share.batches for row in batch.input_ids.tolist()]
    whole = TaskSource(task, seed=0).batch("test", 0, 50).supervised()
    assert sorted(rows) == sorted(whole.input_ids.tolist())


def test_a_model_in_training_stays_in_training(half_taught):
    task, model = half_taught
    model.train()
    by_group(task, 0, "test", 4, 4, World())[""](model)
    assert model.training
    model.eval()


def test_the_stated_error_of_the_oracle_is_the_spread_between_samples():
    task = Dyck(k=4, seq_length=16)
    source = TaskSource(task, seed=0)
    samples = [oracle_metrics(task, source.batch("train", n * 100, n * 100 + 100)) for n in range(60)]
    losses = torch.tensor([sample["oracle_loss"] for sample in samples])
    stated = sum(sample["oracle_error"] for sample in samples) / len(samples)
    assert losses.std().item() == pytest.approx(stated, rel=0.3)
    assert oracle_metrics(Reverse(), TaskSource(Reverse(), 0).batch("train", 0, 2)) == {}


def test_scores_of_each_example_add_up_to_those_of_all(half_taught):
    task, model = half_taught
    batch = TaskSource(task, 0).batch("test", 0, 20)
    each = score_each(model, batch.supervised())
    whole = Evaluation.of_batch(batch, 7, World())(model)
    loss, tokens, right, exact, examples = each.sum(dim=0).tolist()
    assert (loss / tokens, right / tokens, exact / examples) == pytest.approx(
        tuple(whole[name] for name in ("loss", "accuracy", "exact_match"))
    )
    for row in (0, 13):
        alone = score_each(model, batch.rows(slice(row, row + 1)).supervised())
        torch.testing.assert_close(alone[0], each[row])


MEMORY = """
import resource, torch
from core.batch import Batch
from core.distributed import keep_freed_memory
from core.evaluate import score_tokens
from core.model import GPT, GPTConfig

keep_freed_memory()
model = GPT(GPTConfig(2**16, 256, 1, 1, 8))
zeros = torch.zeros(32, 256, dtype=torch.int64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with torch.no_grad():
    score_tokens(model, Batch(zeros, zeros).supervised())
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 2**10)
"""


@pytest.mark.slow
def test_each_part_of_the_logits_takes_the_place_of_the_one_before():
    """A part has 64 MiB here, and there are 32 of them."""
    done = subprocess.run([sys.executable, "-c", MEMORY], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 500
