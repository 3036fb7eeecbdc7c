"""Defects of the flange.

Each function damages a finished part: it changes the shape, the finish or the coating of the metal, and the light
follows from these. Each takes the part, a random generator and the severity from 0 (subtle) to 1 (plain), and returns
the mask of the defect, one value per sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from advrad.demo.flange.fields import Array, Mask, Rng, clouds, polyline_distance, step
from advrad.demo.flange.shapes import (
    PATH_SEGMENTS,
    blob_distance,
    empty_mask,
    path_window,
    random_path,
    random_point,
    replace_metal,
)
from advrad.demo.flange.surface import (
    BORE_RADIUS,
    CODE_LINES,
    HOLE_COUNT,
    HOLE_RADIUS,
    OUTER_RADIUS,
    SINK_RADIUS,
    Part,
)

Defect = Callable[[Part, Rng, float], Mask]


def scratch(part: Part, rng: Rng, severity: float) -> Mask:
    """Add one to three bent grooves, as a dragged tool or chip leaves them."""
    mask = empty_mask(part)
    start = random_point(part, rng, 0.25, 0.78, 0.0)
    # Towards the centre, so that the scratch stays on the part.
    heading = np.arctan2(-start[1], -start[0]) + rng.uniform(-1.1, 1.1)
    length = rng.uniform(0.28, 0.5) + 0.35 * severity
    bend = rng.uniform(-0.9, 0.9)
    for number in range(1 + int(rng.uniform(0, 1.2 + 1.5 * severity))):
        half = (0.0075 + 0.0065 * severity) * (1.0 if number == 0 else 0.7)
        offset = 0.045 * number * rng.uniform(0.6, 1.2)
        origin = (start[0] - offset * np.sin(heading), start[1] + offset * np.cos(heading))
        points = random_path(rng, origin, heading, length * rng.uniform(0.75, 1.0), bend, 0.03)
        window, x, y = path_window(part, points, 0.06)
        distance, place = polyline_distance(x, y, points, 3 * half)
        # The pressure rises at the start, falls at the end and varies in between.
        ends = step(place, 0.0, 3.0) * step(place, PATH_SEGMENTS, PATH_SEGMENTS - 4.0)
        skips = 0.8 + 0.35 * np.interp(
            place, np.arange(PATH_SEGMENTS + 1), rng.standard_normal(PATH_SEGMENTS + 1)
        ).astype(np.float32)
        width = half * (0.5 + 0.5 * ends)
        across = np.minimum(distance / width, 3)
        press = ends * np.clip(skips, 0.3, 1.2)
        valley = np.clip(1 - across**2, 0, 1) - 0.35 * np.clip(1 - (across - 1.35) ** 2 / 0.12, 0, 1)
        part.add_height(window, -valley * press * half * (0.9 + 0.7 * severity))
        groove = np.clip(1.2 - across, 0, 1) * press
        # The groove scatters light in all directions: it has no turning marks.
        part.across[window] += 0.2 * groove
        part.along[window] += 0.3 * groove
        part.occlusion[window] *= 1 - (0.25 + 0.25 * severity) * np.clip(1 - across, 0, 1) * press
        mask[window] |= (across < 1.6) & (ends > 0.05)
    return mask & (part.matter > 0.5)


def dent(part: Part, rng: Rng, severity: float) -> Mask:
    """Add a smooth depression from a blow, with a slightly raised rim."""
    size = rng.uniform(0.07, 0.10) + 0.05 * severity
    spot = random_point(part, rng, 0.57, 0.76, SINK_RADIUS + 0.5 * size)
    window, from_x, from_y = part.window_around(spot, 1.7 * size)
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.45)
    along = (from_x * np.cos(turn) + from_y * np.sin(turn)) / stretch**0.5
    past = (from_y * np.cos(turn) - from_x * np.sin(turn)) * stretch**0.5
    reach = blob_distance(rng, along.astype(np.float32), past.astype(np.float32), 0.12) / size
    bowl = np.clip(1 - reach**2, 0, 1) ** 2
    rim = np.exp(-(((reach - 1.0) / 0.12) ** 2))
    part.add_height(window, size * (-(0.16 + 0.30 * severity) * bowl + (0.015 + 0.02 * severity) * rim))
    crushed = step(reach, 0.75, 0.2)
    part.along[window] += (0.04 + 0.10 * severity) * crushed
    part.occlusion[window] *= 1 - 0.22 * bowl
    mask = empty_mask(part)
    mask[window] = reach < 1.2
    return mask & (part.matter > 0.5)


def crack(part: Part, rng: Rng, severity: float) -> Mask:
    """Add a dark, branching line that starts at an edge, where the stress is highest."""
    mask = empty_mask(part)
    kind = rng.integers(3)
    if kind == 0:
        angle = rng.uniform(0, 2 * np.pi)
        start, inwards = part.to_image(OUTER_RADIUS - 0.005, angle), angle + np.pi
    elif kind == 1:
        number, side = int(rng.integers(HOLE_COUNT)), rng.uniform(0, 2 * np.pi)
        middle = part.hole_centre(number)
        reach, side_in_image = SINK_RADIUS * part.scene.scale, side + part.scene.angle
        start = (middle[0] + reach * np.cos(side_in_image), middle[1] + reach * np.sin(side_in_image))
        inwards = side
    else:
        angle = rng.uniform(0, 2 * np.pi)
        start, inwards = part.to_image(BORE_RADIUS + 0.005, angle), angle
    heading = inwards + part.scene.angle + rng.uniform(-0.45, 0.45)
    length = 0.17 + 0.20 * severity
    trunk = random_path(rng, start, heading, length, rng.uniform(-0.5, 0.5), 0.42)
    lines = [(trunk, 0.0055 + 0.0045 * severity)]
    for _ in range(1 + int(rng.uniform(0, 1 + 2 * severity))):
        fork = int(rng.integers(6, 19))
        away = heading + rng.choice((-1, 1)) * rng.uniform(0.5, 1.0)
        branch = random_path(rng, tuple(trunk[fork]), away, length * rng.uniform(0.25, 0.5), 0.0, 0.45)
        lines.append((branch, (0.0045 + 0.0025 * severity)))
    for points, half in lines:
        window, x, y = path_window(part, points, 4 * half)
        distance, place = polyline_distance(x, y, points, 4 * half)
        width = half * (1.0 - 0.65 * place / PATH_SEGMENTS)
        gape = np.clip(1.35 - np.minimum(distance / width, 3), 0, 1)
        part.occlusion[window] *= 1 - (0.86 + 0.1 * severity) * gape
        # The edges of the crack are raised and reflect the light.
        lips: Array = np.exp(-np.square((np.minimum(distance / width, 9) - 1.55) / 0.45), dtype=np.float32)
        part.add_height(window, 0.22 * half * lips)
        mask[window] |= distance < np.maximum(2.3 * width, 0.8 * part.pitch)
    return mask & (part.matter > 0.5)


def rust(part: Part, rng: Rng, severity: float) -> Mask:
    """Add corrosion: brown, patchy and matt, with spots around the main patch."""
    size = rng.uniform(0.085, 0.115) + 0.085 * severity
    spot = random_point(part, rng, 0.25, 0.75, 0.0)
    window, from_x, from_y = part.window_around(spot, 1.9 * size)
    reach = blob_distance(rng, from_x, from_y, 0.5) / np.float32(size)
    coarse, medium, fine = (clouds(rng, from_x, from_y, size * share) for share in (0.5, 0.2, 0.08))
    grain = clouds(rng, from_x, from_y, 0.018)
    amount = 1.05 - reach + 0.42 * coarse + 0.26 * medium + 0.14 * fine
    amount -= 3 * step(reach, 1.35, 1.75)
    crust = step(amount, 0.05, 0.55) * np.clip(0.92 + 0.10 * grain, 0, 1)
    # Around the crust the metal is stained.
    stain = step(amount, -0.25, 0.35) * (0.20 + 0.22 * severity)
    opacity = np.maximum(stain, crust * (0.55 + 0.40 * severity))
    # Thin rust is orange, thick rust dark brown.
    thick = np.clip(0.42 * amount + 0.18 * medium + 0.12 * fine + 0.06 * grain, 0, 1)[..., None]
    thin_colour = np.array((0.27, 0.100, 0.026), np.float32)
    thick_colour = np.array((0.060, 0.022, 0.011), np.float32)
    colour = thin_colour + (thick_colour - thin_colour) * thick
    colour *= np.clip(1 + 0.14 * fine + 0.16 * grain, 0.4, 1.7)[..., None]
    part.add_height(window, crust * (0.0009 * grain + 0.0008 * fine))
    part.coats.append((window, opacity * (part.matter[window] > 0.3), colour))
    mask = empty_mask(part)
    mask[window] = opacity > 0.10
    return mask & (part.matter > 0.5)


def missing_hole(part: Part, rng: Rng, severity: float) -> Mask:
    """Leave out a hole; at a severity below 0.5 the sink is there, but not the hole through it."""
    number = int(rng.integers(HOLE_COUNT))
    # The engraving overlaps the windows of holes, so it is removed first and added again afterwards.
    part.restore("code")
    window = part.restore(("hole", number))
    reach = SINK_RADIUS + 0.012
    if severity < 0.5:
        part.drill(number, through=False)
        reach = HOLE_RADIUS + 0.012
    part.engrave(CODE_LINES)
    centre = part.hole_centre(number)
    distance = np.hypot(part.x[:, window[1]] - centre[0], part.y[window[0]] - centre[1])
    mask = empty_mask(part)
    mask[window] = distance < reach * part.scene.scale
    return mask


def chip(part: Part, rng: Rng, severity: float) -> Mask:
    """Break metal out of the outer edge or the bore, with a rough fracture."""
    outer = rng.random() < 0.75
    edge = OUTER_RADIUS if outer else BORE_RADIUS
    size = rng.uniform(0.05, 0.07) + (0.07 if outer else 0.045) * severity
    spot = part.to_image(edge + (0.010 if outer else 0.015), rng.uniform(0, 2 * np.pi))
    window, from_x, from_y = part.window_around(spot, 1.6 * size)
    facets, grain = (clouds(rng, from_x, from_y, size * share) for share in (0.55, 0.16))
    reach = blob_distance(rng, from_x, from_y, 0.42) / np.float32(size) + 0.05 * grain
    gone = step(reach, 0.70, 0.62)
    broken = step(reach, 1.03, 0.95)
    fall = np.clip(1.0 - reach, 0, 1)
    # The fracture replaces the turned surface and its chamfer.
    for field in (part.slope_x, part.slope_y):
        field[window] *= 1 - broken
    part.add_height(window, -(1.4 * fall + 0.13 * fall * facets + 0.05 * (fall > 0) * grain) * np.float32(size))
    part.across[window] += broken * (0.38 - part.across[window])
    part.along[window] += broken * (0.38 - part.along[window])
    part.reflect[window] *= 1 - broken * (0.25 - 0.22 * np.clip(grain, -1.5, 1.5))
    part.occlusion[window] += broken * (0.85 - 0.5 * fall - part.occlusion[window])
    part.matter[window] *= 1 - gone
    mask = empty_mask(part)
    mask[window] = reach < 1.04
    mask &= part.radius < OUTER_RADIUS if outer else part.radius > BORE_RADIUS
    return mask


def burr(part: Part, rng: Rng, severity: float) -> Mask:
    """Add a ragged lip that the drill or the lathe left along an edge."""
    if rng.random() < 0.6:
        centre = part.hole_centre(int(rng.integers(HOLE_COUNT)))
        edge, span, inwards = SINK_RADIUS, rng.uniform(1.6, 2.4) + 2.0 * severity, True
    else:
        centre, edge, inwards = part.scene.centre, OUTER_RADIUS, False
        span = rng.uniform(0.25, 0.4) + 0.35 * severity
    middle = rng.uniform(-np.pi, np.pi)
    edge *= part.scene.scale
    teeth = np.convolve(rng.uniform(0.0, 1.0, 50), (0.25, 0.5, 0.25), "valid").astype(np.float32)
    tall = 0.020 + 0.020 * severity
    window, from_x, from_y = part.window_around(centre, edge + 2.2 * tall)
    distance = np.hypot(from_x, from_y)
    turn = np.arctan2(from_y, from_x) - np.float32(middle)
    turn = np.abs((turn + np.pi) % (2 * np.pi) - np.pi) * np.sign(np.sin(turn))
    place = turn / np.float32(span) + np.float32(0.5)
    fringe = np.interp(place * 47, np.arange(48), teeth).astype(np.float32)
    fringe *= step(place, 0.0, 0.12) * step(place, 1.0, 0.88) * np.float32(tall)
    # The lip starts on the rim and extends over the edge.
    beyond = (np.float32(edge) - distance) if inwards else (distance - np.float32(edge))
    root = -0.30 * fringe - 0.004
    share = (beyond - root) / np.maximum(fringe - root, 1e-4)
    lip = (share > 0) & (share < 1) & (fringe > 0.004)
    share = np.clip(share, 0, 1)
    shift_x, shift_y = part.shadow_shift(0.022)
    rows, columns = round(shift_y / part.pitch), round(shift_x / part.pitch)
    shadow = np.roll(lip, (rows, columns), (0, 1)) & ~lip & (part.matter[window] > 0.5)
    part.occlusion[window] *= 1 - 0.65 * shadow
    out_x, out_y = from_x / np.maximum(distance, 1e-6), from_y / np.maximum(distance, 1e-6)
    # The lip is rolled over: it rises at the root and falls at the tip.
    roll = 0.75 * np.cos(np.pi * share) * (1.0 if not inwards else -1.0) + 0.25 * (fringe / tall - 0.6)
    crinkle = np.interp(place * 150, np.arange(151), rng.standard_normal(151)).astype(np.float32)
    part.slope_x[window][lip] = (roll * out_x - 0.5 * crinkle * out_y)[lip]
    part.slope_y[window][lip] = (roll * out_y + 0.5 * crinkle * out_x)[lip]
    for field, value in ((part.across, 0.20), (part.along, 0.16), (part.occlusion, 1.0), (part.matter, 1.0)):
        field[window][lip] = value
    part.reflect[window][lip] = 0.80 + 0.15 * severity
    mask = empty_mask(part)
    mask[window] = lip | shadow
    return mask


def swarf(part: Part, rng: Rng, severity: float) -> Mask:
    """Put a curled metal chip, or beads of weld spatter, on the part."""
    if rng.random() < 0.5:
        return _curl(part, rng, severity)
    mask = empty_mask(part)
    first = random_point(part, rng, 0.28, 0.74, 0.0)
    for number in range(1 + int(rng.uniform(0, 2 + 4 * severity))):
        size = (0.030 + 0.024 * severity) * (1.0 if number == 0 else rng.uniform(0.35, 0.8))
        apart = 0.0 if number == 0 else rng.uniform(0.06, 0.16)
        angle = rng.uniform(0, 2 * np.pi)
        spot = (first[0] + apart * np.cos(angle), first[1] + apart * np.sin(angle))
        window, from_x, from_y = part.window_around(spot, 3.2 * size)
        reach = blob_distance(rng, from_x, from_y, 0.10) / np.float32(size)
        shift_x, shift_y = part.shadow_shift(1.3 * size)
        shade = np.hypot(from_x - shift_x, from_y - shift_y) / np.float32(size)
        shadow = np.maximum(step(shade, 1.25, 0.8), 0.8 * step(reach, 1.3, 1.0))
        part.occlusion[window] *= 1 - 0.75 * shadow
        # A ring of burnt oxide around the bead.
        halo = step(reach, 1.9, 1.0) * (0.30 + 0.25 * severity)
        part.coats.append((window, halo * (part.matter[window] > 0.5), np.array((0.10, 0.085, 0.10), np.float32)))
        ball = reach < 1
        bulge = np.sqrt(np.clip(1.02 - reach**2, 0.03, 1))
        wrinkle = clouds(rng, from_x, from_y, 0.4 * size) * 0.10
        part.slope_x[window][ball] = (-from_x / np.float32(size) / bulge + wrinkle)[ball]
        part.slope_y[window][ball] = (-from_y / np.float32(size) / bulge + wrinkle)[ball]
        replace_metal(part, window, ball, reflect=1.0, spread=0.12, occlusion=1 - 0.45 * np.clip(reach, 0, 1) ** 3)
        mask[window] |= (reach < 1.35) | ((shade < 1.1) & (part.matter[window] > 0.5))
    return mask


def _curl(part: Part, rng: Rng, severity: float) -> Mask:
    """Put a spiral metal chip on the part."""
    spot = random_point(part, rng, 0.25, 0.70, 0.0)
    half = 0.014 + 0.007 * severity
    size = rng.uniform(0.075, 0.10) + 0.06 * severity
    count = 64
    along = np.linspace(0, 1, count)
    turn = rng.uniform(0, 2 * np.pi) + rng.choice((-1, 1)) * along * rng.uniform(5.5, 9.5)
    drift = rng.uniform(0, 2 * np.pi)
    wobble = 0.14 * np.sin(rng.uniform(5, 12) * along + rng.uniform(0, 6))
    radius = size * (0.30 + 0.70 * along + wobble)
    points = np.stack(
        (radius * np.cos(turn) + 1.1 * size * along * np.cos(drift),
         radius * np.sin(turn) + 1.1 * size * along * np.sin(drift)), 1,
    )  # fmt: skip
    points += np.array(spot) - points.mean(0)
    shift_x, shift_y = part.shadow_shift(0.040)
    window, x, y = path_window(part, points, 0.09)
    distance, place = polyline_distance(x, y, points, 2.5 * half)
    width = half * (0.6 + 0.4 * np.sin(place * np.float32(0.35)) ** 2) * step(place, -1.0, 3.0)
    reach = np.minimum(distance / width, 3)
    below, below_place = polyline_distance(x - np.float32(shift_x), y - np.float32(shift_y), points, 2.5 * half)
    shadow = step(np.minimum(below / half, 3), 1.35, 0.55) * (below_place >= 0)
    part.occlusion[window] *= 1 - 0.72 * shadow
    ribbon = reach < 1
    bulge = half * np.sqrt(np.clip(1 - reach**2, 0, 1))
    along_y, along_x = np.gradient(bulge, np.float32(part.pitch))
    # The ribbon twists, so that its face turns towards the light and away from it.
    twist = np.sin(place * np.float32(0.7) + np.float32(drift)) * np.float32(0.5)
    part.slope_x[window][ribbon] = (1.1 * along_x + twist)[ribbon]
    part.slope_y[window][ribbon] = (1.1 * along_y - twist)[ribbon]
    replace_metal(part, window, ribbon, reflect=1.15, spread=0.20, occlusion=0.72 + 0.28 * np.clip(1 - reach**2, 0, 1))
    # Tempering colour of metal that was cut hot.
    heat = np.array((0.42, 0.32, 0.16), np.float32)
    part.coats.append((window, 0.38 * ribbon.astype(np.float32), heat))
    mask = empty_mask(part)
    mask[window] = ribbon | ((shadow > 0.35) & (part.matter[window] > 0.5))
    return mask


def engraving(part: Part, rng: Rng, severity: float) -> Mask:
    """Engrave a wrong code, or engrave the code twice or too faintly."""
    before = {name: getattr(part, name)[part.engraving_window()].copy() for name in ("slope_x", "slope_y", "occlusion")}
    # The window holds more than the engraving, so the mask is where the new engraving differs from the old one.
    window = part.restore("code")
    kind = rng.integers(3)
    if kind == 0:
        slip = (0.018 + 0.02 * severity) * rng.choice((-1.0, 1.0))
        part.engrave(CODE_LINES, smear=(float(slip), float(rng.uniform(-0.012, 0.012))))
    elif kind == 1:
        part.engrave(CODE_LINES, depth=0.28 * (1 - severity))
    else:
        part.engrave((CODE_LINES[0], "1483B") if severity < 0.5 else ("D8-48RA", "7160H"))
    changed = np.zeros(before["slope_x"].shape, np.float32)
    for name, old in before.items():
        changed += np.abs(getattr(part, name)[window] - old)
    from scipy.ndimage import binary_closing

    reach = max(1, round(0.012 / part.pitch))
    disc = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1]) <= reach + 0.5
    mask = empty_mask(part)
    mask[window] = binary_closing(np.pad(changed > 0.12, reach), disc)[reach:-reach, reach:-reach]
    return mask


DEFECTS: Mapping[str, Defect] = {
    "burr": burr,
    "chip": chip,
    "crack": crack,
    "dent": dent,
    "engraving": engraving,
    "missing_hole": missing_hole,
    "rust": rust,
    "scratch": scratch,
    "swarf": swarf,
}
"""The defects by name; a defect's name is also the name of its folder in the data set."""
