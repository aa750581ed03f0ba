"""report.md and its figures, from the two tables of a folder.

    python benchmark/report.py benchmark/results

What is run and tested was fixed before the first run, in PROTOCOL.md; all else is called exploratory.
"""

import itertools
import sys
from pathlib import Path

import arms
import figures
import numpy as np
import pandas as pd
import runs
import stats

PAPER = Path(__file__).resolve().parent / "paper"
TASKS = ["HalfCheetah-v4", "Hopper-v4", "Walker2d-v4", "Ant-v4", "Humanoid-v4"]
SWEPT = TASKS[3:]
SEEDS = range(1, 11)  # judge
TUNING_SEEDS = (11, 12)  # choose a setting, and count for nothing else
BASELINES = ["kl_fixed", "kl_adaptive"]
PRIMARY = [(task, arm) for task in TASKS for arm in BASELINES]  # each less the clip
SWEEP = ["clip=0.1", "clip", "clip=0.3", "kl_fixed=0.3", "kl_fixed", "kl_fixed=3", "kl_fixed=10"]
SWEEP += ["kl_fixed=30", "kl_adaptive=0.003", "kl_adaptive=0.01", "kl_adaptive"]
SWEEP += ["kl_adaptive=0.05", "kl_adaptive=0.1"]
MECHANISM = ["kl_mean=3", "kl_mean_adaptive", "clip_charged", "clip_quiet", "kl_quiet=3"]
MECHANISM += ["kl_quiet_adaptive", "kl_dose_10=3", "kl_dose_30=3", "clip_scheduled"]
MECHANISM += ["kl_scheduled=3", "kl_capped=0.3", "kl_capped=0.0001"]
RULES = arms.insert.names()
SETS = {  # tasks, arms, seeds
    "main": (TASKS, ["clip", *BASELINES], SEEDS),
    "identity": (TASKS, ["phi", "klip"], range(1, 3)),
    "tuning": (SWEPT, SWEEP, TUNING_SEEDS),
    "mechanism": (["Ant-v4"], MECHANISM, range(1, 6)),
    "rules": (["Hopper-v4", "Walker2d-v4", "Ant-v4"], RULES, range(1, 4)),
}
SHRUNK = 6.2  # entropy on Ant-v4 of sigma 0.53, at which to stand still costs nothing
EARLY = 204_800  # steps
# Of HalfCheetah: 56 agents, played, lay on their backs and had returned 1,887 or less in training;
# of 22 on their feet all but one had returned 2,688 or more.
ON_ITS_FEET = 2300


def number(value: float, digits: int = 0) -> str:
    return "–" if np.isnan(value) else f"{value:z.{digits}f}".replace("-", "−")


def interval(value: float, low: float, high: float) -> str:
    """A number and its 95 % interval."""
    return number(value) + ("" if np.isnan(low) else f" ({number(low)} to {number(high)})")


def less(x: np.ndarray, clip: np.ndarray) -> str:
    """Mean of x minus the clip's, and Welch's interval."""
    return interval(*stats.difference(x, clip)) if len(x) and len(clip) else "–"


def mean_std(x: np.ndarray) -> str:
    """Mean and, of several, the sample's standard deviation."""
    if len(x) == 0:
        return "–"
    return number(x.mean()) + (f" ± {number(x.std(ddof=1))}" if len(x) > 1 else "")


def span(values: np.ndarray, form: str, missing: str = "–") -> str:
    """The smallest and the largest number, and how many are NaN."""
    known = [f"{x:{form}}".replace("-", "−") for x in np.sort(values) if not np.isnan(x)]
    if not known:
        return missing
    others = len(values) - len(known)
    text = " to ".join(dict.fromkeys([known[0], known[-1]]))
    return text + f", {others} {missing}" * bool(others)


