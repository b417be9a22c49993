"""The command ``rotate`` from its first moment: an interruption of an import is one line, too."""

import os
import signal


def stop_at_once(*_: object) -> None:
    """Say so and be gone: for as long as there is nothing to clean up (``cli.common.errors``)."""
    os.write(2, b"rotate: interrupted\n")
    os._exit(130)


def main() -> None:
    """Run the command."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored
        signal.signal(signal.SIGINT, stop_at_once)
    from rotate_core.cli import app

    app()


if __name__ == "__main__":
    main()
