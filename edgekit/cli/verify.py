"""`edgekit verify`: runs a bundle's goldens through this device's engines; exits with 5 if one is out of tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from edgekit.checks import invariance
from edgekit.cli.console import Console
from edgekit.cli.options import BUNDLE, TARGETS, Command, one_of, output_switches
from edgekit.core import Check, Target
from edgekit.errors import VerificationError
from edgekit.text_table import table


@click.command(cls=Command)
@BUNDLE
@click.option(
    "--target", "targets", multiple=True, **one_of("target", TARGETS), help="Engine. Repeat for more.  [all here]"
)
@output_switches
@click.pass_obj
def verify(console: Console, /, bundle: Path, targets: tuple[Target, ...]) -> None:
    """Compare a bundle's outputs with its goldens on this device.

    $ edgekit verify minilm.ek
    $ edgekit verify minilm.ek --target openvino

    The exit code is 5 when a variant is out of tolerance.
    """
    from edgekit.bundle import manifest
    from edgekit.verify import verify

    checks = verify(bundle, targets=targets)
    goldens = manifest.read(bundle, verify="never").goldens
    text = checks_text(checks, len(goldens.inputs) if goldens else 0)
    console.answer({"ok": all(check.ok for check in checks), "checks": checks}, text, _error(checks))


def checks_text(checks: Sequence[Check], goldens: int) -> str:
    """A table of the variants with their differences from the goldens, and a sentence. `goldens`: their number."""
    from edgekit.reporting import number_text

    near = "error" if any(number_text.compares_errors(check.agreement.metric) for check in checks) else "agreement"
    first = ("variant", "result", "difference", "allowed", near)
    heads = (*first, "loss", "allowed loss", "batch-invariant", "seconds", "why")
    rows = [
        (
            *(check.variant, "ok" if check.ok else "FAILED", f"{check.difference:.2g}", f"{check.tolerance:.2g}"),
            *(number_text.measure(check.agreement.metric, check.agreement.value), f"{check.agreement.loss:.2g}"),
            *(f"{check.allowed_loss:.2g}", invariance.words(check.batch_invariant, check.batch_difference)),
            *(f"{check.seconds:.2f}", check.why),
        )
        for check in checks
    ]
    columns = len(heads) if any(check.why for check in checks) else len(heads) - 1
    passed = sum(check.ok for check in checks)
    verb = "gives its" if len(checks) == 1 else "give their"
    outputs = f"known outputs on this machine, for {number_text.count(goldens, 'input')}"
    sentence = f"{passed} of {number_text.count(len(checks), 'variant')} {verb} {outputs}."
    return "\n\n".join((table(heads[:columns], [row[:columns] for row in rows]), sentence))


def _error(checks: Sequence[Check]) -> VerificationError | None:
    failures = [check for check in checks if not check.ok]
    if not failures:
        return None
    message = f"{failures[0].variant} is out of tolerance: {failures[0].why}"
    hint = "run another variant (--target, --precision), or export the model again on this machine"
    return VerificationError(message, hint=hint, variants=[check.variant for check in failures])
