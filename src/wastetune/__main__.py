"""`python -m wastetune` is `wastetune`."""

from wastetune.cli.main import main

if __name__ == "__main__":
    main(prog_name="wastetune")
