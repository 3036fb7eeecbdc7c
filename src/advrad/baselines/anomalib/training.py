"""Training a model of anomalib by its engine, from images in memory, without a trace on disk or in global state."""

from __future__ import annotations

import logging
import math
import random
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch
import tqdm  # type: ignore[import-untyped]
from anomalib.callbacks.checkpoint import ModelCheckpoint
from anomalib.data import ImageBatch, ImageItem
from anomalib.engine import Engine
from anomalib.models.components.base import AnomalibModule
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import Callback, LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2.functional import resize

if TYPE_CHECKING:
    from advrad.baselines.base import FitContext
    from advrad.utils.progress import ProgressReporter

#: Warnings that a user can do nothing about.
_EXPECTED = (
    "`LightningModule.configure_optimizers` returned `None`",  # of models that are fitted in closed form
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning, of PyTorch
    "Argument embeddings is deprecated",  # anomalib, of itself
    r"You called `self.log\(.*` but have no logger configured",
    r"The transform `ToTensor\(\)` is deprecated",  # anomalib's EfficientAd, of torchvision
    "'pin_memory' argument is set as true but no accelerator is found",  # EfficientAd's own loader
    "Trying to infer the `batch_size` from an ambiguous collection",
)


class Images(Dataset[ImageItem]):
    """Images in memory, as items of anomalib.

    Args:
        images: (n, 3, h, w) float32 in [0, 1].
        labels: (n,) whether each is defective; None for all good.
    """

    def __init__(self, images: Tensor, labels: Tensor | None = None) -> None:
        self.images = images
        self.labels = torch.zeros(len(images), dtype=torch.bool) if labels is None else labels.bool()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> ImageItem:
        return ImageItem(image=self.images[index], gt_label=self.labels[index])


class InMemory(LightningDataModule):  # type: ignore[misc]
    """What anomalib's engine and models ask of a datamodule, over images in memory.

    Args:
        train: normal images.
        batch_size: of training and testing.
        generator: of the order of training.
        whole: leave the last images of a pass out where they do not fill a batch.
        test: images to validate and test on, as anomalib does with MVTec AD by default.
    """

    name = "memory"
    category = ""

    def __init__(
        self,
        train: Images,
        batch_size: int,
        generator: torch.Generator,
        *,
        whole: bool = False,
        test: Images | None = None,
    ) -> None:
        super().__init__()
        self.train_data, self.test_data = train, test
        self.train_batch_size = min(batch_size, len(train))
        self.generator = generator
        self.whole = whole

    def train_dataloader(self) -> DataLoader[ImageItem]:
        """The normal images once, in a new order each time."""
        return DataLoader(
            self.train_data,
            self.train_batch_size,
            shuffle=True,
            collate_fn=ImageBatch.collate,
            generator=self.generator,
            drop_last=self.whole,
        )

    def val_dataloader(self) -> DataLoader[ImageItem]:
        """The images to test on, in order."""
        return self.test_dataloader()

    def test_dataloader(self) -> DataLoader[ImageItem]:
        """The images to test on, in order."""
        assert self.test_data is not None
        return DataLoader(self.test_data, self.train_batch_size, collate_fn=ImageBatch.collate)


class _Steps(Callback):  # type: ignore[misc]
    """Stops after so many batches, and tells how many are done."""

    def __init__(self, steps: int, progress: ProgressReporter) -> None:
        self.steps = steps
        self.progress = progress
        self.done = 0

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.done += 1
        self.progress.update(self.done, self.steps)
        if self.done >= self.steps:
            trainer.should_stop = True


def train(
    model: AnomalibModule,
    lesson: FitContext,
    steps: int | None,
    batch_size: int,
    size_px: int,
    pictures: int | None = None,
) -> None:
    """Train a model in place.

    Args:
        model: untrained.
        lesson: gives normal images, the order and the progress.
        steps: batches; None for one pass over the images.
        batch_size: images in each.
        size_px: side at which the model works. Images are brought to it here too, as by its pre-processor, because
            some models read images past it.
        pictures: at most so many of the good ones, drawn at random; None for all.
    """
    images = torch.cat([resize(batch, [size_px, size_px], antialias=True) for batch in lesson.images()])
    if pictures is not None:
        images = images[torch.randperm(len(images), generator=lesson.generator("anomalib", "pictures"))[:pictures]]
    datamodule = InMemory(Images(images), batch_size, lesson.generator("anomalib", "order"), whole=bool(steps))
    in_a_pass = len(datamodule.train_dataloader())
    steps = steps or in_a_pass
    with tempfile.TemporaryDirectory() as folder, quiet():
        engine = Engine(
            callbacks=[ModelCheckpoint(save_top_k=0), _Steps(steps, lesson.progress)],
            logger=False,
            default_root_dir=folder,
            max_epochs=math.ceil(steps / in_a_pass),
            limit_val_batches=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            devices=1,
        )
        engine.fit(model, datamodule=datamodule)


@contextmanager
def quiet() -> Iterator[None]:
    """Without logs below errors, progress bars, and warnings that nobody can act on."""
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.split(".")[0] in _TALKERS]
    levels = [logger.level for logger in loggers]
    silent = partialmethod(tqdm.tqdm.__init__, disable=True)
    with warnings.catch_warnings(), mock.patch.object(tqdm.tqdm, "__init__", silent):
        warnings.simplefilter("ignore", PossibleUserWarning)  # Lightning's advice on loaders, for longer trainings
        for message in _EXPECTED:
            warnings.filterwarnings("ignore", message=message)
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


_TALKERS = frozenset({"anomalib", "lightning", "lightning_fabric", "pytorch_lightning"})


@contextmanager
def own_randomness(generator: torch.Generator) -> Iterator[None]:
    """Global sources of randomness that follow the generator, and afterwards are as before."""
    seed = int(torch.randint(2**32, (1,), generator=generator))
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
