"""Authorities and certificates for tests of TLS, made by the program ``openssl``."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Authority:
    """Signs certificates; ``folder`` has its ``ca.crt``."""

    folder: Path

    def sign(self, into: Path, name: str) -> Path:
        """A folder with ``tls.crt``, ``tls.key`` and this authority's ``ca.crt``, as a Secret would have it."""
        into.mkdir(exist_ok=True)
        key, request, certificate = into / "tls.key.new", into / "request", into / "tls.crt.new"
        _openssl("req", "-newkey", *CURVE, "-nodes", "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        names = into / "names"
        names.write_text(f"subjectAltName=DNS:{name},IP:127.0.0.1\n")
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.folder / "ca.crt", "-CAkey", self.folder / "ca.key",
            "-CAcreateserial", "-days", "2", "-extfile", names, "-out", certificate,
        )  # fmt: skip
        key.replace(into / "tls.key")
        certificate.replace(into / "tls.crt")
        (into / "ca.crt").write_bytes((self.folder / "ca.crt").read_bytes())
        return into


CURVE = ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


def authority(folder: Path) -> Authority:
    folder.mkdir()
    _openssl(
        "req", "-x509", "-newkey", *CURVE, "-nodes", "-keyout", folder / "ca.key", "-out", folder / "ca.crt",
        "-days", "2", "-subj", f"/CN=authority {folder.name}",
    )  # fmt: skip
    return Authority(folder)


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
