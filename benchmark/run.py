"""benchmark.sh: tasks x seeds x arms, and a report on them

  ./benchmark.sh                      run the grid here, then write the report
  ./benchmark.sh --quick              a miniature of it, in minutes
  ./benchmark.sh --list               print one command per run, and run nothing
  ./benchmark.sh --report             only write the report on the runs that have finished
  ./benchmark.sh --verify Hopper-v4,clip,1
                                      train a run of benchmark/results anew, and say whether it ends
                                      in the same weights (exit status 0) or not (1)
  sbatch --array=0-124 benchmark.sh   on Slurm, from this folder: task 0 does the first line of
                                      --list, and so on; when all are done, --report

Start it again after any interruption: finished runs (those with a result.json) are skipped,
unfinished ones start over. Two copies, also on two machines with one file system, share the
work: a run holds a lock on its log file for as long as it lives.

  --envs A,B   tasks                                (HalfCheetah-v4,Hopper-v4,Walker2d-v4,
                                                     Ant-v4,Humanoid-v4)
  --seeds 1,2  all of the first seed runs first     (1,2,3,4,5)
  --arms A,B   variants                             (clip,phi,klip,kl_fixed,kl_adaptive)
               kl_fixed is ppo_kl_scalar with one beta, kl_adaptive the same with --kl-target;
               any rule in rules/ and any block in rules/mechanism is an arm, too.
               An arm may have a value, as in clip=0.1,kl_fixed=3,kl_adaptive=0.05,spo=0.3:
               beta of kl_fixed (1), target of kl_adaptive (0.02), epsilon of the others (0.2).
  --steps N    environment steps in each run        (1000000)
  --jobs N     runs at a time, one thread each      (one per core)
  --out DIR    has a folder {env}__{arm}__{seed} and a log file for each run, and the scripts they
               were started from  (runs/benchmark)
               The report goes to DIR/results. benchmark/results is left alone: to add these runs to
               it, python benchmark/runs.py DIR benchmark/results
  -- FLAGS     all that follows goes to every script, as in: -- --compile
               One DIR holds runs of one --steps and FLAGS, and of one version of each script. As
               long as none has finished and none is running, others may be given.

Arguments that a run would refuse are refused before any run starts.
The variable PYTHON names the interpreter (python). Options for Slurm, such as --time or
--partition, go before benchmark.sh. Exit status: 0 all runs finished, 1 some failed, 2 bad
arguments.
"""

import argparse
import csv
import fcntl
import importlib.util
import io
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import NoReturn, TextIO

import arms

ENVS = "HalfCheetah-v4,Hopper-v4,Walker2d-v4,Ant-v4,Humanoid-v4"
PACKAGES = ["torch", "gymnasium", "mujoco", "tyro", "tensorboard", "pandas", "scipy", "matplotlib"]
SET_HERE = {"--env-id", "--seed", "--total-timesteps", "--exp-name", "--run-dir"}
SET_HERE |= {"--clip-coef", "--kl-coef", "--kl-target"}  # by the arm
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RESULTS = arms.ROOT / "benchmark/results/runs.csv"


