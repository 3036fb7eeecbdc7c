"""Training of an anomalib model by its engine, from images in memory, without files or changes of global state."""

from __future__ import annotations

import logging
import math
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod
from typing import TYPE_CHECKING, Any

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

from advrad.utils.substitution import substituted

if TYPE_CHECKING:
    from advrad.baselines.base import FitContext
    from advrad.utils.progress import ProgressReporter

#: Packages whose log messages below errors are suppressed.
_LOGGERS = frozenset({"anomalib", "lightning", "lightning_fabric", "pytorch_lightning"})
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


class InMemoryImages(Dataset[ImageItem]):
    """Images in memory as a dataset of anomalib items.

    Args:
        images: Images, (n, 3, h, w), float32 in [0, 1].
        labels: Whether each image is anomalous, (n,); None if all are normal.
    """

    def __init__(self, images: Tensor, labels: Tensor | None = None) -> None:
        self.images = images
        self.labels = torch.zeros(len(images), dtype=torch.bool) if labels is None else labels.bool()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> ImageItem:
        return ImageItem(image=self.images[index], gt_label=self.labels[index])


class InMemoryDataModule(LightningDataModule):  # type: ignore[misc]
    """A datamodule over images in memory, with what anomalib's engine and models need.

    Args:
        train: Normal images.
        batch_size: Batch size for training and testing.
        generator: Source of the order of the training images.
        whole: Whether to drop the last batch of a pass if it is not full.
        test: Images for validation and testing, as anomalib does with MVTec AD by default.
    """

    name = "memory"
    category = ""

    def __init__(
        self,
        train: InMemoryImages,
        batch_size: int,
        generator: torch.Generator,
        *,
        whole: bool = False,
        test: InMemoryImages | None = None,
    ) -> None:
        super().__init__()
        self.train_data, self.test_data = train, test
        self.train_batch_size = min(batch_size, len(train))
        self.generator = generator
        self.whole = whole

    def train_dataloader(self) -> DataLoader[ImageItem]:
        """Loader of the normal images, in a new order in each pass."""
        return DataLoader(
            self.train_data,
            self.train_batch_size,
            shuffle=True,
            collate_fn=ImageBatch.collate,
            generator=self.generator,
            drop_last=self.whole,
        )

    def val_dataloader(self) -> DataLoader[ImageItem]:
        """Loader of the test images, in order."""
        return self.test_dataloader()

    def test_dataloader(self) -> DataLoader[ImageItem]:
        """Loader of the test images, in order."""
        if self.test_data is None:
            raise ValueError("this datamodule has no test images; pass `test`")
        return DataLoader(self.test_data, self.train_batch_size, collate_fn=ImageBatch.collate)


class _Steps(Callback):  # type: ignore[misc]
    """Stops the training after a number of batches and reports the progress."""

    def __init__(self, steps: int, progress: ProgressReporter) -> None:
        self.steps = steps
        self.progress = progress
        self.done = 0

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.done += 1
        self.progress.update(self.done, self.steps)
        if self.done >= self.steps:
            trainer.should_stop = True


def train_model(
    model: AnomalibModule,
    context: FitContext,
    steps: int | None,
    batch_size: int,
    size_px: int,
    max_images: int | None = None,
) -> None:
    """Train a model in place.

    Args:
        model: Untrained model.
        context: Training images, seed and progress reporter.
        steps: Number of batches; None for one pass over the images.
        batch_size: Number of images per batch.
        size_px: Side at which the model works, in pixels. Images are resized here as well as in its pre-processor,
            since some models read training images directly.
        max_images: Largest number of training images, drawn at random; None for all.
    """
    images = torch.cat([resize(batch, [size_px, size_px], antialias=True) for batch in context.images()])
    if max_images is not None:
        # "pictures" seeds the draw of published results, so the word stays.
        images = images[torch.randperm(len(images), generator=context.generator("anomalib", "pictures"))[:max_images]]
    datamodule = InMemoryDataModule(
        InMemoryImages(images), batch_size, context.generator("anomalib", "order"), whole=bool(steps)
    )
    in_a_pass = len(datamodule.train_dataloader())
    steps = steps or in_a_pass
    with tempfile.TemporaryDirectory() as folder, quiet():
        engine = Engine(
            callbacks=[ModelCheckpoint(save_top_k=0), _Steps(steps, context.progress)],
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
    """Suppress log messages below errors, progress bars, and warnings that a user can do nothing about."""
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.split(".")[0] in _LOGGERS]
    levels = [logger.level for logger in loggers]
    # tqdm can be silenced only where a bar is made, which is inside anomalib.
    no_bar = partialmethod(tqdm.tqdm.__init__, disable=True)
    with warnings.catch_warnings(), substituted(tqdm.tqdm, "__init__", no_bar):
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
