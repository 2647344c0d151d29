import torch

from core.batch import IGNORE, Batch, concatenate

BATCH = Batch(
    torch.tensor([[5, 1, 6, 1, 5], [2, 2, 6, 2, 7]]),
    torch.tensor([[IGNORE, IGNORE, 1, 5, IGNORE], [IGNORE, IGNORE, 2, IGNORE, IGNORE]]),
)


def test_supervised_lists_each_scored_position_with_its_label():
    supervised = BATCH.supervised()
    assert torch.equal(supervised.input_ids, BATCH.input_ids[:, :4])  # at the last one nothing is ever to be predicted
    assert supervised.positions.tolist() == [2, 3, 6]
    assert supervised.labels.tolist() == [1, 5, 2]
    assert supervised.first == 2


def test_a_last_column_with_a_target_stays():
    batch = Batch(BATCH.input_ids[:, :4], BATCH.targets[:, :4])
    assert torch.equal(batch.supervised().input_ids, batch.input_ids)


def test_a_batch_without_targets_supervises_nothing():
    supervised = Batch(BATCH.input_ids, torch.full_like(BATCH.targets, IGNORE)).supervised()
    assert supervised.positions.tolist() == supervised.labels.tolist() == []


def test_rows_takes_a_slice_or_indices_in_any_order():
    for rows, expected in [(slice(1, 2), [1]), (torch.tensor([1, 0, 1]), [1, 0, 1])]:
        part = BATCH.rows(rows)
        assert torch.equal(part.input_ids, BATCH.input_ids[expected])
        assert torch.equal(part.targets, BATCH.targets[expected])


def test_concatenate_keeps_the_order_of_batches():
    whole = concatenate([BATCH.rows(slice(1, 2)), BATCH])
    assert whole.input_ids.tolist() == [BATCH.input_ids[i].tolist() for i in (1, 0, 1)]
    assert whole.targets.tolist() == [BATCH.targets[i].tolist() for i in (1, 0, 1)]
