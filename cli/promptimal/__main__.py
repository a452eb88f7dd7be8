"""`python -m promptimal` is the command `promptimal`."""

from promptimal.command import main

if __name__ == "__main__":
    main()
