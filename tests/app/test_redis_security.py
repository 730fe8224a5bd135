"""Redis behind a password and behind TLS; the embedded server has no TLS, so a proxy ends it before it."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from app.cache import RedisConfig
from app.embedded_redis import EmbeddedRedis
from app.errors import CacheUnavailableError, ConfigError

PASSWORD = "a secret"


def certificate(folder: Path) -> Path:
    """Write a certificate for 127.0.0.1 that signs itself, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = folder / "redis.pem"
    file.write_bytes(signed.public_bytes(pem) + secret)
    return file


@asynccontextmanager
async def tls_before(port: int, certificate: Path, client_ca: Path | None = None) -> AsyncIterator[int]:
    """End TLS before a port on loopback; yield the port that speaks it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)

    async def copied(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
        sink.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copied(reader, inner_writer), copied(inner_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.redis
async def test_a_password_in_the_url_opens_a_redis_that_asks_for_one(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path, persistent=False, options=("--requirepass", PASSWORD)) as server:
        known = RedisConfig(timeout_s=5).build(url=server.url.replace("//", f"//:{PASSWORD.replace(' ', '%20')}@"))
        await known.ping()
        await known.close()
        unknown = RedisConfig(timeout_s=5).build(url=server.url)
        with pytest.raises(CacheUnavailableError, match="AuthenticationError") as raised:
            await unknown.ping()
        assert PASSWORD not in raised.value.message
        await unknown.close()


@pytest.mark.redis
@pytest.mark.parametrize("asks_for_certificate", [False, True])
async def test_tls_is_spoken_and_its_certificate_checked(tmp_path: Path, asks_for_certificate: bool) -> None:
    pem = certificate(tmp_path)
    with EmbeddedRedis(tmp_path, persistent=False) as server:
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        async with tls_before(port, pem, pem if asks_for_certificate else None) as tls_port:
            url = f"rediss://127.0.0.1:{tls_port}/0"
            own = pem if asks_for_certificate else None
            trusting = RedisConfig(timeout_s=5, ca_file=pem, cert_file=own, key_file=own).build(url=url)
            await trusting.ping()
            await trusting.close()
            doubting = RedisConfig(timeout_s=5).build(url=url)
            with pytest.raises(CacheUnavailableError, match="certificate"):
                await doubting.ping()
            await doubting.close()


def test_tls_files_want_a_tls_url_and_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    with pytest.raises(ConfigError, match="must start with rediss://"):
        RedisConfig(ca_file=tmp_path / "ca.pem").build(url="redis://localhost/0")
    with pytest.raises(ValidationError, match="ca_file"):
        RedisConfig(ca_file=tmp_path / "none.pem")
