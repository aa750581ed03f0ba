"""On Ant-v4, when has the policy's noise shrunk, and when do its episodes grow long? Prints the
table of FINDINGS.md, "Why does it fail?", from the curves in benchmark/results, and what its "A
small beta" says of the ratios.

    python benchmark/noise.py

A point of a curve is a mean over 8,192 steps. The noise has shrunk at the first of three points in
a row at which the entropy is below 4; episodes are long from the first of three in a row above 200
steps, counted from the point at which they are shortest. The first columns are of the first 25
points, 204,800 steps: the fall of the entropy, and medians of the KL and of the ratio that 1 % of
the samples exceed; "until then" is that ratio's median until the noise has shrunk. A cell has the
smallest and the largest of an arm's runs. Runs that log no entropy are left out.
"""

from collections import defaultdict
from pathlib import Path

import arms
import collect
import numpy as np
import report

TASK = "Ant-v4"
RESULTS = Path(__file__).parent / "results"
FOLDERS = (RESULTS, RESULTS / "seeds_31_35", RESULTS / "again", RESULTS / "trials")
ENTROPY = 4.0
LENGTH = 200.0
IN_A_ROW = 3
EARLY = 25  # points
IN_TIME = 550.0  # thousands of steps; this and the next are read off the runs
SHORT_TAIL = 2.7
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


def long_from(curve: dict[str, np.ndarray]) -> float:
    """Step from which episodes are long, NaN for never."""
    length = np.nan_to_num(curve["length"], nan=1000)  # no episode ended: they are long
    shortest = length.argmin()
    i = first_in_a_row(length[shortest:] > LENGTH)
    return np.nan if i is None else curve["step"][shortest + i]


def written(value: float, form: str) -> str:
    """A number in this form."""
    return f"{value:{form}}".removesuffix(".").replace("-", "−")


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
    """What the table says of one run; steps are in thousands, NaN for never."""
    i = first_in_a_row(curve["entropy"] < ENTROPY)
    shrunk = np.nan if i is None else curve["step"][i] / 1000
    long = long_from(curve) / 1000
    return {
        "fall": curve["entropy"][0] - curve["entropy"][EARLY - 1],
        "kl": np.median(curve["kl"][:EARLY]),
        "q99": np.median(curve["q99"][:EARLY]),
        "shrunk": shrunk,
        "until then": np.nan if i == 0 else np.median(curve["q99"][:i]),
        "long": long,
        "later": long - shrunk,
    }


def all_runs() -> dict[str, list[dict[str, float]]]:
    """What the table says of every run, by arm."""
    by_arm = defaultdict(list)
    for folder in FOLDERS:
        final = returns(folder)
        for (arm, seed), curve in read(folder).items():
            if not np.isnan(curve["entropy"][0]) and arm not in COPIES:
                run = measure(curve) | {"return": final.get((arm, seed), np.nan)}
                run["small at first"] = curve["entropy"][0] < ENTROPY
                by_arm[arm].append(run)
    return by_arm


def table() -> str:
    """A row for each arm."""
    by_arm = all_runs()
    rows = []
    for arm in sorted(by_arm, key=rank):
        runs = {name: [run[name] for run in by_arm[arm]] for name in by_arm[arm][0]}
        row = [f"`{arm}`", len(by_arm[arm]), span(runs["fall"], ".1f")]
        row += [span(runs["kl"], "#.2g"), span(runs["q99"], "#.2g")]
        if all(runs["small at first"]):
            row += ["–", "–", "–", "–"]
        else:
            row += [times(runs["shrunk"]), span(runs["until then"], ".1f")]
            row += [times(runs["long"]), times(runs["later"])]
        rows.append([*row, written(np.mean(runs["return"]), ".0f")])
    header = ["arm", "runs", "entropy falls by", "KL", "w: 99 %"]
    header += ["noise has shrunk, 1,000 steps", "w until then", "episodes are long", "later by"]
    header += ["mean return"]
    return report.table(header, rows)


def sorted_by_tail() -> str:
    """Runs that began with much noise and had shrunk it in time, by the ratio until then. cispo,
    whose KL runs to thousands at once, is left out."""
    in_time = [
        run
        for arm, runs in all_runs().items()
        for run in runs
        if arm != "cispo" and not run["small at first"] and run["shrunk"] <= IN_TIME
    ]
    short = [run for run in in_time if run["until then"] <= SHORT_TAIL]
    long = [run for run in in_time if run["until then"] > SHORT_TAIL]
    least = min(run["return"] for run in short)
    most = max(run["return"] for run in long)
    return (
        f"{len(short)} runs with a ratio of at most {max(run['until then'] for run in short):.1f} "
        f"return {least:.0f} or more, {len(long)} with one of at least "
        f"{min(run['until then'] for run in long):.1f} return {most:.0f} or less"
    )


if __name__ == "__main__":
    print(table())
    print(sorted_by_tail())
