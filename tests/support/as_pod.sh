#!/bin/bash
# as_pod.sh ACCOUNT PORT PYTHON SITE SOURCE ARGUMENT...: the operator as its pod would run it, in mounts of its own (start
# it under `unshare --mount`): a user without a name, no capabilities, a read-only root, 16 MiB of /tmp, the account's
# token where a pod has it. PYTHON: an interpreter's prefix, SITE: its packages, SOURCE: the operator's folder.
set -euo pipefail
account=$1 port=$2 python=$3 site=$4 source=$5
shift 5
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/account /mnt/python /mnt/site /mnt/source
cp -r "$account"/. /mnt/account
mount --bind "$python" /mnt/python
mount --bind "$site" /mnt/site
mount --bind "$source" /mnt/source
mount -t tmpfs tmpfs /run # /var/run
mkdir -p /run/secrets/kubernetes.io
cp -r /mnt/account /run/secrets/kubernetes.io/serviceaccount
chmod -R a+rX /run/secrets
mount -t tmpfs -o size=16m,mode=1777 tmpfs /tmp
for place in /run /mnt /mnt/python /mnt/site /mnt/source; do mount -o remount,bind,ro "$place"; done
mount -o remount,bind,ro /
cd /
program=$(echo /mnt/python/bin/python3.[0-9]*[0-9])
exec setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
    env -i HOME=/ LD_LIBRARY_PATH=/mnt/python/lib PATH=/usr/bin:/bin PYTHONPATH=/mnt/source:/mnt/site PYTHONDONTWRITEBYTECODE=1 \
    KUBERNETES_SERVICE_HOST=127.0.0.1 KUBERNETES_SERVICE_PORT="$port" POD_NAME=operator-0 POD_NAMESPACE=chatcluster-system \
    "${program%% *}" -m chatcluster_operator "$@"
