"""``python -m compbench`` is ``compbench``."""

from compbench.cli import main

if __name__ == "__main__":
    main()
