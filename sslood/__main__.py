"""The command `sslood` as `python -m sslood`."""

from sslood.commands.__main__ import main

if __name__ == "__main__":
    main(prog_name="sslood")
