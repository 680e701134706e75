"""`python -m bwlab`: the command line."""

from bwlab.cli.app import main

if __name__ == "__main__":
    main()
