"""`python -m forgefile` is the command `forge`."""

from forgefile.start import run

if __name__ == "__main__":
    run()
