"""`vqrae selftest`: replay a bundle's golden samples on this device, without torch."""

from __future__ import annotations

from vqrae.cli.options import AsJson, BundlePath, Device, PublicKey, Rebuild, SealedIn, Threads, Trusted


def selftest(
    bundle: BundlePath,
    device: Device = None,
    threads: Threads = None,
    rebuild: Rebuild = False,
    trusted: Trusted = False,
    public_key: PublicKey = None,
    sealing: SealedIn = None,
    as_json: AsJson = False,
) -> None:
    """Prove that BUNDLE does here what the reference did at export."""
    from vqrae.cli.output import print_fields, print_json
    from vqrae.runtimes.errors import GateFailure
    from vqrae.runtimes.selftest import selftest as replay
    from vqrae.runtimes.tokenizer import load

    loaded = load(
        bundle,
        device=device,
        threads=threads,
        rebuild=rebuild,
        trusted=trusted,
        public_key=public_key,
        sealing=sealing,
    )
    with loaded as tokenizer:
        report = replay(tokenizer)
    print_json(report) if as_json else print_fields(f"selftest: {report.gate}", report.model_dump())
    if report.gate == "fail":
        raise GateFailure(str(bundle), got="other results than the golden samples", expected="those within the gate")
