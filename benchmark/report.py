"""Report on the finished runs of benchmark.sh: two CSV files, report.md and three figures.

    python benchmark/report.py runs/benchmark benchmark/results

A folder that cannot be read, or was made otherwise than the rest, is named and left out.
"""

import csv
import json
import math
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
ARMS = {  # one gradient in the first three; colours of Okabe and Ito (2008); width, dashes
    "clip": ("PPO-Clip", "#56B4E9", 4.5, "-"),
    "phi": ("Φ", "#D55E00", 2.2, (0, (3, 3))),
    "klip": ("β_t (KLip)", "#000000", 1.2, (0, (1, 2))),
    "kl_fixed": ("fixed β = 1", "#009E73", 1.6, "-"),
    "kl_adaptive": ("adaptive β", "#CC79A7", 1.6, "-"),
}
FORMS = ("clip", "phi", "klip")
ENVS = ("HalfCheetah-v4", "Hopper-v4", "Walker2d-v4", "Ant-v4", "Humanoid-v4")
EPISODIC = ("charts/episodic_return", "charts/episodic_length")  # only where an episode ended
LOSSES = ("value_loss", "entropy", "approx_kl", "clipfrac", "explained_variance", "kl")
# What the three forms log alike; not policy_loss, in which they differ by construction.
SHARED = EPISODIC + tuple(f"losses/{x}" for x in LOSSES)
SHARED += ("partition/in", "partition/kill", "partition/pass")
CELL = {"env_id", "seed", "exp_name", "run_dir", "kl_coef", "kl_target"}  # may differ among runs
CELL |= {"track", "wandb_project_name", "wandb_entity"}
MEASURED = {"episodic_return", "weights_sha256", "kill_fraction", "sps", "wall_time_s"}


class Unusable(Exception):
    """A run folder the report cannot take in; the text says why."""


def read_scalars(path: Path, steps: list[int]) -> dict[str, np.ndarray]:
    """The shared scalars [iterations] of one event file, NaN where no episode ended.

    Raises Unusable if the file does not hold every scalar at every one of `steps`.
    """
    from google.protobuf.message import DecodeError
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    row = {step: i for i, step in enumerate(steps)}
    curves = {tag: np.full(len(steps), np.nan, np.float32) for tag in SHARED}
    try:
        for event in map(Event.FromString, RawEventFileLoader(str(path)).Load()):
            for value in event.summary.value:
                if value.tag in curves:
                    curves[value.tag][row[event.step]] = value.simple_value
    except (OSError, KeyError, DecodeError) as error:  # the loader itself ends at a bad checksum
        raise Unusable(f"event file damaged ({type(error).__name__}: {error})") from None
    for tag in set(SHARED) - set(EPISODIC):
        if np.isnan(curves[tag]).any():
            step = steps[int(np.isnan(curves[tag]).argmax())]
            raise Unusable(f"event file truncated: no {tag} at step {step} of {steps[-1]}")
    return curves


def read_run(folder: Path) -> dict:
    """One run: its result.json, with "curves" from read_scalars and "setup", what it was run with.

    Raises Unusable if the folder is not a finished run of benchmark.sh.
    """
    try:
        run = json.loads((folder / "result.json").read_text())
    except FileNotFoundError:
        raise Unusable("not finished") from None
    except (OSError, ValueError) as error:
        raise Unusable(f"result.json cannot be read: {error}") from None
    try:
        env_id, arm, seed = run["env_id"], run["exp_name"], run["seed"]
        batch = run["num_envs"] * run["num_steps"]
        steps = list(range(batch, run["global_step"] + 1, batch))
        versions, missing = dict(run["versions"]), MEASURED - run.keys()
    except (KeyError, TypeError, ValueError) as error:
        raise Unusable(f"result.json is not that of a run: {error!r}") from None
    if missing or not steps:
        raise Unusable(f"result.json is not that of a run: {sorted(missing) or 'no steps'}")
    name = f"{env_id.replace('/', '_').replace(':', '_')}__{arm}__{seed}"
    if arm not in ARMS or folder.name != name:
        raise Unusable(f"foreign run: the folder holds {name}")
    expected = {"kl_fixed": (1, None), "kl_adaptive": (1, 0.02)}.get(arm, (None, None))
    if (run.get("kl_coef"), run.get("kl_target")) != expected:
        raise Unusable(f"foreign run: its kl_coef and kl_target are not those of the arm {arm}")
    files = list(folder.glob("events.out.tfevents.*"))
    if len(files) != 1:
        raise Unusable(f"{len(files)} event files, where one was expected")
    run["setup"] = {k: v for k, v in run.items() if k not in CELL | MEASURED | {"versions"}}
    run["setup"] |= versions
    run["curves"] = read_scalars(files[0], steps)
    return run


