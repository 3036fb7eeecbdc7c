"""Results as tables on standard output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from advrad.cli.terminal import printable
from advrad.utils.formatting import clock, flat, number, percent, radius_text, reach_text

if TYPE_CHECKING:
    from advrad.attacks.results import AttackResult, ChecksResult, CurveResult
    from advrad.attacks.sanity_checks import Flag
    from advrad.benchmark.estimate import Estimate
    from advrad.certificates.results import CertificationResult
    from advrad.data.inspection import InspectionResult
    from advrad.detectors.guarded_figures import GuardedFigures
    from advrad.inference.evaluation import EvaluationResult


def show_table(title: str, rows: Iterable[Sequence[str]], heads: Sequence[str] = ()) -> None:
    """Print a table on standard output.

    Args:
        title: Title of the table.
        rows: Rows of texts; the first column is set in bold.
        heads: Names of the columns; empty for none.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), show_header=bool(heads), title_justify="left")
    listed = [tuple(row) for row in rows]
    for index in range(max([len(heads), *map(len, listed)])):
        table.add_column(heads[index] if heads else "", overflow="fold", style="bold" if index == 0 else "")
    for row in listed:
        # Text, because file names may hold what rich takes for markup.
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(table)


def show_warnings(texts: Iterable[str]) -> None:
    """Print warnings on standard output, each in its own frame."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    for text in texts:
        Console().print(Panel(Text(text), title="WARNING", style="bold", border_style="red"))


def show_inspection(found: InspectionResult) -> None:
    """Print the contents of a data set."""
    rows = [("folder", str(found.root)), ("layout", found.layout), ("category", found.category)]
    for split, counts in found.counts.items():
        rows.append((f"{split} images", ", ".join(f"{name} {n}" for name, n in counts.items()) or "none"))
    rows.append(("masks", ", ".join(f"{name} {n}" for name, n in found.masks.items() if n) or "none"))
    for side, sizes in (("width", found.width_px), ("height", found.height_px)):
        if sizes is not None:
            same = sizes.min == sizes.max
            text = f"{sizes.min} px" if same else f"{sizes.min} to {sizes.max} px, median {sizes.median:g}"
            rows.append((side, text))
    rows.append(("pixels", ", ".join(f"{name} {n}" for name, n in found.kinds.items()) or "none"))
    rows += [
        ("used by train", _used_by_closed_form(found)),
        ("with --minutes", _used_by_both(found)),
        ("with --features", _used_with_features(found)),
    ]
    rows += [("used" if entry.use else "left out", entry.describe()) for entry in found.account.entries]
    rows += [("note", note) for note in found.notes]
    rows += [("cannot be read", f"{error.path}: {error.reason}") for error in found.broken]
    show_table("Data", rows)
    show_warnings(found.warnings)


def _used_by_closed_form(found: InspectionResult) -> str:
    """What the closed form uses the normal images for."""
    split, rate = found.closed_form, percent(found.false_alarm_rate)
    if split is None:
        return f"too few different images: {rate} needs {found.needed['closed_form']}" + _allowed(found, "closed_form")
    if not split.choice:
        parts = f"all {split.memory} in memory, and all set the threshold, each compared with the others"
    elif split.leaves_one_out:
        parts = (
            f"all {split.memory} in memory; {split.threshold} of them set the threshold, each compared with the others;"
            f" the other {split.choice} choose how images are compared"
        )
    else:
        parts = (
            f"{split.memory} in memory, which also choose how images are compared; {split.threshold} others set the"
            " threshold"
        )
    return f"{parts}; a false-alarm rate of {rate} is in reach"


def _used_by_both(found: InspectionResult) -> str:
    """What a run that trains a denoiser as well uses the normal images for."""
    split, rate, needed = found.split, percent(found.false_alarm_rate), found.needed["learned"]
    if split is None:
        return f"too few images: {rate} needs {needed}"
    parts = (
        f"{split['train']} to learn from, {split['selection']} to choose the score and how both denoisers are combined,"
        f" {split['calibration']} for the threshold"
    )
    if sum(split.values()) >= needed:
        return f"{parts}; a false-alarm rate of {rate} is in reach"
    return f"{parts}; too few: {rate} needs {needed} in all" + _allowed(found, "learned")


def _used_with_features(found: InspectionResult) -> str:
    """What the closed form and the features beside it use the normal images for."""
    split, rate, needed = found.features, percent(found.false_alarm_rate), found.needed.get("features")
    if needed is None:
        return "refused: the images would be cut into tiles, which only the closed form alone takes"
    if split is None:
        return f"too few different images: {rate} needs {needed}" + _allowed(found, "features")
    if not split.choice:
        parts = f"all {split.memory} in both halves, and all set the thresholds, each compared with the others"
    elif split.leaves_one_out:
        parts = (
            f"all {split.memory} in both halves; {split.threshold} of them set the thresholds, each compared with the"
            f" others; the other {split.choice} choose how the halves compare images and how they are joined"
        )
    else:
        parts = (
            f"{split.memory} in both halves, which also choose how these compare images and how they are joined;"
            f" {split.threshold} others set the thresholds"
        )
    return f"{parts}; a false-alarm rate of {rate} is in reach"


def _allowed(found: InspectionResult, kind: str) -> str:
    # Not in percent: 33.3 % would be rounded down to a rate that is refused.
    return f", these allow a rate of {found.rates[kind]:g} or more" if kind in found.rates else ""


def show_figures(result: EvaluationResult, title: str) -> None:
    """Print the result of an evaluation."""
    area = number(result.image_auroc)
    if result.image_auroc_ci:
        area += "  (95 % interval {:.4f} to {:.4f})".format(*result.image_auroc_ci)
    rows = [
        ("image AUROC", area),
        ("pixel AUROC", number(result.pixel_auroc)),
        ("AUPRO", number(result.aupro)),
        ("defects found (TPR)", percent(result.tpr)),
        ("false alarms (FPR)", percent(result.fpr)),
        *([("threshold", number(result.threshold, ".6g"))] if result.guarded is None else _joint(result.guarded)),
        ("test images", f"{result.n_normal} normal, {result.n_anomalous} anomalous"),
    ]
    show_table(title, rows)
    show_halves(result.guarded)
    listed = [(name, str(row.n), number(row.auroc), percent(row.tpr)) for name, row in result.per_defect.items()]
    if listed:
        show_table("By defect", listed, ("defect", "images", "AUROC", "found"))
    show_warnings(result.warnings)


def _joint(figures: GuardedFigures) -> list[tuple[str, str]]:
    """What concerns both halves of a guarded detector."""
    from advrad.detectors.guarded_card import joint_rows

    return [(name[:1].lower() + name[1:], value) for name, value in joint_rows(figures)]


def show_halves(figures: GuardedFigures | None) -> None:
    """Print the figures of each half of a guarded detector; nothing for another detector."""
    if figures is None:
        return
    from advrad.detectors.guarded_card import HALF_HEADS, half_caption, half_cells, word_caption

    show_table(half_caption(figures), half_cells(figures), HALF_HEADS)
    if figures.words is not None:
        counted = [(word, str(anomalous), str(normal)) for word, anomalous, normal in figures.counted]
        show_table(word_caption(figures), counted, ("verdict", "anomalous images", "normal images"))


def show_attack(result: AttackResult, title: str) -> None:
    """Print the result of :func:`advrad.attack`."""

    def change(clean: float | None, robust: float | None, form: Callable[[float | None], str] = number) -> str:
        return f"{form(clean)} -> {form(robust)}"

    suite = f" {result.budget}, version {result.suite_version}" if result.budget is not None else ""
    interval, threat = result.robust_auroc_ci, f"{result.norm} {radius_text(result.eps, result.norm)}"
    rows = [
        ("attack", f"{result.attack}{suite}; {threat}; noise {result.noise}"),
        ("image AUROC", change(result.clean_auroc, result.robust_auroc)),
        ("95 % interval", "not measured" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"),
        ("only anomalous attacked", number(result.robust_auroc_anomalous_only)),
        ("only normal attacked", number(result.robust_auroc_normal_only)),
        ("rounded to 8 bits", number(result.robust_auroc_8bit)),
        *_verdict_rows(result, change),
        ("pixel AUROC", change(result.clean_pixel_auroc, result.robust_pixel_auroc)),
        ("AUPRO", change(result.clean_aupro, result.robust_aupro)),
        ("images", f"{result.n_normal} normal, {result.n_anomalous} anomalous"),
        ("effort", f"{result.gradients} gradients, {result.queries} evaluations, {result.seconds:.0f} s"),
        ("results", str(result.folder or "not stored")),
    ]
    if (bounds := result.bounds) is not None:
        inside = f"all {bounds.images} images inside" if not bounds.violations else f"{len(bounds.violations)} BROKEN"
        rows.append(("proven bounds", f"{inside}; the median attack went {percent(bounds.reached)} of the way to them"))
    if result.note is not None:
        rows.append(("note", result.note))
    show_table(title, rows)
    listed = [(name, number(area), str(result.found_by[name])) for name, area in result.robust_auroc_after.items()]
    show_table("By attack", listed, ("attack", "AUROC after it", "strongest for"))
    _show_original(result)
    for name, reason in result.left_out.items():
        print(f"left out  {name}: {reason}")
    show_warnings(describe_flags(result.flags))


def _show_original(result: AttackResult) -> None:
    """Print the figures of an export beside those of the detector that was exported, if it was attacked as well."""
    if (original := result.original) is None:
        return
    rows = [
        (
            name,
            one.attack,
            number(one.clean_auroc),
            number(one.robust_auroc),
            percent(one.robust_tpr),
            percent(one.robust_fpr),
        )
        for name, one in (("export", result), ("PyTorch", original))
    ]
    show_table(
        "Beside the PyTorch detector", rows, ("detector", "attack", "AUROC", "under attack", "found", "false alarms")
    )


def _verdict_rows(
    result: AttackResult, change: Callable[[float | None, float | None, Callable[[float | None], str]], str]
) -> list[tuple[str, str]]:
    """What is called defective before and under attack: by any half of a guarded detector, or by the score."""
    if (called := result.verdicts) is None:
        return [
            ("defects found (TPR)", change(result.clean_tpr, result.robust_tpr, percent)),
            ("false alarms (FPR)", change(result.clean_fpr, result.robust_fpr, percent)),
        ]
    return [
        ("defects called defective", f"{called.clean_found} -> {called.found} of {result.n_anomalous}, by any half"),
        ("normal called defective", f"{called.clean_alarms} -> {called.alarms} of {result.n_normal}, by any half"),
    ]


def show_checks(result: ChecksResult, title: str) -> None:
    """Print the result of :func:`advrad.attacks.pipeline.run_checks`."""
    show_table(title, [(name, number(area)) for name, area in result.auroc.items()], ("attack", "robust AUROC"))
    show_warnings(describe_flags(result.flags))
    if not result.flags:
        print("No sign was found that attacks on this detector fail. This is no proof that they succeed.")


def show_curve(result: CurveResult, title: str) -> None:
    """Print the result of :func:`advrad.attacks.curve.run_curve`."""
    rows = [("clean", number(result.points[-1].result.clean_auroc), "", "")]
    for point in result.points:
        attacked = point.result
        interval = attacked.robust_auroc_ci
        shown = "not measured" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
        rows.append((point.given, number(attacked.robust_auroc), shown, str(attacked.gradients)))
    show_table(title, rows, (result.over, "robust AUROC", "95 % interval", "gradients"))
    show_warnings(dict.fromkeys(text for point in result.points for text in describe_flags(point.result.flags)))


def describe_flags(flags: Iterable[Flag]) -> list[str]:
    """Describe reasons to distrust a result, each as its name and its words."""
    return [f"{flag.name}: {flag.words}" for flag in flags]


def show_certificates(result: CertificationResult, title: str) -> None:
    """Print the result of :func:`advrad.certify`."""
    if result.method == "bounds":
        show_proofs(result, title)
        return
    noise = "" if result.sigma is None else f", noise {result.sigma:g}"
    rows = [
        ("method", f"{result.method}{noise}; {result.n_samples} draws; confidence {result.confidence:g}"),
        ("image AUROC, smoothed score", number(result.clean_auroc)),
        ("images", f"{result.n_normal} normal, {result.n_anomalous} anomalous"),
        ("effort", f"{result.seconds:.0f} s"),
        ("results", result.folder or ""),
    ]
    if result.median_radius is not None:
        rows.insert(2, ("median certified radius", f"{result.median_radius:.4g}"))
    rows += [("note", note) for note in result.notes]
    show_table(title, rows)
    listed = []
    for radius, area in result.certified_auroc.items():
        shares = result.verdicts[radius] if result.verdicts else None
        values = (shares.right, shares.wrong, shares.abstained, shares.samples_saved) if shares else (None,) * 4
        listed.append((f"{radius:g}", number(area), *map(percent, values)))
    show_table("Certified", listed, ("l2 radius", "AUROC", "right", "wrong", "abstained", "draws saved"))
    for sentence in result.meaning:
        print(sentence)
    show_warnings(result.warnings)


def show_proofs(result: CertificationResult, title: str) -> None:
    """Print the result of :func:`advrad.certify` with exact bounds."""
    norm = result.norm
    rows = [
        ("method", f"{result.method}; {norm}; exact, without noise"),
        ("image AUROC", number(result.clean_auroc)),
        ("images", f"{result.n_normal} normal, {result.n_anomalous} anomalous"),
        ("effort", f"{result.seconds:.0f} s"),
        ("results", result.folder or ""),
    ]
    if result.threshold is not None:
        rows.insert(2, ("threshold", f"{result.threshold:.6g}"))
    if result.median_radius is not None:
        rows.insert(3, ("median proven radius", reach_text(result.median_radius, norm)))
    if (sticker := result.sticker) is not None:
        found = f"{percent(sticker.found)} of the defects still found, {percent(sticker.clean_found)} without it"
        rows.append((f"sticker of {sticker.side_px} px", f"{found}; AUROC {number(sticker.auroc)}"))
    rows += [("note", note) for note in result.notes]
    show_table(title, rows)
    listed = []
    for radius, area in result.certified_auroc.items():
        interval = (result.certified_auroc_ci or {}).get(radius)
        shown = "not measured" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
        counts = result.proven[radius] if result.proven else None
        verdicts = (
            [f"{one.defective} / {one.good} / {one.not_proven}" for one in (counts.anomalous, counts.normal)]
            if counts
            else ["", ""]
        )
        listed.append((radius_text(radius, norm), number(area), shown, *verdicts))
    show_table("Proven", listed, (f"{norm} radius", "AUROC", "95 % interval", "anomalous images", "normal images"))
    if result.proven:
        print("Verdicts: proven defective / proven good / not proven.")
    for radius, words in (result.words or {}).items():
        certain = f"{percent(words.found)} of the defects are certainly found"
        counted = [(str(word), str(words.anomalous[word]), str(words.normal[word])) for word in words.normal]
        heads = ("verdict", "anomalous images", "normal images")
        show_table(f"Verdicts within {norm} {radius_text(radius, norm)}: {certain}", counted, heads)
    for sentence in result.meaning:
        print(sentence)
    show_warnings(result.warnings)


def show_estimates(left: Sequence[Estimate], title: str) -> None:
    """Print what a benchmark has left to do for each detector, and an estimate of the time."""
    if not left:
        print("nothing is left to do")
        return
    by_label: dict[str, list[Estimate]] = {}
    for part in left:
        by_label.setdefault(part.label, []).append(part)
    rows = [
        (label, str(len(parts)), str(sum(part.cells for part in parts)), clock(sum(part.seconds for part in parts)))
        for label, parts in by_label.items()
    ]
    seconds = sum(part.seconds for part in left)
    rows.append(("all", str(len(left)), str(sum(part.cells for part in left)), clock(seconds)))
    show_table(title, rows, ("detector", "trainings", "cells", "time of one process"))
    print(f"about {seconds / 3600:.1f} hours for one process; this is a rough estimate")


def show_facts(title: str, values: Mapping[str, Any]) -> None:
    """Print nested values as a table of dotted names."""
    show_table(title, flat(values, "\n"))
