"""What the gateway is measured beside, each installed as its makers give it: Postfix as a relay, email-oauth2-proxy.

Postfix is Debian's and has to be there; the proxy is put into a virtual environment of its own. Both run from
directories of ours, on loopback, as processes that are ended by their ids.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template

from measure import Process, free_port, greeting_at

PROXY = "emailproxy==2026.7.3"
PRIVATE = ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace")
SEARCHED = os.pathsep.join(
    [os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/lib/postfix/sbin"]
)
MAIN = Template("""\
compatibility_level = 3.6
queue_directory = $home/queue
data_directory = $home/data
maillog_file = $home/maillog
maillog_file_prefixes = $home
myhostname = relay.bench.example
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
mynetworks = 127.0.0.1/32
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
relayhost = [127.0.0.1]:$sink
smtpd_relay_restrictions = permit_mynetworks, reject
smtp_tls_security_level = encrypt
smtp_tls_CAfile = $authority
smtp_host_lookup = native
disable_dns_lookups = yes
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
smtpd_error_sleep_time = 0
default_destination_concurrency_limit = 20
initial_destination_concurrency = 20
smtp_connection_cache_on_demand = yes
message_size_limit = 52428800
in_flow_delay = 0
""")
"""Durable as it comes; only its limits of concurrency are raised, and connections to the next hop are kept."""
MASTER = Template("""\
127.0.0.1:$port inet n - n - 100 smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - 100 smtp
relay unix - - n - 100 smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
tlsproxy unix - - n - 0 tlsproxy
postlog unix-dgram n - n - 1 postlogd
""")
PROXY_SETTINGS = Template("""\
[SMTP-$port]
server_address = localhost
server_port = $sink
server_starttls = True
local_address = 127.0.0.1

[$account]
token_url = $token_url
oauth2_scope = mail
oauth2_flow = client_credentials
client_id = $client
client_secret = $secret
""")


def postfix_master() -> Path | None:
    """Postfix's master daemon, where Postfix is installed."""
    places = (Path("/usr/lib/postfix/sbin/master"), Path("/usr/libexec/postfix/master"))
    return (
        next((place for place in places if place.is_file()), None) if shutil.which("postfix", path=SEARCHED) else None
    )


@contextmanager
def postfix(home: Path, sink: int, authority: Path) -> Iterator[int]:
    """Relays what comes to the port it gives to `sink`, over STARTTLS."""
    port = free_port()
    _make_directories(home)
    main = MAIN.substitute(home=home, sink=sink, authority=authority)
    for name, text in (("main.cf", main), ("master.cf", MASTER.substitute(port=port))):
        (home / "conf" / name).write_text(text)
        os.utime(home / "conf" / name, (0, 0))  # Postfix waits while a file that it reads was written just now
    process = Process(str(postfix_master()), "-c", home / "conf", log=home / "master.log")
    try:
        greeting_at(port, process)
        yield port
    finally:
        process.stop()


def _make_directories(home: Path) -> None:
    home.chmod(0o755)
    wanted = (
        ("conf", 0o755, ""), ("queue", 0o755, ""), ("queue/pid", 0o755, ""), ("queue/public", 0o710, "postdrop"),
        ("queue/maildrop", 0o730, "postdrop"), *((f"queue/{name}", 0o700, "postfix") for name in PRIVATE),
        ("data", 0o700, "postfix"),
    )  # fmt: skip
    for path, mode, group in wanted:
        (home / path).mkdir(parents=True)
        (home / path).chmod(mode)
        if group:
            shutil.chown(home / path, "postfix", group)


@contextmanager
def email_oauth2_proxy(home: Path, sink: int, authority: Path, token_url: str, account: str) -> Iterator[int]:
    """Takes password logins at the port it gives and passes them on to `sink` with a token of the sandbox."""
    program = _installed(home / "venv")
    port, settings = free_port(), home / "proxy.config"
    settings.write_text(
        PROXY_SETTINGS.substitute(
            port=port,
            sink=sink,
            account=account,
            token_url=token_url,
            client="posthouse-office",
            secret="a secret for trying out",
        )
    )
    process = Process(
        program, "--no-gui", "--config-file", settings, log=home / "proxy.log",
        environment={"SSL_CERT_FILE": str(authority)},
    )  # fmt: skip
    try:
        greeting_at(port, process)
        yield port
    finally:
        process.stop()


def _installed(venv: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    uv = [Path(sys.executable).parent / "uv", "pip", "install", "--quiet", "--python", venv / "bin" / "python", PROXY]
    subprocess.run([str(word) for word in uv], check=True)
    return venv / "bin" / "emailproxy"
