"""`vqrae selftest`: replay a bundle's golden samples on this device, without torch."""

from __future__ import annotations

from vqrae.cli.options import AsJson, BundlePath, Loading, Rebuild


def selftest(bundle: BundlePath, *, options: Loading, rebuild: Rebuild = False, as_json: AsJson = False) -> None:
    """Prove that BUNDLE does here what the reference did at export."""
    from vqrae.cli.output import print_fields, print_json
    from vqrae.runtimes.errors import GateFailure
    from vqrae.runtimes.selftest import selftest as replay

    report = replay(bundle, options, rebuild=rebuild)
    print_json(report) if as_json else print_fields(f"selftest: {report.gate}", report.model_dump())
    if report.gate == "fail":
        raise GateFailure(str(bundle), got="other results than the golden samples", expected="those within the gate")
