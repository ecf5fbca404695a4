# shellcheck shell=bash
# Sourced. start_engine NAME FIRST_PORT COMMAND... starts a command in the background and waits until it listens on a
# free port, which replaces @PORT@ in the command. It sets port, engine (the process id) and engine_log, and stops the
# engine when this shell exits.
engine_log=$(mktemp)
engine=
stop_engine() {
  [ -z "$engine" ] || { kill "$engine" 2>/dev/null || true; wait "$engine" 2>/dev/null || true; }
  rm -f "$engine_log"
}
command=
trap stop_engine EXIT
trap 'end_command; exit 130' INT
trap 'end_command; exit 143' TERM

# beside runs a command while the engine runs, and passes signals on to it.
beside() {
  "$@" <&0 &
  command=$!
  wait "$command"
}
end_command() { [ -z "$command" ] || { kill "$command" 2>/dev/null || true; wait "$command" 2>/dev/null || true; }; }

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

start_engine() {
  local name=$1 first=$2
  shift 2
  for _ in 1 2 3 4 5; do
    port=$((first + RANDOM % 10000))
    answers "$port" && continue
    "${@//@PORT@/$port}" >"$engine_log" 2>&1 &
    engine=$!
    while kill -0 "$engine" 2>/dev/null && ! answers "$port"; do sleep 0.1; done
    answers "$port" && kill -0 "$engine" 2>/dev/null && return
    wait "$engine" 2>/dev/null || true
    engine=
  done
  echo "$name did not start:" >&2
  tail -n 50 "$engine_log" >&2
  exit 1
}
