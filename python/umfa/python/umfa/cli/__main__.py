"""`python -m umfa.cli`."""

from umfa.cli import main

if __name__ == "__main__":
    main()
