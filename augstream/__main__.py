"""``python -m augstream``: the command line."""

from .cli import main

raise SystemExit(main())