def markdown(head: str, rows: list[list]) -> str:
    """A table; the head is written as its line."""
    lines = [head.split(" | "), ["---"] * len(rows[0]), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def section(title: str, text: str, head: str, rows: list[list], *pictures: str) -> str:
    """A part of the report that tests nothing; empty without rows."""
    if not rows:
        return ""
    parts = [f"## {title}", f"*Exploratory: looked at, not tested.* {text}", markdown(head, rows)]
    return "\n\n".join([*parts, *(f"![{picture}]({picture}.png)" for picture in pictures)])


def label(arm: str) -> str:
    return arms.parse(arm).label


def geometric(values: pd.Series) -> str:
    """The geometric mean, for KLs and betas differ by factors."""
    mean = np.exp(np.log(values).mean())
    return "–" if np.isnan(mean) else f"{mean:.2g}"


class Data:
    """The two tables of a folder."""

    def __init__(self, folder: Path):
        self.runs = pd.read_csv(folder / "runs.csv", dtype=str, keep_default_na=False)
        self.runs["seed"] = self.runs.seed.astype(int)
        self.runs["episodic_return"] = pd.to_numeric(self.runs.episodic_return)
        self.curves = pd.read_csv(folder / "curves.csv")
        self.folder = folder
        by_run = self.curves.groupby(runs.KEY)
        of_run = by_run[["kl", "kl_coef"]].median().assign(peak=by_run.kl.max())
        self.runs = self.runs.join(of_run.clip(lower=1e-30), on=runs.KEY)  # log is taken of them
        found = self.runs.env_id.unique()
        self.tasks = sorted(found, key=[*TASKS, *found].index)  # the paper's first
        by_value = {arm: (arms.parse(arm).base, arms.parse(arm).value) for arm in self.runs.arm}
        self.arms = sorted(by_value, key=by_value.get)

    def cell(self, task: str, arm: str, seeds=None) -> pd.DataFrame:
        """The runs of an arm on a task; without `seeds` all but the tuning seeds."""
        found = self.runs[(self.runs.env_id == task) & (self.runs.arm == arm)]
        return found[found.seed.isin(seeds) if seeds else ~found.seed.isin(TUNING_SEEDS)]

    def returns(self, task: str, arm: str, seeds=None) -> np.ndarray:
        """The final returns of a cell, of runs in whose last tenth an episode ended."""
        return self.cell(task, arm, seeds).episodic_return.dropna().to_numpy()

    def curve(self, task: str, arm: str) -> pd.DataFrame:
        """The curves of the same runs as `cell`."""
        of_arm = self.curves[(self.curves.env_id == task) & (self.curves.arm == arm)]
        return of_arm[~of_arm.seed.isin(TUNING_SEEDS)]


def head(data: Data) -> str:
    """What the runs are, and what of the protocol is missing."""
    versions = {name: ", ".join(data.runs[name].unique()) for name in runs.VERSIONS}
    steps = ", ".join(data.runs.steps.unique())
    about = [f"{len(data.runs)} runs of {steps} steps"]
    about += [f"`{flags}`" for flags in data.runs["flags"].unique() if flags]
    lines = ["# PPO's clip, its other forms and its rivals", ""]
    lines += [f"{', '.join(about)}; {', '.join(map(' '.join, versions.items()))}."]
    have = set(data.runs[runs.KEY].itertuples(index=False, name=None))
    sets = {name: list(itertools.product(*parts)) for name, parts in SETS.items()}
    further = [cell for cell in chosen(data) if "=" in cell[1]]
    sets["tuned"] = [(*cell, seed) for cell in further for seed in SEEDS]
    rows = [[name, f"{len(have & set(cells))} of {len(cells)}"] for name, cells in sets.items()]
    if steps == "1000000":
        lines += ["", markdown("set | runs that have finished or broken", rows)]
    broken = data.runs[data.runs.failed != ""]
    for run in broken.itertuples():
        lines += ["", f"* {run.env_id}, {run.arm}, seed {run.seed} broke: {run.failed}"]
    return "\n".join(lines)


def identity(data: Data) -> str:
    """Do the forms end in the same weights?"""
    forms = data.runs[data.runs.arm.isin(arms.FORMS)]
    hashes = forms.pivot(index=["env_id", "seed"], columns="arm", values="weights_sha256")
    hashes = hashes.reindex(columns=list(arms.FORMS)).dropna()
    if hashes.empty:
        return ""
    same = hashes.nunique(axis=1).eq(1)
    rows = []
    for (task, seed), row in hashes.iterrows():
        verdict = "identical" if same[task, seed] else "DIFFERENT"
        rows.append([task, seed, *(f"`{sha[:12]}`" for sha in row), verdict])
    text = f"""Identical in {same.sum()} of {len(same)} cells. The three are one experiment: that they agree
adds nothing to the number of seeds."""
    table = markdown("task | seed | PPO-Clip | Φ | β_t | weights", rows)
    return f"## Are the three forms one algorithm?\n\n{text}\n\n{table}"


def primary(data: Data) -> str:
    """Either baseline less the clip, the protocol's ten comparisons."""
    pairs = {
        (task, arm): (data.returns(task, arm, SEEDS), data.returns(task, "clip", SEEDS))
        for task, arm in PRIMARY
    }
    pairs = {cell: pair for cell, pair in pairs.items() if min(map(len, pair)) >= 2}
    if not pairs:
        return ""
    p = np.array([stats.permutation_p(*pair) for pair in pairs.values()])
    rows = []
    for ((task, arm), (ours, clip)), *both in zip(pairs.items(), p, stats.holm(p), strict=True):
        row = [task, label(arm), f"{len(ours)}, {len(clip)}", mean_std(ours), mean_std(clip)]
        row += [interval(*stats.difference(ours, clip)), *(f"{value:.2g}" for value in both)]
        rows.append(row)
    head = "task | baseline | runs | its return | the clip's | difference (95 % interval) | p"
    full = sum(min(map(len, pair)) == len(SEEDS) for pair in pairs.values())
    text = f"""The primary comparisons: {full} of {len(PRIMARY)} are complete, with ten seeds on either
side. Return: mean over the training episodes that ended in the last 10 % of the steps. ± is the
sample's standard deviation (n − 1). Intervals are Welch's; p is of the exact two-sample permutation
test, two-sided, and corrected by Holm over the {len(pairs)} rows."""
    return f"## One β for all samples against the clip\n\n{text}\n\n{markdown(head + ' | p, corrected', rows)}"


def returns(data: Data, paper: pd.DataFrame) -> str:
    """Final returns of the paper's arms beside the paper's, and HalfCheetah's two modes."""
    rows, modes = [], []
    for task in data.tasks:
        for arm in ["clip", *BASELINES]:
            cell, x = data.cell(task, arm), data.returns(task, arm)
            if cell.empty:
                continue
            theirs = "–"
            if (task, arm) in paper.index:
                theirs = "{0[mean]:.0f} ± {0[std]:.0f}".format(paper.loc[(task, arm)])
            by_seed = ", ".join(map(number, cell.episodic_return))
            row = [task, label(arm), by_seed, mean_std(x), theirs]
            rows.append([*row, geometric(cell.kl), geometric(cell.kl_coef)])
            if task == "HalfCheetah-v4":
                modes.append([label(arm)])
                for mode in (x > ON_ITS_FEET, x <= ON_ITS_FEET):
                    modes[-1].append(f"{mode.sum()} of {len(x)}: {mean_std(x[mode])}")
    text = """The paper's ± is the population's standard deviation over five seeds. KL of old and new
policy, and β: median over training, geometric mean over seeds."""
    head = "task | arm | return, by seed | mean ± std | the paper's | KL | β"
    found = section("Final return", text, head, rows, "learning_curves", "kl")
    if modes:
        found += f"""

HalfCheetah-v4 learns to run on its feet or to slide on its back. By its return, above {ON_ITS_FEET} or not,
with mean ± std of each:

{markdown("arm | on its feet | on its back", modes)}"""
    return found


def partition(data: Data, paper: pd.DataFrame) -> str:
    """Kill and pass of the clip."""
    rows = []
    for task in data.tasks:
        curve = data.curve(task, "clip")
        if curve.empty:
            continue
        kill = curve.groupby("step").kill.mean()
        theirs = "–"
        if (task, "clip") in paper.index:
            theirs = "{0.kill_mean:.3f} / {0.kill_peak:.3f}".format(paper.loc[(task, "clip")])
        ours = f"{kill.mean():.3f} / {kill.max():.3f}"
        rows.append([task, ours, theirs, f"{curve['pass'].mean():.3f}"])
    text = """Fraction of the minibatch samples in each set; the paper's mean of pass is 0.046 to 0.065
by task. A peak here is of a mean over some iterations, the paper's of one."""
    head = "task | kill: mean / peak | the paper's | pass: mean"
    return section("Kill and pass of PPO-Clip", text, head, rows, "partition")


def chosen(data: Data) -> list[tuple[str, str]]:
    """Task and best setting of either baseline, by the mean return on the tuning seeds."""
    best = []
    for task in SWEPT:
        for base in BASELINES:
            found = {
                arm: data.returns(task, arm, TUNING_SEEDS)
                for arm in SWEEP
                if arms.parse(arm).base == base
            }
            if all(len(x) == len(TUNING_SEEDS) for x in found.values()):
                best.append((task, max(found, key=lambda arm: found[arm].mean())))
    return best


def tuning(data: Data) -> str:
    """The sweep, and what it chose on the seeds that judge."""
    rows = []
    best = chosen(data)
    for task in SWEPT:
        for arm in SWEEP:
            x, judged = data.returns(task, arm, TUNING_SEEDS), data.returns(task, arm, SEEDS)
            if len(x) == 0:
                continue
            clip = data.returns(task, "clip", SEEDS)
            row = [task, label(arm), ", ".join(map(number, x))]
            row += [number(x.mean()) + " ◀" * ((task, arm) in best)]
            row += [geometric(data.cell(task, arm, TUNING_SEEDS).kl), mean_std(judged)]
            rows.append([*row, less(judged, clip) if arm != "clip" else "–"])
    text = """Seeds 11 and 12 choose a β and a target (◀), and count for nothing else. A sweep of ε moves
the clip of the value loss, too: both are --clip-coef."""
    head = "task | arm | tuning seeds | mean | KL | seeds 1 to 10 | less the clip (95 % interval)"
    return section("Would a tuned β have done it?", text, head, rows)


def noise(curve: pd.DataFrame) -> list[float]:
    """Of one run on Ant-v4: thousands of steps until its noise has shrunk, NaN for never; medians
    of w's 99 % quantile until then and later, of the early KL, and of the steps per episode."""
    small = np.flatnonzero(curve.entropy <= SHRUNK)
    at = small[0] if len(small) else len(curve)
    shrunk = curve.step.iloc[at] / 1000 if len(small) else np.nan
    length = curve.length.iloc[len(curve) // 3 : len(curve) // 2]
    q99 = [part.median() for part in (curve.q99.iloc[:at], curve.q99.iloc[at:])]
    return [shrunk, *q99, curve.kl[curve.step <= EARLY].median(), length.median()]


def mechanism(data: Data) -> str:
    """The arms that ask why one beta fails on Ant."""
    rows = []
    names = ["clip", "kl_fixed=3", "kl_adaptive=0.01", "kl_adaptive", "kl_fixed", "kl_fixed=0.3"]
    names += MECHANISM
    ant = data.curves[data.curves.env_id == "Ant-v4"]
    for arm in names:
        cell = data.cell("Ant-v4", arm)
        if cell.empty:  # a beta that was tried, and not chosen
            cell = data.cell("Ant-v4", arm, TUNING_SEEDS)
        cell = cell[cell.failed == ""]
        if cell.empty:
            continue
        curves = ant[(ant.arm == arm) & ant.seed.isin(cell.seed)]
        found = [noise(curve) for _, curve in curves.groupby("seed")]
        shrunk, before, after, kl, length = np.transpose(found)
        x = cell.episodic_return.dropna().to_numpy()
        like = next((name for name in ("clip_quiet", "clip_scheduled") if name[5:] in arm), "clip")
        difference = less(x, data.returns("Ant-v4", like)) if arm != like else "–"
        row = [f"`{arm}`", len(cell), mean_std(x), difference]
        row += [span(cell.episodic_return, "z.0f"), span(shrunk, ".0f", "never")]
        row += [span(before, ".1f"), span(after, ".1f"), span(kl, ".2g"), span(length, ".0f")]
        rows.append(row)
    text = f"""Noise *has shrunk* at the first logged step at which the entropy of the policy is at most
{SHRUNK} (σ = 0.53), where to stand still costs nothing. *w: 99 %* is the ratio that one sample in a
hundred exceeds, medians until then and after; *KL early* the median of the first {EARLY:,} steps;
*steps per episode* the median between a third and a half of the run. The blocks are in
rules/mechanism, where σ of `scheduled` is given, not learned. `kl_fixed` is β = 1. A β that was not
chosen has the tuning seeds alone. The clip of `quiet` and of `scheduled` arms is of the same σ."""
    head = "arm | runs | return | less the clip (95 % interval) | from, to | noise has shrunk, 1,000 steps"
    head += " | w: 99 % until then | and after | KL early | steps per episode"
    return section("Why does it fail on Ant?", text, head, rows)


def rules(data: Data) -> str:
    """The clipping rules beside the clip, on the same tasks."""
    names = [arm for arm in data.arms if arms.parse(arm).base in RULES]
    if not names:
        return ""
    tasks = [task for task in data.tasks if any(len(data.cell(task, arm)) for arm in names)]
    rows = []
    for arm in ["clip", *names]:
        row = [label(arm)]
        for task in tasks:
            cell, x = data.cell(task, arm), data.returns(task, arm)
            final = mean_std(x)
            if arm != "clip":
                final = f"{', '.join(map(number, x))}; {less(x, data.returns(task, 'clip'))}"
            kl = f"KL {geometric(cell.kl)}, at most {cell.peak.max():.2g}"
            row.append(f"{final}; {kl}" if len(x) else "–")
        rows.append(row)
    text = """Final returns by seed and their mean less the clip's with its 95 % interval (of the clip
mean ± std). KL: median over training, geometric mean over seeds, and the largest of all seeds, each a
mean over some iterations. Three seeds cannot show that a rule is as good as the clip."""
    figures.draw_rules(data, names, tasks, data.folder / "rules.png")
    head = " | ".join(["rule", *tasks])
    return section("What do other clipping rules do?", text, head, rows, "rules")


def main(folder: Path) -> None:
    """Write report.md and the figures beside the two tables."""
    data = Data(folder)
    if data.runs.empty:
        raise ValueError(f"{folder} has no runs")
    paper = pd.read_csv(PAPER / "table.csv", comment="#").set_index(["env_id", "arm"])
    sections = [head(data), identity(data), primary(data), returns(data, paper)]
    sections += [partition(data, paper), tuning(data), mechanism(data), rules(data)]
    (folder / "report.md").write_text("\n\n".join(filter(None, sections)) + "\n", encoding="utf-8")
    figures.draw(data, pd.read_csv(PAPER / "curves.csv", comment="#"), folder)
    print(f"{folder}/report.md")


if __name__ == "__main__":
    try:
        if len(sys.argv) != 2:
            raise ValueError("usage: python benchmark/report.py RESULTS")
        main(Path(sys.argv[1]))
    except (ValueError, OSError) as error:
        print(f"report.py: error: {error}", file=sys.stderr)
        sys.exit(2)
