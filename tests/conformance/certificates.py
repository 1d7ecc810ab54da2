"""Real certificates for TLS tests, made by openssl: an issuer, and server certificates that are good or bad in one way each."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from saga_choreo.testing.brokers import Certificate

__all__ = ["Certificates"]

_CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
_LOCAL = "subjectAltName=DNS:localhost,IP:127.0.0.1"


class Certificates:
    """Made on demand in a folder. `issuer` is the certificate that clients are to trust."""

    def __init__(self, folder: Path) -> None:
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("the program openssl is not installed")
        self._openssl = openssl
        self._folder = folder / "certificates"
        self._folder.mkdir(parents=True, exist_ok=True)
        self.issuer = self._authority("issuer")

    def _run(self, *words: str | Path) -> None:
        subprocess.run([self._openssl, *words], check=True, capture_output=True, cwd=self._folder)

    def _authority(self, name: str) -> Path:
        key, certificate = self._folder / f"{name}.key", self._folder / f"{name}.pem"
        if not certificate.exists():
            self._run("req", "-x509", *_CURVE, "-days", "30", "-subj", f"/CN=saga {name}", "-keyout", key, "-out", certificate)
        return certificate

    def of(self, kind: Certificate) -> tuple[Path, Path]:
        """Key and certificate."""
        name = kind.replace(" ", "-")
        key, certificate, wish = (self._folder / f"server-{name}.{ending}" for ending in ("key", "pem", "csr"))
        if certificate.exists():
            return key, certificate
        issuer = self._authority("stranger" if kind == "unknown issuer" else "issuer")
        names = self._folder / f"{name}.ext"
        names.write_text("subjectAltName=DNS:elsewhere.example" if kind == "other host" else _LOCAL)
        self._run(
            "req",
            *_CURVE,
            "-subj",
            f"/CN={'elsewhere.example' if kind == 'other host' else 'localhost'}",
            "-keyout",
            key,
            "-out",
            wish,
        )
        # openssl 3.0 knows no start date here: one that expired is one whose days are negative.
        days = "-1" if kind == "expired" else "30"
        signing = ["-CA", issuer, "-CAkey", issuer.with_suffix(".key"), "-CAcreateserial", "-extfile", names]
        self._run("x509", "-req", "-in", wish, *signing, "-days", days, "-out", certificate)
        return key, certificate
