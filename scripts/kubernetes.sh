#!/bin/bash
# kubernetes.sh [--only] [TOOL...]: a real Kubernetes control plane (etcd, kube-apiserver, kube-controller-manager,
# kube-scheduler, kubectl), and by name: kwok; of nodes kubelet, kube-proxy, coredns, kube-router; helm (3), helm4; the linters
# kubeconform, kube-score, kube-linter, ct, operator-verify, checkov (with yamllint and yamale); promtool, prometheus;
# crds: the definitions of the Gateway API, KEDA and the Prometheus operator. From Go's modules, into the cache. Repeatable.
# --only: the tools alone. Prints the folder of the binaries, with --only that of the tools.
# Needs Go >= 1.24, for Prometheus >= 1.26.7 (on Debian as root it is not installed here: apt's is too old).
set -euo pipefail
K8S=${CHATCLUSTER_TEST_KUBERNETES_VERSION:-1.34.10}
ETCD=3.6.16
CACHE=${CHATCLUSTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/chatcluster}/kubernetes
BIN=$CACHE/$K8S/bin
export GOMODCACHE=$CACHE/go/mod GOCACHE=$CACHE/go/cache GOFLAGS="-mod=mod -trimpath -buildvcs=false" CGO_ENABLED=0
export GOTOOLCHAIN=local GOBIN=$CACHE/tools
ONLY=
if [ "${1:-}" = --only ]; then ONLY=yes && shift; fi
mkdir -p "$BIN" "$GOBIN" "$CACHE/src/etcd" "$CACHE/src/$K8S"
say() { printf -- '-- %s\n' "$*" >&2; }

if ! command -v go >/dev/null; then
    echo "kubernetes.sh: Go 1.24 or newer is needed to build Kubernetes (https://go.dev/dl)" >&2
    exit 1
fi
exec 9>"$CACHE/$K8S/lock"
flock 9 # two that start at once build it once; another version holds up nobody

if [ -z "$ONLY" ] && [ ! -x "$BIN/etcd" ]; then
    say "building etcd $ETCD"
    cd "$CACHE/src/etcd"
    printf 'module chatcluster.dev/build/etcd\n\ngo 1.24.0\n\nrequire go.etcd.io/etcd/server/v3 v%s\n' "$ETCD" >go.mod
    go build -ldflags "-s -w" -o "$BIN/etcd.new" go.etcd.io/etcd/server/v3
    mv "$BIN/etcd.new" "$BIN/etcd"
fi

PARTS="kube-apiserver kube-controller-manager kube-scheduler kubectl"
[ -z "$ONLY" ] || PARTS=
for name in "$@"; do
    case $name in kubelet | kube-proxy) PARTS="$PARTS $name" ;; esac
