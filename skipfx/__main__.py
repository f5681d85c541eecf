"""`python -m skipfx`: the command line."""

from skipfx.cli import main

if __name__ == "__main__":
    main()
