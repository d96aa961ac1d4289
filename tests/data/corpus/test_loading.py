"""What an epoch shows: each sub-slice once, whoever loads it and however often it was stopped."""

from __future__ import annotations

import copy

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from stofm_geo.data.corpus import (
    CorpusDataset,
    CorpusLoader,
    NodeBudgetBatchSampler,
)
from stofm_geo.training.corpus_data import CorpusDataModule
from stofm_geo.transforms import PerturbPositions


@pytest.mark.parametrize("count, world", [(57, 1), (57, 2), (57, 4), (9, 8), (8, 8), (1, 1)])
@pytest.mark.parametrize("budget", [300, 1000])
def test_each_piece_once_an_epoch(count: int, world: int, budget: int) -> None:
    nodes = np.random.default_rng(0).integers(50, 130, count)
    if budget == 300 and (count, world) == (9, 8):
        with pytest.raises(ValueError, match=r"9 sub-slices, 9 batches .* cannot be shared by 8"):
            NodeBudgetBatchSampler(nodes, 130, num_replicas=world)
    lengths = set()
    orders = []
    for epoch in range(5):
        batches = []
        for rank in range(world):
            sampler = NodeBudgetBatchSampler(nodes, budget, seed=3, rank=rank, num_replicas=world)
            sampler.set_epoch(epoch)
            mine = list(sampler)
            assert len(mine) == len(sampler)
            lengths.add(len(mine))
            batches += mine
        assert all(batch and nodes[batch].sum() <= budget for batch in batches)
        orders.append([i for batch in batches for i in batch])
        assert sorted(orders[-1]) == list(range(count))
    assert len(lengths) == 1
    assert count == 1 or orders[0] != orders[1]


def test_settings_of_batches_are_checked() -> None:
    with pytest.raises(ValueError, match="3 sub-slices are too few for 4 processes"):
        NodeBudgetBatchSampler([5, 5, 5], 10, num_replicas=4)
    with pytest.raises(ValueError, match="node_budget=4 is too small: a sub-slice has 5 nodes"):
        NodeBudgetBatchSampler([5, 5, 5], 4)
    with pytest.raises(ValueError, match="rank must be from 0 to 1; found 2"):
        NodeBudgetBatchSampler([5, 5, 5], 10, rank=2, num_replicas=2)
    sampler = NodeBudgetBatchSampler([5, 5, 5], 10)
    with pytest.raises(ValueError, match="node_budget was 10 and is now 12"):
        NodeBudgetBatchSampler([5, 5, 5], 12).load_state_dict(sampler.state_dict())


MOVE = PerturbPositions(0.3, 1.0)  # a transform that draws, and a spawned worker can import


def seen(batches) -> list:
    return [(batch.n_id.tolist(), batch.pos.sum().item()) for batch in batches]


def loader(corpus, workers: int = 0, **options) -> CorpusLoader:
    dataset = CorpusDataset(corpus, transform=MOVE, seed=5)
    return CorpusLoader(
        dataset, NodeBudgetBatchSampler(dataset.num_nodes, 400, seed=5), workers, **options
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_load_the_same(corpus, method: str) -> None:
    alone = loader(corpus)
    expected = seen(alone)
    assert len(expected) == len(alone) > 3
    alone.batch_sampler.position = 0
    assert seen(alone) == expected  # the same epoch once more
    alone.dataset[0]  # opened in the parent, too
    assert seen(loader(corpus, 1, multiprocessing_context=method)) == expected
    other = seen(alone)  # the next one
    next_one = loader(corpus)
    next_one.batch_sampler.set_epoch(1)
    assert other == seen(next_one) != expected
    assert len(other) == len(expected)


def test_it_goes_on_with_the_very_next_batch(corpus) -> None:
    for workers in (0, 2):
        first = loader(corpus, workers)
        first.batch_sampler.set_epoch(2)
        expected = seen(first)
        first.batch_sampler.position = 0
        batches = iter(first)
        before = seen([next(batches), next(batches)])
        state = copy.deepcopy(first.state_dict())  # workers have prefetched more
        again = loader(corpus, workers)
        again.load_state_dict(state)
        again.batch_sampler.set_epoch(2)
        assert before + seen(again) == expected
        assert len(again) == len(expected)


def test_the_generator_of_others_is_left_alone(corpus) -> None:
    dataset = CorpusDataset(corpus, transform=MOVE)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = dataset[4]
    assert torch.equal(torch.rand(3), expected)
    part = CorpusDataset(corpus, [dataset.slices[1]], transform=MOVE)
    place = [len(CorpusDataset(corpus, [dataset.slices[0]])), 0]
    assert torch.equal(dataset[place[0]].pos, part[place[1]].pos)
    assert torch.equal(dataset[4 - len(dataset)].pos, first.pos)
    with pytest.raises(IndexError, match="sub-slices; found 1000"):
        dataset[1000]
    with pytest.raises(KeyError, match="has no slice nothing; it has"):
        CorpusDataset(corpus, ["nothing"])


def test_slices_that_leave_the_cache_are_opened_again(corpus, monkeypatch) -> None:
    dataset = CorpusDataset(corpus)
    expected = [subslice.x for subslice in dataset]
    monkeypatch.setattr("stofm_geo.data.corpus.dataset._CACHE", 0)
    again = CorpusDataset(corpus)
    order = np.random.default_rng(0).permutation(len(again))
    for i in order:
        assert torch.equal(again[int(i)].x, expected[i])
        assert len(again._open) == 1


class Watch(L.LightningModule):
    """Notes what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.train_seen: list = []
        self.val_seen: list = []

    def training_step(self, batch, _):
        self.train_seen += seen([batch])
        return (self.weight * batch.pos.mean()).sum()

    def validation_step(self, batch, _):
        self.val_seen += seen([batch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def trained(module, data, steps: int, folder, start=None) -> None:
    keep = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[keep],
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    trainer.fit(module, data, ckpt_path=start)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_trainer_goes_on_inside_an_epoch(corpus, tmp_path) -> None:
    def data() -> CorpusDataModule:
        return CorpusDataModule(corpus, node_budget=300, held_out=0.2, seed=1, transform=MOVE)

    assert len(data().held_out) == 1
    epoch = len(data().train_dataloader())
    whole, steps = Watch(), 2 * epoch + 2
    trained(whole, data(), steps, tmp_path)
    held = len(data().val)
    assert len(whole.train_seen) == steps
    rounds = len(data().val_dataloader())
    assert held and whole.val_seen[:rounds] == whole.val_seen[rounds : 2 * rounds]
    for step in (2, epoch - 1, epoch, epoch + 1):
        again = Watch()
        trained(again, data(), steps, tmp_path / "again", tmp_path / f"step={step}.ckpt")
        assert again.train_seen == whole.train_seen[step:], step


def test_what_is_held_out(corpus) -> None:
    names = CorpusDataset(corpus).slices
    data = CorpusDataModule(corpus, node_budget=300, held_out=names[:2])
    assert data.val.slices == names[:2] and data.train.slices == names[2:]
    assert isinstance(data.val_dataloader(), DataLoader)
    assert CorpusDataModule(corpus, node_budget=300, held_out=0).val_dataloader() == []
    with pytest.raises(ValueError, match="all 5 slices are held out"):
        CorpusDataModule(corpus, node_budget=300, held_out=names)
    with pytest.raises(KeyError, match="has no slice strange"):
        CorpusDataModule(corpus, node_budget=300, held_out=["strange"])
