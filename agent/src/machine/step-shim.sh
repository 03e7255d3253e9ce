#!/bin/sh
# Stands between the agent and one program, so that the agent may die, restart or be upgraded while the program runs.
# Keeps: one start for a step, whoever asks how often (shim.json is created exclusively); an exit status on disk that any
# later agent can read; a dead-man switch that ends the program when no agent has renewed the lease for too long.
# Leaves the decisions to the agent. Everything is a shell builtin but setsid, nice and sleep: a fork costs a millisecond.
# The lease is compared by content and counted on /proc/uptime, so a stepped wall clock ends nothing.
#
# usage: step-shim.sh STEP-DIR LEASE-FILE LEASE-LIMIT-CS RUNTIME-CS KILL-AFTER-CS PERIOD-S PROGRAM [ARG...]   (cs = 1/100 s)

# Read as one function before it runs: replacing this file under a running shell changes nothing.
main() {
  step=$1 lease=$2 limit=$3 runtime=$4 grace=$5 period=$6
  shift 6
  # A signal to the shim would lose the exit status; whoever wants the program to end signals its own session.
  trap '' HUP INT TERM
  ulimit -c 0
  read -r boot </proc/sys/kernel/random/boot_id
  identify $$
  set -C
  printf '{"pid":%s,"start":"%s","boot":"%s"}\n' $$ "$start" "$boot" 2>/dev/null >"$step/shim.json" || exit 97
  set +C

  clock
  began=$now
  (
    trap - HUP INT TERM
    exec setsid nice -n 10 "$@" <"$step/stdin" >"$step/stdout" 2>"$step/stderr"
  ) &
  child=$!
  identify $child
  child_start=$start
  printf '{"pid":%s,"start":"%s","boot":"%s"}\n' $child "$start" "$boot" >"$step/run.json"
  watch &
  watcher=$!

  wait $child
  status=$?
  clock
  kill -TERM $watcher 2>/dev/null
  by=
  if [ -f "$step/ended-by" ]; then read -r by <"$step/ended-by"; fi
  printf '{"status":%s,"elapsedMs":%s,"endedBy":"%s"}\n' $status $(((now - began) * 10)) "$by" >"$step/exit.json.new"
  mv "$step/exit.json.new" "$step/exit.json"
}

# Start time of a process in ticks since boot: with the boot id it tells a process from a later one with the same pid.
identify() {
  start=0
  read -r stat <"/proc/$1/stat" || return 0
  # The name in field 2 may hold blanks and brackets, so count from the last bracket: field 22 is the 20th after it.
  set -- ${stat##*) }
  start=${20}
}

# Hundredths of a second since boot; also counts while this process is stopped.
clock() {
  read -r up rest </proc/uptime
  now=${up%.*}${up#*.}
}

is_running() {
  identify $child
  [ "$start" = "$child_start" ]
}

watch() {
  nap=
  trap 'kill $nap 2>/dev/null; exit 0' TERM
  clock
  seen= renewed=$now
  while :; do
    pause "$period"
    # The shim was killed and the program has ended: nothing is left to watch. While the program lives, go on without the shim.
    is_running || return
    clock
    mark=
    # Empty while the agent rewrites it: not a renewal, and the next look will see it.
    read -r mark 2>/dev/null <"$lease"
    if [ -n "$mark" ] && [ "$mark" != "$seen" ]; then seen=$mark renewed=$now; fi
    if [ $((now - began)) -ge "$runtime" ]; then end runtime; return; fi
    if [ $((now - renewed)) -ge "$limit" ]; then end lease; return; fi
  done
}

end() {
  is_running || return 0
  echo "$1" >"$step/ended-by"
  signal TERM
  clock
  asked=$now
  while [ $((now - asked)) -lt "$grace" ] && is_running; do
    pause 0.1
    clock
  done
  if is_running; then signal KILL; fi
}

# The whole session of the child; by pid for the instant before setsid has made the group.
signal() {
  kill -s "$1" -- "-$child" 2>/dev/null || kill -s "$1" $child 2>/dev/null
  kill -s CONT -- "-$child" 2>/dev/null
}

# Waits for a sleep that the TERM trap can end, so that none outlives the step.
pause() {
  sleep "$1" &
  nap=$!
  wait $nap
}

main "$@"
exit
