#!/bin/bash
# Makes the demo's cluster by hand: what `bedplate apply -f examples/demo.yaml --wait` does, as a person would script it.
#
#     bench/by_hand.sh [-o RESULT.json] [-k VERSION]
#
# The same image, machines, guest payload and kubeadm configuration as Bedplate's (`bench.by_hand_inputs` writes them
# before the clock starts), on the lab's three hypervisors with virsh, at the same time where that works. It needs a lab
# that is up and in which no machine runs. Prints the time of each phase and takes everything away again, also when it
# is interrupted. JOINS=together|in-turn overrules what is best for the lab (emulated guests join one after another).
#
# Exit codes: 0 all nodes were Ready; 1 something failed; 130 interrupted.
set -euo pipefail
set -m # each helper is a process group of its own, so that it ends with all that it has started
umask 077

root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
result=
version=1.35.3
while getopts o:k: option; do
    case $option in
    o) result=$OPTARG ;;
    k) version=$OPTARG ;;
    *) exit 1 ;;
    esac
done

BOOT_SECONDS=${BOOT_SECONDS:-600}       # until a guest answers
KUBEADM_SECONDS=${KUBEADM_SECONDS:-1800} # until kubeadm has ended, or a node is Ready
PIECE=32768                              # bytes of a file for each call of the guest agent

work=$(mktemp -d "${TMPDIR:-/tmp}/by-hand.XXXXXX")
inputs=$work/inputs
phases=$work/phases
: >"$phases"
MACHINES='' WORKERS='' POOL='' IMAGE_DISK='' IMAGE_KERNEL='' IMAGE_INITRD='' IMAGE_FORMAT='' KUBECTL='' NAMESPACE_PID=''
joins=${JOINS:-}

# --- telling and cleaning ---------------------------------------------------------------------------------------------

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "by hand: $*"
    exit 1
}

# Seconds since the clock was started, with milliseconds.
now() { awk -v a="$EPOCHREALTIME" -v b="${began:-0}" 'BEGIN { printf "%.3f", a - b }'; }

# reached WHAT: writes down when a phase was reached.
reached() {
    local at
    at=$(now)
    printf '%s\t%s\n' "$1" "$at" >>"$phases"
    printf '%9.1f s  %s\n' "$at" "$1"
}

# of NAME MACHINE: a value of the inputs for that machine.
of() {
    local name=$1_$2
    printf '%s' "${!name}"
}

clean() {
    local code=$?
    trap - EXIT INT TERM
    set +e
    local job
    for job in $(jobs -p); do kill -- "-$job" 2>/dev/null; done
    wait
    for m in $MACHINES; do
        virsh -q -c "$(of URI "$m")" destroy "$(of DOMAIN "$m")" >/dev/null 2>&1
        virsh -q -c "$(of URI "$m")" undefine "$(of DOMAIN "$m")" >/dev/null 2>&1
    done
    case $POOL in */by-hand) rm -rf -- "$POOL" ;; esac
    rm -rf -- "$work"
    exit "$code"
}
trap clean EXIT
trap 'exit 130' INT TERM

# --- guests -----------------------------------------------------------------------------------------------------------

# ask MACHINE COMMAND: one call of the guest agent; its answer's `return`.
ask() {
    virsh -q -c "$(of URI "$1")" qemu-agent-command --timeout 30 "$(of DOMAIN "$1")" "$2" | jq -c .return
}

# answers MACHINE: waits until the guest agent answers.
answers() {
    local ends=$((SECONDS + BOOT_SECONDS))
    until virsh -q -c "$(of URI "$1")" qemu-agent-command --timeout 5 "$(of DOMAIN "$1")" \
        '{"execute":"guest-ping"}' >/dev/null 2>&1; do
        [ $SECONDS -lt $ends ] || fail "$1 does not answer after $BOOT_SECONDS s"
        sleep 0.3
    done
}

# inside MACHINE SECONDS PROGRAM [ARGUMENT...]: runs it in the guest and waits for its end; its output.
inside() {
    local m=$1 ends=$((SECONDS + $2)) pid status
    shift 2
    pid=$(ask "$m" "$(jq -cn '{execute: "guest-exec", arguments: {path: $ARGS.positional[0],
        arg: $ARGS.positional[1:], "capture-output": true}}' --args -- "$@")" | jq .pid)
    while :; do
        status=$(ask "$m" "{\"execute\":\"guest-exec-status\",\"arguments\":{\"pid\":$pid}}")
        [ "$(jq .exited <<<"$status")" = false ] || break
        [ $SECONDS -lt $ends ] || fail "$1 in $m did not end in time"
        sleep 0.2
    done
    jq -r '."out-data" // ""' <<<"$status" | base64 -d
    [ "$(jq '.exitcode // 1' <<<"$status")" = 0 ] || {
        jq -r '."err-data" // ""' <<<"$status" | base64 -d >&2
        fail "$1 in $m failed"
    }
}

