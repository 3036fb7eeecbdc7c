"""A tiny trained run and the means to call the command line in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIZE_PX = 64
STEPS = 4
MAIN = "from advrad.cli.main import main; main()"


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str

    def one_error_line(self) -> str:
        """The only line on standard error, which must be an error and no traceback."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("advrad: error: "), self.err
        return lines[0]


Cli = Callable[..., Done]


def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A function that runs `advrad ARGS` in this process."""

    def advrad(*arguments: object) -> Done:
        from advrad.cli.main import main

        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["advrad", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Done(int(ended.value.code or 0), out, err)

    return advrad


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the network, the choice of its score, and the closed form tiny."""
    import advrad.training.closed_form
    import advrad.training.combination
    import advrad.training.plan
    import advrad.training.score_selection
    from advrad.denoisers.lean import LeanConfig
    from advrad.training.closed_form_plan import MemberPlan
    from advrad.training.score_candidates import SEARCH_SPACES, MapKind

    tiny = LeanConfig(channels=(8, 16), blocks=(1, 1))
    monkeypatch.setattr(advrad.training.plan, "LeanConfig", lambda: tiny)
    monkeypatch.setattr(advrad.training.score_selection, "DEFECTS_PER_SELECTION", 8)
    monkeypatch.setitem(SEARCH_SPACES, "clean", replace(SEARCH_SPACES["clean"], sigmas=(0.1, 0.4)))
    kinds = (MapKind("averaged", False, (3, 7)), MapKind("separate", False, (3,)))
    few = replace(SEARCH_SPACES["certified"], kinds=kinds, sigmas=(0.2, 0.6), poolings=(0.01, 0.03))
    monkeypatch.setitem(SEARCH_SPACES, "certified", few)
    monkeypatch.setattr(advrad.training.combination, "_RESAMPLES", 20)
    plan = MemberPlan(name="tiny", size_px=32, cell_px=4, patch_cells=3)
    monkeypatch.setattr(advrad.training.closed_form, "choose_plans", lambda *_: ([plan], []))


def image(path: Path, seed: int, size: int = SIZE_PX, mode: str = "RGB") -> Path:
    """A normal image: a slope with a little noise, in any mode that Pillow writes."""
    generator = np.random.default_rng(seed)
    ramp = np.linspace(60, 160, size)[:, None, None] + np.linspace(0, 30, size)[None, :, None]
    values = np.clip(ramp + generator.normal(0, 4, (size, size, 3)), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode == "I;16":
        Image.fromarray(values[..., 0].astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(values).convert(mode).save(path)
    return path
