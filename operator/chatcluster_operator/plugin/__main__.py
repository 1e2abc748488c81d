"""Console script ``kubectl-chat``, which kubectl runs as ``kubectl chat``: the command line, and nothing else."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable

from chatcluster_operator.plugin.errors import Failure

COMPONENTS = ("gateway", "router", "persister", "presence", "embedded")
_POD = "{verb} gateway pods by name, or all of a node. {more}"


def parser() -> argparse.ArgumentParser:
    """Every command, with its module and function as ``module:function``."""
    whole = argparse.ArgumentParser(
        prog="kubectl chat", parents=[_common()], description="Look at ChatClusters, and ask something of them."
    )
    whole.set_defaults(kubeconfig=None, context=None, namespace=None, color="auto", run=None)
    commands = whole.add_subparsers(metavar="COMMAND")

    def command(name: str, run: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, parents=[_common()], help=text, description=text)
        made.set_defaults(run=run)
        return made

    def named(made: argparse.ArgumentParser) -> None:
        made.add_argument("name", nargs="?", help="The ChatCluster. Not set: the only one of the namespace.")

    status = command("status", "status:run", "How ChatClusters are, in words.")
    named(status)
    status.add_argument("-A", "--all-namespaces", action="store_true", help="One line for each, of all namespaces.")
    status.add_argument("-o", "--output", choices=("text", "json"), default="text")
    status.add_argument("-w", "--watch", action="store_true", help="Go on until interrupted.")
    status.add_argument("--interval", type=float, default=2.0, metavar="SECONDS", help="Of --watch (2).")
    status.add_argument("-v", "--verbose", action="store_true", help="All conditions, quiet ones too.")

    for verb, run, text in (
        ("drain", "drain:drain", "Each leaves when its successor is ready, within gateway.drain.maxConcurrent."),
        ("undrain", "drain:undrain", "Takes back a drain that was not begun."),
    ):
        made = command(verb, run, _POD.format(verb=verb.capitalize(), more=text))
        made.add_argument("pods", nargs="*", metavar="POD")
        made.add_argument("--node", metavar="NODE", help="All gateways of this node, instead of POD.")
        made.add_argument("-A", "--all-namespaces", action="store_true", help="With --node: of all namespaces.")
        if verb == "drain":
            made.add_argument("--cordon", action="store_true", help="With --node: cordon it first.")
            made.add_argument("--wait", action="store_true", help="Until all have left, telling how far they are.")
            made.add_argument("--timeout", default="1h", metavar="TIME", help="Of --wait, as 90s, 20m, 1h (1h).")

    named(command("pause", "edits:pause", "Have the operator write nothing but the status (spec.paused)."))
    named(command("resume", "edits:resume", "The operator writes again what the spec says."))

    restart = command("restart", "edits:restart", "Roll a component, in order and within the budget.")
    restart.add_argument("component", choices=COMPONENTS)
    named(restart)

    report = command("report", "report:run", "A bundle for whoever helps, as tar.gz, without secrets.")
    named(report)
    report.add_argument("-f", "--file", metavar="FILE", help="Not set: chatcluster-NAMESPACE-NAME-TIME.tar.gz here.")
    report.add_argument("--pods", type=int, default=50, metavar="N", help="Logs of so many pods at most (50).")
    report.add_argument("--lines", type=int, default=2000, metavar="N", help="Lines of a log at most (2000).")
    report.add_argument("--operator-namespace", metavar="NAME", help="Not set: looked for in all namespaces.")
    report.add_argument(
        "--no-read-secrets",
        action="store_true",
        help="Do not read the Secrets that the spec names. They are read only to remove their values.",
    )

    token = command("token", "tokens:run", "A signed token of a user, where a shared secret verifies tokens.")
    named(token)
    token.add_argument("--user", required=True, help="The user (claim sub).")
    token.add_argument("--tenant", default="default", help="The tenant (claim tid; default).")
    token.add_argument("--ttl", default="15m", metavar="TIME", help="How long it lives: 90s, 15m, 1h, 30d (15m).")
    return whole


def _common() -> argparse.ArgumentParser:
    """Options that may stand before and after the command; each parser has its own, as it changes their defaults."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--kubeconfig", metavar="FILE", help="Not set: KUBECONFIG, else ~/.kube/config.")
    common.add_argument("--context", metavar="NAME", help="Of the kubeconfig. Not set: its current one.")
    common.add_argument("-n", "--namespace", metavar="NAME", help="Not set: the context's.")
    common.add_argument("--color", choices=("auto", "always", "never"), help="auto: in a terminal, without NO_COLOR.")
    return common


def main(given: list[str] | None = None) -> None:
    """Console script ``kubectl-chat``."""
    made = parser()
    options = made.parse_args(given)
    if options.run is None:
        made.print_help()
        sys.exit(0)
    module, _, name = options.run.partition(":")
    run: Callable[[argparse.Namespace], int] = getattr(
        importlib.import_module(f"chatcluster_operator.plugin.{module}"), name
    )
    try:
        code = run(options)
        sys.stdout.flush()
    except Failure as failure:
        print(f"kubectl chat: {failure}", file=sys.stderr)
        code = failure.code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # Whoever read it has enough: `kubectl chat status | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


if __name__ == "__main__":
    main()
