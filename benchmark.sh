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
  --seeds 1,2  seeds; all of seed 1 runs first      (1,2,3,4,5)
  --arms A,B   variants                             (clip,phi,klip,kl_fixed,kl_adaptive)
               kl_fixed is ppo_kl_scalar with beta = 1, kl_adaptive the same with --kl-target 0.02
  --steps N    environment steps in each run        (1000000)
  --jobs N     runs at a time, one thread each      (one per core)
  --out DIR    has a folder {env}__{arm}__{seed} and a log file for each run  (runs/benchmark)
               The report goes to benchmark/results, but to DIR/results with --out or --quick.
  -- FLAGS     all that follows goes to every script, as in: -- --compile

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
      [ -n "$2" ] && [ "$2" != -- ] || fail "$1 needs a value"
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
out=${out#"$PWD"/}

if [ -n "$quick" ]; then
  envs=${envs:-HalfCheetah-v4,Hopper-v4} seeds=${seeds:-1,2} steps=${steps:-20480}
  out=${out:-runs/quick}
fi
envs=${envs:-HalfCheetah-v4,Hopper-v4,Walker2d-v4,Ant-v4,Humanoid-v4} seeds=${seeds:-1,2,3,4,5}
steps=${steps:-1000000} out=${out:-runs/benchmark} out=${out%/}
results=$out/results
[ "$out" = runs/benchmark ] && results=benchmark/results
[ -n "$SLURM_ARRAY_TASK_ID" ] && jobs=1
jobs=${jobs:-$(env -u OMP_NUM_THREADS nproc 2> /dev/null || getconf _NPROCESSORS_ONLN)}

whole() { [[ $1 =~ ^[1-9][0-9]{0,9}$ ]]; }
whole "$steps" || fail "--steps must be a positive whole number, not $steps"
whole "$jobs" || fail "--jobs must be a positive whole number, not $jobs"
cells=()
for seed in ${seeds//,/ }; do
  whole "$seed" || [ "$seed" = 0 ] || fail "--seeds must be whole numbers, not $seed"
  for env in ${envs//,/ }; do
    [[ $env =~ ^[A-Za-z0-9_./:-]+$ ]] || fail "--envs must be Gymnasium ids, not $env"
    for arm in ${arms//,/ }; do
      [[ $arm =~ ^(clip|phi|klip|kl_fixed|kl_adaptive)$ ]] ||
        fail "--arms must be among clip, phi, klip, kl_fixed and kl_adaptive, not $arm"
      cells+=("$env $arm $seed")
    done
  done
done
for flag in "${extra[@]}"; do
  case $flag in --env[-_]id* | --seed* | --total[-_]timesteps* | --exp[-_]name* | --run[-_]dir*)
    fail "$flag after -- is benchmark.sh's to set" ;;
  esac
done

# Set `name` and `cmd`, the run folder's name and the command, of the cell "env arm seed".
describe() {
  read -r env arm seed <<< "$1"
  name=${env//[\/:]/_}__${arm}__$seed
  script=ppo_${arm}_continuous.py
  [[ $arm == kl_* ]] && script=ppo_kl_scalar_continuous.py
  cmd=("$PYTHON" "$script" --env-id "$env" --seed "$seed" --total-timesteps "$steps")
  cmd+=(--exp-name "$arm" --run-dir "$out/$name")
  [ "$arm" = kl_adaptive ] && cmd+=(--kl-target 0.02)
  cmd+=("${extra[@]}")
}

if [ "$mode" = list ]; then
  for cell in "${cells[@]}"; do
    describe "$cell"
    printf '%q ' "${cmd[@]}"
    echo
  done | sed 's/ $//'
  exit
fi

needed='import importlib.util as u
packages = "torch", "gymnasium", "mujoco", "tyro", "tensorboard", "tqdm"
exit(not all(map(u.find_spec, packages)))'
"$PYTHON" -c "$needed" 2> /dev/null ||
  fail "$PYTHON is missing or lacks packages: pip install -r requirements.txt, or set PYTHON"
[ "$mode" = report ] && exec "$PYTHON" benchmark/report.py "$out" "$results"

if [ -n "$SLURM_ARRAY_TASK_ID" ]; then
  cell=${cells[$SLURM_ARRAY_TASK_ID]}
  [ -n "$cell" ] || fail "--array must lie within 0-$((${#cells[@]} - 1))"
  cells=("$cell")
fi

# One folder holds one experiment: the first copy to start writes down which, in one piece.
settings="--total-timesteps $steps${extra[*]:+ ${extra[*]}}"
mkdir -p "$out" && draft=$(mktemp "$out/settings.XXXXXX") && echo "$settings" > "$draft" ||
  fail "--out $out cannot be written"
ln "$draft" "$out/settings" 2> /dev/null
rm "$draft"
[ "$(cat "$out/settings")" = "$settings" ] ||
  fail "--out $out holds runs with $(cat "$out/settings"), not $settings: name another folder"

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

# Start the cell described by `name` and `cmd` in the background. Standard output is the log, and
# carries the lock: it is taken here, stays with the run through exec, and dies with it.
lock='import fcntl, sys
try: fcntl.flock(1, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError: sys.exit(75)'
start() {
  (
    exec 7>&- >> "$out/$name.log" 2>&1
    "$PYTHON" -S -c "$lock" || exit
    [ -e "$out/$name/result.json" ] && exit 75  # another copy was quicker
    : > "$out/$name.log"
    rm -rf "${out:?}/$name"
    exec "${cmd[@]}"
  ) &
  job[$!]=$cell
  echo "+ $!" >&7
}

# Set `progress` to one line: what has finished, what runs, how long the rest will take.
measure() {
  local cell pid at env arm seed name script cmd now left minutes
  finished=0 partial=0
  for cell in "${cells[@]}"; do
    describe "$cell"
    [ -e "$out/$name/result.json" ] && finished=$((finished + 1))
  done
  for pid in "${!job[@]}"; do
    describe "${job[$pid]}"
    read -r at _ <<< "$(tail -n 1 "$out/$name.log" 2> /dev/null)"
    [[ $at =~ ([0-9]+)/[0-9]+$ ]] && partial=$((partial + BASH_REMATCH[1]))
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

stop() {
  trap '' HUP INT TERM
  say "stopping ${#job[@]} runs; the same command goes on from here"
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
      failed+=("$name")
      say "$name FAILED with exit status $status; the end of $out/$name.log:"
      tail -n 15 "$out/$name.log" | sed 's/^/    /'
    fi
  done
  while [ ${#queue[@]} -gt 0 ] && [ ${#job[@]} -lt "$jobs" ]; do
    cell=${queue[0]} queue=("${queue[@]:1}")
    describe "$cell"
    [ -e "$out/$name/result.json" ] || start
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
[ -n "$SLURM_ARRAY_TASK_ID" ] || "$PYTHON" benchmark/report.py "$out" "$results" || exit 1
[ ${#failed[@]} = 0 ]
exit

}
