#!/usr/bin/env bash
#SBATCH --job-name=klip
#SBATCH --cpus-per-task=1

usage() {
  cat << 'END'
benchmark.sh: tasks x seeds x arms, and a report on them

  ./benchmark.sh                      run the grid here, then write the report
  ./benchmark.sh --quick              a miniature of it, in minutes
  ./benchmark.sh --list               print one command per run, and run nothing
  ./benchmark.sh --report             only write the report on the runs that have finished
  sbatch --array=0-124 benchmark.sh   on Slurm, from this folder: task 0 does the first line of
                                      --list, and so on; when all are done, --report

Start it again after any interruption: finished runs (those with a result.json) are skipped,
unfinished ones start over. Two copies, also on two machines with one file system, share the
work: a run holds a lock on its log file for as long as it lives.

  --envs A,B   tasks                                (HalfCheetah-v4,Hopper-v4,Walker2d-v4,
                                                     Ant-v4,Humanoid-v4)
  --seeds 1,2  all of the first seed runs first     (1,2,3,4,5)
               11 to 13 only choose, in the report, between several values of one arm.
  --arms A,B   variants                             (clip,phi,klip,kl_fixed,kl_adaptive)
               kl_fixed is ppo_kl_scalar with one beta, kl_adaptive the same with --kl-target;
               any rule in shapes/rules is an arm, too: its script is composed into DIR.
               An arm may have a value, as in clip=0.1,kl_fixed=3,kl_adaptive=0.05,spo=0.3:
               beta of kl_fixed (1), target of kl_adaptive (0.02), epsilon of the others (0.2).
  --steps N    environment steps in each run        (1000000)
  --jobs N     runs at a time, one thread each      (one per core)
  --out DIR    has a folder {env}__{arm}__{seed} and a log file for each run  (runs/benchmark)
               The report goes to DIR/results. benchmark/results is left alone: to add these runs to
               it, python benchmark/report.py DIR benchmark/results
  -- FLAGS     all that follows goes to every script, as in: -- --compile
               One DIR holds runs of one --steps and FLAGS. As long as none has finished and none
               is running, others may be given.

Arguments that a run would refuse are refused before any run starts.
The variable PYTHON names the interpreter (python). Options for Slurm, such as --time or
--partition, go before benchmark.sh. Exit status: 0 all runs finished, 1 some failed, 2 bad
arguments.
END
}

fail() {
  echo "benchmark.sh: error: $*" >&2
  exit 2
}

{  # bash reads up to the closing brace before it starts: editing this file harms no running copy

mode=run envs='' seeds='' steps='' jobs='' out='' arms=clip,phi,klip,kl_fixed,kl_adaptive
while [ $# -gt 0 ]; do
  case $1 in
    --envs | --seeds | --arms | --steps | --jobs | --out)
      [[ -n $2 && $2 != -* ]] || fail "$1 needs a value"
      printf -v "${1#--}" %s "$2"
      shift ;;
    --list | --report) mode=${1#--} ;;
    --quick) quick=1 ;;
    --help | -h) usage; exit ;;
    --) shift; break ;;
    *) fail "unknown argument $1: see --help (flags for the scripts come after --)" ;;
  esac
  shift
done
extra=("$@")

# Paths are the caller's until here, and the repository's from here on. Slurm runs a copy of this
# file from its spool folder.
case $out in '' | /*) ;; *) out=$PWD/$out ;; esac
PYTHON=${PYTHON:-$(command -v python > /dev/null && echo python || echo python3)}
case $PYTHON in /*) ;; */*) PYTHON=$PWD/$PYTHON ;; esac
repo=$(cd "$(dirname "$0")" && pwd)
[ -e "$repo/ppo_clip_continuous.py" ] || repo=$SLURM_SUBMIT_DIR
[ -e "$repo/ppo_clip_continuous.py" ] || fail "call sbatch in the folder of benchmark.sh"
cd "$repo" || exit 2
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}  # for --envs my_tasks:Task-v0, with my_tasks.py here
out=${out#"$PWD"/}

if [ -n "$quick" ]; then
  envs=${envs:-HalfCheetah-v4,Hopper-v4} seeds=${seeds:-1,2} steps=${steps:-20480}
  out=${out:-runs/quick}
fi
envs=${envs:-HalfCheetah-v4,Hopper-v4,Walker2d-v4,Ant-v4,Humanoid-v4} seeds=${seeds:-1,2,3,4,5}
steps=${steps:-1000000} out=${out:-runs/benchmark} out=${out%/}
[ -n "$SLURM_ARRAY_TASK_ID" ] && jobs=1
jobs=${jobs:-$(env -u OMP_NUM_THREADS nproc 2> /dev/null || getconf _NPROCESSORS_ONLN)}

[[ $jobs =~ ^[1-9][0-9]{0,9}$ ]] || fail "--jobs must be a positive whole number, not $jobs"
command -v "$PYTHON" > /dev/null || fail "$PYTHON is missing: set PYTHON to an interpreter"
export PYTHON

# A cell here is one run: its name, a blank, its command. Nothing is written before all is found good.
grid=("$out" "$envs" "$seeds" "$arms" "$steps" "${extra[@]}")
lines=$("$PYTHON" benchmark/grid.py "$mode" "${grid[@]}") || exit 2
cells=()
while IFS= read -r line; do cells+=("$line"); done <<< "$lines"
[ "$mode" = list ] && printf '%s\n' "${cells[@]#* }" && exit
[ "$mode" = report ] && exec "$PYTHON" benchmark/report.py "$out" "$out/results"

# One folder holds one experiment. All copies and their runs share descriptor 8 and a lock on it.
trouble=$({ mkdir -p "$out" && : >> "$out/settings"; } 2>&1) ||
  fail "--out $out cannot be written: ${trouble##*: }"
exec 8>> "$out/settings"
"$PYTHON" -S benchmark/grid.py prepare "${grid[@]}" || exit 2
settings=$(cat "$out/settings")

# ---- the runs

# Ends all runs when this script ends, whichever way: it is told of their pids through a pipe
# and acts when the pipe closes, which also kill -9 of this script does.
watch() {
  trap '' HUP INT TERM
  running=' '
  while read -r sign pid; do
    case $sign in +) running+="$pid " ;; -) running=${running/ $pid / } ;; esac
  done
  [ "$running" = ' ' ] && return
  kill $running 2> /dev/null
  for _ in {1..20}; do
    sleep 0.5
    kill -0 $running 2> /dev/null || return
  done
  kill -9 $running 2> /dev/null
}