def fail(message: object) -> NoReturn:
    """Print one line and exit with code 2."""
    print(f"benchmark.sh: error: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(2)


def say(text: str) -> None:
    """Print a line; if whoever read the output has gone, go on in silence."""
    try:
        print(text, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, open until the end


class Run:
    """One run, in the folder `out` of all."""

    def __init__(self, arm: arms.Arm, env_id: str, seed: int, out: Path, flags: list[str]):
        self.arm, self.env_id, self.seed = arm, env_id, seed
        self.name = f"{re.sub('[/:]', '_', env_id)}__{arm.name}__{seed}"
        self.folder = out / self.name
        self.log = out / f"{self.name}.log"
        self.script = out / arm.script  # the copy that it is started from
        own = ["--env-id", env_id, "--seed", str(seed), "--exp-name", arm.name]
        self.arguments = [*own, "--run-dir", str(self.folder), *arm.flags, *flags]
        self.command = [sys.executable, str(self.script), *self.arguments]

    def is_finished(self) -> bool:
        return (self.folder / "result.json").exists()


def grid(args: argparse.Namespace) -> list[Run]:
    """All runs, those of the first seed first; within a Slurm array the one of this task."""
    for flag in args.flags[2:]:
        if flag.partition("=")[0].replace("_", "-") in SET_HERE:
            fail(f"{flag} after -- is benchmark.sh's to set, by --envs, --seeds, --steps or --arms")
    try:
        found = {arm.name: arm for arm in map(arms.parse, args.arms.split(","))}.values()
    except ValueError as error:
        fail(f"--arms: {error}")
    try:
        seeds = dict.fromkeys(map(int, args.seeds.split(",")))
        if min(seeds) < 0:  # the scripts are asked about the highest only
            raise ValueError
    except ValueError:
        fail(f"--seeds must be 0 or more, with commas between them, not {args.seeds!r}")
    env_ids = dict.fromkeys(args.envs.split(","))
    runs = [
        Run(arm, env_id, seed, args.out, args.flags)
        for seed, env_id, arm in itertools.product(seeds, env_ids, found)
    ]
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    if task is None or args.list or args.report:
        return runs
    if int(task) >= len(runs):
        fail(f"--array must lie within 0-{len(runs) - 1}")
    return [runs[int(task)]]


def load(arm: arms.Arm) -> ModuleType:
    """The script of an arm as a module; ValueError if it cannot be composed."""
    module = ModuleType(Path(arm.script).stem)
    module.__file__ = arm.script  # tyro looks for it
    sys.modules[module.__name__] = module  # dataclasses look here
    exec(compile(arm.source(), arm.script, "exec"), vars(module))  # noqa: S102, our own script
    return module


def reason(output: str) -> str:
    """Why a script refused its flags, in one line and by the names of benchmark.sh's options."""
    sections = re.split(r"\n *-{5,} *\n", output)  # tyro prints a title, a rule, the reason, a rule
    text = " ".join(sections[min(1, len(sections) - 1)].split())
    for theirs, ours in (("total-timesteps", "steps"), ("seed", "seeds"), ("env-id", "envs")):
        text = re.sub(rf"--{theirs}\b", f"--{ours}", text)
    return text.removeprefix("benchmark.sh: error: ") or "the flags after -- end a run at once"


def check(runs: list[Run]) -> None:
    """Exit if a script would refuse its flags, or a task cannot be made."""
    import tyro

    sys.argv = ["benchmark.sh"]  # by which name the scripts complain
    output = io.StringIO()
    of_arm = {run.arm.name: run for run in sorted(runs, key=lambda run: run.seed)}
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(output):
            for run in of_arm.values():
                module = load(run.arm)
                module.check(tyro.cli(module.Args, args=[*run.arguments, "--run-dir", "None"]))
            for env_id in dict.fromkeys(run.env_id for run in runs):
                module.make_env(env_id).close()
    except SystemExit:
        fail(reason(output.getvalue()))
    except ValueError as error:
        fail(reason(str(error)))


def claim(out: Path, settings: str) -> tuple[TextIO, bool]:
    """The file out/settings, with a shared lock on it, and whether the folder is unused, so that its
    scripts may be replaced; exit if it holds other runs.

    Who is alone, and finds no finished run, may write the settings anew.
    """
    file = open(out / "settings", "a+")  # noqa: SIM115, its lock lasts until the end
    unused = False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unused = not any(out.glob("*/result.json"))
        if unused:
            file.truncate(0)
            file.write(f"{settings}\n")
            file.flush()
    except BlockingIOError:
        pass  # others are at work
    fcntl.flock(file, fcntl.LOCK_SH)
    held = (out / "settings").read_text().strip()
    if held != settings:
        fail(f"--out {out} holds runs with {held}, not {settings}: name another folder")
    return file, unused


def write_scripts(runs: list[Run], unused: bool) -> None:
    """Copy the scripts to where they are started from, so that to edit one harms no run to come;
    exit if one was other code before, unless the folder is unused."""
    for file, arm in {run.script: run.arm for run in runs}.items():
        source = arm.source()
        here = file.read_text(encoding="utf-8") if file.exists() else source
        if not unused and arms.code_hash(here) != arms.code_hash(source):
            fail(f"{file} has changed since its runs in --out began: name another folder")
        draft = file.with_suffix(f".{os.uname().nodename}.{os.getpid()}")
        draft.write_text(source, encoding="utf-8")
        draft.rename(file)


class Grid:
    """The runs of this program, at most `jobs` at a time."""

    def __init__(self, runs: list[Run], out: Path, jobs: int, settings: TextIO):
        self.runs, self.out, self.jobs, self.settings = runs, out, jobs, settings
        self.waiting = list(runs)
        self.running: dict[subprocess.Popen, Run] = {}
        self.failed: list[Run] = []
        self.elsewhere: set[Run] = set()  # seen under way in another copy
        self.ended = 0  # finished here
        self.signal = 0  # received
        self.began = time.monotonic()

    def look(self) -> None:
        """Stop if the folder was deleted, and may be another's by now, or cannot be written."""
        try:
            if os.fstat(self.settings.fileno()).st_nlink == 0:
                self.stop(1, f"{self.out} was deleted")
            probe = self.out / f"probe.{os.getpid()}"
            probe.write_text("\n")
            probe.unlink()
        except OSError as error:
            self.stop(1, f"{self.out} cannot be written: {error.strerror}")

    def start(self, run: Run) -> None:
        """Start a run, unless it is finished or another copy has it."""
        self.look()
        with open(run.log, "a") as log:
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if run not in self.elsewhere:
                    say(f"{run.name} is under way in another copy")
                self.elsewhere.add(run)
                return
            self.waiting.remove(run)
            if run.is_finished():
                return
            log.truncate(0)
            shutil.rmtree(run.folder, ignore_errors=True)
            process = subprocess.Popen(  # it inherits the lock, which dies with it
                run.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[self.settings.fileno()],
                process_group=0,  # out of Ctrl-C's reach
            )
        self.running[process] = run

    def end(self, process: subprocess.Popen) -> None:
        """Take note of a run that has ended."""
        run = self.running.pop(process)
        if run.is_finished():
            self.ended += 1
            say(f"{run.name} finished: {self.progress()}")
        else:
            self.look()
            self.failed.append(run)
            say(f"{run.name} FAILED with exit status {process.returncode}; the end of {run.log}:")
            for line in run.log.read_text(errors="replace").splitlines()[-15:]:
                say(f"    {line}")

    def progress(self) -> str:
        """What has finished, what runs, and how long the rest will take."""
        finished = sum(run.is_finished() for run in self.runs)
        text = f"{finished}/{len(self.runs)} runs finished, {len(self.running)} running"
        if self.failed:
            text += f", {len(self.failed)} failed"
        left = len(self.runs) - finished - len(self.failed)
        if self.ended and left:
            minutes = int(left * (time.monotonic() - self.began) / self.ended / 60) + 1
            text += f", about {minutes // 60} h {minutes % 60} min left"
        return text

    def note(self, number: int, _: object) -> None:
        """Take note of a signal; the loop acts on it, when no run is about to start."""
        self.signal = number

    def stop(self, code: int, why: str) -> NoReturn:
        """End all runs, and exit."""
        say(f"stopping {len(self.running)} runs: {why}; the same command goes on from here")
        for process in self.running:
            process.kill()  # a paused one, too; what it has written is of no use
        for process in self.running:
            process.wait()
        raise SystemExit(code)

    def work(self) -> list[Run]:
        """Run all, and return those that failed."""
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves SIGHUP
                signal.signal(number, self.note)
        say(f"{self.progress()}; up to {self.jobs} at a time, logs in {self.out}")
        while self.waiting or self.running:
            if self.signal:
                self.stop(128 + self.signal, "interrupted")
            for process in list(self.running):
                if process.poll() is not None:
                    self.end(process)
            for run in list(self.waiting):
                if len(self.running) == self.jobs:
                    break
                self.start(run)
            time.sleep(0.2)
        say(self.progress())
        return self.failed


def verify(cell: str) -> int:
    """Train a run of benchmark/results anew; 0 if it ends in the weights of its row, else 1."""
    with open(RESULTS, encoding="utf-8") as table:
        rows = {f"{row['env_id']},{row['arm']},{row['seed']}": row for row in csv.DictReader(table)}
    if cell not in rows:
        fail(f"--verify: benchmark/results has no run {cell}")
    row = rows[cell]
    arm = arms.parse(row["arm"])
    flags = ["--total-timesteps", row["steps"], *shlex.split(row["flags"])]
    out = Path("runs/verify")
    run = Run(arm, row["env_id"], int(row["seed"]), out, flags)
    if arms.code_hash(arm.source()) != row["code"]:
        fail(f"--verify: {arm.script} has changed since the committed run")
    out.mkdir(parents=True, exist_ok=True)
    run.script.write_text(arm.source(), encoding="utf-8")
    shutil.rmtree(run.folder, ignore_errors=True)
    if subprocess.call(run.command, stdout=sys.stderr):
        return 1
    weights = json.loads((run.folder / "result.json").read_text())["weights_sha256"]
    same = weights == row["weights_sha256"]
    say(f"{cell}: weights_sha256 {weights} is {'' if same else 'NOT '}that of benchmark/results")
    return 0 if same else 1


class Parser(argparse.ArgumentParser):
    """Complains in one line, and has the text above as its help."""

    def error(self, message: str) -> NoReturn:
        fail(f"{message.removeprefix('argument ')}: see --help")

    def format_help(self) -> str:
        return __doc__


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a positive whole number, not {text}")
    return int(text)


def parse(argv: list[str]) -> argparse.Namespace:
    """The arguments of benchmark.sh; `flags` are those of every script."""
    at = argv.index("--") if "--" in argv else len(argv)
    quick = "--quick" in argv[:at]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser = Parser("benchmark.sh", allow_abbrev=False)
    parser.add_argument("--envs", default="HalfCheetah-v4,Hopper-v4" if quick else ENVS)
    parser.add_argument("--seeds", default="1,2" if quick else "1,2,3,4,5")
    parser.add_argument("--arms", default=",".join(arms.PAPER))
    parser.add_argument("--steps", type=positive, default=20480 if quick else 1_000_000)
    parser.add_argument("--jobs", type=positive, default=cores)
    parser.add_argument("--out", default=arms.ROOT / ("runs/quick" if quick else "runs/benchmark"))
    parser.add_argument("--verify")
    for option in ("--list", "--report", "--quick"):
        parser.add_argument(option, action="store_true")
    args = parser.parse_args(argv[:at])
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        args.jobs = 1
    if not args.out:
        fail("--out must not be empty")
    # Paths are the caller's until here, and the repository's from here on.
    out = Path(args.out).absolute()
    os.chdir(arms.ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    args.out = out.relative_to(arms.ROOT) if out.is_relative_to(arms.ROOT) else out
    args.flags = ["--total-timesteps", str(args.steps), *argv[at + 1 :]]
    return args


def write_report(out: Path) -> int:
    """Gather the finished runs and write the report on them; 0 if that went well."""
    results = str(out / "results")
    gather = [sys.executable, "benchmark/runs.py", str(out), results]
    write = [sys.executable, "benchmark/report.py", results]
    return subprocess.call(gather) or subprocess.call(write)


def main(argv: list[str]) -> int:
    """See the module."""
    args = parse(argv)
    runs = grid(args)
    if args.list:
        for run in runs:  # a composed script is made when it is run
            script = run.script if run.arm.block else run.arm.script
            print(shlex.join(["python", str(script), *run.arguments]))
        return 0
    missing = [package for package in PACKAGES if not importlib.util.find_spec(package)]
    if missing:
        lacks = f"{sys.executable} lacks {', '.join(missing)}"
        fail(f"{lacks}: pip install -r requirements.txt, or set PYTHON")
    if args.verify is not None:
        return verify(args.verify)
    if args.report:
        return write_report(args.out)
    check(runs)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        settings, unused = claim(args.out, shlex.join(args.flags))
        write_scripts(runs, unused)
    except OSError as error:
        fail(f"--out {args.out} cannot be written: {error.strerror}")
    failed = Grid(runs, args.out, args.jobs, settings).work()
    if "SLURM_ARRAY_TASK_ID" not in os.environ and write_report(args.out):
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it in silence until runs start
    if "--list" in sys.argv or "--help" in sys.argv:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end in silence when head has enough
    raise SystemExit(main(sys.argv[1:]))
