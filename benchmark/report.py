"""Report on the finished runs of benchmark.sh, and on those of earlier reports.

    python benchmark/report.py runs/benchmark benchmark/results
    python benchmark/report.py benchmark/results                       # only draw and write it anew
    python benchmark/report.py runs/benchmark benchmark/results --with other/results

RESULTS keeps the runs of its own returns.csv and curves.csv; those of the folders after --with are
added, and the runs at hand take the place of either. A run that cannot be read, or was made
otherwise than most of those at hand, is named and left out; a run that RESULTS keeps is never left
out: where it was made otherwise, the report must go to another folder.
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it in silence, imports and all

import argparse
import contextlib
import importlib.util
import math
import os
import sys
from collections import Counter
from pathlib import Path
from typing import NoReturn

import arms
import numpy as np

PAPER = Path(__file__).resolve().parent / "paper"
NOT_COMPARABLE = "not comparable: they name different kinds of processor, or some name none"
PAPER_PASS = "0.046 to 0.065"  # over its tasks, from its text: its table has none


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one line and exit: code 2 for bad input, 1 if there is no report for another reason."""
    line = " ".join(message.split())
    print(f"report.py: error: {line}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    for package in ("matplotlib", "scipy", "tensorboard"):
        if not importlib.util.find_spec(package):
            fail(f"the report needs {package}: pip install {package}", 1)

import choose
import collect
import compare
import figures
from choose import Cell, Data, cells_of
from collect import Failure, Results, Run, Unusable
from compare import Estimate
from matplotlib.figure import Figure

# ---- Markdown


def table(header: list[str], rows: list[list]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def label(arm: str) -> str:
    """An arm's name for people."""
    return arms.parse(arm).label


def fixed(value: float, digits: int = 0, sign: str = "-") -> str:
    """A number with so many decimals; with sign "+" never without one."""
    return f"{value:{sign}.{digits}f}".replace("-", "−")


def interval(estimate: Estimate, digits: int = 0) -> str:
    """The two ends of an interval."""
    if math.isnan(estimate.low):
        return "–"
    return f"{fixed(estimate.low, digits)} to {fixed(estimate.high, digits)}"


def with_interval(estimate: Estimate, digits: int = 0, sign: str = "+") -> str:
    """A number and its interval."""
    return f"{fixed(estimate.value, digits, sign)} ({interval(estimate, digits)})"


def paper_table() -> dict[Cell, dict[str, str]]:
    """The paper's results."""
    rows = collect.read_csv(PAPER / "table.csv")
    return {(row["env_id"], row["arm"]): row for row in rows}


# ---- sections; each is "" where there are no data


def changed_scripts(results: Results) -> str:
    """A line for each arm whose runs name several versions of its script."""
    text = ""
    for arm in results.arms:
        seeds: dict[str, set[int]] = {}
        for run in results.runs:
            if run.arm == arm and run.script:
                seeds.setdefault(run.script, set()).add(run.seed)
        if len(seeds) > 1:
            versions = [
                f"{k[:8]} (seeds {', '.join(map(str, sorted(v)))})" for k, v in seeds.items()
            ]
            text += f"* The script of {label(arm)} was changed between its runs: {'; '.join(versions)}.\n"
    return text


def summary(results: Results) -> str:
    """What was run."""
    setup = results.runs[0].setup
    steps = int(setup["global_step"])
    batch = int(setup["num_envs"]) * int(setup["num_steps"])
    update = "compiled" if setup["compile"] == "True" else "eager"
    versions = ", ".join(f"{name} {setup[name]}" for name in collect.VERSIONS)
    tuning = ""
    if not all(choose.is_test(run) for run in results.runs):
        seeds = ", ".join(map(str, choose.TUNING_SEEDS))
        tuning = f"* Seeds {seeds} are for tuning, and count in no return outside the sweep and the ratios.\n"
    return f"""# PPO's clip, its other forms and its rivals

* {len(results.runs)} runs of {steps:,} steps; {setup["device"]}, {update} update.
* {versions}.
* returns.csv has a line for each run, and curves.csv its course, in means of
  {collect.bin_width(range(steps // batch))} iterations of {batch} steps; failed.csv, where there is one, has
  those that ended without a result. All below is made of these files.
* The paper: Colletti and Holzinger, KLip-PPO, arXiv 2606.23932.
{tuning}{changed_scripts(results)}"""


def first_difference(a: Run, b: Run) -> str:
    """Where the curves of two runs first part, in words."""
    for i, step in enumerate(a.curve["step"]):
        for column in collect.CURVES:
            x = a.curve[column][i]
            y = b.curve[column][i]
            if x != y and not np.isnan([x, y]).all():
                return f"by step {step} ({column} {x:.5g} and {y:.5g})"
    return "in no point of their curves"


def verdict(forms: dict[str, Run]) -> str:
    """What the weights of the forms, trained on one task and seed, say of each other."""
    reference, *others = forms
    parts = []
    for other in others:
        if forms[other].weights_sha256 != forms[reference].weights_sha256:
            where = first_difference(forms[reference], forms[other])
            parts.append(f"{reference} and {other} part {where}")
    if parts and len({run.cpu for run in forms.values()}) > 1:
        return NOT_COMPARABLE
    missing = [form for form in arms.FORMS if form not in forms]
    note = f" ({', '.join(missing)} missing)" if missing else ""
    return ("; ".join(parts) or "identical") + note


def identity(results: Results) -> str:
    """Do the forms of one gradient end in the same weights?"""
    rows = []
    verdicts = []
    for (env_id, epsilon, seed), forms in choose.form_cells(results).items():
        if len(forms) > 1:
            words = verdict(forms)
            sha256 = next(iter(forms.values())).weights_sha256[:12]
            rows.append([env_id, seed, epsilon, f"`{sha256}`", words])
            if len(forms) == len(arms.FORMS) and words != NOT_COMPARABLE:
                verdicts.append(words)
    if not rows:
        return ""
    same = verdicts.count("identical")
    text = "## Are the three forms one algorithm?\n\n"
    if verdicts:
        text += f"Identical in {same} of the {len(verdicts)} cells that have all three.\n"
    if same:
        text += (
            "There, PPO-Clip, Φ and β_t are one experiment, not three: that they agree confirms\n"
            "that the forms have one gradient, and adds nothing to the seeds behind a return. In\n"
            "what follows, the clip's runs stand for all three.\n"
        )
    header = ["task", "seed", "ε", "SHA-256 of weights and statistics", "weights"]
    return f"{text}\n{table(header, rows)}"


def returns_table(results: Results, cells: list[Cell], paper: dict[Cell, dict]) -> str:
    """Final returns, and what the update did, by task and arm; beside the paper's, if given."""
    rows = []
    for env_id, arm in cells:
        x = results.values(env_id, arm)
        runs = results.cell(env_id, arm)
        row = [env_id, label(arm), ", ".join(map(fixed, x)) or "no episode ended in time"]
        row.append(f"{fixed(x.mean())} ± {x.std():.0f}" if len(x) > 1 else "–")
        row.append(interval(compare.mean(x)) if len(x) else "–")
        row.append(f"{choose.typical([run.median_kl for run in runs]):.2g}")
        row.append(f"{np.mean([run.kill_fraction for run in runs]):.3f}")
        theirs = paper.get((env_id, arm))
        if paper:
            row.append(f"{theirs['mean']} ± {theirs['std']}" if theirs else "–")
        rows.append(row)
    header = ["task", "arm", "returns, by seed", "mean ± std", "95 % interval of the mean"]
    header += ["KL", "kill", "the paper's return"]
    return table(header if paper else header[:-1], rows)


def difference_row(results: Results, env_id: str, arm: str) -> list:
    """One arm less the clip, on one task."""
    ours = results.returns(env_id, arm)
    clip = results.returns(env_id, "clip")
    seeds = sorted(ours.keys() & clip.keys())
    pairs = np.array([ours[seed] - clip[seed] for seed in seeds])
    welch = compare.difference(results.values(env_id, arm), results.values(env_id, "clip"))
    row = [env_id, label(arm), with_interval(welch), len(pairs)]
    if not len(pairs):
        return [*row, "–", "–"]
    p = compare.sign_flip(pairs)
    p_text = f"{p:.2f}" if p >= 0.005 else f"{p:.1g}"
    return [*row, with_interval(compare.mean(pairs)), "–" if math.isnan(p) else p_text]


def differences_table(results: Results, cells: list[Cell]) -> str:
    """Every arm less the clip, by task."""
    rows = []
    for env_id, arm in cells:
        if arm != "clip" and results.returns(env_id, arm) and results.returns(env_id, "clip"):
            rows.append(difference_row(results, env_id, arm))
    header = ["task", "arm", "return less the clip's (95 % interval)", "pairs"]
    return table([*header, "paired by seed (95 % interval)", "p"], rows) if rows else ""


def aggregate_table(results: Results, names: list[str]) -> str:
    """Returns over all tasks, in units of the clip's, of the arms that have run on all of them."""
    clips = [results.values(env_id, "clip") for env_id in results.envs]
    if len(clips) < 2 or not all(len(x) and x.min() > 0 for x in clips):
        return ""
    rows = []
    for arm in names:
        samples = [results.values(env_id, arm) for env_id in results.envs]
        if all(len(x) for x in samples):
            ours = with_interval(compare.aggregate(samples, clips), 2, "-")
            own = "1.00 (–)"  # by definition
            rows.append([label(arm), sum(map(len, samples)), own if arm == "clip" else ours])
    header = ["arm", "runs", "mean over tasks (95 % interval)"]
    return table(header, rows) if len(rows) > 1 else ""


def comparison(results: Results, cells: list[Cell], names: list[str], paper: dict) -> str:
    """The three tables of a comparison with the clip; `names` are the arms to be aggregated."""
    text = returns_table(results, cells, paper)
    differences = differences_table(results, cells)
    if differences:
        text += f"\n{differences}"
    whole = aggregate_table(results, names)
    if whole:
        text += f"\nOver {len(results.envs)} tasks, the clip's mean return on each counted as 1:\n"
        text += f"\n{whole}"
    return text


HOW_TO_READ = """Final return: the mean over the training episodes that ended in the last 10 % of
the steps. ± is the population standard deviation over seeds, as in the paper. KL: from old policy
to new, over the rollout at the end of an iteration; the median over training, the geometric mean
over seeds. Kill: the fraction of minibatch samples in the kill set of ε, whatever the arm does
with them. Intervals of one task are Student's t, of two arms Welch's; fewer than three runs have
none. Over tasks they are the percentile bootstrap, which draws the arm's and the clip's seeds anew
within each task; of five tasks with five normal seeds it holds the truth in some 90 % of cases, not
95. p is of the two-sided sign-flip test on the pairs, exact up to 17 of them: with five it cannot
go below 0.06, with three not below 0.25."""


def main_section(results: Results) -> str:
    """The comparison of the paper: every arm at its one setting."""
    cells = [(e, a) for e, a in cells_of(results) if a in arms.PAPER]
    if not cells:
        return ""
    names = [arm for arm in results.arms if arm in arms.PAPER]
    return f"""## Final return

{HOW_TO_READ}

![Final return of every seed](returns.png)

{comparison(results, cells, names, paper_table())}
![Learning curves](learning_curves.png)

![KL reached by each arm over training](kl.png)
"""


def partition_section(results: Results) -> str:
    """How much PPO-Clip kills, and how far every arm moves the policy."""
    paper = paper_table()
    rows = []
    for env_id in results.envs:
        runs = results.cell(env_id, "clip")
        if runs:
            kill = np.mean([run.kill_fraction for run in runs])
            peak = results.curves(env_id, "clip", "kill").mean(0).max()
            passing = results.curves(env_id, "clip", "pass").mean()
            row = [env_id, len(runs), f"{kill:.3f} / {peak:.3f}"]
            theirs = paper.get((env_id, "clip"))
            row.append(f"{theirs['kill_mean']} / {theirs['kill_peak']}" if theirs else "–")
            rows.append([*row, f"{passing:.3f}", PAPER_PASS if theirs else "–"])
    if not rows:
        return ""
    header = ["task", "seeds", "kill: mean / peak", "the paper's", "pass: mean"]
    return f"""## Kill and pass of PPO-Clip

Fraction of the minibatch samples in each set. The peak is that of the mean over seeds in one
point of the curves; the paper's is of one iteration, where a mean over four would be a little lower.

{table([*header, "the paper's, all tasks"], rows)}
![Kill and pass](partition.png)
"""


# ---- the sweep


def choice_table(choices: list[choose.Choice]) -> str:
    """Which settings were chosen."""
    rows = []
    for choice in choices:
        values = [arms.shortest(arms.parse(arm).value) for arm in (choice.best, choice.single)]
        rows.append([choice.env_id, figures.family(choice.base), choice.tried, *values])
    return table(["task", "arm", "tried", "best on the task", "best on all swept tasks"], rows)


def sweep_section(tuning: Results, test: Results) -> str:
    """Every arm at its best: which setting, and what it reaches on the test seeds."""
    choices = choose.choose_settings(tuning)
    text = "## Sweep: every arm at its best\n"
    if choices:
        seeds = ", ".join(str(seed) for seed in sorted({run.seed for run in tuning.runs}))
        text += f"""
Chosen by the mean return on the tuning seeds ({seeds}), which judge nothing, as far as
all settings of an arm have them; over several tasks by the sum of the returns in units of the
default clip's. A sweep of ε moves the clip of the value loss, too: both are --clip-coef. KL and
steps per episode are medians over training.

![Return, KL and steps per episode over the setting, all seeds](sweep.png)

{choice_table(choices)}"""
    is_sweep = any(choose.has_value(arm) for arm in tuning.arms)
    if is_sweep:
        text += f"\n### On the tuning seeds\n\n{returns_table(tuning, cells_of(tuning), {})}"
    envs = {choice.env_id for choice in choices}
    chosen = {(choice.env_id, choice.best) for choice in choices}
    chosen |= {(choice.env_id, choice.single) for choice in choices}
    wanted = [cell for cell in cells_of(test) if cell in chosen or choose.is_setting(cell[1])]
    envs |= {env_id for env_id, _ in wanted}
    if wanted:
        own = test.only(lambda run: run.env_id in envs)
        shown = [cell for cell in cells_of(own) if cell in wanted or cell[1] == "clip"]
        singles = ["clip", *dict.fromkeys(c.single for c in choices if c.single != "clip")]
        text += f"\n### On the test seeds\n\n{comparison(own, shown, singles, {})}"
    absent = [f"{env_id} {label(arm)}" for env_id, arm in chosen if not test.cell(env_id, arm)]
    if absent:
        text += f"\nChosen, and not run on test seeds: {'; '.join(sorted(absent))}.\n"
    return text if is_sweep or wanted else ""


# ---- shapes, and why


def mean_with_mark(x: np.ndarray, clip: np.ndarray, failed: int) -> str:
    """The mean of x [seeds]; marked where all of several are beyond all of the clip's."""
    mark = f" ({len(x)} of {len(x) + failed})" if failed else ""
    if not len(x):
        return f"–{mark}"
    if len(x) > 1 and len(clip) and x.min() > clip.max():
        mark += " ▲"
    if len(x) > 1 and len(clip) and x.max() < clip.min():
        mark += " ▼"
    return fixed(x.mean()) + mark


def overview_table(results: Results, failures: list[Failure]) -> str:
    """Mean final return: a row per arm, a column per task."""
    failed = Counter((f.env_id, f.arm) for f in failures if choose.is_test(f))
    rows = []
    for arm in results.arms:
        row = [label(arm)]
        for env_id in results.envs:
            x = results.values(env_id, arm)
            clip = results.values(env_id, "clip")
            row.append(mean_with_mark(x, clip, failed[env_id, arm]))
        rows.append(row)
    return table(["mean return", *results.envs], rows)


def shapes_section(results: Results, failures: list[Failure]) -> str:
    """Other clipping rules beside the clip."""
    own = choose.beside_shapes(results)
    if not own.runs:
        return ""
    number = sum(arm != "clip" for _, arm in cells_of(own))
    return f"""## Shapes: other clipping rules

Each is a policy-loss block in shapes/rules. ▲ (▼): each of its seeds above (below) each of the
clip's. Had a rule the clip's own returns, two seeds would be above five in one case of 21, three in
one of 56, five in one of 252; and below as often. (1 of 3): the others ended without a result.

{overview_table(own, failures)}
![Final return of every seed, by clipping rule](shapes.png)

![Final return over the KL reached, by clipping rule](shapes_kl.png)

Differences below: {number}. Were all of them 0, one in twenty of their intervals would still leave
out 0.

{comparison(own, cells_of(own), own.arms, {})}"""


def why_section(results: Results, panels: dict[str, list[str]]) -> str:
    """The tail of the ratios behind one mean KL."""
    if not panels:
        return ""
    rows = []
    for env_id, names in panels.items():
        for arm in names:
            runs = results.cell(env_id, arm)
            row = [env_id, label(arm), len(runs)]
            for column in ("kl", "approx_kl", "q01", "q10", "q90", "q99"):
                medians = [np.median(run.curve[column]) for run in runs]
                row.append(f"{choose.typical(medians):.3g}")
            lengths = [run.median_length for run in runs if not math.isnan(run.median_length)]
            row.append(fixed(np.mean(lengths)) if lengths else "–")
            x = results.values(env_id, arm)
            rows.append([*row, fixed(x.mean()) if len(x) else "–"])
    header = ["task", "arm", "runs", "KL", "mean of w − 1 − log w"]
    header += ["w: 1 %", "10 %", "90 %", "99 %", "steps per episode", "final return"]
    return f"""## Why: the ratios behind a mean KL

Quantiles of the ratio w over the rollout at the end of an iteration, where the KL is measured,
too; w − 1 − log w, the estimator of CleanRL's approx_kl, is averaged over the iteration's minibatches.
Beside the clip stands, of each scalar baseline, the setting whose KL is nearest to the clip's.
Medians over training, geometric means over runs (of the steps and returns the plain mean), tuning
seeds included.

![Quantiles of the ratio over training](why.png)

{table(header, rows)}
How long episodes last at the entropy that the policy has come down to:

![Steps per episode over the entropy of the policy](entropy.png)
"""


# ---- all of it


def markdown(data: Data, left_out: list[str]) -> str:
    """report.md."""
    sections = [
        summary(data.every),
        identity(data.every),
        main_section(data.test),
        partition_section(data.test),
        sweep_section(data.tuning, data.test),
        shapes_section(data.test, data.failed),
        why_section(data.logged, data.panels),
    ]
    if data.failed:
        lines = [f"* {f.env_id}, {label(f.arm)}, seed {f.seed}: {f.reason}\n" for f in data.failed]
        sections.append("## Ended without a result\n\n" + "".join(lines))
    if left_out:
        sections.append("## Left out\n\n" + "".join(f"* {line}\n" for line in left_out))
    return "\n".join(section for section in sections if section)


def draw(data: Data) -> dict[str, Figure]:
    """The figures that the sections show."""
    drawn = {}
    if data.paper.runs:
        drawn["returns"] = figures.dots(data.paper)
        points = collect.read_csv(PAPER / "curves.csv")
        averaged = choose.with_equal_seeds(data.paper)
        drawn["learning_curves"] = figures.learning_curves(averaged, points)
        drawn["kl"] = figures.kl(averaged)
    clip = data.test.only(lambda run: run.arm == "clip")
    if clip.runs:
        rows = paper_table().items()
        theirs = {env_id: float(row["kill_mean"]) for (env_id, arm), row in rows if arm == "clip"}
        drawn["partition"] = figures.partition(clip, theirs)
    tasks = choose.swept(data.tuning)
    if tasks:
        drawn["sweep"] = figures.sweep(data.tuning, tasks)
    shapes = choose.beside_shapes(data.test)
    if shapes.runs:
        drawn["shapes"] = figures.dots(shapes)
        drawn["shapes_kl"] = figures.over_kl(shapes)
    if data.panels:
        drawn["why"] = figures.why(data.logged, data.panels)
        own = data.logged.only(lambda run: run.env_id in data.panels)
        drawn["entropy"] = figures.episode_over_entropy(own)
    return drawn


def build(runs: list[Run], failures: list[Failure], left_out: list[str]) -> dict[str, bytes]:
    """Every file of the report, by name."""
    data = choose.sort_runs(runs, failures)
    files = {
        "returns.csv": collect.returns_csv(data.every.runs),
        "curves.csv": collect.curves_csv(data.every.runs),
        "report.md": markdown(data, left_out).encode(),
    }
    if data.failed:
        files["failed.csv"] = collect.failed_csv(data.failed)
    for name, figure in draw(data).items():
        for suffix in ("png", "svg"):
            files[f"{name}.{suffix}"] = figures.to_bytes(figure, suffix)
    return files


def write(files: dict[str, bytes], folder: Path) -> None:
    """Write all files, or none: what was there is replaced once all are on the disk."""
    tail = f"{os.getpid()}.tmp"  # two copies of benchmark.sh may end at once
    drafts = {folder / name: folder / f"{name}.{tail}" for name in files}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, draft in drafts.items():
            draft.write_bytes(files[path.name])
        for path, draft in drafts.items():
            os.replace(draft, path)
    except OSError as error:
        for draft in drafts.values():
            with contextlib.suppress(OSError):
                draft.unlink()
        fail(f"{folder} cannot be written, and is as it was: {error.strerror}", 1)


def refuse_to_lose(kept: list[Run], setup: dict[str, str], args: argparse.Namespace) -> None:
    """End unless the runs that RESULTS keeps were made with the setup of the report."""
    lost = [run for run in kept if collect.oddities(run, setup)]
    if lost:
        odd = collect.oddities(lost[0], setup)
        command = f"python benchmark/report.py {args.runs or 'RUNS'} OTHER"
        fail(
            f"{args.results} keeps {len(lost)} runs that were made otherwise ({odd}), and stays as "
            f"it is: name another folder, as in {command}"
        )


class Parser(argparse.ArgumentParser):
    """Ends with one line, not with the usage before it."""

    def error(self, message: str) -> NoReturn:
        fail(message)


def main(argv: list[str]) -> None:
    """Read, compare, write."""
    lines = __doc__.split("\n")
    parser = Parser(prog="report.py", description=lines[0], allow_abbrev=False)
    parser.add_argument("runs", nargs="?", type=Path, help="folder of benchmark.sh's runs")
    parser.add_argument("results", type=Path, help="folder of the report, and of earlier results")
    parser.add_argument("--with", nargs="+", type=Path, default=[], dest="others", metavar="DIR",
                        help="folders of other reports, whose CSV files count as well")  # fmt: skip
    args = parser.parse_args(argv)
    if args.runs and not args.runs.is_dir():
        fail(f"{args.runs} is not a folder of runs")
    others = []
    kept = []
    at_hand = []
    left_out = []
    failures = []
    try:
        for folder in args.others:
            found = collect.read_results(folder)
            others += found
            failures += collect.read_failed(folder, collect.common_setup(found))
        if (args.results / "returns.csv").exists():
            kept = collect.read_results(args.results)
            failures += collect.read_failed(args.results, collect.common_setup(kept))
        if args.runs:
            at_hand, left_out = collect.read_folders(args.runs)
            failures += collect.read_failures(args.runs)
    except (OSError, Unusable) as error:
        fail(str(error))
    runs = [*others, *kept, *at_hand]
    if runs:
        setup = collect.common_setup(at_hand or kept or others)
        refuse_to_lose(kept, setup, args)
        runs, odd = collect.agree(runs, setup)
        failures, odd_failures = collect.agree(failures, setup)
        runs, replaced = collect.merge(runs)
        left_out += odd + odd_failures + replaced
    for line in left_out:
        print(f"report.py: left out {line}", file=sys.stderr)
    if not runs:
        fail(f"{args.runs or args.results} holds no finished run that can be read", 1)
    # What has not finished yet is no finding, and a committed report would keep it.
    lasting = [line for line in left_out if not line.endswith(collect.NOT_FINISHED)]
    write(build(runs, failures, lasting), args.results)
    print(f"report on {len(runs)} runs in {args.results}/report.md")


if __name__ == "__main__":
    main(sys.argv[1:])
