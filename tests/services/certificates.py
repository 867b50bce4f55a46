"""An authority of the tests' own, and what it signs; by OpenSSL's command."""

from __future__ import annotations

import subprocess
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def _openssl(*words: str) -> None:
    done = subprocess.run(["openssl", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


class Authority:
    """`file` is its own certificate."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder, self.file, self._key = folder, folder / f"{name}.pem", folder / f"{name}.key"
        _openssl(
            "req",
            "-x509",
            "-days",
            "2",
            *_KEY,
            "-subj",
            f"/CN={name}",
            "-keyout",
            str(self._key),
            "-out",
            str(self.file),
        )

    def signed(self, name: str, *hosts: str) -> tuple[Path, Path]:
        """A certificate for `hosts`, as OpenSSL writes them (`DNS:localhost`), and its key."""
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        wish, extra = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        extra.write_text(f"subjectAltName={','.join(hosts)}\n")
        _openssl("req", *_KEY, "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(wish))
        signer = ("-CA", str(self.file), "-CAkey", str(self._key), "-CAcreateserial", "-extfile", str(extra))
        _openssl("x509", "-req", "-days", "2", "-in", str(wish), *signer, "-out", str(certificate))
        return certificate, key
