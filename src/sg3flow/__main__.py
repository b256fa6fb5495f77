"""``python -m sg3flow`` is the ``sg3flow`` command."""

from sg3flow.cli import main

if __name__ == "__main__":
    main()
