"""`python -m vqrae`: the command, for launchers that start modules."""

from vqrae.cli.app import main

if __name__ == "__main__":
    main()
