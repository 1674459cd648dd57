"""The `vqrae` command: its verbs, and what an error becomes.

Exit codes: 0 done · 1 the machine could not finish (disk full, no permission) · 2 usage · 3 a gate failed ·
4 a runtime is unavailable · 5 invalid or corrupt input · 130 interrupted · 143 terminated.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from vqrae.cli import (
    archive,
    bench,
    compare,
    decode,
    demo,
    doctor,
    encode,
    evaluate,
    export,
    generate,
    inspect,
    package,
    photographs,
    plan,
    reconstruct,
    selftest,
    serve,
    signing,
    teach,
    tokenize,
    train,
    verify,
)
from vqrae.cli.options import spelled_out
from vqrae.cli.signals import unwound

USAGE, INTERRUPTED = 2, 130

app = typer.Typer(
    name="vqrae",
    help="Take a trained VQRAE image tokenizer from PyTorch to production runtimes, and prove that it arrived.",
    epilog="Exit codes: 0 done, 1 the machine could not finish, 2 usage, 3 a gate failed, 4 a runtime is unavailable, "
    "5 invalid or corrupt input, 130 interrupted, 143 terminated (training was saved).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

VERBS: dict[str, Callable[..., None]] = {
    "demo": demo.demo,
    "doctor": doctor.doctor,
    "photographs": photographs.photographs,
    "train": train.train,
    "teach": teach.teach,
    "eval": evaluate.evaluate,
    "export": export.export,
    "formats": export.formats,
    "plan": plan.plan,
    "verify": verify.verify,
    "bench": bench.bench,
    "compare": compare.compare,
    "inspect": inspect.inspect,
    "selftest": selftest.selftest,
    "encode": encode.encode,
    "decode": decode.decode,
    "reconstruct": reconstruct.reconstruct,
    "generate": generate.generate,
    "serve": serve.serve,
    "tokenize": tokenize.tokenize,
    "detokenize": tokenize.detokenize,
    "pack": archive.pack,
    "unpack": archive.unpack,
    "package": package.package,
    "keys": signing.keys,
    "sign": signing.sign,
}
for _name, _verb in VERBS.items():
    app.command(_name)(spelled_out(_verb))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with a documented code; a user's mistake is one line on standard error."""
    code: int | str | None
    try:
        with unwound():
            code = app(arguments, standalone_mode=False)  # the framework returns 130 for Ctrl-C
    except typer.TyperException as error:
        message = " ".join(error.format_message().split())
        if message:  # without any argument the help was printed, and there is nothing to add
            print(f"vqrae: {message}; see `vqrae --help`", file=sys.stderr)
        code = USAGE
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except SystemExit as error:
        print("vqrae: terminated; nothing half-written was left", file=sys.stderr)
        code = error.code
    except Exception as error:
        from vqrae.runtimes.errors import exit_code_of

        code = exit_code_of(error)
    if code == INTERRUPTED:
        print("vqrae: interrupted; nothing half-written was left", file=sys.stderr)
    sys.exit(code or 0)
