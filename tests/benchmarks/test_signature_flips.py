"""The campaign of flipped bits finds what a broken check would let through, and leaves a bundle as it was."""

from __future__ import annotations

from pathlib import Path

from diffpose_edge.benchmarks.signature_flips import flipped, outcomes
from diffpose_edge.bundle import MANIFEST, load_bundle
from diffpose_edge.signature_file import SIGNATURE
from diffpose_edge.signing import sign_bundle
from diffpose_edge.trust import PublicKey, Trust

from ..core.signing_keys import small_bundle, write_keys  # noqa: TID252 - tests are no package that could be named


class Blind(Trust):
    """A check that looks at nothing."""

    def check(self, folder: Path, manifest: bytes) -> PublicKey | None:
        return self.keys[0]


def test_flips_are_counted_kept_when_they_are_not_refused_and_put_back(tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "bundle")
    (tmp_path / "keys").mkdir()
    signed = sign_bundle(bundle, write_keys(tmp_path / "keys") / "ours.pem")
    assert signed.signer is not None
    places = [(MANIFEST, len((bundle / MANIFEST).read_bytes()) - 1, 1), (SIGNATURE, 0, 0), ("context.fp32.onnx", 3, 7)]
    before = {name: (bundle / name).read_bytes() for name, _, _ in places}
    with flipped(bundle / SIGNATURE, 0, 0):
        assert (bundle / SIGNATURE).read_bytes()[0] == before[SIGNATURE][0] ^ 1
    found = outcomes(bundle, Trust((signed.signer,)), places)
    assert found["outcomes"] == {"SignatureError": 2, "BundleError": 1}
    assert not found["not_refused"]
    blind = outcomes(bundle, Blind((signed.signer,)), places)
    assert [SIGNATURE, 0, 0, "loaded"] in blind["not_refused"]
    assert blind["outcomes"]["loaded"] >= 1
    assert {name: (bundle / name).read_bytes() for name in before} == before
    assert load_bundle(bundle, Trust((signed.signer,))).digest == signed.digest