def collect(root: Path) -> tuple[dict[tuple[str, str, int], dict], list[str]]:
    """The usable runs of a folder by (env_id, arm, seed), and a line for each one left out.

    Runs must agree in versions, device and every setting: the most common setup is taken.
    """
    runs, left_out = [], []
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and folder.name != "results":
            try:
                runs.append(read_run(folder))
            except Unusable as reason:
                left_out.append(f"{folder.name}: {reason}")
    if not runs:
        return {}, left_out
    setups = Counter(json.dumps(run["setup"], sort_keys=True) for run in runs)
    common = json.loads(setups.most_common(1)[0][0])
    kept = {}
    for run in runs:
        ours = run["setup"]
        odd = [k for k in sorted(common.keys() | ours) if common.get(k) != ours.get(k)]
        if odd:
            other = ", ".join(f"{k} {ours.get(k)} instead of {common.get(k)}" for k in odd)
            left_out.append(f"{run['env_id']}__{run['exp_name']}__{run['seed']}: {other}")
        else:
            kept[run["env_id"], run["exp_name"], run["seed"]] = run
    rank = {x: i for i, x in enumerate((*ENVS, *ARMS))}
    order = sorted(kept, key=lambda k: (rank.get(k[0], 99), k[0], rank[k[1]], k[2]))
    return {key: kept[key] for key in order}, left_out


def iqm(x: np.ndarray) -> np.ndarray:
    """Interquartile mean over axis 0: the mean without the lowest and highest n // 4."""
    cut = len(x) // 4
    return np.sort(x, axis=0)[cut : len(x) - cut].mean(0)


def interval(x: np.ndarray, resamples: int = 2000) -> np.ndarray | None:
    """95 % percentile-bootstrap interval [2, ...] of the mean over axis 0; None for one row."""
    if len(x) < 2:
        return None
    rows = np.random.default_rng(0).integers(len(x), size=(resamples, len(x)))
    weights = np.apply_along_axis(np.bincount, 1, rows, minlength=len(x)) / len(x)
    return np.percentile(weights @ x, (2.5, 97.5), axis=0)


def first_difference(a: dict, b: dict) -> str:
    """Where the curves of two runs first part, in words."""
    for i in range(len(a["curves"]["losses/kl"])):
        for tag in SHARED:
            x, y = a["curves"][tag][i], b["curves"][tag][i]
            if x != y and not (np.isnan(x) and np.isnan(y)):
                return f"in iteration {i + 1} ({tag} {x:.9g} and {y:.9g})"
    return "in no logged scalar"


def verdict(runs: dict, env_id: str, seed: int) -> str:
    """What the weights of the three forms, trained on one task and seed, say of each other."""
    there = {arm: runs[env_id, arm, seed] for arm in FORMS if (env_id, arm, seed) in runs}
    missing = [arm for arm in FORMS if arm not in there]
    note = f" ({', '.join(missing)} missing)" if missing else ""
    if len(there) < 2:
        return "nothing to compare" + note
    reference, *others = there
    parts = [
        f"{reference} and {arm} part {first_difference(there[reference], there[arm])}"
        for arm in others
        if there[arm]["weights_sha256"] != there[reference]["weights_sha256"]
    ]
    return ("; ".join(parts) or "identical") + note