done
for part in $PARTS; do
    [ -x "$BIN/$part" ] && continue
    say "building Kubernetes $K8S: $part (the first one takes minutes)"
    cd "$CACHE/src/$K8S"
    if [ ! -f go.mod ]; then
        # Kubernetes' own modules are published apart, and its go.mod replaces them by folders that are not.
        {
            printf 'module chatcluster.dev/build/kubernetes\n\ngo 1.24.0\n\nrequire k8s.io/kubernetes v%s\n\nreplace (\n' "$K8S"
            for module in api apiextensions-apiserver apimachinery apiserver cli-runtime client-go cloud-provider \
                cluster-bootstrap code-generator component-base component-helpers controller-manager cri-api cri-client \
                csi-translation-lib dynamic-resource-allocation endpointslice externaljwt kms kube-aggregator \
                kube-controller-manager kube-proxy kube-scheduler kubectl kubelet metrics mount-utils pod-security-admission; do
                printf '\tk8s.io/%s => k8s.io/%s v0.%s\n' "$module" "$module" "${K8S#1.}"
            done
            # Named by it and never compiled.
            for module in sample-apiserver sample-cli-plugin sample-controller; do
                mkdir -p "empty/$module"
                printf 'module k8s.io/%s\n\ngo 1.24.0\n' "$module" >"empty/$module/go.mod"
                printf '\tk8s.io/%s => ./empty/%s\n' "$module" "$module"
            done
            printf ')\n'
        } >go.mod
    fi
    version=k8s.io/component-base/version
    minor=${K8S#1.}
    flags="-s -w -X $version.gitVersion=v$K8S -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*}"
    flags="$flags -X $version.gitTreeState=clean -X k8s.io/client-go/pkg/version.gitVersion=v$K8S"
    go build -ldflags "$flags" -o "$BIN/$part.new" "k8s.io/kubernetes/cmd/$part"
    mv "$BIN/$part.new" "$BIN/$part"
done

tool() { # NAME MODULE@VERSION
    [ -x "$GOBIN/$1" ] && return
    say "building $1"
    go install -ldflags "-s -w" "$2"
}
coredns() { # with the plugins that cluster DNS takes: all of them would bring the SDKs of clouds along
    [ -x "$GOBIN/coredns" ] && return
    say "building coredns"
    mkdir -p "$CACHE/src/coredns" && cd "$CACHE/src/coredns"
    printf 'module chatcluster.dev/build/coredns\n\ngo 1.24.0\n\nrequire github.com/coredns/coredns v1.12.4\n' >go.mod
    {
        printf 'package main\n\nimport (\n\t"github.com/coredns/coredns/core/dnsserver"\n'
        printf '\t"github.com/coredns/coredns/coremain"\n'
        for plugin in errors health ready cache reload kubernetes template; do
            printf '\t_ "github.com/coredns/coredns/plugin/%s"\n' $plugin
        done
        printf ')\n\nfunc main() {\n\tdnsserver.Directives = []string{'
        printf '"reload", "health", "ready", "errors", "cache", "template", "kubernetes"}\n\tcoremain.Run()\n}\n'
    } >main.go
    go build -ldflags "-s -w" -o "$GOBIN/coredns.new" .
    mv "$GOBIN/coredns.new" "$GOBIN/coredns"
}
built() { # NAME MODULE VERSION PACKAGE [REPLACED]: through a module of its own, for what go install refuses
    [ -x "$GOBIN/$1" ] && return
    say "building $1"
    mkdir -p "$CACHE/src/tools/$1"
    cd "$CACHE/src/tools/$1"
    printf 'module chatcluster.dev/build/%s\n\ngo 1.25.0\n\nrequire %s %s\n' "$1" "$2" "$3" >go.mod
    [ -z "${5:-}" ] || printf '\nreplace %s => %s\n' "$2" "$5" >>go.mod
    go build -ldflags "-s -w" -o "$GOBIN/$1.new" "$4"
    mv "$GOBIN/$1.new" "$GOBIN/$1"
}
definitions() { # MODULE@VERSION FOLDER FILE...: definitions of others' kinds, out of their modules
    local module=$1 folder=$2 file
    shift 2
    mkdir -p "$CACHE/crds"
    for file in "$@"; do
        [ -s "$CACHE/crds/$file" ] && continue
        say "fetching $file"
        go mod download "$module"
        install -m 644 "$GOMODCACHE/$module/$folder/$file" "$CACHE/crds/$file"
    done
}
exec 9>"$CACHE/lock"
flock 9
for name in "$@"; do
    case $name in
    kubelet | kube-proxy) ;; # parts of Kubernetes itself, built above
    coredns) coredns ;;
    kube-router)
        built kube-router github.com/cloudnativelabs/kube-router/v2 v2.1.0 github.com/cloudnativelabs/kube-router/v2/cmd/kube-router ;;
    kwok) tool kwok sigs.k8s.io/kwok/cmd/kwok@v0.8.0 ;;
    kubeconform) tool kubeconform github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0 ;;
    # Without the clouds' service discovery, which is most of what there is to compile.
    promtool | prometheus)
        GOFLAGS="$GOFLAGS -tags=remove_all_sd" tool "$name" "github.com/prometheus/prometheus/cmd/$name@v0.316.0" ;;
    helm) tool helm helm.sh/helm/v3/cmd/helm@v3.22.0 ;;
    helm4) built helm4 helm.sh/helm/v4 v4.3.1 helm.sh/helm/v4/cmd/helm ;;
    kube-score) tool kube-score github.com/zegl/kube-score/cmd/kube-score@v1.20.0 ;;
    kube-linter)
        built kube-linter golang.stackrox.io/kube-linter v0.8.3 golang.stackrox.io/kube-linter/cmd/kube-linter \
            "github.com/stackrox/kube-linter v0.8.3"
        ;;
    ct) built ct github.com/helm/chart-testing/v3 v3.14.0 github.com/helm/chart-testing/v3/ct ;;
    crds)
        definitions sigs.k8s.io/gateway-api@v1.4.0 config/crd/standard gateway.networking.k8s.io_httproutes.yaml
        definitions github.com/prometheus-operator/prometheus-operator@v0.85.0 example/prometheus-operator-crd \
            monitoring.coreos.com_podmonitors.yaml monitoring.coreos.com_prometheusrules.yaml
        definitions github.com/kedacore/keda/v2@v2.21.0 config/crd/bases keda.sh_scaledobjects.yaml
        ;;
    checkov) # the linters that are Python's, in an environment of their own
        if [ ! -x "$CACHE/lint/bin/checkov" ]; then
            say "installing checkov, yamllint and yamale"
            python3 -m venv "$CACHE/lint"
            "$CACHE/lint/bin/python" -m pip install --quiet --disable-pip-version-check \
                checkov==3.3.30 yamllint==1.38.0 yamale==6.1.0
        fi
        ;;
    operator-verify) tool operator-verify github.com/operator-framework/api/cmd/operator-verify@v0.37.0 ;;
    *) echo "kubernetes.sh: no such tool: $name" >&2 && exit 2 ;;
    esac
done
if [ -n "$ONLY" ]; then BIN=$GOBIN; fi
echo "$BIN"