# give MACHINE: hands the guest its payload, in memory.
give() {
    local m=$1 handle piece
    inside "$m" 60 /bin/sh -c "$(cat "$inputs/look")" look "$(of UID "$m")" >/dev/null
    handle=$(ask "$m" '{"execute":"guest-file-open","arguments":{"path":"/run/bedplate/payload.tar","mode":"wb"}}')
    while read -r piece; do
        ask "$m" "{\"execute\":\"guest-file-write\",\"arguments\":{\"handle\":$handle,\"buf-b64\":\"$piece\"}}" >/dev/null
    done < <(split -b $PIECE --filter='base64 -w0; echo' "$inputs/$m.tar")
    ask "$m" "{\"execute\":\"guest-file-close\",\"arguments\":{\"handle\":$handle}}" >/dev/null
}

# kubeadm_in MACHINE: starts kubeadm in the guest and waits until it has ended.
kubeadm_in() {
    local m=$1 said
    give "$m"
    inside "$m" 60 /bin/sh -c "$(cat "$inputs/launch")" launch "$(of UID "$m")"
    # shellcheck disable=SC2016 # for the guest's shell
    said=$(inside "$m" "$KUBEADM_SECONDS" /bin/sh -c \
        'while read -r s </run/bedplate/bootstrap.status && [ "$s" = running ]; do sleep 1; done
         cat /run/bedplate/bootstrap.status')
    [ "$said" = "done" ] || fail "kubeadm in $m: $said"
}

# --- the cluster ------------------------------------------------------------------------------------------------------

# kube ARGUMENT...: kubectl, from inside of the first hypervisor's network; tried again while the API is not to be had.
kube() {
    local ends=$((SECONDS + KUBEADM_SECONDS))
    until nsenter --target "$NAMESPACE_PID" --net env -u http_proxy -u https_proxy -u HTTPS_PROXY \
        "$KUBECTL" --kubeconfig "$inputs/kubeconfig" "$@" >>"$work/kubectl.log" 2>&1; do
        [ $SECONDS -lt $ends ] || fail "kubectl $*: $(tail -n 3 "$work/kubectl.log")"
        sleep 0.5
    done
}

# node_ready MACHINE: waits for its node.
node_ready() {
    kube wait --for=create "node/$(of NODE "$1")" --timeout=600s
    kube wait --for=condition=Ready "node/$(of NODE "$1")" --timeout=600s
}

# machine MACHINE: a disk, a domain, and a guest that answers.
machine() {
    local m=$1
    qemu-img create -q -f qcow2 -F "$IMAGE_FORMAT" -b disk "$POOL/$m.qcow2" "$(of DISK "$m")"
    virsh -q -c "$(of URI "$m")" define "$inputs/$m.xml" >/dev/null
    virsh -q -c "$(of URI "$m")" start "$(of DOMAIN "$m")" >/dev/null
    reached "$m runs"
    answers "$m"
    reached "$m answers"
}

# all COMMAND MACHINE...: at the same time for all of them; fails where one fails.
all() {
    local command=$1 pids=() pid
    shift
    for m in "$@"; do
        "$command" "$m" &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid"; done
}

join() {
    kubeadm_in "$1"
    reached "$1: kubeadm join has ended"
}

main() {
    local tool
    for tool in virsh jq qemu-img nsenter base64 split awk; do
        command -v "$tool" >/dev/null || fail "$tool is needed"
    done
    if [ -n "${INPUTS:-}" ]; then
        cp -r "$INPUTS" "$inputs"
    else
        (cd "$root" && "$python" -m bench.by_hand_inputs "$inputs" --kubernetes "$version")
    fi
    # shellcheck source=/dev/null
    . "$inputs/env"
    joins=${joins:-$JOINS}
    case $POOL in */by-hand) ;; *) fail "the pool is $POOL and must end in /by-hand" ;; esac
    [ ! -e "$POOL" ] || fail "$POOL is there already: a run goes on, or one was killed; remove it"
    mkdir -m 0711 "$POOL"

    began=$EPOCHREALTIME
    cp --reflink=auto "$IMAGE_DISK" "$POOL/disk"
    cp "$IMAGE_KERNEL" "$POOL/vmlinuz"
    cp "$IMAGE_INITRD" "$POOL/initrd"
    reached "image is in the pool"
    # shellcheck disable=SC2086 # one word for each machine
    all machine $WORKERS &
    local workers=$!
    machine cp
    kubeadm_in cp
    reached "cp: kubeadm init has ended"
    kube apply -f "$inputs/addon.yaml" &
    local addon=$!
    wait $workers
    if [ "$joins" = together ]; then
        # shellcheck disable=SC2086 # one word for each machine
        all join $WORKERS
    else
        for m in $WORKERS; do join "$m"; done
    fi
    for m in $MACHINES; do node_ready "$m"; done
    reached "all nodes are Ready"
    wait $addon
    if [ -n "$result" ]; then
        jq -Rn '[inputs | split("\t") | {what: .[0], seconds: (.[1] | tonumber)}]
            | {seconds: (map(.seconds) | max), phases: .}' "$phases" >"$result"
    fi
}

main
