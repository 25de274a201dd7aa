#!/usr/bin/env bash
# One call a node, at about the same time, without ssh:   bash launch/multinode.sh [RECIPE.yaml] [key=value …]
# The checkout, shards, model and runs/ lie on a disk that all nodes share, under the same path.
#
# Ctrl-C, SIGTERM   on any one node: all ranks save after the step at hand and end; every call gives exit code 75.
# time limit        whoever has one sends SIGTERM or SIGUSR1 as long before it as a save takes (guard.minutes in the recipe does, too).
# a dead rank       all ranks of all nodes end within a minute, and every node starts its own again from the newest checkpoint; RESTARTS
#                   starts in a row that get no further end it with the run's exit code.
# a dead node       the others end, start again and wait for it; after RESTARTS waits they give up. Start this file on it again, or on
#                   another machine of the same name; to go on with fewer nodes use torchrun or `deepspeed --hostfile` (launch/README.md).
# exit code         0 finished, 10 ended by heldout.stop_if, 75 saved before its end (the same calls again), other: failed; on every node.
set -euo pipefail
cd "$(dirname "$0")/.."

HOSTFILE=${HOSTFILE:-hostfile}                  # the same on all nodes, see launch/hostfile.example
RECIPE=launch/recipes/cpt_70b.yaml              # or the first word of the call
NODE_RANK=${NODE_RANK:-}                        # this node's line in HOSTFILE, counted from 0; empty: found by its host name
MASTER_ADDR=${MASTER_ADDR:-}                    # where the ranks meet; empty: the first host of HOSTFILE
MASTER_PORT=${MASTER_PORT:-29500}
NETWORK=${NETWORK:-}                            # interface between the nodes where there are several, e.g. eth1
RESTARTS=${RESTARTS:-10}                        # 0: never start again
VENV=${VENV:-.venv}

if [ -f "$VENV/bin/activate" ]; then . "$VENV/bin/activate"; fi
[ -f "$HOSTFILE" ] || { echo "HOSTFILE=$HOSTFILE: no such file; a line a node, as in launch/hostfile.example" >&2; exit 1; }
case "${1:-}" in *.yaml|*.yml) RECIPE=$1; shift ;; esac

hosts=$(sed -E 's/^[[:space:]]+//; /^(#|$)/d; s/[[:space:]].*//' "$HOSTFILE")
if [ -z "$NODE_RANK" ]; then
  NODE_RANK=$({ grep -nxF -e "$(hostname)" -e "$(hostname -s)" <<<"$hosts" || true; } | head -n 1 | cut -d: -f1)
  [ -n "$NODE_RANK" ] || { echo "$(hostname) is not in $HOSTFILE; name it there as \`hostname\` says, or set NODE_RANK" >&2; exit 1; }
  NODE_RANK=$((NODE_RANK - 1))
fi
MASTER_ADDR=${MASTER_ADDR:-$(head -n 1 <<<"$hosts")}
if [ -n "$NETWORK" ]; then export GLOO_SOCKET_IFNAME=$NETWORK NCCL_SOCKET_IFNAME=$NETWORK; fi

exec python launch/supervise.py --restarts "$RESTARTS" -- \
  deepspeed --hostfile "$HOSTFILE" --no_ssh --node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT" \
  launch/pretrain.py "$RECIPE" "$@"
