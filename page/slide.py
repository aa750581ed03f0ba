"""slide.svg, 16:9: the blocks of the three forms, and the coefficient they share."""

from html import escape
from itertools import pairwise

import listing
import numpy as np

WIDTH, HEIGHT = 1280, 720
FONT_SIZE = 23
ADVANCE = 0.602 * FONT_SIZE  # width of a character, to which every line is fitted
LEFT = 112  # of the code
SETS = {"i": ("in", "#0b62a4"), "k": ("kill", "#c44e00"), "p": ("pass", "#00796b")}
STYLE = """
  text { font-family: Georgia, "Liberation Serif", serif; fill: #1c1b19 }
  .source { font-family: Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace }
  .curve { fill: none; stroke: #1c1b19; stroke-linejoin: round }
"""


def runs(letters: str) -> list[tuple[str, int, int]]:
    """Equal letters in a row as (letter, first, last)."""
    found = []
    first = 0
    for i in range(1, len(letters) + 1):
        if i == len(letters) or letters[i] != letters[first]:
            found.append((letters[first], first, i - 1))
            first = i
    return found


def unbroken(values: np.ndarray) -> list[range]:
    """Where the curve is drawn in one go: a step that dwarfs both its neighbours is a jump."""
    steps = np.abs(np.diff(values))
    before = np.concatenate([steps[:1], steps[:-1]])
    after = np.concatenate([steps[1:], steps[-1:]])
    jumps = steps > 0.05 + 4 * np.maximum(before, after)
    jumps[0] = False  # which has one neighbour only, itself
    edges = [0, *(np.flatnonzero(jumps) + 1).tolist(), len(values)]
    return [range(start, end) for start, end in pairwise(edges)]


class Panel:
    """A plot of w from 0 to 2 and a coefficient from -2 to 2 in a box on the slide."""

    def __init__(self, left: float, top: float, width: float, height: float):
        self.left, self.top = left, top
        self.width, self.height = width, height

    def x(self, ratio: float) -> float:
        """Where a ratio lies."""
        return round(self.left + self.width * ratio / 2, 1)

    def y(self, coefficient: float) -> float:
        """Where a coefficient lies."""
        return round(self.top + self.height * (2 - coefficient) / 4, 1)

    def band(self, letter: str, low: float, high: float) -> str:
        """One set of ratios: its tint and its name."""
        name, color = SETS[letter]
        width = round(self.x(high) - self.x(low), 1)
        middle = (self.x(low) + self.x(high)) / 2
        label_y = self.top + 26
        return (
            f'<rect x="{self.x(low)}" y="{self.top}" width="{width}" height="{self.height}"'
            f' fill="{color}" opacity="0.13"/>'
            f'<text x="{middle:.1f}" y="{label_y}" text-anchor="middle" font-size="22"'
            f' font-weight="bold" style="fill: {color}">{name}</text>'
        )

    def curve(self, ratios: list[float], values: np.ndarray, width: float, opacity: float) -> str:
        """A curve, broken where it jumps."""
        path = ""
        for part in unbroken(values):
            points = [f"{self.x(ratios[i])} {self.y(values[i])}" for i in part]
            path += "M" + "L".join(points)
        return f'<path class="curve" d="{path}" stroke-width="{width}" opacity="{opacity}"/>'

    def axes(self, title: str) -> str:
        """The title, the zero line and the numbers."""
        parts = [f'<text x="{self.left}" y="{self.top - 14}" font-size="22">{title}</text>']
        zero = self.y(0)
        right = self.left + self.width
        line = f'<path d="M{self.left} {zero}H{right}" stroke="#1c1b19" stroke-width="1"/>'
        parts.append(line)
        for ratio in (0, 0.8, 1.2, 2):
            bottom = self.top + self.height + 24
            parts.append(
                f'<text x="{self.x(ratio)}" y="{bottom}" text-anchor="middle"'
                f' font-size="20">{ratio}</text>'
            )
        for coefficient in (-2, 0, 2):
            sign = str(coefficient).replace("-", "−")
            parts.append(
                f'<text x="{self.left - 8}" y="{self.y(coefficient) + 7}" text-anchor="end"'
                f' font-size="20">{sign}</text>'
            )
        return "".join(parts)


def code(y: float, line: str) -> str:
    """A line of code, its sets coloured, stretched to a width that fits with any font."""
    colors = {name: color for name, color in SETS.values()}
    spans = ""
    for text, css_class in listing.pieces(line)[0]:
        if css_class in colors:
            spans += f'<tspan style="fill: {colors[css_class]}">{escape(text)}</tspan>'
        else:
            spans += escape(text)
    return (
        f'<text class="source" x="{LEFT}" y="{y}" font-size="{FONT_SIZE}" xml:space="preserve"'
        f' textLength="{len(line) * ADVANCE:.0f}" lengthAdjust="spacingAndGlyphs">{spans}</text>'
    )


def blocks(forms: list[tuple[str, list[str]]]) -> str:
    """Every form's name and its aligned lines."""
    parts = []
    y = 92
    for name, lines in forms:
        label = f'<text x="40" y="{y}" font-size="26" font-weight="bold">{name}</text>'
        parts.append(label)
        for line in lines:
            parts.append(code(y, line))
            y += 33
        y += 12
    return "".join(parts)


def panel(place: Panel, tables: dict, advantage: float, title: str) -> str:
    """The coefficient of the three forms over w for one advantage, at epsilon = 0.2."""
    epsilon = tables["epsilons"].index(0.2)
    a = tables["advantages"].index(advantage)
    parts = []
    for letter, first, last in runs(tables["sets"][epsilon][a]):
        low = 0 if first == 0 else 0.8 if first < 50 else 1.2
        high = 2 if last == len(tables["ratios"]) - 1 else 0.8 if last < 50 else 1.2
        parts.append(place.band(letter, low, high))
    parts.append(place.axes(title))
    for name, width, opacity in (("clip", 13, 0.2), ("phi", 7, 0.4), ("klip", 2.5, 1)):
        index = tables["forms"][name]["coefficient"][epsilon][a]
        values = np.array(tables["curves"][index]) / tables["scale"]
        parts.append(place.curve(tables["ratios"], values, width, opacity))
    return "".join(parts)


def draw(forms: list[tuple[str, list[str]]], tables: dict) -> str:
    """The whole slide."""
    good = "coefficient of ∇log π, A = 1"
    bad = "A = −1"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        ' aria-label="The policy loss of PPO-Clip, of the Phi form and of KLip, and the'
        ' coefficient of grad log pi, which is the same for all three">'
        f"<style>{STYLE}</style>"
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
        '<text x="40" y="46" font-size="30" font-weight="bold">Three losses, one gradient</text>'
        f"{blocks(forms)}"
        f"{panel(Panel(76, 322, 540, 328), tables, 1.0, good)}"
        f"{panel(Panel(700, 322, 540, 328), tables, -1.0, bad)}"
        '<text x="640" y="708" font-size="22" text-anchor="middle">ratio w; three curves, widest:'
        " min, then Φ, thinnest: β, one upon the other</text>"
        "</svg>\n"
    )