# Set `name` and `command` of a cell.
describe() { name=${1%% *} command=${1#* }; }

# Stop unless the folder is still ours and can be written.
look() {
  local trouble
  [ "$(cat "$out/settings" 2> /dev/null)" = "$settings" ] ||
    stop 1 "$out was deleted or belongs to other runs"
  trouble=$({ echo > "$out/probe.$$"; } 2>&1) || stop 1 "$out cannot be written: ${trouble##*: }"
  rm -f "$out/probe.$$"
}

# Start the cell described by `name` and `command` in the background. Standard output is the log,
# and carries the lock: it is taken here, stays with the run through exec, and dies with it.
lock='import fcntl, sys
try: fcntl.flock(1, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError: sys.exit(75)'
start() {
  (
    exec 7>&- 2> /dev/null >> "$out/$name.log" 2>&1 || exit
    "$PYTHON" -S -c "$lock" || exit
    [ -e "$out/$name/result.json" ] && exit 75  # another copy was quicker
    : > "$out/$name.log"
    rm -rf "${out:?}/$name"
    eval "exec $command"
  ) &
  job[$!]=$cell
  echo "+ $!" >&7
}

# Set `progress` to one line: what has finished, what runs, how long the rest will take.
measure() {
  local cell pid at name command now left minutes
  finished=0 partial=0
  for cell in "${cells[@]}"; do
    describe "$cell"
    [ -e "$out/$name/result.json" ] && finished=$((finished + 1))
  done
  for pid in "${!job[@]}"; do
    describe "${job[$pid]}"
    read -r at _ <<< "$(tail -n 1 "$out/$name.log" 2> /dev/null)"
    [[ $at =~ ^([0-9]+)/ ]] && partial=$((partial + BASH_REMATCH[1]))
  done
  progress="$finished/${#cells[@]} runs finished, ${#job[@]} running"
  [ ${#failed[@]} -gt 0 ] && progress+=", ${#failed[@]} failed"
  [ ${#held[@]} -gt 0 ] && progress+=", ${#held[@]} with another copy"
  now=$((mine * steps + partial))
  left=$(((${#cells[@]} - finished - ${#failed[@]}) * steps - partial))
  if [ $now -gt 0 ] && [ $left -gt 0 ]; then
    minutes=$((left * SECONDS / now / 60 + 1))
    progress+=", $((minutes / 60)) h $((minutes % 60)) min left"
  fi
}

say() { if [ -t 1 ]; then printf '\r\033[K%s\n' "$*"; else echo "$*"; fi; }

# Stop with an exit status and, perhaps, a reason to tell.
stop() {
  trap '' HUP INT TERM
  say "stopping ${#job[@]} runs${2:+: $2}; the same command goes on from here"
  exec 7>&-
  wait
  exit "$1"
}
trap 'stop 129' HUP
trap 'stop 130' INT
trap 'stop 143' TERM

export OMP_NUM_THREADS=1
job=() held=() failed=() queue=("${cells[@]}") mine=0 next_look=0 SECONDS=0
exec 7> >(watch)
measure
say "$progress; up to $jobs at a time, logs in $out"
while :; do
  alive=" $(echo $(jobs -pr)) "
  for pid in "${!job[@]}"; do
    [[ $alive == *" $pid "* ]] && continue
    wait "$pid"
    status=$? cell=${job[$pid]}
    unset "job[$pid]"
    echo "- $pid" >&7
    [ $status = 130 ] && stop 130  # Ctrl-C, which the run was the first to notice
    describe "$cell"
    if [ $status = 75 ]; then
      held+=("$cell")
    elif [ -e "$out/$name/result.json" ]; then
      mine=$((mine + 1))
      measure
      [ -t 1 ] || say "$name finished: $progress"
    else
      look
      failed+=("$name")
      say "$name FAILED with exit status $status; the end of $out/$name.log:"
      tail -n 15 "$out/$name.log" | sed 's/^/    /'
    fi
  done
  while [ ${#queue[@]} -gt 0 ] && [ ${#job[@]} -lt "$jobs" ]; do
    cell=${queue[0]} queue=("${queue[@]:1}")
    describe "$cell"
    [ -e "$out/$name/result.json" ] && continue
    look
    start
  done
  [ ${#queue[@]} = 0 ] && [ ${#job[@]} = 0 ] && [ ${#held[@]} = 0 ] && break
  if [ $SECONDS -ge $next_look ]; then  # perhaps another copy has ended a run, or died
    next_look=$((SECONDS + 3)) queue+=("${held[@]}") held=()
    [ -t 1 ] && measure && printf '\r\033[K%s' "$progress"
  fi
  sleep 0.5
done
measure
say "$progress"
[ ${#failed[@]} -gt 0 ] && printf 'failed: %s\n' "${failed[@]}"
[ -n "$SLURM_ARRAY_TASK_ID" ] || "$PYTHON" benchmark/report.py "$out" "$out/results" || exit 1
[ ${#failed[@]} = 0 ]
exit

}
