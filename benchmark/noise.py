"""On Ant-v4, when has the policy's noise shrunk, and when do its episodes grow long? Prints the
table of FINDINGS.md, "Why does it fail?", from the curves in benchmark/results.

    python benchmark/noise.py

A point of a curve is a mean over 8,192 steps. The noise has shrunk at the first of three points in
a row at which the entropy is below 4; episodes are long from the first of three in a row above 200
steps, counted from the point at which they are shortest. The first columns are of the first 25
points, 204,800 steps: the fall of the entropy, and medians of the KL and of the ratio that 1 % of
the samples exceed. A cell has the smallest and the largest of an arm's runs. Runs that log no
entropy are left out.
"""

from collections import defaultdict
from pathlib import Path

import arms
import collect
import numpy as np
import report

TASK = "Ant-v4"
RESULTS = Path(__file__).parent / "results"
FOLDERS = (RESULTS, RESULTS / "again", RESULTS / "trials")
ENTROPY = 4.0
LENGTH = 200.0
IN_A_ROW = 3
EARLY = 25  # points
COPIES = ("phi", "klip")  # of the clip


def read(folder: Path) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """The curves of the task's runs in a folder: columns [points] by arm and seed."""
    columns = ("step", "entropy", "length", "kl", "q99")
    rows = defaultdict(list)
    for row in collect.read_csv(folder / "curves.csv"):
        if row["env_id"] == TASK:
            point = [collect.number(row[column]) for column in columns]
            rows[row["arm"], int(row["seed"])].append(point)
    return {
        key: dict(zip(columns, np.array(points).T, strict=True)) for key, points in rows.items()
    }


def returns(folder: Path) -> dict[tuple[str, int], float]:
    """The final return of the task's runs in a folder, by arm and seed."""
    found = {}
    for row in collect.read_csv(folder / "returns.csv"):
        if row["env_id"] == TASK:
            found[row["arm"], int(row["seed"])] = collect.number(row["episodic_return"])
    return found


def first_in_a_row(holds: np.ndarray) -> int | None:
    """Index of the first of IN_A_ROW true points in a row, if there are any."""
    for i in range(len(holds) - IN_A_ROW + 1):
        if holds[i : i + IN_A_ROW].all():
            return i
    return None


def shrunk_at(curve: dict[str, np.ndarray]) -> float:
    """Step at which the noise has shrunk, NaN for never."""
    i = first_in_a_row(curve["entropy"] < ENTROPY)
    return np.nan if i is None else curve["step"][i]


def long_from(curve: dict[str, np.ndarray]) -> float:
    """Step from which episodes are long, NaN for never."""
    length = np.nan_to_num(curve["length"], nan=1000)  # no episode ended: they are long
    shortest = length.argmin()
    i = first_in_a_row(length[shortest:] > LENGTH)
    return np.nan if i is None else curve["step"][shortest + i]


def written(value: float, form: str) -> str:
    """A number in this form."""
    return f"{value:{form}}".replace("-", "−")


def span(values: list[float], form: str) -> str:
    """The smallest and the largest that are not NaN."""
    known = [value for value in values if not np.isnan(value)]
    ends = [written(end, form) for end in (min(known), max(known))]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def times(steps: list[float]) -> str:
    """The same of steps in thousands, and how often NaN, for never."""
    never = sum(np.isnan(steps))
    if never == len(steps):
        return "never"
    words = span(steps, ".0f")
    return f"{words}, {never} never" if never else words


def rank(name: str) -> tuple:
    """Arms of benchmark.sh first, in its order; then the trials."""
    try:
        return (0, arms.parse(name).rank)
    except ValueError:
        return (1, name)


def measure(curve: dict[str, np.ndarray]) -> dict[str, float]:
    """What the table says of one run; steps are in thousands."""
    shrunk = shrunk_at(curve) / 1000
    long = long_from(curve) / 1000
    return {
        "fall": curve["entropy"][0] - curve["entropy"][EARLY - 1],
        "kl": np.median(curve["kl"][:EARLY]),
        "q99": np.median(curve["q99"][:EARLY]),
        "shrunk": shrunk,
        "long": long,
        "later": long - shrunk,
    }


def table() -> str:
    """A row for each arm."""
    by_arm = defaultdict(list)
    for folder in FOLDERS:
        final = returns(folder)
        for (arm, seed), curve in read(folder).items():
            if not np.isnan(curve["entropy"][0]) and arm not in COPIES:
                run = measure(curve) | {"return": final.get((arm, seed), np.nan)}
                run["small at first"] = curve["entropy"][0] < ENTROPY
                by_arm[arm].append(run)
    rows = []
    for arm in sorted(by_arm, key=rank):
        runs = {name: [run[name] for run in by_arm[arm]] for name in by_arm[arm][0]}
        row = [f"`{arm}`", len(by_arm[arm]), span(runs["fall"], ".1f")]
        row += [span(runs["kl"], "#.2g"), span(runs["q99"], "#.2g")]
        if all(runs["small at first"]):
            row += ["–", "–", "–"]
        else:
            row += [times(runs[name]) for name in ("shrunk", "long", "later")]
        rows.append([*row, written(np.mean(runs["return"]), ".0f")])
    header = ["arm", "runs", "entropy falls by", "KL", "w: 99 %"]
    header += ["noise has shrunk, 1,000 steps", "episodes are long", "later by", "mean return"]
    return report.table(header, rows)


if __name__ == "__main__":
    print(table(), end="")
