"""`bwlab` and `python -m bwlab`: the command line."""

import gc


def main() -> None:
    """Run the command line on the arguments of the process; always ends in `SystemExit`."""
    # What is imported stays until the end. To look for garbage in it takes a twelfth of a short command's time.
    gc.disable()
    from bwlab.cli.app import main as run

    gc.freeze()
    gc.enable()
    run()


if __name__ == "__main__":
    main()
