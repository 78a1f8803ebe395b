"""`python -m umfa`: the command line."""

from umfa.cli import main

if __name__ == "__main__":
    main()
