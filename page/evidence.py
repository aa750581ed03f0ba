"""What was run: the four checks as terminals, and the learning curves of the benchmark."""

import csv
from collections import defaultdict
from html import escape
from pathlib import Path
from statistics import mean

ARMS = {  # arm of the benchmark: its name, colour and dashes
    "clip": ("min = Φ = β<sub>t</sub>", "min = Φ = β per sample", "var(--ink)", ""),
    "kl_fixed": ("one β = 1", "one β = 1", "var(--kill)", "7 4"),
    "kl_adaptive": ("one β, adapted", "one β, adapted", "var(--in)", "2 4"),
}
WIDTH, HEIGHT = 300, 220  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 66, 294, 50, 186
NUM_POINTS = 50
TUNING_SEEDS = ("11", "12")  # they choose a setting, and count for nothing else


def terminals(checks: list[dict]) -> str:
    """Each command with what it printed; equal checksums have equal colours."""
    first = checks[0]["printed"]
    parts = []
    for check in checks:
        css_class = "same" if check["printed"] == first else "other"
        lines = ""
        for line in check["printed"]:
            name, value, rest = (line + "  ").split(" ", 2)
            value = f'<b class="{css_class}">{escape(value)}</b>' if "sha256" in name else value
            lines += f"<div>{escape(name)} {value} {escape(rest.strip())}</div>"
        parts.append(
            f'<div class="terminal"><div><code>{escape(check["command"])}</code>'
            f'<button type="button" class="copy needs-js">Copy</button></div>{lines}</div>\n'
        )
    return "".join(parts)


def read_curves(path: Path) -> dict[str, dict[str, list[tuple[float, list[float]]]]]:
    """Task to arm to (step, the seeds' returns), in some fifty bins of steps."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["arm"] in ARMS and row["return"]]
    rows = [row for row in rows if row["seed"] not in TUNING_SEEDS]
    last = max(int(row["step"]) for row in rows)
    width = last / NUM_POINTS
    bins: dict = defaultdict(lambda: defaultdict(lambda: defaultdict(lambda: defaultdict(list))))
    for row in rows:
        place = min(int(int(row["step"]) / width), NUM_POINTS - 1)
        returns = bins[row["env_id"]][row["arm"]][place][row["seed"]]
        returns.append(float(row["return"]))
    return {
        env_id: {
            arm: [
                ((place + 0.5) / NUM_POINTS, [mean(values) for values in seeds.values()])
                for place, seeds in sorted(places.items())
            ]
            for arm, places in arms.items()
        }
        for env_id, arms in bins.items()
    }


def panel(env_id: str, arms: dict[str, list[tuple[float, list[float]]]]) -> str:
    """A task: per arm the mean of its seeds, and the band from the lowest to the highest."""
    highest = max(max(values) for points in arms.values() for _, values in points)
    lowest = min(0, *(mean(values) for points in arms.values() for _, values in points))

    def x(fraction: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * fraction, 1)

    def y(value: float) -> float:
        fraction = (max(value, lowest) - lowest) / (highest - lowest)
        return round(BOTTOM - (BOTTOM - TOP) * fraction, 1)

    step = 10 ** (len(str(int(highest))) - 1)
    top_tick = int(highest // step) * step
    bands, lines, said = "", "", []
    for arm, (_, title, color, dashes) in ARMS.items():
        if arm not in arms:
            continue
        points = arms[arm]
        upper = [f"{x(place)} {y(max(values))}" for place, values in points]
        lower = [f"{x(place)} {y(min(values))}" for place, values in reversed(points)]
        middle = [f"{x(place)} {y(mean(values))}" for place, values in points]
        bands += f'<path d="M{"L".join(upper + lower)}Z" fill="{color}" opacity="0.13"/>'
        lines += (
            f'<path d="M{"L".join(middle)}" fill="none" stroke="{color}" stroke-width="2.5"'
            f' stroke-dasharray="{dashes}"/>'
        )
        said.append(f"{title} ends at {mean(points[-1][1]):.0f}")
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="Return on {escape(env_id)}: {"; ".join(said)}">'
        f'<text x="4" y="20" class="title">{escape(env_id)}</text>'
        f'<path class="axis" d="M{LEFT} {TOP}V{BOTTOM}M{LEFT} {y(0)}H{RIGHT}"/>'
        f'<text x="{LEFT - 5}" y="{y(0) + 5}" text-anchor="end">0</text>'
        f'<text x="{LEFT - 5}" y="{y(top_tick) + 5}" text-anchor="end">{top_tick}</text>'
        f'<text x="{RIGHT}" y="{HEIGHT - 8}" text-anchor="end">1 million steps</text>'
        f"{bands}{lines}</svg>\n"
    )


def legend() -> str:
    """The arms' names, each with its line."""
    return "".join(
        f'<span><svg viewBox="0 0 40 10" class="key" aria-hidden="true"><path d="M0 5H40" fill="none"'
        f' stroke="{color}" stroke-width="3" stroke-dasharray="{dashes}"/></svg> {title}</span>\n'
        for title, _, color, dashes in ARMS.values()
    )


def learning_curves(path: Path) -> str:
    """A panel per task, and what they show; nothing before the benchmark has run."""
    if not path.exists():
        return ""
    panels = "".join(panel(env_id, arms) for env_id, arms in sorted(read_curves(path).items()))
    return (
        f'<div class="curves">\n<div class="panels">\n{panels}</div>\n'
        f'<p class="legend">{legend()}</p>\n'
        '<p class="note">Return over training. A line is the mean of the seeds, a band reaches from'
        " the lowest seed to the highest. The curves show two settings of the scalar penalty. They do"
        " not show that no β can do the clip’s work.</p>\n</div>\n"
    )
