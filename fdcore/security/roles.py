"""Roles, and which of them each call of the control plane needs. Values only."""

VIEWER, USER, NODE, ADMIN = "viewer", "user", "node", "admin"
ROLES = (VIEWER, USER, NODE, ADMIN)

SEE = frozenset(ROLES)
USE = frozenset((USER, ADMIN))
MANAGE = frozenset((ADMIN,))

# By class and method of rpc/server.py. What is not named here is an administrator's.
NEEDS = {
    "GateServer.login": SEE,
    "SessionServer.gpus": SEE,
    "SessionServer.pool": SEE,
    "SessionServer.sessions": SEE,
    "SessionServer.leases": SEE,
    "SessionServer.release": MANAGE,
    "SessionServer.quotas": SEE,
    "SessionServer.setQuota": MANAGE,
    "SessionServer.drain": MANAGE,
    "SessionServer.revoke": MANAGE,
    "SessionServer.reserve": USE,
    "LeaseServer.release": USE,
}


def may(role: str, call: str) -> bool:
    return role in NEEDS.get(call, MANAGE)
