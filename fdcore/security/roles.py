"""Roles, and which of them each call of the control plane needs. Values only."""

VIEWER, USER, NODE, ADMIN = "viewer", "user", "node", "admin"
ROLES = (VIEWER, USER, NODE, ADMIN)

SEE = frozenset(ROLES)
USE = frozenset((USER, ADMIN))
MANAGE = frozenset((ADMIN,))
# Who is told of everybody's programs; users are told of their own.
WATCH = frozenset((VIEWER, NODE, ADMIN))

# By class and method of rpc/server.py. What is not named here is an administrator's.
NEEDS = {
    "GateServer.login": SEE,
    "SessionServer.gpus": SEE,
    "SessionServer.pool": SEE,
    "SessionServer.sessions": SEE,
    "SessionServer.leases": SEE,
    "SessionServer.release": MANAGE,
    "SessionServer.quotas": SEE,
    "SessionServer.peers": SEE,
    "SessionServer.setQuota": MANAGE,
    "SessionServer.drain": MANAGE,
    "SessionServer.revoke": MANAGE,
    "SessionServer.reserve": USE,
    "LeaseServer.release": USE,
    "SessionServer.queue": SEE,
    "SessionServer.totals": SEE,
    "SessionServer.checks": SEE,
    "SessionServer.log": WATCH,
    "SessionServer.lend": SEE,
    "SessionServer.become": SEE,
    "SessionServer.token": MANAGE,
    "SessionServer.enrolled": MANAGE,
}


def less(role: str, wish: str) -> str:
    """The role that somebody wants to have instead of their own: never one that allows
    or shows more; empty where it is one."""
    if wish == role or (role == ADMIN and wish in ROLES):
        return wish
    return VIEWER if role == NODE and wish == VIEWER else ""


def may(role: str, call: str) -> bool:
    return role in NEEDS.get(call, MANAGE)
