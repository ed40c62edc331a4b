"""``diffpose-edge convert``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffpose_edge.cli.terminal import say


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A published data set file (npz).")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="npz to write, without pickles.")],
    kind: Annotated[
        str,
        typer.Option(
            help="Its layout: h36m-3d (data_3d_h36m.npz), h36m-2d (data_2d_h36m_*.npz), gmm (*_gmm.npz of DiffPose), "
            "3dhp-train (data_train_3dhp.npz) or 3dhp-test (data_test_3dhp.npz)."
        ),
    ],
    unsafe_pickle: Annotated[
        bool, typer.Option("--unsafe-pickle", help="Load pickles, which can run any code: only for a file whose origin you trust.")
    ] = False,
) -> None:
    """Write a data set file anew without pickles, so that it can be read safely from then on. Needs PyTorch installed."""
    from diffpose_edge.reference.datasets.convert import convert as convert_file

    arrays = convert_file(source, out, kind, allow_pickle=unsafe_pickle)
    say(f"wrote {out}: {arrays} arrays, no pickles")
