"""Training on more edges than tables begin with: half precision, averages, fused steps, resumed."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, StochasticWeightAveraging
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from torch_geometric.data import Data

from stofm_geo.data import SubSliceDataset, split_slices
from stofm_geo.data.subslices import collate_subslices
from stofm_geo.datasets import toy_tissue
from stofm_geo.genes import PCAFeatures
from stofm_geo.networks import NicheNetwork, SToFMConfig
from stofm_geo.training.objectives import PretrainingObjective
from stofm_geo.training.pretrain import Pretraining
from tests.helpers import SMALL

SETTINGS = SToFMConfig(**SMALL, num_gaussians=8, dropout=0.0)


@pytest.fixture(scope="module")
def batches() -> list[Data]:
    part = split_slices(toy_tissue(900, 40, seed=0))[0]
    (subslice,) = SubSliceDataset(
        part, PCAFeatures(6).fit([part.adata]), **SETTINGS.subslice_options
    )
    torch.manual_seed(0)
    made = [
        collate_subslices([PretrainingObjective.from_config(SETTINGS).masking(subslice.clone())])
        for _ in range(4)
    ]
    assert all(batch.num_edges > 10_000 for batch in made)
    return made


class Module(Pretraining):
    def __init__(self, exact: bool = False, **optimizer: object) -> None:
        torch.manual_seed(1)
        network = NicheNetwork(6, SETTINGS)
        if exact:
            for block in network.transformer.blocks:
                block.attention.backend = "reference"
                if block.attention.geometry is not None:
                    block.attention.geometry.tolerance = None
        super().__init__(network, SETTINGS)
        self.options = optimizer
        self.seen: list[Tensor] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2, eps=1e-3, **self.options)

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.seen.append(self.network(batch)[1].float())


def fit(module: Module, batches: list[Data], epochs: int = 2, ckpt=None, **options) -> L.Trainer:
    loader = DataLoader(batches[:2], batch_size=None, shuffle=False)
    held_out = DataLoader(batches[2:3], batch_size=None)
    options = {"logger": False, "enable_checkpointing": False, **options}
    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_epochs=epochs, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip
    trainer.fit(module, loader, held_out, ckpt_path=ckpt, weights_only=False)
    return trainer


def weights(module: Module) -> Tensor:
    return torch.cat([value.detach().view(-1) for value in module.network.parameters()])


def test_fused_steps_with_validation_between_epochs(batches: list[Data]) -> None:
    exact, fused = Module(exact=True), Module(fused=True)
    for module in (exact, fused):
        fit(module, batches)
    torch.testing.assert_close(weights(fused), weights(exact), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fused.seen, exact.seen, atol=1e-4, rtol=1e-4)
    assert (fused.seen[1] - fused.seen[0]).abs().max() > 1e-2


def test_half_precision(batches: list[Data]) -> None:
    exact, half = Module(exact=True), Module()
    start = weights(exact).clone()
    fit(exact, batches)
    fit(half, batches, precision="bf16-mixed")
    moved, wanted = weights(half) - start, weights(exact) - start
    assert weights(half).dtype == torch.float32
    assert (moved - wanted).norm() < 0.1 * wanted.norm()


class EMA(Callback):
    def on_fit_start(self, trainer: L.Trainer, pl_module: Module) -> None:
        self.averaged = AveragedModel(pl_module.network, multi_avg_fn=get_ema_multi_avg_fn(0.7))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.averaged.update_parameters(pl_module.network)
        with torch.no_grad():
            self.averaged(batch)  # looked at after each step


def test_moving_averages(batches: list[Data]) -> None:
    module, ema = Module(fused=True), EMA()
    fit(module, batches, callbacks=[ema])
    exact = Module(exact=True)
    exact.network.load_state_dict(ema.averaged.module.state_dict())
    with torch.no_grad():
        found, expected = ema.averaged(batches[3]), exact.network(batches[3])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.*[Ss]wapping scheduler")
def test_stochastic_weight_averaging(batches: list[Data]) -> None:
    made = [Module(), Module(exact=True)]
    for module in made:
        average = StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1)
        fit(module, batches, epochs=3, callbacks=[average])
    torch.testing.assert_close(weights(made[0]), weights(made[1]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("fused", [False, True])
def test_resumed_it_ends_with_the_same_bytes(batches: list[Data], tmp_path, fused: bool) -> None:
    whole, first, second = (Module(fused=fused) for _ in range(3))
    fit(whole, batches, epochs=2)
    keep = ModelCheckpoint(tmp_path, filename="first")
    fit(first, batches, epochs=1, callbacks=[keep], enable_checkpointing=True)
    fit(second, batches, epochs=2, ckpt=tmp_path / "first.ckpt")
    assert torch.equal(weights(second), weights(whole))
    assert not torch.equal(weights(first), weights(whole))
