"""Encryption of the line to workers elsewhere, by a certificate that the driver makes itself.

Nobody signs it: it lies in the token's file, and a worker takes no other. Who has the file proves it inside, as
without encryption, see `executors.line`.
"""

import shutil
import ssl
import subprocess
import tempfile
from pathlib import Path

from hpsearch.errors import UserError

MAKES = 60.0  # seconds in which openssl has made a certificate
DAYS = "36500"  # it is of use as long as its driver

_NO_CHECK_TIME = 0x200000  # OpenSSL's X509_V_FLAG_NO_CHECK_TIME, for which Python has no name


def certified() -> tuple[ssl.SSLContext, str]:
    """Returns a driver's end, and the certificate that it has made for itself.

    Raises:
        UserError: openssl is missing, or makes none.
    """
    if shutil.which("openssl") is None:
        raise UserError(
            "--tls: openssl is not on the PATH, and it makes the certificate; install it, or leave --tls out"
        )
    with tempfile.TemporaryDirectory(prefix="hpsearch-tls-") as folder:  # which only its owner can read
        key, certificate = Path(folder, "key.pem"), Path(folder, "certificate.pem")
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ]
        command += ["-subj", "/CN=hpsearch", "-days", DAYS, "-keyout", str(key), "-out", str(certificate)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=MAKES, check=False)
            if done.returncode != 0:
                raise UserError(
                    f"--tls: openssl could not make a certificate: {' '.join(done.stderr.split())[-300:]}; fix it, "
                    "or leave --tls out"
                )
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            text = certificate.read_text()
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(f"--tls: openssl does not answer: {error}; fix it, or leave --tls out") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # a worker that waits for a message would find something to read, and no message
    return context, text


def trusting(certificate: str) -> ssl.SSLContext:
    """Returns a worker's end, which takes this certificate and no other.

    Raises:
        UserError: it is no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the certificate is known, whatever the address is called
    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)  # a node's clock may be behind its driver's
    try:
        context.load_verify_locations(cadata=certificate)
    except (ssl.SSLError, ValueError):
        raise UserError(
            "--token-file: the certificate in it cannot be read; name the file that the driver wrote"
        ) from None
    return context