def binned(x: np.ndarray, width: int) -> np.ndarray:
    """Means [bins] of each `width` iterations of x [iterations], NaN where all are."""
    x = np.pad(x.astype(float), (0, -len(x) % width), constant_values=np.nan).reshape(-1, width)
    count = (~np.isnan(x)).sum(1)
    return np.where(count > 0, np.nansum(x, axis=1) / np.maximum(count, 1), np.nan)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, without its lines of comment."""
    with open(path) as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def table(header: list[str], rows: list[list]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


class Report:
    """What is written of one set of runs."""

    def __init__(self, runs: dict[tuple[str, str, int], dict], left_out: list[str], to: Path):
        self.runs, self.left_out, self.to = runs, left_out, to
        self.envs = list(dict.fromkeys(env_id for env_id, _, _ in runs))
        some = next(iter(runs.values()))
        self.setup, self.batch = some["setup"], some["num_envs"] * some["num_steps"]
        self.iterations = some["global_step"] // self.batch
        self.width = max(1, self.iterations // 122)  # the paper's curves have 122 points
        self.paper = {(r["env_id"], r["arm"]): r for r in read_csv(HERE / "paper_table.csv")}
        self.paper_curves = read_csv(HERE / "paper_curves.csv")

    def seeds(self, env_id: str, arm: str) -> list[dict]:
        """The runs of one task and arm, by seed."""
        return [run for key, run in self.runs.items() if key[:2] == (env_id, arm)]

    def curves(self, env_id: str, arm: str, tag: str) -> np.ndarray:
        """One scalar of one task and arm, [seeds, bins]."""
        return np.array([binned(r["curves"][tag], self.width) for r in self.seeds(env_id, arm)])

    def steps(self) -> np.ndarray:
        """Environment steps [bins] at the end of each bin."""
        ends = np.arange(self.width, self.iterations + self.width, self.width)
        return ends.clip(max=self.iterations) * self.batch

    def write_csv(self) -> None:
        """returns.csv, a line per run, and curves.csv, means of `width` iterations of each run."""
        versions = ("torch", "gymnasium", "mujoco", "numpy", "python")
        columns = ["episodic_return", "kill_fraction", "sps", "wall_time_s", "global_step"]
        columns += ["compile", "device", "weights_sha256"]
        with open(self.to / "returns.csv", "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["env_id", "arm", "seed", *columns, *versions])
            for key, run in self.runs.items():
                own = [f"{run[c]:.6g}" if isinstance(run[c], float) else run[c] for c in columns]
                writer.writerow([*key, *own, *(run["versions"].get(v) for v in versions)])
        tags = ("charts/episodic_return", "losses/kl", "partition/kill", "partition/pass")
        with open(self.to / "curves.csv", "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["env_id", "arm", "seed", "step", "return", "kl", "kill", "pass"])
            for key, run in self.runs.items():
                for row in zip(self.steps(), *(binned(run["curves"][t], self.width) for t in tags)):
                    numbers = ("" if math.isnan(x) else f"{x:.5g}" for x in row[1:])
                    writer.writerow([*key, row[0], *numbers])

    def returns_table(self) -> str:
        """Final returns by task and arm, beside the paper's."""
        rows, far = [], []
        for env_id in self.envs:
            for arm, (label, *_) in ARMS.items():
                runs = self.seeds(env_id, arm)
                finals = (run["episodic_return"] for run in runs)
                x = np.array([final for final in finals if final is not None])
                if not len(x):
                    why = "no episode ended in time" if runs else "–"
                    row = [env_id, label, len(runs), why, "–", "–"]
                    rows.append([*row, self.paper_return(env_id, arm)])
                    continue
                ends = interval(x)
                spread = f" ± {x.std():.0f}" if len(x) > 1 else ""
                ends = "–" if ends is None else f"{ends[0]:.0f} to {ends[1]:.0f}"
                row = [env_id, label, len(x), f"{x.mean():.0f}{spread}", ends, f"{iqm(x):.0f}"]
                rows.append([*row, self.paper_return(env_id, arm)])
                paper = self.paper.get((env_id, arm))
                if paper and abs(x.mean() - float(paper["mean"])) > 2 * float(paper["std"]):
                    far.append(f"{env_id} {label}")
        header = ["task", "arm", "seeds", "mean ± std", "95 % interval of the mean"]
        text = table([*header, "interquartile mean", "paper (5 seeds)"], rows)
        if far and self.setup["total_timesteps"] == 1_000_000:
            text += f"\nMore than two of the paper's std from its mean: {', '.join(far)}.\n"
        return text

    def paper_return(self, env_id: str, arm: str) -> str:
        """The paper's final return, in words."""
        paper = self.paper.get((env_id, arm))
        return f"{paper['mean']} ± {paper['std']}" if paper else "not run"

    def identity_table(self) -> str:
        """Hash of the final weights by task and seed, and whether the three forms agree."""
        rows = []
        for env_id, seed in dict.fromkeys((e, s) for e, arm, s in self.runs if arm in FORMS):
            there = [self.runs.get((env_id, arm, seed)) for arm in FORMS]
            hashes = [f"`{run['weights_sha256'][:12]}`" if run else "–" for run in there]
            rows.append([env_id, seed, *hashes, verdict(self.runs, env_id, seed)])
        complete = [row[-1] for row in rows if "–" not in row]
        same = complete.count("identical")
        rows.sort(key=lambda row: (self.envs.index(row[0]), row[1]))
        text = table(["task", "seed", *(ARMS[arm][0] for arm in FORMS), "weights"], rows)
        if complete:
            text += f"\nIdentical in {same} of the {len(complete)} cells that have all three.\n"
        if same:
            text += (
                "Where they are identical, the three columns are one experiment, not three: "
                "they confirm that the forms have one gradient, and add nothing to the number "
                "of seeds behind a return.\n"
            )
        return text

    def partition_table(self) -> str:
        """Kill and pass fractions of PPO-Clip, beside the paper's."""
        rows = []
        for env_id in self.envs:
            runs = self.seeds(env_id, "clip")
            if runs:
                kill, passing = (
                    np.mean([r["curves"][f"partition/{part}"] for r in runs], axis=0)
                    for part in ("kill", "pass")
                )
                paper = self.paper.get((env_id, "clip"))
                theirs = f"{paper['kill_mean']} / {paper['kill_peak']}" if paper else "–"
                row = [env_id, len(runs), f"{kill.mean():.3f} / {kill.max():.3f}", theirs]
                rows.append([*row, f"{passing.mean():.3f}", "0.046 to 0.065" if paper else "–"])
        header = ["task", "seeds", "kill: mean / peak", "paper", "pass: mean", "paper, all tasks"]
        return table(header, rows)

    def speed_table(self) -> str:
        """Median steps per second by task and arm."""
        rows = []
        for env_id in self.envs:
            speeds = ([r["sps"] for r in self.seeds(env_id, arm)] for arm in ARMS)
            rows.append([env_id, *(f"{np.median(s):.0f}" if s else "–" for s in speeds)])
        return table(["task", *(label for label, *_ in ARMS.values())], rows)

    def write_markdown(self) -> None:
        """report.md."""
        setup, total = self.setup, self.setup["global_step"]
        seeds = {len(self.seeds(env_id, arm)) for env_id in self.envs for arm in ARMS}
        number = f"{min(seeds)}" if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}, as listed"
        versions = ", ".join(f"{v} {setup.get(v)}" for v in ("torch", "gymnasium", "mujoco"))
        compiled = "compiled update" if setup["compile"] else "eager update"
        text = f"""# Four forms of PPO's policy loss

{len(self.runs)} runs of {total:,} steps; seeds per task and arm: {number}.
Figures and curves.csv show means of {self.width} iterations, the tables every iteration.
{versions}, Python {setup.get("python")}, {setup["device"]}, {compiled}.
Paper: Colletti and Holzinger, KLip-PPO, arXiv 2606.23932.

![Learning curves](learning_curves.png)

## Final return

Mean return of the training episodes that ended in the last 10 % of the steps; mean and population
standard deviation over seeds, as in the paper. The interval is a percentile bootstrap over the
seeds; with as few as five it is too narrow rather than too wide.

{self.returns_table()}
## Are the three forms one algorithm?

First digits of the SHA-256 of the final weights and observation statistics.

{self.identity_table()}
## Kill and pass

Fraction of the minibatch samples of PPO-Clip in each set; mean over training, and peak of the
mean over seeds in one iteration.

{self.partition_table()}
![Kill and pass](partition.png)

## The KL divergence reached

Closed form, old policy to new, over the rollout at the end of each iteration.

![KL](kl.png)

## Steps per second

Of one run, the median over seeds, next to whatever else its machine was doing.

{self.speed_table()}"""
        if self.left_out:
            text += "\n## Left out\n\n" + "".join(f"* {line}\n" for line in self.left_out)
        (self.to / "report.md").write_text(text)

    def panels(self, plt, strip: bool = False, arms: tuple = tuple(ARMS)) -> tuple:
        """A figure and an axis per task, its title with the seeds of `arms`; with `strip` a low one
        under each; one more for a legend."""
        from matplotlib.ticker import EngFormatter

        count = len(self.envs) + 1  # the last cell takes the legend
        columns = min(3, count)
        rows = math.ceil(count / columns)
        figure = plt.figure(figsize=(9, 0.4 + rows * (3.2 if strip else 2.4)), layout="constrained")
        heights = [3.2, 1] * rows if strip else [1] * rows
        grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
        step = 2 if strip else 1
        axes = []
        for i in range(count):
            row, column = step * (i // columns), i % columns
            tops = figure.add_subplot(grid[row, column])
            axes.append((tops, figure.add_subplot(grid[row + 1, column])) if strip else tops)
        for i, env_id in enumerate(self.envs):
            top, *low = axes[i] if strip else (axes[i],)
            counts = sorted({len(self.seeds(env_id, arm)) for arm in arms} - {0})
            number = " or ".join(map(str, counts)) or "no"
            top.set_title(f"{env_id}, {number} seed{'s' if counts != [1] else ''}")
            (low[0] if low else top).set_xlabel("environment steps")
            for axis in (top, *low):
                axis.set_xlim(0, self.setup["total_timesteps"])
                axis.xaxis.set_major_locator(plt.MaxNLocator(5))
                axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        return figure, axes

    def legend(self, axis, handles: list, arms: tuple = tuple(ARMS)) -> None:
        """Turn an axis into a legend."""
        from matplotlib.patches import Patch

        if len({seed for _, arm, seed in self.runs if arm in arms}) > 1:
            handles = [*handles, Patch(color="0.85", label="95 % interval of the mean")]
        axis.axis("off")
        axis.legend(handles=handles, loc="center left", handlelength=3.4, frameon=False)

    def draw(self, axis, env_id: str, arm: str, tag: str) -> None:
        """Mean over seeds of one scalar in one arm, with its interval."""
        x = self.curves(env_id, arm, tag)
        if not len(x):
            return
        _, color, width, dashes = ARMS[arm]
        mean = x.mean(0)
        known = ~np.isnan(mean)  # an episode ended in every seed
        axis.plot(self.steps()[known], mean[known], color=color, lw=width, ls=dashes)
        ends = interval(x)
        if ends is not None and arm not in ("phi", "klip"):  # three bands would only add up
            axis.fill_between(self.steps(), *ends, color=color, alpha=0.2, lw=0)

    def write_figures(self) -> None:
        """learning_curves, partition and kl, each as PNG and SVG."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt
        from matplotlib.lines import Line2D

        style = {"font.size": 9, "axes.titlesize": 10, "axes.spines.top": False}
        style |= {"axes.spines.right": False, "svg.hashsalt": "klip", "savefig.dpi": 160}
        arms = [
            Line2D([], [], color=c, lw=w, ls=s, label=t.replace("β_t", r"$\beta_t$"))
            for t, c, w, s in ARMS.values()
        ]
        grey = {"color": "0.6", "lw": 1.0}
        paper = {"clip": "-", "kl_fixed": (0, (4, 2)), "kl_adaptive": (0, (1, 1))}
        with plt.rc_context(style):
            figure, axes = self.panels(plt, strip=True)
            for env_id, (top, low) in zip(self.envs, axes):
                for arm, dashes in paper.items():
                    points = [
                        (int(row["step"]), float(row["mean"]))
                        for row in self.paper_curves
                        if (row["env_id"], row["arm"]) == (env_id, arm)
                        and int(row["step"]) <= self.setup["total_timesteps"]
                    ]
                    if points:
                        top.plot(*zip(*points), ls=dashes, zorder=1, **grey)
                for arm in ARMS:
                    self.draw(top, env_id, arm, "charts/episodic_return")
                self.draw_difference(low, env_id)
                top.set_ylabel("return")
                top.tick_params(labelbottom=False)
            notes = [
                Line2D([], [], ls=dashes, label=f"paper: {ARMS[arm][0]}", **grey)
                for arm, dashes in paper.items()
            ]
            self.legend(axes[-1][0], arms + notes)
            axes[-1][1].axis("off")
            self.save(plt, figure, "learning_curves")

            figure, axes = self.panels(plt, arms=("clip",))
            sets = {"kill": ("#0072B2", "-"), "pass": ("#E69F00", (0, (4, 1.5)))}
            for env_id, axis in zip(self.envs, axes):
                for part, (color, dashes) in sets.items():
                    x = self.curves(env_id, "clip", f"partition/{part}")
                    if len(x):
                        axis.plot(self.steps(), x.mean(0), color=color, ls=dashes, lw=1.8)
                        if len(x) > 1:
                            axis.fill_between(
                                self.steps(), *interval(x), color=color, alpha=0.2, lw=0
                            )
                if (env_id, "clip") in self.paper:
                    axis.axhline(float(self.paper[env_id, "clip"]["kill_mean"]), zorder=1, **grey)
                axis.set_ylim(bottom=0)
                axis.set_ylabel("fraction of samples")
            handles = [
                Line2D([], [], color=c, ls=s, lw=1.8, label=f"{part}, PPO-Clip")
                for part, (c, s) in sets.items()
            ]
            handles.append(Line2D([], [], label="kill, the paper's mean", **grey))
            self.legend(axes[-1], handles, arms=("clip",))
            self.save(plt, figure, "partition")

            figure, axes = self.panels(plt)
            for env_id, axis in zip(self.envs, axes):
                for arm in ARMS:
                    self.draw(axis, env_id, arm, "losses/kl")
                axis.axhline(0.02, zorder=1, **grey)
                axis.set_yscale("log")
                axis.set_ylabel("KL(old ‖ new)")
            target = Line2D([], [], label="target of adaptive β", **grey)
            self.legend(axes[-1], [*arms, target])
            self.save(plt, figure, "kl")

    def draw_difference(self, axis, env_id: str) -> None:
        """Return of klip minus that of clip in every iteration and seed."""
        pairs = [
            (self.runs[env_id, "klip", s], self.runs[env_id, "clip", s])
            for e, arm, s in self.runs
            if (e, arm) == (env_id, "klip") and (env_id, "clip", s) in self.runs
        ]
        worst = 0.0
        for a, b in pairs:
            gap = a["curves"]["charts/episodic_return"] - b["curves"]["charts/episodic_return"]
            steps = self.batch * np.arange(1, len(gap) + 1)
            axis.plot(steps[~np.isnan(gap)], gap[~np.isnan(gap)], color="black", lw=1.2)
            worst = max(worst, np.nanmax(np.abs(gap), initial=0))
        if pairs:
            text = f"at most {worst:.3g} apart" if worst else "0 in every iteration"
            text += f", {len(pairs)} seeds" if len(pairs) > 1 else ""
            axis.text(0.98, 0.92, text, transform=axis.transAxes, ha="right", va="top", fontsize=8)
        if not worst:
            axis.set_ylim(-1, 1)
        axis.set_ylabel(r"$\beta_t$ − clip")

    def save(self, plt, figure, name: str) -> None:
        """Write a figure as PNG and SVG, the same bytes each time."""
        figure.savefig(self.to / f"{name}.png")
        figure.savefig(self.to / f"{name}.svg", metadata={"Date": None})
        plt.close(figure)


def main(root: str, results: str) -> None:
    """Report on the runs in `root` into `results`; exits with 1 if there is nothing to report."""
    for package in ("tensorboard", "matplotlib"):
        if not find_spec(package):
            raise SystemExit(f"report.py: error: the report needs {package}: pip install {package}")
    if not Path(root).is_dir():
        raise SystemExit(f"report.py: error: {root} is not a folder of runs")
    runs, left_out = collect(Path(root))
    for line in left_out:
        print(f"report.py: left out {line}", file=sys.stderr)
    if not runs:
        raise SystemExit(f"report.py: error: {root} holds no finished run that can be read")
    Path(results).mkdir(parents=True, exist_ok=True)
    report = Report(runs, left_out, Path(results))
    report.write_csv()
    report.write_markdown()
    report.write_figures()
    print(f"report on {len(runs)} runs in {results}/report.md")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python benchmark/report.py RUNS RESULTS")
    main(*sys.argv[1:])
