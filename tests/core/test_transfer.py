"""Of a trained model, exactly what was asked for arrives, bit for bit; everything else stays as it was."""

import copy

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel
from transformers import GPT2Config, GPT2LMHeadModel

from core import checkpoint, hf, optim
from core.batch import Batch
from core.errors import UserError
from core.model import GPT, GPTConfig, loss_sum
from core.transfer import Part, Transfer, apply, read

SHAPE = {"num_tokens": 12, "n_positions": 16, "n_layer": 2, "n_head": 4, "n_embd": 16}
ATTENTION = {"attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight", "attn.proj.bias"}
MLP = {"mlp.up.weight", "mlp.up.bias", "mlp.down.weight", "mlp.down.bias"}
NORMS = {f"{norm}.{kind}" for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")}
INSIDE = {  # component -> what it names in each block, and beside the blocks
    "attn": (ATTENTION, set()),
    "heads": ({"attn.qkv.weight", "attn.qkv.bias"}, set()),
    "attn+ln": (ATTENTION | {"ln_1.weight", "ln_1.bias"}, set()),
    "ffn": (MLP, set()),
    "ln": (NORMS, {"ln_f.weight", "ln_f.bias"}),
    "embed": (set(), {"wte.weight", "wpe.weight", "head.weight"}),
    "everything": (
        ATTENTION | MLP | NORMS,
        {"ln_f.weight", "ln_f.bias", "wte.weight", "wpe.weight", "head.weight"},
    ),
}


def model(seed: int = 0, **changes) -> GPT:
    return GPT(GPTConfig(**{**SHAPE, **changes}), seed=seed)


def trained(**changes) -> GPT:
    """A model away from its initial weights, where biases and gains would hide mistakes."""
    source = model(7, **changes)
    with torch.no_grad():
        for number, parameter in enumerate(source.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    return source


def saved(source: GPT, folder) -> Part:
    folder.mkdir(exist_ok=True)
    hf.save(source, folder)
    return take(folder, "everything")


def take(folder, *components: str) -> Part:
    return Part(read(str(folder), "path"), components, "path")


def weights(of: GPT) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in of.named_parameters()}


def named(components) -> set[str]:
    found = set()
    for component in components:
        in_block, beside = INSIDE[component]
        found |= beside | {f"blocks.{layer}.{name}" for layer in range(2) for name in in_block}
    return found


@pytest.mark.parametrize("positions", ["learned", "rope"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "components", [*([name] for name in INSIDE), ["attn", "ffn"], ["attn", "embed"], ["heads", "ln"]]
)
def test_what_is_named_equals_the_source_and_nothing_else_changes(tmp_path, components, tied, positions):
    source = trained(tied=tied, positions=positions)
    saved(source, tmp_path)
    new = model(1, tied=tied, positions=positions)
    before, theirs = weights(new), weights(source)
    report = apply(new, Transfer([take(tmp_path, *components)], embedding="retain"))
    inside = named(components)
    for name, parameter in new.named_parameters():
        assert torch.equal(parameter, theirs[name] if name in inside else before[name]), name
        assert (report.fates[name].became == "copied") == (name in inside)
        assert parameter.requires_grad
    assert sum(int(row["parameters"].replace(",", "")) for row in report.rows()) == new.num_parameters()


def test_the_mean_row_stands_in_every_row_and_no_gradient_reaches_the_body(tmp_path):
    source = trained(tied=False)
    saved(source, tmp_path)
    for how, moves in (("average", False), ("average_noise", True)):
        new = model(1, num_tokens=20, tied=False)
        apply(new, Transfer([take(tmp_path, "everything")], embedding=how))
        for matrix, theirs in ((new.wte.weight, source.wte.weight), (new.head.weight, source.head.weight)):
            is_mean = torch.equal(matrix, theirs.mean(dim=0).expand(20, 16))
            assert is_mean != moves
        ids = torch.arange(10).view(1, 10)
        loss_sum(new, Batch(ids, ids.roll(-1, dims=1)).supervised()).backward()
        assert new.head.weight.grad.norm() > 0.1
        assert (new.blocks[0].mlp.up.weight.grad.norm() > 1e-3) == moves


def test_noise_has_the_spread_of_the_sources_rows_in_each_channel(tmp_path):
    source = trained()
    with torch.no_grad():
        source.wte.weight.mul_(torch.arange(1, 17))
    saved(source, tmp_path)
    new = model(1, num_tokens=40_000)
    apply(new, Transfer([take(tmp_path, "embed")], embedding="average_noise", seed=3))
    spread = source.wte.weight.detach().std(dim=0, correction=0)
    torch.testing.assert_close(new.wte.weight.detach().std(dim=0), spread, rtol=0.03, atol=0)
    offset = (new.wte.weight - source.wte.weight.mean(dim=0)).mean(dim=0) / spread
    assert offset.abs().max() < 5 / 40_000**0.5
    again, other = model(1, num_tokens=40_000), model(1, num_tokens=40_000)
    apply(again, Transfer([take(tmp_path, "embed")], embedding="average_noise", seed=3))
    apply(other, Transfer([take(tmp_path, "embed")], embedding="average_noise", seed=4))
    assert torch.equal(again.wte.weight, new.wte.weight)
    assert not torch.equal(other.wte.weight, new.wte.weight)


def test_partial_matching_keeps_the_rows_there_are(tmp_path):
    source = trained()
    saved(source, tmp_path)
    new = model(1, num_tokens=20, tied=False)
    apply(new, Transfer([take(tmp_path, "embed")], embedding="partial_matching"))
    for matrix in (new.wte.weight, new.head.weight):  # a tied source's projection is its embedding
        assert torch.equal(matrix[:12], source.wte.weight)
        assert torch.equal(matrix[12:], source.wte.weight.mean(dim=0).expand(8, 16))


@pytest.mark.parametrize("how", ["average", "partial_matching", "retain"])
def test_a_tied_target_has_the_embedding_for_its_projection(tmp_path, how):
    source = trained(tied=False)
    saved(source, tmp_path)
    new = model(1, tied=True)
    report = apply(new, Transfer([take(tmp_path, "everything")], embedding=how))
    expected = source.wte.weight.mean(dim=0).expand(12, 16) if how == "average" else source.wte.weight
    assert torch.equal(new.wte.weight, expected)
    assert new.head.weight is new.wte.weight
    assert "head.weight" not in report.fates


@pytest.mark.parametrize("positions", [10, 30])
def test_positions_that_both_have_are_copied(tmp_path, positions):
    source = trained()
    saved(source, tmp_path)
    new = model(1, n_positions=positions)
    before, shared = weights(new), min(positions, 16)
    apply(new, Transfer([take(tmp_path, "embed")]))
    assert torch.equal(new.wpe.weight[:shared], source.wpe.weight[:shared])
    assert torch.equal(new.wpe.weight[shared:], before["wpe.weight"][shared:])


def test_attention_of_one_and_mlp_of_another(tmp_path):
    one, other = trained(), model(5, num_tokens=30, n_positions=9)
    saved(one, tmp_path / "one"), saved(other, tmp_path / "other")
    new = model(1)
    before = weights(new)
    apply(new, Transfer([take(tmp_path / "one", "attn"), take(tmp_path / "other", "ffn")]))
    for name, parameter in new.named_parameters():
        source = one if ".attn." in name else other if ".mlp." in name else None
        assert torch.equal(parameter, weights(source)[name] if source else before[name]), name


def test_frozen_parameters_do_not_move(tmp_path):
    saved(trained(), tmp_path)
    new = model(1)
    report = apply(new, Transfer([take(tmp_path, "attn")], trained=["ffn", "ln"]))
    before = weights(new)
    optimizer = optim.adamw(new, lr=0.1, weight_decay=0.1)
    ids = torch.arange(10).view(1, 10)
    loss_sum(new, Batch(ids, ids.roll(-1, dims=1)).supervised()).backward()
    optimizer.step()
    for name, parameter in new.named_parameters():
        moves = name in named(["ffn", "ln"])
        assert torch.equal(parameter, before[name]) != moves, name
        assert report.fates[name].trained == moves


def test_controls_keep_the_values_of_each_tensor_or_only_the_shape(tmp_path):
    source = trained()
    saved(source, tmp_path)
    shuffled, fresh = model(1), model(1)
    report = apply(shuffled, Transfer([take(tmp_path, "everything")], embedding="retain", control="shuffle_weights"))
    assert {row["became"] for row in report.rows()} == {"shuffled"}
    report = apply(fresh, Transfer([take(tmp_path, "everything")], embedding="retain", control="reinit"))
    assert {row["became"] for row in report.rows()} == {"re-drawn"}
    for name, parameter in source.named_parameters():
        mine = shuffled.get_parameter(name)
        assert torch.equal(mine.flatten().sort().values, parameter.flatten().sort().values), name
        assert not torch.equal(mine, parameter), name
        if parameter.dim() == 2:
            assert fresh.get_parameter(name).std() < 0.05
    assert not torch.equal(fresh.wte.weight, model(1).wte.weight)


# Whatever form the source has


def earlier(path, state):
    """As the earlier trainer left its models: with optimiser and counters beside them."""
    torch.save({"model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "epoch": 1}, path)
    return path


def compiled(source: GPT, path):
    torch.save({"state_dict": torch.compile(source).state_dict()}, path)
    return path


def parallel(source: GPT, path):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    torch.save(torch.compile(DistributedDataParallel(source)).state_dict(), path)
    dist.destroy_process_group()
    return path


def prefixed_folder(source: GPT, path):
    path.mkdir()
    hf.save(source, path)
    save_file({f"_orig_mod.module.{n}": x for n, x in hf.weights_to_hf(source).items()}, path / "model.safetensors")
    return path


def sharded(source: GPT, path):
    (path / "whole").mkdir(parents=True)
    hf.save(source, path / "whole")
    GPT2LMHeadModel.from_pretrained(path / "whole").save_pretrained(path, max_shard_size="10KB")
    assert not (path / "model.safetensors").exists()
    return path


def old_folder(source: GPT, path):
    path.mkdir()
    hf.save(source, path)
    (path / "model.safetensors").unlink()
    torch.save(hf.weights_to_hf(source), path / "pytorch_model.bin")
    return path


def single_file(source: GPT, path):
    save_file(hf.weights_to_hf(source), path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("leave", [compiled, parallel, prefixed_folder, sharded, old_folder, single_file])
def test_everything_computes_the_logits_of_the_source(tmp_path, leave, tied):
    source = trained(tied=tied).eval()
    path = leave(copy.deepcopy(source), tmp_path / "source")
    new = model(1, tied=tied)
    apply(new, Transfer([take(path, "everything")], embedding="retain"))
    ids = torch.randint(0, 12, (3, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(new.eval()(ids), source(ids))


def test_an_earlier_checkpoint_computes_the_logits_of_its_model(tmp_path):
    theirs = GPT2LMHeadModel(GPT2Config(vocab_size=12, n_positions=16, n_embd=16, n_layer=2, n_head=4)).eval()
    new = model(1)
    report = apply(
        new,
        Transfer([take(earlier(tmp_path / "set_model.pth", theirs.state_dict()), "everything")], embedding="retain"),
    )
    assert report.notes == [f"{tmp_path}/set_model.pth does not say how many heads it has; taken as 4"]
    ids = torch.randint(0, 12, (3, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(new.eval()(ids), theirs(ids).logits, atol=1e-5, rtol=0)


# What cannot be done


def refused(transfer: Transfer, into: GPT | None = None) -> str:
    """The one line that says why; the model stays as it was."""
    new = into or model(1)
    before = weights(new)
    with pytest.raises(UserError) as error:
        apply(new, transfer)
    assert all(torch.equal(p, before[name]) for name, p in new.named_parameters())
    (line,) = error.value.problems
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_layer": 4}, "n_layer is 4 there and 2 here"),
        ({"n_layer": 1}, "n_layer is 1 there and 2 here"),
        ({"n_head": 2}, "n_head is 2 there and 4 here"),
        ({"n_embd": 32}, "n_embd is 32 there and 16 here"),
        ({"positions": "rope"}, "positions is rope there and learned here"),
        ({"tokens_per_number": 2}, "tokens_per_number is 2 there and 1 here"),
    ],
)
def test_another_shape_is_refused(tmp_path, changes, words):
    part = saved(trained(**changes), tmp_path)
    assert words in refused(Transfer([part]))


def test_a_vocabulary_that_does_not_fit_is_refused(tmp_path):
    part = saved(trained(), tmp_path)
    assert "12 tokens and the model 13; retain needs as many" in refused(
        Transfer([part], embedding="retain"), model(num_tokens=13)
    )
    assert "12 tokens and the model 11; partial_matching needs at least" in refused(
        Transfer([part], embedding="partial_matching"), model(num_tokens=11)
    )


def test_nothing_copied_nothing_trained_and_twice_the_same_are_refused(tmp_path):
    part = saved(trained(), tmp_path)
    assert "nothing was copied" in refused(Transfer([take(tmp_path)]))
    assert "nothing was copied" in refused(Transfer([take(tmp_path, "attn"), take(tmp_path)]))
    assert "would be taken from" in refused(Transfer([take(tmp_path, "attn"), take(tmp_path, "heads")]))
    assert "nothing is left to be trained" in refused(Transfer([part], trained=[]))


def spoil(path, content: bytes):
    path.write_bytes(content)
    return path


def with_nan(path):
    source = trained()
    with torch.no_grad():
        source.ln_f.bias[3] = torch.nan
    path.mkdir()
    hf.save(source, path)
    return path


def damaged_checkpoint(path):
    source = trained()
    folder = checkpoint.save(path, 5, source, {}, {}, None)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1  # still readable, but not what was written
    (folder / "model.safetensors").write_bytes(content)
    return folder


def empty_folder(path):
    path.mkdir()
    return path


def run_folder(path):
    return damaged_checkpoint(path).parent


def other_names(path):
    torch.save({"model": {"layers.0.q_proj.weight": torch.zeros(3, 3)}}, path)
    return path


def of_odd_width(path):
    torch.save({"wte.weight": torch.zeros(5, 3), "blocks.0.ln_1.weight": torch.ones(3)}, path)
    return path


def of_no_tokens(path):
    torch.save({"wte.weight": torch.zeros(0, 4), "h.0.ln_1.weight": torch.ones(4)}, path)
    return path


def with_code(path):
    torch.save({"model": GPT2Config()}, path)
    return path


def incomplete(path):
    state = {n: x for n, x in hf.weights_to_hf(trained()).items() if "h.1.mlp" not in n}
    torch.save(state, path)
    return path


def truncated(path):
    torch.save(hf.weights_to_hf(trained()), path)
    return spoil(path, path.read_bytes()[:500])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path, "does not exist"),
        (lambda path: spoil(path, b""), "holds no readable model"),
        (lambda path: spoil(path, b"weights"), "holds no readable model"),
        (lambda path: spoil(path.with_suffix(".safetensors"), b"weights"), "holds no readable model"),
        (truncated, "holds no readable model"),
        (with_code, "it holds more than tensors and plain values"),
        (other_names, "layers.0.q_proj.weight"),
        (of_odd_width, "RoPE turns pairs of channels, but 3 per head is odd"),
        (of_no_tokens, "num_tokens is 0"),
        (lambda path: earlier(path, {}), "holds no named tensors"),
        (incomplete, "blocks.1.mlp.up.weight is missing"),
        (with_nan, "ln_f.bias holds values that are not finite"),
        (damaged_checkpoint, "model.safetensors does not match its hash"),
        (empty_folder, "holds no config.json"),
        (run_folder, "take one of its checkpoints, such as"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused_by_name(tmp_path, make, words):
    path = make(tmp_path / "source")
    with pytest.raises(UserError) as error:
        read(str(path), "path")
    (line,) = error.value.problems
    assert words in line
    assert line.startswith(f"path: {path}")
    assert "\n" not in line
