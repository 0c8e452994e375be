"""Checks of what lets somebody in: certificates, the list of revoked ones, tokens, and
whether two clocks agree about their dates."""

import socket
import ssl
import time
from collections.abc import Mapping
from pathlib import Path

from fdcore.check import FAIL, MARGINAL, PASS, Check
from fdcore.config import Address
from fdcore.errors import ConfigError, FdcoreError
from fdcore.security import files, identity
from fdcore.values import duration_text

DAY = 86400.0
CONNECT_SECONDS = 5.0
# By what certificates may be apart, and by what nobody notices.
MOST_SKEW, LITTLE_SKEW = 300.0, 2.0
NTP = "set both clocks by NTP"


def date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def span(name: str, begins: float, ends: float, cure: str) -> Check:
    """From when to when something is valid. It is renewed when most of its life is
    over; who sees much less of it left knows that this has failed."""
    now = time.time()
    left = ends - now
    if left <= 0:
        return Check(FAIL, name, f"expired on {date(ends)}", cure)
    if begins > now:
        said = f"valid from {date(begins)} on, which is to come"
        return Check(FAIL, name, said, "set the clock, best by NTP")
    days = f"{left / DAY:.0f} days" if left >= DAY else duration_text(int(left))
    found = f"good until {date(ends)}, for {days} more"
    if left < (1 - identity.RENEW_AFTER) / 2 * (ends - begins):
        return Check(MARGINAL, name, f"{found}: it was not renewed", cure)
    return Check(PASS, name, found)


def own(folder: Path, name: str) -> Check:
    """The certificate in a folder where flexdirect init, or a founder, has put one."""
    from fdcore.security.authority import own_life

    try:
        begins, ends = own_life(folder)
    except FdcoreError as error:
        return Check(FAIL, name, str(error), "join the pool again: flexdirect init")
    who = identity.load(folder)
    if who is not None and who.founder:
        cure = "start its fdserver, which renews it"
    elif ends <= time.time():
        cure = "join the pool again with a new token: flexdirect init"
    else:
        cure = "it is renewed when the founding server can be reached: look why not"
    return span(name, begins, ends, cure)


def server(address: Address, environment: Mapping[str, str]) -> list[Check]:
    """The server's certificate, where TLS is spoken to it."""
    name = "own certificate"
    try:
        who = identity.identity_for(address, environment)
    except FdcoreError as error:
        cure = "join the pool: flexdirect init TOKEN"
        return [Check(FAIL, name, str(error), cure)]
    if who is None:
        return []
    return [shown(address, who)]


def here(environment: Mapping[str, str]) -> list[Check]:
    """This machine's, as a client of a pool and as a server of one."""
    checks = []
    joined = files.identity_folder(environment)
    if (joined / files.ABOUT).exists():
        checks.append(own(joined, "own certificate"))
    return checks + of_server(files.pool_folder(environment))


def shown(address: Address, who: identity.Identity) -> Check:
    """What the server shows."""
    name = "server's certificate"
    try:
        context = identity.context(who.folder, server=False)
        where = (address.host, address.port)
        called = identity.server_name(who.pool)
        with (
            socket.create_connection(where, CONNECT_SECONDS) as sock,
            context.wrap_socket(sock, server_hostname=called) as sealed,
        ):
            seen = sealed.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        return Check(FAIL, name, error.verify_message, identity.to_trust(error))
    except (OSError, ConfigError) as error:
        why = getattr(error, "reason", "") or getattr(error, "strerror", "")
        return Check(FAIL, name, f"not seen: {why or error}", "see the port, above")
    begins, ends = (
        ssl.cert_time_to_seconds(str(seen[key])) for key in ("notBefore", "notAfter")
    )
    return span(name, begins, ends, "look why its fdserver did not renew it")


def of_server(folder: Path) -> list[Check]:
    """On a server of a pool: its certificate, its list of revoked ones, its tokens."""
    from fdcore.security.authority import Revoked
    from fdcore.security.tokens import TOKENS

    if not (folder / files.ABOUT).exists():
        return []
    checks = [own(folder, "certificate")]
    name = "revoked certificates"
    try:
        known = Revoked(folder)
        if known.stale:
            until = known.fresh_until
            said = f"the list was good until {date(until)}" if until else "no list yet"
            said += ": nobody gets in"
            cure = "look why the founding server cannot be reached; it signs a new one"
            checks.append(Check(FAIL, name, said, cure))
        else:
            said = f"{len(known.serials)}, known until {date(known.fresh_until)}"
            checks.append(Check(PASS, name, said))
        about = identity.load(folder)
        if about is not None and about.founder:
            rows = files.read_json(folder / TOKENS, [])
            ends = sorted(row["expires"] for row in rows if row["uses"] > 0)
            good = [each for each in ends if each > time.time()]
            said = f"{len(good)} unused"
            said += f", the next expires on {date(good[0])}" if good else ""
            checks.append(Check(PASS, "tokens", said))
    except (FdcoreError, KeyError, TypeError) as error:
        checks.append(Check(FAIL, name, str(error), "restore the folder of the pool"))
    return checks


def clocks(ahead: float, unsure: float) -> Check:
    """ahead: seconds that the server's clock is before ours, known but for unsure."""
    name = "clock against ours"
    off = max(abs(ahead) - unsure, 0.0)
    way = "ahead" if ahead > 0 else "behind"
    if off <= LITTLE_SKEW:
        return Check(PASS, name, f"the same within {max(unsure, 0.001):.3f} s")
    found = f"{off:.0f} s {way}"
    if off > MOST_SKEW:
        return Check(FAIL, name, f"{found}: certificates and tokens look invalid", NTP)
    return Check(MARGINAL, name, found, NTP)
