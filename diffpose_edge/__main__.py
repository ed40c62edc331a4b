"""``python -m diffpose_edge`` is the command line."""

from diffpose_edge.cli import main

if __name__ == "__main__":
    main()
