#!/bin/bash
# nodes.sh PYTHON: what tests with real nodes need: containerd, runc, CNI plugins and the like from Debian, kubelet,
# kube-proxy, coredns and kube-router from Go's modules, the runtime's image. Repeatable; needs root, as nodes do. No service is started.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
    echo "nodes.sh: real nodes need root: namespaces, mounts, control groups" >&2
    exit 1
fi
PACKAGES="containerd runc containernetworking-plugins iptables ipset conntrack iproute2 util-linux mmdebstrap"
if ! dpkg -s $PACKAGES >/dev/null 2>&1; then
    printf -- '-- installing the Debian packages %s\n' "$PACKAGES" >&2
    policy=/usr/sbin/policy-rc.d # Debian starts a service as it installs one, unless this says no
    if [ ! -e $policy ]; then
        trap 'rm -f $policy' EXIT
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends $PACKAGES >/dev/null
fi
"$1" tests/support/nodes.py --prepare
