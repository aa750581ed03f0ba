"""Pools the test runs of the paper's arms. Prints the tables of README.md, "Benchmark and results",
and of FINDINGS.md.

    python benchmark/pooled.py

Only runs that all three arms have, by folder and seed, are pooled. benchmark/results/again has
seeds of benchmark/results a second time, rounded differently (FINDINGS.md, "What is a bit worth?").
These are not pooled, since runs of one seed may be alike: the last table says how far apart they
end, arm by arm.
"""

from itertools import product
from pathlib import Path
from typing import NamedTuple

import choose
import collect
import compare
import numpy as np
import report

RESULTS = Path(__file__).parent / "results"
FOLDERS = (".", "further", "seeds_31_35")
AGAIN = "again"
ARMS = ("clip", "kl_fixed", "kl_adaptive")
Returns = dict[tuple[str, int], float]  # by folder and seed


class Tables(NamedTuple):
    """Five tables in Markdown."""

    returns: str
    differences: str
    batches: str
    from_paper: str
    rounding: str


def read(env_id: str, folders: tuple[str, ...]) -> dict[str, Returns]:
    """The final returns of a task's test runs, by arm."""
    found: dict[str, Returns] = {arm: {} for arm in ARMS}
    for folder in folders:
        for row in collect.read_csv(RESULTS / folder / "returns.csv"):
            seed = int(row["seed"])
            wanted = row["env_id"] == env_id and row["arm"] in ARMS
            if wanted and seed not in choose.TUNING_SEEDS:
                found[row["arm"]][folder, seed] = float(row["episodic_return"])
    return found


def read_equal(env_id: str, folders: tuple[str, ...]) -> dict[str, Returns]:
    """The same of those runs that all arms have."""
    found = read(env_id, folders)
    common = set.intersection(*[set(returns) for returns in found.values()])
    return {arm: {key: found[arm][key] for key in sorted(common)} for arm in ARMS}


def values(returns: Returns) -> np.ndarray:
    """The returns alone, [runs]."""
    return np.array(list(returns.values()))


def less_clip(by_arm: dict[str, Returns]) -> list[str]:
    """The mean return of either baseline less the clip's, with its 95 % interval."""
    clip = values(by_arm["clip"])
    return [report.with_interval(compare.difference(values(by_arm[arm]), clip)) for arm in ARMS[1:]]


def five(row: dict[str, str]) -> np.ndarray:
    """Five numbers with the mean and the population standard deviation of the paper's five."""
    return float(row["mean"]) + float(row["std"]) * np.sqrt(5 / 4) * np.array([-1, -1, 0, 1, 1])


def batch_rows(env_id: str) -> list[list]:
    """Either baseline less the clip in each folder of its own, where it has enough runs for an
    interval; nothing for a task with one such folder."""
    rows = []
    for folder in (*FOLDERS, AGAIN):
        by_arm = read_equal(env_id, (folder,))
        seeds = [seed for _, seed in by_arm["clip"]]
        if len(seeds) >= compare.FEWEST:
            name = f"{seeds[0]} to {seeds[-1]}{', repeated' if folder == AGAIN else ''}"
            rows.append([env_id, name, *less_clip(by_arm)])
    return rows if len(rows) > 1 else []


def rounding_row(env_id: str) -> list | None:
    """How far apart two runs of one arm end, with one seed and with two: means over pairs of a
    first run and one in AGAIN."""
    first = read(env_id, (".",))
    again = read(env_id, (AGAIN,))
    same = []
    other = []
    for arm in ARMS:
        for ((_, a), x), ((_, b), y) in product(first[arm].items(), again[arm].items()):
            (same if a == b else other).append(abs(x - y))
    if not same:
        return None
    return [env_id, len(same), f"{np.mean(same):.0f}", len(other), f"{np.mean(other):.0f}"]


def tables() -> Tables:
    """All of it."""
    paper = report.paper_table()
    returns = []
    differences = []
    from_paper = []
    rounding = []
    batches = []
    for env_id in collect.ENVS:
        by_arm = read_equal(env_id, FOLDERS)
        samples = {arm: values(by_arm[arm]) for arm in ARMS}
        runs = len(samples["clip"])
        row = [env_id, runs]
        for arm, x in samples.items():
            theirs = paper[env_id, arm]
            row += [f"{x.mean():.0f} ± {x.std():.0f}", f"{theirs['mean']} ± {theirs['std']}"]
        returns.append(row)
        differences.append([env_id, runs, *less_clip(by_arm)])
        less = [compare.difference(x, five(paper[env_id, arm])) for arm, x in samples.items()]
        from_paper.append([env_id, runs, *map(report.with_interval, less)])
        rounding.append(rounding_row(env_id))
        batches += batch_rows(env_id)
    header = ["task", "runs", "clip, Φ and β_t", "paper's clip", "fixed β = 1", "paper's"]
    apart = ["task", "pairs of one seed", "apart by", "pairs of two seeds", "apart by"]
    less_header = ["task", "runs", "fixed β = 1 less the clip", "adaptive β less the clip"]
    paper_header = ["task", "runs", "clip less the paper's", "fixed β = 1", "adaptive β"]
    return Tables(
        report.table([*header, "adaptive β", "paper's"], returns),
        report.table(less_header, differences),
        report.table(["task", "seeds", *less_header[2:]], batches),
        report.table(paper_header, from_paper),
        report.table(apart, [row for row in rounding if row]),
    )


if __name__ == "__main__":
    print("\n".join(tables()), end="")
