#!/bin/bash
# node.sh FOLDER: the first process of a node's namespaces. FOLDER holds its settings (nodes.py) and takes its logs.
# What it starts ends with it: the kernel ends a process namespace with its first process.
set -eu
cd "$1"
. ./node.env # NAME ADDRESS HUB BIN TOOLS SERVICES IMAGES
scratch=$PWD/scratch
hostname "$NAME"

ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
ip addr add "$ADDRESS/24" dev eth0
ip link set eth0 up
ip route add default via "$HUB"
echo 1 >/proc/sys/net/ipv4/ip_forward # of this network alone
if [ -e /proc/sys/net/bridge/bridge-nf-call-iptables ]; then echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables; fi

# Mounts are this node's alone. Fixed paths lead to memory; nothing of the machine's own is written to.
mount --make-rshared /
mkdir -p "$scratch"
mount -t tmpfs -o size=3g node "$scratch"
mkdir "$scratch/run"
mount --bind "$scratch/run" /run
for place in lib log; do
    mkdir -p "$scratch/over/$place" "$scratch/aside/$place"
    mount -t overlay overlay -o "lowerdir=/var/$place,upperdir=$scratch/over/$place,workdir=$scratch/aside/$place" "/var/$place"
done
for place in /var/lib/kubelet /var/lib/cni /var/log/pods /var/log/containers /run/containerd /run/netns /run/lock; do
    mkdir -p "$place" "$scratch/own$place"
    mount --bind "$scratch/own$place" "$place"
    mount --make-rshared "$place"
done
mkdir "$scratch/volumes"
# The kubelet sets these for the whole machine: it gets files of its own that hold what it wants already.
while read -r name value; do
    echo "$value" >"$scratch/$(basename "$name")"
    mount --bind "$scratch/$(basename "$name")" "/proc/sys/$name"
done <<END
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
END

start() {
    local log=$1.log
    shift
    "$@" >"$log" 2>&1 </dev/null &
}
start containerd containerd -c "$PWD/containerd.toml"
until ctr version >/dev/null 2>&1; do sleep 0.1; done
for image in $IMAGES; do ctr -n k8s.io images import "$image" >>import.log 2>&1; done
touch imported
start kubelet "$BIN/kubelet" --config="$PWD/kubelet.json" --kubeconfig="$PWD/kubelet.conf" --node-ip="$ADDRESS" --hostname-override="$NAME"
start kube-proxy "$BIN/kube-proxy" --config="$PWD/kube-proxy.json"
# It ends while the kubelet has not made itself known.
start kube-router bash -c 'until "$@"; do sleep 0.5; done' - "$TOOLS/kube-router" --kubeconfig="$PWD/kube-router.conf" \
    --run-firewall --run-router=false --run-service-proxy=false --health-port=0 --hostname-override="$NAME" \
    --service-cluster-ip-range="$SERVICES"
while :; do wait -n 2>/dev/null || sleep 1; done # what nobody waits for comes to the first process
