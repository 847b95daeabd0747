"""`zoo`, and `python -m zoo`: the command, which hears Ctrl-C from its first import on."""


def run() -> None:
    """Entry point of the `zoo` command."""
    try:
        from zoo.cli.main import run
    except KeyboardInterrupt:
        import sys

        # What would say this is what was being imported: 130 is `zoo.errors.INTERRUPTED`.
        if "--json" in sys.argv:
            print('{"error": {"kind": "interrupted", "message": "Interrupted.", "exit_code": 130}}')
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    run()
