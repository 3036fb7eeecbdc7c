"""What cards, screens and reports say about a guarded detector: its halves, its promises, and its five verdicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advrad.detectors.exported_config import GuardedRecord
from advrad.utils.formatting import number, percent, radius_text

if TYPE_CHECKING:
    from advrad.detectors.guarded_config import GuardedConfig
    from advrad.detectors.guarded_figures import GuardedFigures

ABOUT = (
    "Finds defects in images of an industrial product, from normal images only. A memory of the patches of normal\n"
    "images decides with proof: no small change of an image can fool it. Beside it decide sharper detectors that an\n"
    "attack can fool. An image is called defective if one of them finds a defect, and every verdict says which did.\n"
)

PROOF = """\
## What is proven

For every change of an image within a radius, whatever the attack, the score of the memory stays inside an interval that
advrad computes: without noise, without a confidence level, rounding included. `advrad predict` computes it for each
image and each verdict. `advrad certify` measures which share of the defects is certainly found:

```
advrad certify path/to/this/folder DATA --norm linf --radius 1/255,2/255,4/255
```
"""

LIMIT = (
    "- Under an attack, every normal image may be called *suspected*, and some *defective* without proof.\n"
    "  What only attackable halves find may be hidden by an attack, or caused by one.\n"
    "- The proof is about small perturbations of an image. It does not say that every defect is found.\n"
)


def other_names(config: GuardedConfig | GuardedRecord) -> str:
    """Name the attackable halves, such as ``features`` or ``features or learned``.

    Args:
        config: Configuration of the detector.
    """
    return " or ".join(config.names[1:])


def verdict_meanings(config: GuardedConfig | GuardedRecord) -> list[tuple[str, str]]:
    """Explain each verdict in a sentence or two for whoever inspects parts.

    Args:
        config: Configuration of the detector, or its halves in an export.

    Returns:
        Pairs of a verdict and its meaning. An export proves none.
    """
    if isinstance(config, GuardedRecord):
        return [
            ("defective", "The memory sees a defect. An export does not compute the bounds that would prove it."),
            ("suspected", f"Seen by {other_names(config)} alone. An attack could have caused it: look at the part."),
            ("good", "No half sees a defect. An attack could have hidden one."),
        ]
    place, others = f"linf {radius_text(config.radius, 'linf')}", other_names(config)
    share = ""
    if config.tests:
        rate = percent(config.tests[0].false_alarm_rate)
        share = f" Of good parts at most {rate} get this verdict, even if their images are changed within this radius."
    return [
        ("defective, proven", f"The memory sees a defect, and no change of the image within {place} hides it.{share}"),
        ("defective", "The memory sees a defect, without proof; or a half failed, and the reason is given."),
        ("suspected", f"Seen by {others} alone. An attack could have caused it: look at the part itself."),
        ("good", "No half sees a defect. An attack could have hidden one."),
        ("good, memory proven", f"No half sees a defect, and no change within {place} hid one from the memory."),
    ]


def half_rows(config: GuardedConfig | GuardedRecord) -> list[tuple[str, str]]:
    """List the tests of the halves and what they promise, as names and texts.

    Args:
        config: Configuration of the detector.
    """
    if not config.tests:
        return []
    memory = config.tests[0]
    rows = [
        (f"Test of {name}", f"score above {test.threshold:.6g}; false alarms at most {percent(test.false_alarm_rate)}")
        for name, test in zip(config.names, config.tests, strict=True)
    ]
    rows += [
        ("Promised false-alarm rate", f"at most {percent(total_rate(config))}, all halves together, without an attack"),
        ("Calibration images", str(memory.n)),
    ]
    if isinstance(config, GuardedRecord):
        return rows
    place = f"linf {radius_text(config.radius, 'linf')}"
    rows[-1:-1] = [
        ("Under any attack", f"defective, proven: at most {percent(memory.false_alarm_rate)} of normal images"),
        ("Radius of the proofs", place if config.radius else "none: verdicts are not proven"),
        ("Ceiling", f"{config.ceiling:.4g}: the most that {other_names(config)} can make of the score"),
    ]
    return rows


def total_rate(config: GuardedConfig | GuardedRecord) -> float:
    """Largest share of normal images that the halves may call defective together, without an attack.

    Args:
        config: Configuration of the detector.
    """
    return sum(test.false_alarm_rate for test in config.tests)


def describe_tests(config: GuardedConfig | GuardedRecord) -> str:
    """Say how the tests were set and what they promise.

    Args:
        config: Configuration of the detector.
    """
    if not config.tests:
        return "The halves have no tests yet: the detector computes scores but does not decide."
    alone = " alone" if config.joint else ""
    shares = ", ".join(
        f"by {name}{alone} at most {percent(test.false_alarm_rate)}"
        for name, test in zip(config.names[1:], config.tests[1:], strict=True)
    )
    return (
        f"Each half has a test of its own, set from {config.tests[0].n} normal images. A normal image like them is"
        f" called defective with a probability of at most {percent(total_rate(config))}: by the memory at most"
        f" {percent(config.tests[0].false_alarm_rate)}, {shares}."
    )


#: Heads of the columns of :func:`half_cells`.
HALF_HEADS = ("half", "AUROC", "found", "false alarms", "promised")


def half_cells(figures: GuardedFigures) -> list[tuple[str, ...]]:
    """List the measured figures of each half, as if it decided alone, as cells below :data:`HALF_HEADS`.

    Args:
        figures: Figures.

    Example:
        >>> from advrad.detectors.guarded_figures import GuardedFigures, HalfFigures
        >>> half = HalfFigures(auroc=0.9, tpr=0.5, fpr=0.0, false_alarm_rate=0.025)
        >>> half_cells(GuardedFigures(halves={"memory": half}))
        [('memory', '0.9000', '50 %', '0 %', 'at most 2.5 %')]
    """
    return [
        (name, number(half.auroc), percent(half.tpr), percent(half.fpr), f"at most {percent(half.false_alarm_rate)}")
        for name, half in figures.halves.items()
    ]


def half_caption(figures: GuardedFigures) -> str:
    """Title of the table of halves.

    Args:
        figures: Figures.
    """
    beside = "; false alarms beside those of the memory" if figures.joint else ""
    return f"Each half alone{beside}"


def word_caption(figures: GuardedFigures) -> str:
    """Title of the table of verdicts by their words.

    Args:
        figures: Figures.
    """
    if not figures.radius or figures.words is None:
        return "Verdicts"
    found = percent(figures.words.found)
    return f"Verdicts; within linf {radius_text(figures.radius, 'linf')} {found} of the defects are certainly found"


def joint_rows(figures: GuardedFigures) -> list[tuple[str, str]]:
    """List the measured figures that concern several halves, as names and texts.

    Args:
        figures: Figures.

    Example:
        >>> from advrad.detectors.guarded_figures import GuardedFigures, HalfFigures
        >>> half = HalfFigures(auroc=0.9, tpr=0.5, fpr=0.0, false_alarm_rate=0.025)
        >>> joint_rows(GuardedFigures(halves={"memory": half, "features": half}, tpr_all=0.4))[0]
        ('Defects found by both halves', '40 %')
    """
    whom = "both halves" if len(figures.halves) == 2 else "every half"
    rows = [
        (f"Defects found by {whom}", percent(figures.tpr_all)),
        ("Defects only suspected", percent(figures.suspected_tpr)),
        ("Normal images suspected", percent(figures.suspected_fpr)),
    ]
    if figures.failed:
        rows.append(
            ("A half failed on", f"{figures.failed} image{'' if figures.failed == 1 else 's'}, called defective")
        )
    return rows
