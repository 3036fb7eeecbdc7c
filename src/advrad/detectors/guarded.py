"""A guarded detector: any detector beside a closed form, whose verdicts no attack within a radius can undo.

Each half has a test of its own, see :mod:`advrad.detectors.guarded_tests`; an image is defective if any half says so.
The score is

    S(x) = max(a_memory(x), max over others of limit(a_other(x), ceiling)),

so bounds ``L <= M <= U`` of the memory's score give bounds of S that hold whatever an attack makes of the others:

    a_memory(L) <= S(x + d) <= max(a_memory(U), ceiling).

Surprises are computed in double precision, so that of the memory is above 0 exactly where its score exceeds its
threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from advrad.data.arrays import image_batches
from advrad.data.picture_statistics import PictureReference, picture_statistics
from advrad.data.resize_norm import RESIZE_ROUNDING
from advrad.detectors.base import AnomalyDetector, SupportsGradientPrecision, SurrogateLoss
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.config import Calibration, RecordedFigures
from advrad.detectors.guarded_config import MEMORY, GuardedConfig, HalfTest
from advrad.detectors.guarded_folder import assemble_half, config_of, with_prefix
from advrad.detectors.guarded_halves import Half, Halves
from advrad.detectors.guarded_output import GradientGates, GuardedOutput, join
from advrad.detectors.guarded_surrogates import GuardedLosses, advance
from advrad.detectors.guarded_tests import divide_slots, make_tests, surprise
from advrad.detectors.guarded_verdicts import GuardedBounds, guarded_bounds, image_verdict
from advrad.detectors.model_card import render
from advrad.detectors.model_folder import load_kind, save_folder, write_card
from advrad.detectors.saved import SavedMixin
from advrad.detectors.verdicts import ImageVerdict
from advrad.errors import ConfigError, DetectorError, NotCalibratedError
from advrad.utils.precision import Precision
from advrad.utils.radii import check_perturbations

if TYPE_CHECKING:
    from advrad.data.arrays import ImageInput


class GuardedDetector(SavedMixin, nn.Module):
    """A detector of any kind, guarded by a closed form whose verdicts can be proven. :func:`advrad.guard` makes one.

    It is an :class:`advrad.detectors.base.AnomalyDetector` that supports score bounds and sticker bounds, and can be
    saved if its halves can.

    Args:
        config: Configuration; the halves replace what it says about them.
        memory: Closed form.
        others: The other halves by name, as in ``config.others``: any detectors, or what :func:`advrad.wrap` takes.

    Raises:
        ConfigError: The names differ, or a half takes images of another size.

    Example:
        >>> from advrad.denoisers.memory_config import MemoryConfig
        >>> from advrad.denoisers.patch_memory import PatchMemory
        >>> from advrad.detectors.closed_form_config import ClosedFormConfig, MemberConfig
        >>> from advrad.detectors.closed_form_member import ClosedFormMember
        >>> from advrad.detectors.guarded_config import AttackableConfig
        >>> from advrad.detectors.views import WholeConfig, WholeView
        >>> shape = MemoryConfig(height_cells=4, width_cells=4, patch_cells=3)
        >>> member = MemberConfig(view=WholeConfig(size_px=8, cell_px=2), memory=shape)
        >>> sheets = PatchMemory(shape, torch.full((2, 3, 4, 4), 128, dtype=torch.uint8), torch.arange(2))
        >>> zero = torch.zeros(1, 1, 2, 2)
        >>> closed_form = ClosedFormDetector(
        ...     ClosedFormConfig(members=(member,), image_size_px=8),
        ...     [ClosedFormMember(member, WholeView(member.view), sheets, zero, zero)],
        ... )
        >>> config = GuardedConfig(memory=closed_form.config, others=(AttackableConfig(name="spread"),))
        >>> detector = GuardedDetector(config, closed_form, {"spread": lambda images: images.std((1, 2, 3))})
        >>> detector.calibrate([0.1 * torch.rand(39, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.5], 0.05)
        >>> [str(found.word) for found in detector.verdicts(torch.stack([torch.ones(3, 8, 8), torch.rand(3, 8, 8)]))]
        ['defective, proven', 'defective, proven']
    """

    size_px = None
    differentiable = True
    without_threshold = "calibrate it on normal images, or make it with advrad.guard"

    def __init__(self, config: GuardedConfig, memory: ClosedFormDetector, others: Mapping[str, Any]) -> None:
        super().__init__()
        names = [part.name for part in config.others]
        if sorted(names) != sorted(others):
            raise ConfigError(f"others: must be {', '.join(names)}, as the configuration says; got {', '.join(others)}")
        self.memory = memory
        self._halves = Halves(Half(MEMORY, memory), [Half(name, others[name]) for name in names], memory.framing)
        self.stored = nn.ModuleDict()
        parts = []
        for place, (half, part) in enumerate(zip(self._halves.others, config.others, strict=True)):
            half.check_size(memory.image_size_px)
            found, module = config_of(half), half.module
            if found is not None and module is not None:
                self.stored[str(place)] = module
            parts.append(part if found is None else part.model_copy(update={"detector": found}))
        self.config = config.model_copy(update={"memory": memory.config, "others": tuple(parts)})

    @property
    def others(self) -> dict[str, AnomalyDetector]:
        """The halves that an attack may fool, by name."""
        return {half.name: half.detector for half in self._halves.others}

    @property
    def halves(self) -> tuple[Half, ...]:
        """All halves, the memory first."""
        return self._halves.all

    @property
    def image_size_px(self) -> int:
        """Side of the square to which image files are scaled, in pixels. Tensors may have any size."""
        return self.config.image_size_px

    @property
    def device(self) -> torch.device:
        """Device of the memory."""
        return self.memory.device

    @property
    def deterministic(self) -> bool:
        """Whether an image always gets the same score: whether every half declares it."""
        return all(half.detector.deterministic for half in self._halves.others)

    @property
    def noise_seed(self) -> int | None:
        """Seed of the noise that :meth:`predict` uses; None without noise, or if the seeds of two halves differ."""
        seeds = {half.noise_seed for half in self._halves.others} - {None}
        return seeds.pop() if len(seeds) == 1 else None

    @property
    def tests(self) -> tuple[HalfTest, ...]:
        """The tests, that of the memory first.

        Raises:
            NotCalibratedError: There are none.
        """
        if not self.config.tests:
            raise NotCalibratedError(f"the halves have no thresholds; {self.without_threshold}")
        return self.config.tests

    def update_config(self, **changes: Any) -> None:
        """Replace entries of the configuration, such as ``ceiling``.

        With another ceiling, a threshold for images under attack and the figures no longer hold: they are removed
        unless new ones are given.
        """
        if changes.get("ceiling", self.config.ceiling) != self.config.ceiling:
            changes = {"robust_calibration": None, "figures": RecordedFigures()} | changes
        self.config = GuardedConfig.parse(dict(self.config) | changes)

    # --- Scoring ---

    def infer(self, images: Tensor, generator: torch.Generator) -> GuardedOutput:
        """Compute scores, anomaly maps and verdicts; row i depends on row i only.

        Args:
            images: Images, (b, 3, h, w), float in [0, 1], of any size.
            generator: Source of all noise; each half draws from a copy of it.

        Returns:
            Scores, (b,) float64, and maps, (b, 1, size, size). Differentiable in ``images``; the gradient of a score is
            that of the half that decides.

        Raises:
            NotCalibratedError: There are no tests.
        """
        tests, gates = self.tests, GradientGates()
        places = range(len(tests))
        parts = [self._halves.infer(place, gates.open(place, images), generator) for place in places]
        advance(generator)
        output, winners = join(parts, tests, self.config.ceiling, self.image_size_px)
        gates.close(winners)
        return output

    def score_bounds(self, images: Tensor, radius: float, norm: Literal["linf", "l2"]) -> GuardedBounds:
        """Bound the scores under every perturbation within a radius, see :meth:`ClosedFormDetector.score_bounds`.

        Returns:
            Scores as :meth:`predict` computes them, bounds that hold whatever the other halves say, and the verdicts at
            this radius.
        """
        output, bounds = self.predict_batch(images), self.memory.score_bounds(images, radius, norm)
        return guarded_bounds(output, bounds, self.tests[0], self.config.ceiling, self.image_size_px)

    def sticker_bounds(self, images: Tensor, side_px: int) -> Tensor:
        """Bound the scores from below by those of the memory, see :meth:`ClosedFormDetector.sticker_bounds`."""
        return surprise(self.memory.sticker_bounds(images, side_px), self.tests[0])

    # --- What an attack may use ---

    @property
    def surrogates(self) -> Mapping[str, SurrogateLoss]:
        """Losses that an attack may follow in place of the score, see :mod:`advrad.detectors.guarded_surrogates`."""
        return GuardedLosses(self._halves, lambda: self.tests).by_name()

    @property
    def gradient_precision(self) -> Literal["float32", "bfloat16"]:
        """See :class:`advrad.detectors.base.SupportsGradientPrecision`; that of the first half that has one."""
        found = [half.detector for half in self._halves.others if isinstance(half.detector, SupportsGradientPrecision)]
        return found[0].gradient_precision if found else "float32"

    def with_gradient_precision(self, precision: Precision) -> GuardedDetector:
        """See :class:`advrad.detectors.base.SupportsGradientPrecision`; halves without one stay as they are."""
        others = {
            name: found.with_gradient_precision(precision) if isinstance(found, SupportsGradientPrecision) else found
            for name, found in self.others.items()
        }
        return GuardedDetector(self.config, self.memory, others).eval()

    # --- Deciding ---

    def predict_batch(self, images: Tensor) -> GuardedOutput:
        """Compute scores, maps and verdicts as :meth:`predict` does: without gradients, with stored noise seeds.

        Args:
            images: Images, (b, 3, h, w), float in [0, 1].

        Returns:
            The output on the CPU; the same for any batch size.

        Raises:
            DataError: The images have another shape or type, or values that are not finite or outside [0, 1].
            NotCalibratedError: There are no tests.
        """
        return join(self._halves.predict(images), self.tests, self.config.ceiling, self.image_size_px)[0]

    def verdicts(
        self, images: Tensor, radius: float | None = None, norm: Literal["linf", "l2"] = "linf"
    ) -> list[ImageVerdict]:
        """Decide about images, in words that say which half spoke and what is proven.

        Args:
            images: Images, (b, 3, h, w), float in [0, 1].
            radius: Radius within which verdicts are proven, >= 0, in [0, 1] pixel units of the images as given; None
                for that of the configuration, for the pixels of the file from which a working image was scaled: the
                rounding of scaling is added. With 0 there nothing is proven, which is quicker.
            norm: Norm of the perturbations; another than linf needs a radius.

        Returns:
            One verdict per image.

        Raises:
            ConfigError: The radius is negative, not a number or missing, or the norm is another one.
            DataError: As for :meth:`predict_batch`.
            NotCalibratedError: There are no tests.
        """
        if radius is None and norm != "linf":
            raise ConfigError("must be given with this norm: that of the configuration is in linf", option="radius")
        check_perturbations(radius or 0.0, norm)
        output, config = self.predict_batch(images), self.config
        proofs = radius is not None or config.radius > 0
        within = config.radius + RESIZE_ROUNDING if radius is None else radius
        found = []
        for row in range(len(images)):
            bounds = None
            if proofs and output.errors[0][row] is None:
                image = images[row : row + 1].detach().cpu().float()
                bounds = self.memory.score_bounds(image, within, norm)
            found.append(image_verdict(output, row, config.names, self.tests, bounds))
        return found

    # --- Calibration ---

    def score_halves(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Compute the scores of the halves as they predict; needs no tests.

        Args:
            images: Images, (b, 3, h, w), float in [0, 1].

        Returns:
            Scores, (b, halves) float64, the memory's first; and the largest values of the maps of each half, (b,) each,
            empty for a half without maps.

        Raises:
            DetectorError: A half fails on an image.
            DataError: As for :meth:`predict_batch`.
        """
        parts = self._halves.predict(images)
        for half, part in zip(self._halves.all, parts, strict=True):
            if (error := next(filter(None, part.errors), None)) is not None:
                raise DetectorError(f"{half.name}: fails on a normal image: {error}; mend it there")
        heights = tuple(
            part.scores[:0] if part.maps is None else part.maps.flatten(1).amax(1).double() for part in parts
        )
        return torch.stack([part.scores for part in parts], 1), heights

    def calibrate(
        self, normals: ImageInput, false_alarm_rate: float = 0.05, source: dict[str, Any] | None = None
    ) -> None:
        """Set the tests of all halves from normal images that were used for nothing else.

        Each half gets one slot, and the rest is divided as that of the present tests is; if they have none, the memory
        gets it. The better split is used, see :mod:`advrad.detectors.guarded_tests`.

        Args:
            normals: Normal images: batches of tensors, (b, 3, h, w) each, or whatever :meth:`predict` takes.
            false_alarm_rate: Largest share of normal images that may be called defective, between 0 and 1.
            source: Description of the images, stored with the threshold.

        Raises:
            ConfigError: There are too few images for the rate.
            DataError: An image has another shape or type, or values that are not finite or outside [0, 1].
            DetectorError: A half fails on an image.
        """
        found, pictures = [], []
        for batch in image_batches(normals, self.framing):
            found.append(self.score_halves(batch.pixels))
            pictures += [picture_statistics(image) for image in self.framing.apply(batch.pixels)]
        scores = torch.cat([part[0] for part in found]).numpy() if found else torch.zeros(0, 1).numpy()
        beyond = [test.slots - 1 for test in self.config.tests] or [0] * len(self.config.names)
        slots = divide_slots(len(scores), false_alarm_rate, beyond)
        maxima = [torch.cat([part[1][place] for part in found]).numpy() for place in range(len(slots))]
        tests = make_tests(list(scores.T), maxima, slots, leaves_one_out=False)
        self.set_tests(tests, false_alarm_rate, joint=True, source=source, pictures=PictureReference.of(pictures))

    def set_tests(
        self,
        tests: tuple[HalfTest, ...],
        false_alarm_rate: float,
        *,
        joint: bool,
        source: dict[str, Any] | None = None,
        pictures: PictureReference | None = None,
    ) -> None:
        """Replace the tests, and say what they promise together.

        A threshold for images under attack, and figures that were measured with the tests before, no longer hold: they
        are removed.

        Args:
            tests: The tests, that of the memory first.
            false_alarm_rate: Largest share of normal images that may be called defective: at least the sum of the
                rates of the tests.
            joint: Whether the better split was used.
            source: Description of the images, stored with the threshold.
            pictures: Brightness and sharpness of the images; None if they are not known.
        """
        calibration = Calibration(
            threshold=0.0,
            false_alarm_rate=false_alarm_rate,
            n=min(test.n for test in tests),
            heat_low=0.0,
            heat_high=1.0,
            source=source or {},
            picture_statistics=pictures,
        )
        self.update_config(
            tests=tests, joint=joint, calibration=calibration, robust_calibration=None, figures=RecordedFigures()
        )

    # --- The model folder ---

    def save_pretrained(self, folder: str | Path, /) -> None:
        """Write the model folder; ``model.safetensors`` holds the tensors of all halves that have some.

        Args:
            folder: Folder, made if missing; a model in it is replaced.

        Raises:
            ConfigError: A half exists in this process only.
            OutputError: The folder holds files that advrad did not write, or cannot be written.
        """
        lost = [part.name for part in self.config.others if part.detector is None]
        if lost:
            raise ConfigError(
                f"{lost[0]}: cannot be saved, because it exists in this process only; give advrad.guard the name of its"
                " file, as FILE.py:NAME, or a checkpoint"
            )
        place = Path(folder)
        save_folder(place, self.config.model_dump(mode="json"), dict(self.state_dict()))
        write_card(place, render(self.config))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> GuardedDetector:
        """Load a model folder that :meth:`save_pretrained` wrote.

        Args:
            folder: Model folder.

        Raises:
            CheckpointError: The model is missing, damaged, of another kind, or of a newer format.
            ConfigError: The file of a half is missing or has changed.
        """
        values, tensors, source = load_kind(Path(folder), "guarded", "a guarded detector")
        config = GuardedConfig.parse(values, source)
        memory = ClosedFormDetector.assemble(config.memory, with_prefix(tensors, "memory."), source)
        others = {
            part.name: assemble_half(part, with_prefix(tensors, f"stored.{place}."), source)
            for place, part in enumerate(config.others)
        }
        return cls(config, memory, others).eval()
