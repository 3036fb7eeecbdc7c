"""Small model folders that record how they were made, as a training leaves them, and can be exported."""

from __future__ import annotations

from pathlib import Path

import torch
from toy_datasets import make_mvtec

from advrad.data.images import read_resized
from advrad.denoisers.memory_config import MemoryConfig
from advrad.denoisers.patch_memory import PatchMemory
from advrad.detectors.closed_form import ClosedFormConfig, ClosedFormDetector, MemberConfig
from advrad.detectors.closed_form_member import ClosedFormMember
from advrad.detectors.config import ImageCounts, PlanRecord, TrainingRecord
from advrad.detectors.conformal import calibration_from
from advrad.detectors.views import WholeConfig, WholeView
from advrad.training.fit_plan import ClosedFormPlan
from advrad.training.plan import save_plan

SIZE_PX, CELL_PX = 32, 4
#: Side of the image files, which differs from that of the detector.
FILE_PX = 48
NORMALS, HELD_OUT = 44, tuple(range(2, 44, 2))
RATE = 0.05


def product(root: Path) -> Path:
    """Images of a product in the layout of MVTec AD."""
    return make_mvtec(root, train=NORMALS, good=4, defects={"dent": 4}, size=FILE_PX)


def closed_form(data: Path, folder: Path, *, left_out: bool = False) -> Path:
    """A closed form whose threshold other images of the folder set; or the same ones, each left out."""
    paths = sorted((data / "train" / "good").iterdir())
    images = torch.stack([read_resized(path, SIZE_PX) for path in paths])
    held = torch.tensor(HELD_OUT)
    kept = torch.arange(len(images))
    if not left_out:
        kept = kept[~torch.isin(kept, held)]
    detector = _fitted(images[kept], kept)
    with torch.no_grad():
        scores = detector.scores(images[held], exclude=held if left_out else None).tolist()
    plan = ClosedFormPlan(
        data=str(data),
        layout="mvtec",
        category=data.name,
        size_px=SIZE_PX,
        names=tuple(path.relative_to(data).as_posix() for path in paths),
        leaves_out_copies=True,
    )
    recorded = plan.model_dump(mode="json", exclude={"names", "data"}) | {"train": {"seed": 0}}
    detector.update_config(
        held_out=HELD_OUT,
        calibration=calibration_from(scores, scores, RATE, {"data": data.name}),
        training=TrainingRecord(
            plan=PlanRecord.model_validate(recorded),
            images=ImageCounts(train=len(kept), selection=0, calibration=len(held)),
        ),
    )
    save_plan(folder, plan)
    detector.save_pretrained(folder)
    return folder


def _fitted(images: torch.Tensor, numbers: torch.Tensor) -> ClosedFormDetector:
    side = SIZE_PX // CELL_PX
    view = WholeView(WholeConfig(size_px=SIZE_PX, cell_px=CELL_PX))
    shape = MemoryConfig(height_cells=side, width_cells=side, patch_cells=3, window_cells=(1, 1))
    sheets = (view.sheets(images)[:, 0] * 255).round().to(torch.uint8)
    member = MemberConfig(view=view.config, memory=shape)
    zero = torch.zeros(1, 1, side - 2, side - 2)
    memory = PatchMemory(shape, sheets, numbers)
    config = ClosedFormConfig(members=(member,), image_size_px=SIZE_PX)
    return ClosedFormDetector(config, [ClosedFormMember(member, view, memory, zero, zero.clone())]).eval()
