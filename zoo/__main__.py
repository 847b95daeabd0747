"""`python -m zoo`"""

from zoo.cli.process import run

if __name__ == "__main__":
    run()
