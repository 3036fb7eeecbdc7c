"""Data: find, read and split images, load labelled data, and make synthetic defects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advrad.utils.lazy import attach

if TYPE_CHECKING:
    from advrad.data.images import read_image as read_image
    from advrad.data.inspection import InspectionResult as InspectionResult
    from advrad.data.inspection import inspect_dataset as inspect_dataset
    from advrad.data.labelled import LabelledImages as LabelledImages
    from advrad.data.labelled import load_labelled as load_labelled
    from advrad.data.layouts import Dataset as Dataset
    from advrad.data.layouts import find_records as find_records
    from advrad.data.loading import ImageStack as ImageStack
    from advrad.data.loading import load_images as load_images
    from advrad.data.loading import load_masks as load_masks
    from advrad.data.options import DataOptions as DataOptions
    from advrad.data.png import write_image as write_image
    from advrad.data.records import Record as Record
    from advrad.data.splits import NormalSplit as NormalSplit
    from advrad.data.splits import split_normals as split_normals
    from advrad.data.synthetic import paste_defects as paste_defects
    from advrad.data.transforms import resize as resize

__all__ = [
    "DataOptions",
    "Dataset",
    "ImageStack",
    "InspectionResult",
    "LabelledImages",
    "NormalSplit",
    "Record",
    "find_records",
    "inspect_dataset",
    "load_images",
    "load_labelled",
    "load_masks",
    "paste_defects",
    "read_image",
    "resize",
    "split_normals",
    "write_image",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "DataOptions": "advrad.data.options",
        "Dataset": "advrad.data.layouts",
        "ImageStack": "advrad.data.loading",
        "InspectionResult": "advrad.data.inspection",
        "LabelledImages": "advrad.data.labelled",
        "NormalSplit": "advrad.data.splits",
        "Record": "advrad.data.records",
        "find_records": "advrad.data.layouts",
        "inspect_dataset": "advrad.data.inspection",
        "load_images": "advrad.data.loading",
        "load_labelled": "advrad.data.labelled",
        "load_masks": "advrad.data.loading",
        "paste_defects": "advrad.data.synthetic",
        "read_image": "advrad.data.images",
        "resize": "advrad.data.transforms",
        "split_normals": "advrad.data.splits",
        "write_image": "advrad.data.png",
    },
)
